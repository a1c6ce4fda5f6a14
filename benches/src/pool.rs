//! The candidate of this project: the pool and two tunnels, one per kind of certificate.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use tlspool_identity::DoNai;
use tlspool_store::{CertificateSource, Kind, Mode, NewIdentity, Roles, Store};

use crate::candidates::{Key, Running, Setting, WORKERS, free_ports};
use crate::error::{BenchError, During, Result};
use crate::procs::Programs;

/// The user that root gives the network process to, in passwd(5) everywhere: name, uid, gid.
const NOBODY: (&str, u32, u32) = ("nobody", 65534, 65534);

/// What the pool is filled with, beyond the certificates that all candidates have.
#[derive(Debug, Default, Clone)]
pub(crate) struct Shape {
    /// URI of the key of a kind, if it is not the PEM file; and the certificate for it.
    pub(crate) keys: [Option<(String, PathBuf)>; 2],
    /// Identities that nobody asks for.
    pub(crate) more: usize,
    /// PKCS #11 modules.
    pub(crate) modules: Vec<PathBuf>,
    /// Environment of the pool.
    pub(crate) env: Vec<(&'static str, String)>,
}

/// Starts the pool and the tunnels.
pub(crate) fn start(setting: &Setting<'_>, shape: &Shape) -> Result<Running> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = setting.folder.join(format!("pool{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir(&folder).during("creating a folder")?;
    fill(&folder, setting, shape)?;
    let conf = folder.join("tlspool.toml");
    fs::write(&conf, configuration(&folder, shape)).during("writing a configuration")?;
    let mut programs = Programs::new(folder.join("log"));
    let env: Vec<(&str, &str)> = shape.env.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let conf = conf.display().to_string();
    programs.start(&setting.programs.join("tlspool"), &["-f", "-c", &conf], &env)?;
    let ports = free_ports()?;
    for key in Key::ALL {
        let (listen, remote) = (ports[key as usize].to_string(), setting.backend.to_string());
        let socket = folder.join("sock").display().to_string();
        let args = ["-s", "-l", &listen, "-r", &remote, "-L", key.name(), "-S", &socket];
        let env = [("TLSTUNNEL_LOG", "warn")];
        programs.start(&setting.programs.join("tlstunnel"), &args, &env)?;
    }
    Running::when_ready("tlspool", programs, ports)
}

/// Makes the database.
fn fill(folder: &Path, setting: &Setting<'_>, shape: &Shape) -> Result<()> {
    let path = folder.join("tlspool.db");
    let mut store = Store::open(&path, Mode::ReadWrite)?;
    store.transaction(|store| {
        for key in Key::ALL {
            let (key_uri, certificate) = shape.keys[key as usize].clone().unwrap_or_else(|| {
                let file = setting.credentials.key(key);
                (format!("file:{}", file.display()), setting.credentials.certificate(key))
            });
            add(store, key.name(), &key_uri, &certificate)?;
        }
        let (key, certificate) =
            (setting.credentials.key(Key::P256), setting.credentials.certificate(Key::P256));
        let key_uri = format!("file:{}", key.display());
        for n in 0..shape.more {
            add(store, &format!("host{n}.bench.example"), &key_uri, &certificate)?;
        }
        Ok::<_, BenchError>(())
    })?;
    drop(store);
    if rustix::process::geteuid().is_root() {
        // The network process reads the database as another user, and SQLite then needs to write
        // beside it.
        let files = fs::read_dir(folder).during("reading a folder")?;
        for file in files.flatten().map(|entry| entry.path()).chain([folder.to_owned()]) {
            chown(&file, Some(NOBODY.1), Some(NOBODY.2)).during("chown")?;
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).during("chmod")?;
    }
    Ok(())
}

fn add(store: &Store, name: &str, key_uri: &str, certificate: &Path) -> Result<()> {
    let name = DoNai::parse(name).map_err(|e| BenchError::Invalid(format!("{name}: {e}")))?;
    store.add_identity(&NewIdentity {
        name: &name,
        roles: Roles::Server,
        kind: Kind::X509,
        certificate: CertificateSource::Uri(format!("file:{}", certificate.display())),
        key_uri,
        preference: 100,
        is_default: false,
    })?;
    Ok(())
}

fn configuration(folder: &Path, shape: &Shape) -> String {
    let users = if rustix::process::geteuid().is_root() {
        format!("user = \"{0}\"\nkey_user = \"root\"\n", NOBODY.0)
    } else {
        String::new()
    };
    let module =
        |path: &PathBuf| ["[[keys.module]]\npath = \"", &path.to_string_lossy(), "\"\n"].concat();
    let modules: String = shape.modules.iter().map(module).collect();
    let folder = folder.display();
    format!(
        "version = 1\n{users}runtime_dir = \"{folder}/run\"\ndatabase = \"{folder}/tlspool.db\"\n\
         workers = {WORKERS}\n[[socket]]\npath = \"{folder}/sock\"\n[log]\nlevel = \"warn\"\n\
         target = \"stderr\"\n[tls]\nmin_version = \"1.3\"\n[trust]\nsystem = false\n{modules}"
    )
}

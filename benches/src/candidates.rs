//! The programs compared: how each is configured and started.
//!
//! All get two workers, the same certificates, TLS 1.3, tickets, and forward every connection to
//! the same backend; beyond that each keeps the defaults of its Debian package.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;

use crate::error::{BenchError, During, Result};
use crate::interrupt;
use crate::load::{self, Target};
use crate::procs::{Programs, run};

/// How long a program may take to start.
const READY_TIME: Duration = Duration::from_secs(15);
/// Workers of every candidate.
pub(crate) const WORKERS: usize = 2;

/// Kinds of certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// ECDSA on P-256.
    P256,
    /// RSA of 2048 bits.
    Rsa,
}

impl Key {
    /// Both.
    pub(crate) const ALL: [Self; 2] = [Self::P256, Self::Rsa];

    /// The name in the certificate, which is also the local identity.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P256 => "p256.bench.example",
            Self::Rsa => "rsa.bench.example",
        }
    }
}

/// Certificates and keys, in a folder that disappears with the run.
#[derive(Debug)]
pub(crate) struct Credentials {
    folder: PathBuf,
}

impl Credentials {
    /// Makes them with the openssl command.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let made = Self { folder: folder.to_owned() };
        for key in Key::ALL {
            let algorithm: &[&str] = match key {
                Key::P256 => P256,
                Key::Rsa => &["-newkey", "rsa:2048"],
            };
            issue(key.name(), algorithm, &made.key(key), &made.certificate(key))?;
            let both = [made.certificate(key), made.key(key)]
                .iter()
                .map(fs::read_to_string)
                .collect::<std::io::Result<String>>()
                .during("reading certificates")?;
            fs::write(made.both(key), both).during("writing certificates")?;
        }
        Ok(made)
    }

    /// Certificate, PEM.
    pub(crate) fn certificate(&self, key: Key) -> PathBuf {
        self.folder.join(format!("{}.crt", key.name()))
    }

    /// Private key, PEM.
    pub(crate) fn key(&self, key: Key) -> PathBuf {
        self.folder.join(format!("{}.key", key.name()))
    }

    /// Both in one file, as hitch and haproxy want it.
    fn both(&self, key: Key) -> PathBuf {
        self.folder.join(format!("{}.pem", key.name()))
    }
}

/// Arguments of `openssl req` for a new key.
pub(crate) const P256: &[&str] = &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// Makes a key and a self-signed certificate for `name`.
pub(crate) fn issue(name: &str, algorithm: &[&str], key: &Path, certificate: &Path) -> Result<()> {
    let (subject, alternative) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-days", "30"]).args(algorithm);
    command.args(["-subj", &subject, "-addext", &alternative]);
    run(command.arg("-keyout").arg(key).arg("-out").arg(certificate)).map(drop)
}

/// What every candidate is started with.
#[derive(Debug)]
pub(crate) struct Setting<'a> {
    /// Folder for configuration and logs.
    pub(crate) folder: &'a Path,
    /// Certificates.
    pub(crate) credentials: &'a Credentials,
    /// Where plaintext goes.
    pub(crate) backend: SocketAddr,
    /// Folder of the release build of this project.
    pub(crate) programs: &'a Path,
}

/// A candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // names of programs
pub(crate) enum Candidate {
    Nginx,
    Hitch,
    Haproxy,
    Stunnel,
    Tlspool,
}

/// A candidate that accepts connections.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its processes.
    pub(crate) programs: Programs,
    addresses: [SocketAddr; 2],
}

impl Running {
    /// A candidate whose `programs` listen on `addresses`, one per kind of key, once it is ready.
    pub(crate) fn when_ready(
        name: &str,
        mut programs: Programs,
        addresses: [SocketAddr; 2],
    ) -> Result<Self> {
        let deadline = Instant::now() + READY_TIME;
        for key in Key::ALL {
            let target = target(key, addresses[key as usize])?;
            while let Err(error) = load::probe(&target) {
                interrupt::check()?;
                let ended = programs.ended();
                if ended.is_some() || Instant::now() > deadline {
                    return Err(BenchError::NotReady {
                        name: name.into(),
                        address: target.address.to_string(),
                        last: ended.unwrap_or_else(|| error.to_string()),
                        messages: programs.messages(),
                    });
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(Self { programs, addresses })
    }

    /// Where to connect for a certificate of this kind.
    pub(crate) fn target(&self, key: Key) -> Result<Target> {
        target(key, self.addresses[key as usize])
    }
}

fn target(key: Key, address: SocketAddr) -> Result<Target> {
    let name = ServerName::try_from(key.name())
        .map_err(|e| BenchError::Invalid(format!("{}: {e}", key.name())))?;
    Ok(Target { address, name })
}

/// Free ports on the loopback. Another program may take one before the candidate does; the
/// candidate then fails to start and says so.
pub(crate) fn free_ports() -> Result<[SocketAddr; 2]> {
    let bind = || TcpListener::bind("127.0.0.1:0").during("looking for a free port");
    let (a, b) = (bind()?, bind()?);
    Ok([a.local_addr().during("port")?, b.local_addr().during("port")?])
}

impl Candidate {
    /// All, in the order of a round.
    pub(crate) const ALL: [Self; 5] =
        [Self::Nginx, Self::Hitch, Self::Haproxy, Self::Stunnel, Self::Tlspool];

    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Hitch => "hitch",
            Self::Haproxy => "haproxy",
            Self::Stunnel => "stunnel",
            Self::Tlspool => "tlspool",
        }
    }

    /// What it says about its version.
    pub(crate) fn version(self, programs: &Path) -> String {
        let (program, argument) = match self {
            Self::Nginx => ("nginx".into(), "-v"),
            Self::Hitch => ("hitch".into(), "--version"),
            Self::Haproxy => ("haproxy".into(), "-v"),
            Self::Stunnel => ("stunnel4".into(), "-version"),
            Self::Tlspool => (programs.join("tlspool"), "--version"),
        };
        let text = run(Command::new(program).arg(argument)).unwrap_or_else(|e| e.to_string());
        let wanted = |line: &&str| line.contains(char::is_numeric);
        text.lines().find(wanted).unwrap_or("unknown").trim().to_owned()
    }

    /// Starts it and waits until both kinds of certificate work.
    pub(crate) fn start(self, setting: &Setting<'_>) -> Result<Running> {
        if self == Self::Tlspool {
            return crate::pool::start(setting, &crate::pool::Shape::default());
        }
        let ports = free_ports()?;
        let folder = setting.folder.join(self.name());
        fs::create_dir_all(&folder).during("creating a folder")?;
        let file = folder.join("conf");
        let text = match self {
            Self::Nginx => nginx(setting, ports, &folder),
            Self::Hitch => hitch(setting, ports),
            Self::Haproxy => haproxy(setting, ports),
            Self::Stunnel => stunnel(setting, ports),
            Self::Tlspool => String::new(),
        };
        fs::write(&file, text).during("writing a configuration")?;
        let file = file.display().to_string();
        let (program, args): (&str, Vec<&str>) = match self {
            Self::Nginx => ("nginx", vec!["-c", &file, "-e", "stderr"]),
            Self::Hitch => ("hitch", vec!["--config", &file]),
            Self::Haproxy => ("haproxy", vec!["-db", "-f", &file]),
            Self::Stunnel | Self::Tlspool => ("stunnel4", vec![&file]),
        };
        let mut programs = Programs::new(setting.folder.join(format!("{}.log", self.name())));
        programs.start(Path::new(program), &args, &[])?;
        Running::when_ready(self.name(), programs, ports)
    }
}

/// One stanza per kind of certificate.
fn each(ports: [SocketAddr; 2], stanza: impl Fn(Key, SocketAddr) -> String) -> String {
    Key::ALL.map(|key| stanza(key, ports[key as usize])).concat()
}

/// A line only for root: whom to become.
fn as_root(line: &str) -> &str {
    if rustix::process::geteuid().is_root() { line } else { "" }
}

fn nginx(setting: &Setting<'_>, ports: [SocketAddr; 2], folder: &Path) -> String {
    let servers = each(ports, |key, port| {
        format!(
            "server {{\n listen {port} ssl reuseport;\n ssl_certificate {};\n \
             ssl_certificate_key {};\n ssl_protocols TLSv1.3;\n proxy_pass {};\n}}\n",
            setting.credentials.certificate(key).display(),
            setting.credentials.key(key).display(),
            setting.backend,
        )
    });
    format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n{user}daemon off;\n\
         worker_processes {WORKERS};\nworker_rlimit_nofile 65536;\nerror_log stderr crit;\n\
         pid {folder}/pid;\nevents {{ worker_connections 16384; }}\nstream {{\n{servers}}}\n",
        user = as_root("user nobody nogroup;\n"),
        folder = folder.display(),
    )
}

fn hitch(setting: &Setting<'_>, ports: [SocketAddr; 2]) -> String {
    let frontends = each(ports, |key, port| {
        format!(
            "frontend = {{\n host = \"{}\"\n port = \"{}\"\n pem-file = \"{}\"\n}}\n",
            port.ip(),
            port.port(),
            setting.credentials.both(key).display(),
        )
    });
    format!(
        "{frontends}backend = \"[{}]:{}\"\nworkers = {WORKERS}\ndaemon = off\n\
         tls-protos = TLSv1.3\nlog-level = 0\nocsp-dir = \"\"\n{}",
        setting.backend.ip(),
        setting.backend.port(),
        as_root("user = \"nobody\"\ngroup = \"nogroup\"\n"),
    )
}

fn haproxy(setting: &Setting<'_>, ports: [SocketAddr; 2]) -> String {
    let frontends = each(ports, |key, port| {
        format!(
            "frontend {}\n bind {port} ssl crt {}\n default_backend plain\n",
            key.name(),
            setting.credentials.both(key).display(),
        )
    });
    format!(
        "global\n nbthread {WORKERS}\n maxconn 8192\n ssl-default-bind-options ssl-min-ver TLSv1.3\n\
         {}defaults\n mode tcp\n timeout connect 10s\n timeout client 600s\n timeout server 600s\n\
         {frontends}backend plain\n server plain {}\n",
        as_root(" user nobody\n group nogroup\n"),
        setting.backend,
    )
}

/// stunnel has a thread per connection; no setting bounds its workers.
fn stunnel(setting: &Setting<'_>, ports: [SocketAddr; 2]) -> String {
    let services = each(ports, |key, port| {
        format!(
            "[{}]\naccept = {port}\nconnect = {}\ncert = {}\n",
            key.name(),
            setting.backend,
            setting.credentials.both(key).display(),
        )
    });
    format!(
        "foreground = yes\npid =\nsyslog = no\ndebug = 3\nsslVersionMin = TLSv1.3\n{}{services}",
        as_root("setuid = nobody\nsetgid = nogroup\n"),
    )
}

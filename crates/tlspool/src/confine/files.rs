//! The files that a confined process can reach.

use super::{Degree, Role};
use crate::config::Config;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope, make_bitflags,
};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where systems keep trust anchors, as rustls-native-certs looks for them.
const SYSTEM_ANCHORS: [&str; 5] = [
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
];

/// What a program needs that opens no files: where its output and its chance go.
fn bare() -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    vec![
        ("/dev/null".into(), make_bitflags!(AccessFs::{ReadFile | WriteFile})),
        ("/dev/urandom".into(), AccessFs::ReadFile.into()),
    ]
}

/// Every path of the network process with what may be done below it.
fn allowed(config: &Config) -> Vec<(PathBuf, BitFlags<AccessFs>)> {
    let read_files: BitFlags<AccessFs> = AccessFs::ReadFile.into();
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir});
    // SQLite writes the file and makes its -wal and -shm beside it.
    let database = read | make_bitflags!(AccessFs::{WriteFile | MakeReg | RemoveFile | Truncate});
    let mut paths = bare();
    paths.extend([
        // passwd, group and nsswitch.conf, for the names of users. A rule on these files themselves would
        // end when useradd or an editor puts a new file in their place.
        ("/etc".into(), read_files),
        ("/proc/self".into(), read),
    ]);
    paths.extend(config.database.parent().map(|folder| (folder.to_owned(), database)));
    if config.trust.system {
        paths.extend(SYSTEM_ANCHORS.iter().map(|path| (PathBuf::from(path), read)));
        // What OpenSSL reads instead, if these are set; rustls-native-certs does the same.
        for variable in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
            let path = std::env::var_os(variable).map(PathBuf::from);
            paths.extend(path.and_then(|path| Some((anchor_folder(&path)?, read))));
        }
    }
    for anchor in config.trust.anchors.iter().chain(&config.validation.crls) {
        paths.extend(anchor_folder(anchor).map(|folder| (folder, read)));
    }
    paths
}

/// The folder that is opened for an anchor or a revocation list: a file may be replaced by a new one of the same name.
fn anchor_folder(path: &Path) -> Option<PathBuf> {
    if path.is_dir() { Some(path.to_owned()) } else { path.parent().map(Path::to_owned) }
}

/// Anchors and revocation lists because of which the network process can read somebody's home, with the folders that are
/// open for them.
pub(crate) fn open_homes(config: &Config) -> Vec<(PathBuf, PathBuf)> {
    if config.confinement.landlock == crate::config::Strictness::Off {
        return Vec::new();
    }
    let own = crate::users::user_of(rustix::process::geteuid().as_raw());
    let usual = ["/home", "/root"].map(PathBuf::from);
    let homes: Vec<PathBuf> = own.into_iter().map(|user| user.home).chain(usual).collect();
    let is_home = |folder: &Path| {
        let owner = std::fs::metadata(folder).ok().map(|folder| folder.uid());
        let owner = owner.and_then(crate::users::user_of).map(|user| user.home);
        homes.iter().chain(&owner).any(|home| home.starts_with(folder))
    };
    let files = config.trust.anchors.iter().chain(&config.validation.crls);
    let open = files.filter_map(|path| Some((path.to_path_buf(), anchor_folder(path)?)));
    open.filter(|(_, folder)| is_home(folder)).collect()
}

/// Whether a running network process that was started with `old` can read all anchors and revocation
/// lists of `new`.
pub(crate) fn anchors_within(old: &Config, new: &Config) -> bool {
    if old.confinement.landlock == crate::config::Strictness::Off {
        return true;
    }
    let open = allowed(old);
    let readable = |path: &Path| {
        open.iter()
            .any(|(root, access)| access.contains(AccessFs::ReadDir) && path.starts_with(root))
    };
    new.trust.anchors.iter().chain(&new.validation.crls).all(|path| readable(path))
        && (old.trust.system || !new.trust.system)
}

/// Confines the calling thread. What is not there now cannot be reached later either.
pub(super) fn restrict(config: &Config, role: Role) -> Result<Degree, String> {
    let failed = |e: landlock::RulesetError| e.to_string();
    let abi = ABI::V6;
    let (paths, ports) = match role {
        // The process gets its connections as descriptors; it neither connects nor binds.
        Role::Network => (allowed(config), AccessNet::from_all(abi)),
        // It connects to any port: those of directories and revocation servers are in the DNS and in
        // certificates. Nobody connects to it.
        Role::Lookup => (bare(), AccessNet::BindTcp.into()),
    };
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))
        .map_err(failed)?
        .handle_access(ports)
        .map_err(failed)?
        .scope(Scope::from_all(abi))
        .map_err(failed)?
        .create()
        .map_err(failed)?;
    for (path, access) in paths {
        let Ok(fd) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(abi) };
        ruleset = ruleset.add_rule(PathBeneath::new(fd, access)).map_err(failed)?;
    }
    match ruleset.restrict_self().map_err(failed)?.ruleset {
        RulesetStatus::FullyEnforced => Ok(Degree::Full),
        RulesetStatus::PartiallyEnforced => Ok(Degree::Partial),
        RulesetStatus::NotEnforced => Err("the kernel does not have it enabled".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AbsolutePath;

    fn with_anchor(path: &str) -> Config {
        let mut config = Config::defaults();
        config.trust.anchors.push(AbsolutePath::new(path).unwrap());
        config
    }

    #[test]
    fn a_reload_takes_anchors_in_folders_that_were_open() {
        let old = with_anchor("/srv/anchors/one.pem");
        assert!(anchors_within(&old, &with_anchor("/srv/anchors/two.pem")));
        assert!(anchors_within(&old, &with_anchor("/etc/ssl/certs/x.pem")));
        assert!(!anchors_within(&old, &with_anchor("/srv/others/two.pem")));
        assert!(!anchors_within(&old, &with_anchor("/etc/other.pem")));
    }

    #[test]
    fn an_anchor_in_a_home_opens_the_home() {
        for (path, opens) in [
            ("/root.pem", true),
            ("/home/anchor.pem", true),
            ("/root/anchor.pem", true),
            ("/root/anchors/anchor.pem", false),
            ("/etc/ssl/certs/anchor.pem", false),
        ] {
            assert_eq!(open_homes(&with_anchor(path)).len(), usize::from(opens), "{path}");
        }
        let me = crate::users::user_of(rustix::process::geteuid().as_raw()).unwrap();
        let path = me.home.join("anchor.pem");
        let expected = [(path.clone(), me.home)];
        assert_eq!(open_homes(&with_anchor(path.to_str().unwrap())), expected);
    }

    #[test]
    fn nothing_can_be_executed_or_made_executable() {
        for (path, access) in allowed(&Config::defaults()).into_iter().chain(bare()) {
            assert!(!access.contains(AccessFs::Execute), "{}", path.display());
        }
    }
}

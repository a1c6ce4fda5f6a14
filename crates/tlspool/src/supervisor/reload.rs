//! What a running daemon takes over from a configuration that was read again, and what it cannot.

use crate::config::Config;
use crate::confine;

/// The new configuration with all that cannot change put back, and the keys that were put back.
pub(super) fn merge(old: &Config, mut new: Config) -> (Config, Vec<&'static str>) {
    let mut kept = Vec::new();
    // A file that does not say means those that there are, which the start has counted.
    new.workers = new.workers.or(old.workers);
    macro_rules! keep {
        ($($key:literal => $($field:ident).+),* $(,)?) => {$(
            if new.$($field).+ != old.$($field).+ {
                new.$($field).+ = old.$($field).+.clone();
                kept.push($key);
            }
        )*};
    }
    keep! {
        "user" => user,
        "group" => group,
        "key_user" => key_user,
        "key_group" => key_group,
        "pid_file" => pid_file,
        "runtime_dir" => runtime_dir,
        "database" => database,
        "workers" => workers,
        "socket" => sockets,
        "log.target" => log.target,
        "confinement" => confinement,
        "debug" => debug,
    }
    if !confine::anchors_within(old, &new) {
        new.trust = old.trust.clone();
        new.validation.crls.clone_from(&old.validation.crls);
        kept.push("trust and validation.crls");
    }
    (new, kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogLevel;
    use std::time::Duration;

    #[test]
    fn limits_change_and_sockets_do_not() {
        let old = Config::defaults();
        let mut new = old.clone();
        new.limits.handshake_timeout = Duration::from_secs(7);
        new.limits.handshakes = 3;
        new.log.level = LogLevel::Debug;
        new.sockets.clear();
        new.workers = Some(17);
        let (merged, kept) = merge(&old, new.clone());
        assert_eq!(kept, ["workers", "socket"]);
        assert_eq!(merged.limits, new.limits);
        assert_eq!(merged.log, new.log);
        assert_eq!(merged.sockets, old.sockets);
        assert_eq!(merged.workers, old.workers);
    }

    #[test]
    fn workers_stay_as_many_as_the_start_has_counted() {
        let new = Config::defaults();
        let old = Config { workers: Some(3), ..new.clone() };
        let (merged, kept) = merge(&old, new);
        assert_eq!((merged.workers, kept), (Some(3), Vec::new()));
    }
}

//! `tlspool check`: everything about the configuration that can be known without starting.

use crate::config::{Config, ConfigError, Places, UserName};
use crate::lookups;
use crate::supervisor::{Accounts, sockets};
use crate::users::{self, UserError};
use std::path::Path;

/// What is wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0} of what the configuration names cannot be used; see above")]
    Things(usize),
}

pub(super) fn run(file: Option<&Path>) -> Result<(), CheckError> {
    let config = Config::load(file)?;
    let problems = problems(&config);
    for problem in &problems {
        eprintln!("tlspool: {problem}");
    }
    if !problems.is_empty() {
        return Err(CheckError::Things(problems.len()));
    }
    let default = Places::of_this_user().config;
    let file = file.unwrap_or(&default);
    if file.exists() {
        println!("{}: in order", file.display());
    } else {
        println!("{}: not there, the defaults hold", file.display());
    }
    Ok(())
}

fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    let mut user = |key: &str, result: Result<(), UserError>| {
        problems.extend(result.err().map(|error| format!("{key}: {error}")));
    };
    user("user, key_user, lookup_user", Accounts::find(config).map(drop));
    user("socket", sockets::check_owners(config));
    for UserName(name) in &config.keys.pin_users {
        let found = users::user(name).map(drop).ok_or_else(|| UserError::NoUser(name.clone()));
        user("keys.pin_users", found);
    }
    for module in &config.keys.modules {
        if let Err(error) = std::fs::File::open(&module.path) {
            problems.push(format!("keys.module.path: {}: {error}", module.path));
        }
    }
    for anchor in &config.trust.anchors {
        if let Err(error) = std::fs::metadata(anchor) {
            problems.push(format!("trust.anchors: {anchor}: {error}"));
        }
    }
    if config.looks_up() {
        let sources = lookups::sources(config);
        problems.extend(sources.err().map(|error| format!("look-ups: {error}")));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AbsolutePath, Dns, GroupName, Module};

    #[test]
    fn everything_missing_is_told_at_once() {
        let absent = |name: &str| AbsolutePath::new("/nonexistent").unwrap().join(name);
        let mut config = Config::defaults();
        (config.user, config.key_user) = (None, None);
        assert_eq!(problems(&config), Vec::<String>::new());
        config.user = Some(UserName("no-such-user".into()));
        config.keys.pin_users.push(UserName("no-such-person".into()));
        config.sockets[0].group = Some(GroupName("no-such-group".into()));
        config.keys.modules.push(Module { path: absent("m.so"), args: None });
        config.trust.anchors.push(absent("a.pem"));
        config.lookup_user = None;
        config.dns = Some(Dns { root_anchor: Some(absent("root.key")), ..Dns::default() });
        let problems = problems(&config);
        assert_eq!(problems.len(), 6, "{problems:?}");
        assert!(problems[1].contains("groupadd"), "{problems:?}");
    }
}

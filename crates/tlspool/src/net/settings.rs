//! What the configuration means to the network process, made once per configuration.

use std::num::NonZeroUsize;
use std::sync::Arc;

use tlspool_engine::{Engine, EngineOptions};
use tlspool_validate::{PolicySettings, RevocationLists, SystemAnchors};

use super::limits::{ROOT, Uid};
use super::lookups::Remembered;
use crate::config::{Config, TlsVersion, UserName};
use crate::users::{self, UserError};

/// Settings in force; replaced whole when the configuration is read again.
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) engine: Engine,
    engine_options: EngineOptions,
    /// Where anchors are besides the trust table.
    pub(crate) system_anchors: SystemAnchors,
    /// What policies may ask, and how.
    pub(crate) policy: PolicySettings,
    /// Those in files.
    pub(crate) revocation_lists: Arc<RevocationLists>,
    /// Whose programs may enter PINs; none: everybody's.
    pin_users: Option<Vec<Uid>>,
    /// What was looked up. It is forgotten with the settings.
    pub(crate) remembered: Remembered,
    /// Counts configurations.
    pub(crate) generation: u64,
}

impl Settings {
    /// Makes the settings of `config`. What `previous` had and has not changed is kept, so that
    /// sessions can still be resumed.
    pub(crate) fn new(config: Config, previous: Option<&Self>) -> Result<Self, String> {
        let engine_options = EngineOptions {
            tls12: config.tls.min_version == TlsVersion::V1_2,
            tickets: config.tls.tickets as usize,
            ticket_lifetime: config.tls.ticket_lifetime,
            client_sessions: NonZeroUsize::new(config.tls.client_cache as usize),
        };
        let engine = match previous {
            Some(previous) if previous.engine_options == engine_options => previous.engine.clone(),
            _ => Engine::new(&engine_options).map_err(|error| format!("TLS: {error}"))?,
        };
        let system_anchors = SystemAnchors {
            native: config.trust.system,
            paths: config.trust.anchors.iter().map(|path| path.to_path_buf()).collect(),
        };
        let policy = config.validation.policy_settings(config.dns.is_some());
        let lists: Vec<_> = config.validation.crls.iter().map(|path| path.to_path_buf()).collect();
        // Without a list that somebody relies on, `crl` would be absent instead of false.
        let revocation_lists = RevocationLists::load(&lists).map_err(|error| error.to_string())?;
        let revocation_lists = Arc::new(revocation_lists);
        let pin_users = pin_users(&config)?;
        let remembered = Remembered::new(&config);
        let generation = previous.map_or(0, |previous| previous.generation + 1);
        Ok(Self {
            config,
            engine,
            engine_options,
            system_anchors,
            policy,
            revocation_lists,
            pin_users,
            remembered,
            generation,
        })
    }

    /// Whether this user's programs may enter PINs.
    pub(crate) fn may_enter_pins(&self, uid: Uid) -> bool {
        self.pin_users.as_ref().is_none_or(|users| users.contains(&uid))
    }
}

fn pin_users(config: &Config) -> Result<Option<Vec<Uid>>, String> {
    let named = &config.keys.pin_users;
    if named.is_empty() {
        return Ok(None);
    }
    let always = [ROOT, rustix::process::geteuid().as_raw()];
    let named = named.iter().map(|UserName(name)| match users::user(name) {
        Some(user) => Ok(user.uid),
        None => Err(format!("keys.pin_users: {}", UserError::NoUser(name.clone()))),
    });
    always.into_iter().map(Ok).chain(named).collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_enter_pins() {
        let may = |named: &[&str], uid| {
            let mut config = Config::defaults();
            config.keys.pin_users = named.iter().map(|name| UserName((*name).into())).collect();
            Settings::new(config, None).map(|settings| settings.may_enter_pins(uid))
        };
        let own = rustix::process::geteuid().as_raw();
        for uid in [ROOT, own, 4321] {
            assert_eq!(may(&["root"], uid), Ok(uid != 4321));
            assert_eq!(may(&["4321"], uid), Ok(true));
            assert_eq!(may(&[], uid), Ok(true));
        }
        assert_eq!(may(&["4321"], 4322), Ok(false));
        assert!(
            may(&["no-such-user"], 0).unwrap_err().contains("keys.pin_users: there is no user")
        );
    }
}

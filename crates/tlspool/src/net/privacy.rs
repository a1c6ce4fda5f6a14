//! Which engine a handshake calls for, and what it hides: the precursor's table, and the rules of the
//! configuration.

use tlspool_engine::twelve::{Anonymous, Wishes};
use tlspool_identity::DoNai;
use tlspool_store::{Kind, LocalIdentity, Role};

use crate::config::{Config, OpenPgpDescriptor, OpenPgpFraming, PrivacyMode};

/// Services that permit the precursor, as client and as server. What is not here does not do it.
/// (IMAP on condition that extended master secret and secure renegotiation are on: they always are.)
const PRECURSOR: [(&str, bool, bool); 5] = [
    ("smtp", true, true),
    ("pop3", true, true),
    ("imap", true, true),
    ("http", true, false),
    ("generic_anonpre", true, true),
];

/// What is known of a request.
pub(crate) struct Case<'a> {
    pub(crate) role: Role,
    pub(crate) remote: Option<&'a DoNai>,
    pub(crate) service: &'a str,
    /// The program wants to know nothing of the peer, and names nobody to show.
    pub(crate) nameless: bool,
    /// What a client may show, best first.
    pub(crate) rows: &'a [LocalIdentity],
}

/// What the engine `tls12` is for in this case.
pub(crate) fn wishes(config: &Config, case: &Case<'_>) -> Wishes {
    let mode = config.privacy.mode_for(case.remote, case.service);
    let permitted = permits(case.service, case.role);
    let anonymous = match mode {
        _ if !permitted => Anonymous::Never,
        PrivacyMode::Off => Anonymous::Never,
        _ if case.nameless => Anonymous::Final,
        PrivacyMode::Attempt | PrivacyMode::Require => Anonymous::Precursor,
    };
    let openpgp = match case.role {
        // Whether it has one for this client is asked when the client has said what it takes.
        Role::Server => true,
        Role::Client => {
            let own = case.rows.iter().any(|row| row.kind == Kind::OpenPgp);
            own || case.remote.is_some_and(|remote| {
                config.openpgp.remotes.iter().any(|selector| selector.0.matches(remote))
            })
        }
    };
    let first = case.rows.first().map(|row| row.kind);
    let private = mode == PrivacyMode::Require;
    // Without the precursor only TLS 1.3 hides certificates, and it has none of OpenPGP.
    let hideable = !private || anonymous != Anonymous::Never;
    let wants_openpgp = openpgp && hideable && first.is_none_or(|kind| kind == Kind::OpenPgp);
    Wishes {
        insist: case.role == Role::Client && (anonymous != Anonymous::Never || wants_openpgp),
        anonymous,
        openpgp,
        rfc_framing: config.openpgp.framing == OpenPgpFraming::Rfc6091,
        fingerprint: config.openpgp.descriptor == OpenPgpDescriptor::Fingerprint,
        private,
    }
}

fn permits(service: &str, role: Role) -> bool {
    PRECURSOR.iter().any(|(name, client, server)| {
        let roles = match role {
            Role::Client => *client,
            Role::Server => *server,
        };
        *name == service && roles
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mode: PrivacyMode) -> Config {
        let mut config = Config::defaults();
        config.privacy.mode = mode;
        config
    }

    fn case(role: Role, service: &str) -> Case<'_> {
        Case { role, remote: None, service, nameless: false, rows: &[] }
    }

    #[test]
    fn the_precursor_is_for_services_of_the_table_only() {
        let config = config(PrivacyMode::Attempt);
        for (role, service, anonymous) in [
            (Role::Client, "smtp", Anonymous::Precursor),
            (Role::Server, "smtp", Anonymous::Precursor),
            (Role::Client, "http", Anonymous::Precursor),
            (Role::Server, "http", Anonymous::Never),
            (Role::Client, "ldap", Anonymous::Never),
            (Role::Client, "", Anonymous::Never),
            (Role::Server, "generic_anonpre", Anonymous::Precursor),
        ] {
            let wishes = wishes(&config, &case(role, service));
            assert_eq!(wishes.anonymous, anonymous, "{role} {service}");
            let client = role == Role::Client;
            assert_eq!(wishes.insist, client && anonymous != Anonymous::Never);
        }
    }

    #[test]
    fn who_must_hide_does_so_in_every_role_and_for_every_service() {
        let config = config(PrivacyMode::Require);
        for role in [Role::Client, Role::Server] {
            for (service, anonymous) in [("ldap", Anonymous::Never), ("imap", Anonymous::Precursor)]
            {
                let wishes = wishes(&config, &case(role, service));
                assert!(wishes.private);
                assert_eq!(wishes.anonymous, anonymous);
            }
        }
    }

    #[test]
    fn off_is_off() {
        let wishes = wishes(&config(PrivacyMode::Off), &case(Role::Client, "smtp"));
        assert_eq!(wishes, Wishes::default());
    }

    #[test]
    fn who_ignores_identities_on_both_sides_may_stay_anonymous() {
        let nameless = Case { nameless: true, ..case(Role::Client, "smtp") };
        let wishes = wishes(&config(PrivacyMode::Attempt), &nameless);
        assert_eq!(wishes.anonymous, Anonymous::Final);
    }
}

//! What will be looked up about a peer, as far as that is known before it has shown anything: to read it out of a
//! far cache while the handshake waits for the peer.
//!
//! A policy is taken to need a look-up if it would, should everything hold that is known here alone (names, paths,
//! pins, what is agreed upon). That is what happens to most peers. About the others, a cache is read in vain, or a
//! look-up begins later; a source is asked about nobody sooner or more often for it.

use tlspool_identity::DoNai;

use crate::inquiry::{Endpoint, Tables};
use crate::policy::{Predicate, Verdict, survey};
use crate::predicates::{directory_query, tlsa_query};
use crate::sources::{CredentialKind, Query};
use crate::validator::Policies;
use crate::{Peer, PolicyValidator};

/// A peer that is going to show who it is.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// Its side; ours is the other.
    pub peer: Peer,
    /// The name the application wants.
    pub wanted: &'a DoNai,
    /// Our own name, if it is known yet.
    pub local: Option<&'a DoNai>,
    /// Whether the domain may answer for a wanted user.
    pub domain_represents_user: bool,
    /// The service; empty if the application named none.
    pub service: &'a str,
    /// The peer's port and transport; none if the connection is not over the Internet.
    pub endpoint: Option<Endpoint>,
    /// What it will most probably show.
    pub kind: CredentialKind,
}

/// What is answered here, and does not wait for anybody.
fn is_local(predicate: Predicate, kind: CredentialKind) -> bool {
    use Predicate as P;
    match predicate {
        P::Dane | P::Ldap | P::Ocsp | P::Crl => false,
        P::Pkix => kind == CredentialKind::X509,
        P::OpenPgp => kind == CredentialKind::OpenPgp,
        P::Identity | P::Pin | P::ForwardSecrecy | P::Private | P::Pq | P::Client | P::Server => {
            true
        }
    }
}

impl PolicyValidator {
    /// The questions that the policy will most probably ask about this peer; none if it needs no look-up, or its
    /// tables cannot be read. They depend on the names alone.
    pub fn foresee(&self, expected: &Expected<'_>, tables: &dyn Tables) -> Vec<Query> {
        let Expected { peer, wanted, local, service, endpoint, kind, .. } = *expected;
        let Ok(policies) = Policies::find(local, service, wanted, tables) else {
            // It is told when the policy is needed.
            return Vec::new();
        };
        let (expressions, count) = policies.expressions();
        let mut board = [None; Predicate::ALL.len()];
        for predicate in Predicate::ALL {
            if is_local(predicate, kind) {
                board[predicate.index()] = Some(Verdict::True);
            }
        }
        let other = if peer == Peer::Server { Predicate::Server } else { Predicate::Client };
        board[other.index()] = Some(Verdict::False);
        for x509 in [Predicate::Dane, Predicate::Pkix, Predicate::Ocsp, Predicate::Crl] {
            if kind == CredentialKind::OpenPgp {
                board[x509.index()] = Some(Verdict::Absent);
            }
        }
        if kind == CredentialKind::X509 {
            board[Predicate::OpenPgp.index()] = Some(Verdict::Absent);
        }
        let Err(open) = survey(&expressions[..count], &board) else { return Vec::new() };
        let settings = self.settings();
        let mut queries = Vec::new();
        // DANE speaks for domains.
        let of_domain = wanted.user().is_none() || expected.domain_represents_user;
        if open.has(Predicate::Dane) && settings.dns && of_domain {
            queries.extend(tlsa_query(peer, wanted, service, endpoint));
        }
        if open.has(Predicate::Ldap) && settings.directory {
            queries.push(directory_query(wanted, kind));
        }
        queries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inquiry::{NoTables, Side};
    use crate::sources::Transport;
    use crate::validator::tests::{Rows, anchors, authority, everything_on, name};
    use crate::{Legacy, PolicySettings};

    const ENDPOINT: Endpoint = Endpoint { port: 443, transport: Transport::Tcp };

    fn expected(wanted: &DoNai) -> Expected<'_> {
        Expected {
            peer: Peer::Server,
            wanted,
            local: None,
            domain_represents_user: false,
            service: "http",
            endpoint: Some(ENDPOINT),
            kind: CredentialKind::X509,
        }
    }

    fn validator(settings: PolicySettings) -> PolicyValidator {
        PolicyValidator::new(anchors(&authority("root")), Legacy::Refuse, settings)
    }

    fn tlsa(host: &str) -> Query {
        let (port, transport) = (ENDPOINT.port, ENDPOINT.transport);
        Query::ServerTlsa { host: host.into(), port, transport, service: "http".into() }
    }

    fn listed(name: &str, kind: CredentialKind) -> Query {
        Query::Directory { name: name.into(), kind }
    }

    #[test]
    fn the_default_asks_the_dns_and_the_directory() {
        let all = validator(everything_on());
        let (domain, user) = (name("example.com"), name("john@example.com"));
        let x509 = CredentialKind::X509;
        let foreseen = all.foresee(&expected(&domain), &NoTables);
        assert_eq!(foreseen, [tlsa("example.com"), listed("example.com", x509)]);
        // DANE speaks for domains, and for users whose domain may answer for them.
        let foreseen = all.foresee(&expected(&user), &NoTables);
        assert_eq!(foreseen, [listed("john@example.com", x509)]);
        let freedom = Expected { domain_represents_user: true, ..expected(&user) };
        let foreseen = all.foresee(&freedom, &NoTables);
        assert_eq!(foreseen, [tlsa("example.com"), listed("john@example.com", x509)]);
        // And for ports.
        let local = Expected { endpoint: None, ..expected(&domain) };
        assert_eq!(all.foresee(&local, &NoTables), [listed("example.com", x509)]);
        let client = Expected { peer: Peer::Client, endpoint: None, ..expected(&domain) };
        let of_client = Query::ClientTlsa { domain: "example.com".into(), service: "http".into() };
        assert_eq!(all.foresee(&client, &NoTables), [of_client, listed("example.com", x509)]);
        // OpenPGP certificates are in directories only.
        let kind = CredentialKind::OpenPgp;
        let openpgp = Expected { kind, ..expected(&domain) };
        assert_eq!(all.foresee(&openpgp, &NoTables), [listed("example.com", kind)]);
    }

    #[test]
    fn nobody_is_asked_whom_the_policy_does_not_need() {
        let all = validator(everything_on());
        let wanted = name("example.com");
        let [dns, directory] = [tlsa("example.com"), listed("example.com", CredentialKind::X509)];
        for (expression, foreseen) in [
            ("identity and pkix", vec![]),
            ("pkix or ldap", vec![]),
            ("pin or dane", vec![]),
            ("true", vec![]),
            ("false and dane", vec![]),
            ("not pkix and dane", vec![]),
            ("server and dane", vec![]),
            ("client and dane", vec![dns.clone()]),
            ("openpgp or ldap", vec![directory.clone()]),
            ("pkix and ldap", vec![directory.clone()]),
            ("not dane", vec![dns.clone()]),
            ("dane or crl", vec![dns.clone()]),
            ("private and dane? and ldap", vec![dns.clone(), directory.clone()]),
        ] {
            let rows = Rows::remote(expression);
            assert_eq!(all.foresee(&expected(&wanted), &rows), foreseen, "{expression}");
        }
        // Our own name has policies too.
        let local = name("john@example.org");
        let mut rows = Rows::remote("pkix");
        rows.add(Side::Local, "@.", "ldap");
        let ours = Expected { local: Some(&local), ..expected(&wanted) };
        assert_eq!(all.foresee(&ours, &rows), [directory]);
        // What is not configured is not looked up, and tables that cannot be read say nothing.
        let nothing = validator(PolicySettings::default());
        assert!(nothing.foresee(&expected(&wanted), &NoTables).is_empty());
        rows.broken = true;
        assert!(all.foresee(&expected(&wanted), &rows).is_empty());
    }
}

//! Whom a client shows when its program names nobody: what the table says, and nobody without it.

use tlspool_client::{PoolError, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_identity::{DoNai, Selector};
use tlspool_store::{DisclosureRow, Place, PolicyRow, PolicySide};

use crate::house::{House, both, plaintext};

/// A pool that is `www.example.com` and has three users.
pub(crate) fn inhabited() -> House {
    furnish(House::new())
}

pub(crate) fn furnish(house: House) -> House {
    for name in ["www.example.com", "john@example.org", "jane@example.org", "jim@example.org"] {
        house.identity(name);
    }
    house
}

/// A client that names nobody to be.
pub(crate) fn client() -> StarttlsRequest {
    StarttlsRequest::client("www.example.com").unwrap()
}

/// A server that asks whom it meets, and is content with nobody.
pub(crate) fn asking() -> StarttlsRequest {
    let server = StarttlsRequest::server().localid("www.example.com").unwrap();
    server.flags(Flags::REQUEST_REMOTEID)
}

impl House {
    pub(crate) fn disclose(&self, remote: &str, local: &str) -> i64 {
        let row = DisclosureRow {
            id: 0,
            remote: Selector::parse(remote).unwrap(),
            user: None,
            local: (!local.is_empty()).then(|| DoNai::parse(local).unwrap()),
        };
        let id = self.store().add_disclosure(&row, Place::Last).unwrap();
        self.changed();
        id
    }

    /// Whom `request` shows to the server, which both ends agree on.
    pub(crate) fn shown(&self, request: StarttlsRequest) -> String {
        let pool = self.pool();
        let (connected, serving) = both((&pool, request), (&pool, asking()));
        let (mut connected, mut serving) = (connected.unwrap(), serving.unwrap());
        assert_eq!(connected.localid(), serving.remoteid());
        // Data behind a ticket brings the ticket.
        let (near, far) = (plaintext(&mut connected), plaintext(&mut serving));
        std::io::Write::write_all(&mut &far, b"x").unwrap();
        std::io::Read::read_exact(&mut &near, &mut [0]).unwrap();
        serving.remoteid().to_owned()
    }
}

#[test]
fn nobody_is_shown_without_a_row_and_the_most_concrete_row_decides() {
    let house = inhabited();
    assert_eq!(house.shown(client()), "");
    // A pattern of users is not for a host.
    house.disclose("@.", "jim@example.org");
    house.disclose("example.com", "jim@example.org");
    assert_eq!(house.shown(client()), "");
    house.disclose(".", "john@example.org");
    assert_eq!(house.shown(client()), "john@example.org");
    house.disclose(".example.com", "jane@example.org");
    assert_eq!(house.shown(client()), "jane@example.org");
    let nobody = house.disclose("www.example.com", "");
    assert_eq!(house.shown(client()), "");
    house.store().remove_disclosure(nobody).unwrap();
    house.changed();
    assert_eq!(house.shown(client()), "jane@example.org");
    // The program's word counts more.
    let named = client().localid("jim@example.org").unwrap();
    assert_eq!(house.shown(named), "jim@example.org");
}

#[test]
fn a_session_that_is_resumed_shows_nobody_else() {
    let house = inhabited();
    let id = house.disclose(".", "john@example.org");
    assert_eq!(house.shown(client()), "john@example.org");
    assert_eq!(house.shown(client()), "john@example.org");
    let before = house.total("resumed");
    assert!(before > 0);
    house.store().remove_disclosure(id).unwrap();
    house.changed();
    assert_eq!(house.shown(client()), "");
    house.disclose(".", "jane@example.org");
    assert_eq!(house.shown(client()), "jane@example.org");
    assert_eq!(house.total("resumed"), before);
}

/// The policy of a name that the table has holds for a resumed session too, which shows that name again.
#[test]
fn a_session_that_is_resumed_has_the_policy_of_whom_it_shows() {
    let house = inhabited();
    house.disclose(".", "john@example.org");
    assert_eq!(house.shown(client()), "john@example.org");
    assert_eq!(house.shown(client()), "john@example.org");
    assert!(house.total("resumed") > 0);
    let policy = PolicyRow {
        id: 0,
        side: PolicySide::Local,
        selector: Selector::parse("john@example.org").unwrap(),
        service: None,
        expression: "pin".into(),
    };
    house.store().add_policy(&policy).unwrap();
    house.changed();
    let pool = house.pool();
    let (connected, _) = both((&pool, client()), (&pool, asking()));
    let error = connected.unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::RemoteidRefused), "{error}");
}

#[test]
fn names_that_cannot_be_used_are_passed_over() {
    let house = inhabited();
    house.disclose(".com", "gone@example.org");
    house.disclose(".com", "jane@example.org");
    house.disclose(".com", "john@example.org");
    assert_eq!(house.shown(client()), "jane@example.org");
    // The list is that of the selector; a more general one is not looked at when it has nobody.
    house.disclose("www.example.com", "gone@example.org");
    assert_eq!(house.shown(client()), "");
}

/// Who the peer is must be known, and proved.
#[test]
fn a_remote_that_is_not_named_or_ignored_sees_nobody() {
    let house = inhabited();
    house.disclose(".", "john@example.org");
    assert_eq!(house.shown(client().flags(Flags::IGNORE_REMOTEID)), "");
    assert_eq!(house.shown(StarttlsRequest::client("").unwrap()), "");
    assert_eq!(house.shown(client()), "john@example.org");
    let pool = house.pool();
    let stranger = StarttlsRequest::client("www.example.net").unwrap();
    let (connected, serving) = both((&pool, stranger), (&pool, asking()));
    let error = connected.unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::RemoteidRefused), "{error}");
    assert!(serving.is_err());
}

/// A server's name is not for this table.
#[test]
fn servers_are_not_concerned() {
    let house = inhabited();
    house.disclose(".", "jane@example.org");
    let pool = house.pool();
    let server = StarttlsRequest::server().flags(Flags::REQUEST_REMOTEID);
    let (connected, serving) = both((&pool, client()), (&pool, server));
    assert_eq!(connected.unwrap().remoteid(), "www.example.com");
    assert_eq!(serving.unwrap().remoteid(), "jane@example.org");
}

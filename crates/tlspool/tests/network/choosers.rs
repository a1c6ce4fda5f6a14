//! Programs that choose local identities (LIDENTRY): what they are asked, and what comes of their
//! answers, of none, and of those that do not behave.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tlspool_client::{Error, PoolError, Session, StarttlsFlags, StarttlsRequest};
use tlspool_identity::DoNai;
use tlspool_wire::packet::ErrorReply;
use tlspool_wire::{Body, Lidentry, LidentryFlags as Flags, Packet, Ping, RECORD_LEN, Text};
use tlspoold::supervisor::message::ToNetwork;

use crate::disclosure::{asking, client, furnish, inhabited};
use crate::house::{House, both};

const REQID: u16 = 77;

/// A program that chooses, by its records.
struct Chooser(UnixStream);

impl Chooser {
    /// Sends a registration.
    fn send(house: &House, flags: Flags, timeout: u32) -> Self {
        let stream = house.raw();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let mut chooser = Self(stream);
        let register = Lidentry { flags, timeout, ..Lidentry::default() };
        chooser.write(REQID, 0, Body::LidentryRegister(register));
        chooser
    }

    /// Registers: nothing is answered but what comes after it.
    fn new(house: &House, flags: Flags) -> Self {
        Self::send(house, flags, 0).registered()
    }

    fn registered(mut self) -> Self {
        self.write(1, 0, Body::Ping(Ping { identity: Text::EMPTY, facilities: 0 }));
        let packet = self.read();
        assert!(matches!(packet.body, Body::Ping(_)), "{packet:?}");
        self
    }

    /// Ends its connection, and waits until the pool has noticed.
    fn leave(self, house: &House) {
        drop(self);
        while house.flag("chooser") {
            thread::yield_now();
        }
    }

    fn write(&mut self, reqid: u16, cbid: u16, body: Body) {
        self.0.write_all(&Packet { reqid, cbid, body }.encode()).unwrap();
    }

    fn read(&mut self) -> Packet {
        let mut record = [0; RECORD_LEN];
        self.0.read_exact(&mut record).unwrap();
        Packet::decode(&record).unwrap()
    }

    /// The next callback.
    fn asked(&mut self) -> (u16, Lidentry) {
        let packet = self.read();
        assert_eq!(packet.reqid, REQID);
        assert_ne!(packet.cbid, 0);
        match packet.body {
            Body::LidentryCallback(entry) => (packet.cbid, entry),
            other => panic!("{other:?}"),
        }
    }

    fn choose(&mut self, cbid: u16, flags: Flags, localid: &str, remoteid: &str) {
        let (localid, remoteid) = (Text::cut(localid), Text::cut(remoteid));
        let entry = Lidentry { flags, localid, remoteid, ..Lidentry::default() };
        self.write(REQID, cbid, Body::LidentryCallback(entry));
    }

    /// The end of the registration, or a complaint.
    fn error(&mut self) -> PoolError {
        match self.read().body {
            Body::Error(error) => PoolError::from_code(error.code).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

type Both = (Result<Session, Error>, Result<Session, Error>);

/// A handshake in a thread, with a connection of its own for either end.
fn shake(house: &House, request: StarttlsRequest) -> JoinHandle<Both> {
    let (here, there) = (house.pool(), house.pool());
    thread::spawn(move || both((&here, request), (&there, asking())))
}

/// Whom the server saw.
fn seen(shaking: JoinHandle<Both>) -> String {
    let (connected, serving) = shaking.join().unwrap();
    let (connected, serving) = (connected.unwrap(), serving.unwrap());
    assert_eq!(connected.localid(), serving.remoteid());
    serving.remoteid().to_owned()
}

/// Why the client has no session.
fn refused(shaking: JoinHandle<Both>) -> (PoolError, String) {
    let (connected, serving) = shaking.join().unwrap();
    assert!(serving.is_err());
    let error = connected.unwrap_err();
    (error.pool_error().unwrap(), error.to_string())
}

#[test]
fn a_program_chooses() {
    let house = inhabited();
    let mut chooser = Chooser::new(&house, Flags::default());
    for (localid, remoteid) in
        [("john@example.org", "www.example.com"), ("jane@example.org", ".com"), ("", "")]
    {
        let shaking = shake(&house, client());
        let (cbid, entry) = chooser.asked();
        assert_eq!((entry.remoteid.as_str(), entry.localid.as_str()), ("www.example.com", ""));
        // www.example.com, .example.com, .com, .
        assert_eq!((entry.flags, entry.maxlevels), (Flags::default(), 3));
        // The program registered for 60 s; the request ends after 30.
        assert!((1..=30).contains(&entry.timeout), "{}", entry.timeout);
        chooser.choose(cbid, Flags::default(), localid, remoteid);
        assert_eq!(seen(shaking), localid);
    }
    assert!(house.store().disclosures().unwrap().is_empty());
    // Who names somebody has chosen already, and where nobody is shown nobody is asked.
    let named = client().localid("jim@example.org").unwrap();
    assert_eq!(seen(shake(&house, named)), "jim@example.org");
    let ignoring = client().flags(StarttlsFlags::IGNORE_REMOTEID);
    assert_eq!(seen(shake(&house, ignoring)), "");
    // When it is gone, the table decides again.
    house.disclose(".", "jane@example.org");
    chooser.leave(&house);
    assert_eq!(seen(shake(&house, client())), "jane@example.org");
}

/// With LOCALID_CHECK a program's name is a proposal, and it has the last word.
#[test]
fn a_proposal_may_be_changed_if_the_program_wants_to_see_that() {
    let house = inhabited();
    let mut chooser = Chooser::new(&house, Flags::default());
    let (here, there) = (house.pool(), house.pool());
    let request = client().localid("jim@example.org").unwrap().flags(StarttlsFlags::LOCALID_CHECK);
    let shaking = thread::spawn(move || {
        let plaintext = tlspool_client::Plaintext::pair().check_localid(|proposal| {
            assert_eq!(proposal.localid.as_str(), "jane@example.org");
            tlspool_client::LocalidAnswer::Accept
        });
        let (near, far) = crate::house::tcp_pair();
        let serving = thread::spawn(move || {
            there.starttls(asking(), far.into(), tlspool_client::Plaintext::pair())
        });
        (here.starttls(request, near.into(), plaintext), serving.join().unwrap())
    });
    let (cbid, entry) = chooser.asked();
    assert_eq!(entry.localid.as_str(), "jim@example.org");
    chooser.choose(cbid, Flags::default(), "jane@example.org", "");
    assert_eq!(seen(shaking), "jane@example.org");
}

#[test]
fn what_could_be_chosen_is_shown_first_and_entries_may_be_skipped() {
    let house = inhabited();
    house.disclose(".example.com", "john@example.org");
    house.disclose(".example.com", "");
    let flags = Flags::WANT_DBENTRY | Flags::WANT_CANDIDATES | Flags::SKIP_DOMAIN_SAME;
    let mut chooser = Chooser::new(&house, flags);
    let shaking = shake(&house, client());
    let entries: Vec<_> = (0..5)
        .map(|_| {
            let (cbid, entry) = chooser.asked();
            // What is answered to an entry does not matter.
            chooser.choose(cbid, Flags::DBINSERT, "x@y.example", "z.example");
            assert_eq!(entry.flags & Flags::REGFLAGS, flags);
            let kind = entry.flags.without(Flags::REGFLAGS);
            (kind, entry.maxlevels, entry.localid.to_string(), entry.remoteid.to_string())
        })
        .collect();
    let known = |local: &str| (Flags::DBENTRY, 1, local.to_owned(), ".example.com".to_owned());
    let other = |local: &str| {
        let flags = Flags::DBENTRY | Flags::CANDIDATE;
        (flags, 0, local.to_owned(), "www.example.com".to_owned())
    };
    assert_eq!(
        entries,
        [
            known("john@example.org"),
            known(""),
            other("jane@example.org"),
            other("jim@example.org"),
            other("www.example.com"),
        ]
    );
    let (cbid, entry) = chooser.asked();
    assert!(!entry.flags.contains(Flags::DBENTRY));
    chooser.choose(cbid, Flags::default(), "jim@example.org", "");
    assert_eq!(seen(shaking), "jim@example.org");
    // An entry for this very domain is skipped.
    house.disclose("www.example.com", "jane@example.org");
    assert_eq!(seen(shake(&house, client())), "jane@example.org");
}

#[test]
fn a_choice_is_remembered_if_the_handshake_succeeds() {
    let house = inhabited();
    let mut chooser = Chooser::new(&house, Flags::SKIP_DBENTRY);
    // A handshake that fails: the server is not who it should be.
    let stranger = StarttlsRequest::client("www.example.net").unwrap();
    let shaking = shake(&house, stranger);
    let (cbid, _) = chooser.asked();
    chooser.choose(cbid, Flags::DBAPPEND, "john@example.org", ".net");
    assert_eq!(refused(shaking).0, PoolError::RemoteidRefused);
    assert!(house.store().disclosures().unwrap().is_empty());

    let shaking = shake(&house, client());
    let (cbid, _) = chooser.asked();
    chooser.choose(cbid, Flags::DBAPPEND, "john@example.org", ".com");
    assert_eq!(seen(shaking), "john@example.org");
    let rows = house.store().disclosures().unwrap();
    let uid = rustix::process::geteuid().as_raw();
    assert_eq!((rows.len(), rows[0].remote.as_str(), rows[0].user), (1, ".com", Some(uid)));
    // It is asked no more.
    house.changed();
    assert_eq!(seen(shake(&house, client())), "john@example.org");
    chooser.leave(&house);

    let mut chooser = Chooser::new(&house, Flags::default());
    for (flags, local, order) in [
        (Flags::DBINSERT, "jane@example.org", ["jane", "john"]),
        (Flags::DBINSERT, "john@example.org", ["jane", "john"]),
        (Flags::DBINSERT | Flags::DBREORDER, "john@example.org", ["john", "jane"]),
    ] {
        let shaking = shake(&house, client());
        let (cbid, _) = chooser.asked();
        chooser.choose(cbid, flags, local, ".com");
        assert_eq!(seen(shaking), local);
        house.changed();
        let rows = house.store().disclosures().unwrap();
        let users: Vec<_> = rows.iter().filter_map(|row| row.local.as_ref()?.user()).collect();
        assert_eq!(users, order, "{flags:?} {local}");
    }
}

#[test]
fn refusals_and_answers_that_are_no_choice_end_the_handshake() {
    let house = inhabited();
    // Rows that would decide if nobody chose.
    house.disclose(".", "john@example.org");
    let mut chooser = Chooser::new(&house, Flags::default());
    let choice = |flags: Flags, local: &str, remote: &str| {
        let (localid, remoteid) = (Text::cut(local), Text::cut(remote));
        Body::LidentryCallback(Lidentry { flags, localid, remoteid, ..Lidentry::default() })
    };
    let refusal = ErrorReply { code: 13, message: Text::cut("not today") };
    for (answer, error, words) in [
        (Body::Error(refusal), PoolError::LocalidRefused, "not today"),
        (Body::Success, PoolError::LocalidRefused, "another command"),
        (choice(Flags::default(), "a@@b", ""), PoolError::LocalidRefused, "localid"),
        (choice(Flags::DBAPPEND, "john@example.org", ".net"), PoolError::LocalidRefused, ".net"),
        (choice(Flags::default(), "jeff@example.org", ""), PoolError::LocalidUnknown, "jeff@"),
        (choice(Flags::ONTHEFLY, "john@example.org", ""), PoolError::LocalidUnknown, "fly"),
    ] {
        let shaking = shake(&house, client());
        let (cbid, _) = chooser.asked();
        chooser.write(REQID, cbid, answer);
        let (number, text) = refused(shaking);
        assert_eq!(number, error, "{text}");
        assert!(text.contains(words), "{text}");
    }
    // It still chooses.
    let shaking = shake(&house, client());
    let (cbid, _) = chooser.asked();
    chooser.choose(cbid, Flags::default(), "jane@example.org", "");
    assert_eq!(seen(shaking), "jane@example.org");
}

/// Its end in the middle of a question is a refusal, not a reason to look into the table.
#[test]
fn a_program_that_dies_when_asked_has_refused() {
    let house = inhabited();
    house.disclose(".", "john@example.org");
    let mut chooser = Chooser::new(&house, Flags::default());
    let shaking = shake(&house, client());
    chooser.asked();
    chooser.leave(&house);
    let (error, text) = refused(shaking);
    assert_eq!(error, PoolError::LocalidRefused);
    assert!(text.contains("went away"), "{text}");
    assert_eq!(seen(shake(&house, client())), "john@example.org");
}

#[test]
fn one_program_at_a_time() {
    let house = inhabited();
    let mut chooser = Chooser::new(&house, Flags::default());
    let mut second = Chooser::send(&house, Flags::default(), 60);
    assert_eq!(second.error(), PoolError::LidentryNotVacant);
    // Not even a second registration of the same program; but it may change its own.
    chooser.write(REQID + 1, 0, Body::LidentryRegister(Lidentry::default()));
    assert_eq!(chooser.error(), PoolError::LidentryNotVacant);
    let flags = Flags::SKIP_DBENTRY;
    chooser.write(REQID, 0, Body::LidentryRegister(Lidentry { flags, ..Lidentry::default() }));
    let mut chooser = chooser.registered();
    let shaking = shake(&house, client());
    let (cbid, entry) = chooser.asked();
    assert_eq!(entry.flags, flags);
    chooser.choose(cbid, Flags::default(), "jane@example.org", "");
    assert_eq!(seen(shaking), "jane@example.org");
    chooser.leave(&house);
    while house.flag("chooser") {
        thread::yield_now();
    }
    Chooser::new(&house, Flags::default());
}

#[test]
fn answers_nobody_waits_for_are_complained_about() {
    let house = inhabited();
    let mut chooser = Chooser::new(&house, Flags::default());
    let shaking = shake(&house, client());
    let (cbid, _) = chooser.asked();
    let mut other = Chooser::send(&house, Flags::default(), 60);
    assert_eq!(other.error(), PoolError::LidentryNotVacant);
    // On another connection, with another number, with another request's number.
    other.choose(cbid, Flags::default(), "john@example.org", "");
    assert_eq!(other.error(), PoolError::CommandBadCallbackResponse);
    chooser.choose(cbid.wrapping_add(1).max(1), Flags::default(), "john@example.org", "");
    assert_eq!(chooser.error(), PoolError::CommandBadCallbackResponse);
    let entry = Lidentry { localid: Text::cut("john@example.org"), ..Lidentry::default() };
    chooser.write(REQID + 1, cbid, Body::LidentryCallback(entry.clone()));
    assert_eq!(chooser.error(), PoolError::CommandBadCallbackResponse);
    chooser.write(REQID, 0, Body::LidentryCallback(entry));
    assert_eq!(chooser.error(), PoolError::CommandBadCallbackResponse);
    // The question is open yet.
    chooser.choose(cbid, Flags::default(), "jane@example.org", "");
    assert_eq!(seen(shaking), "jane@example.org");
}

/// Its request fails; while it is late nobody else is kept waiting, and another may take its place.
#[test]
fn a_program_that_is_late_may_be_overtaken() {
    let house = inhabited();
    house.disclose(".", "john@example.org");
    let mut slow = Chooser::send(&house, Flags::default(), 1).registered();
    let shaking = shake(&house, client());
    let (cbid, entry) = slow.asked();
    assert_eq!(entry.timeout, 1);
    let (error, text) = refused(shaking);
    assert_eq!(error, PoolError::Timeout, "{text}");
    // Late, it is as if it were not there.
    assert_eq!(seen(shake(&house, client())), "john@example.org");
    // Its answer puts it in its place again, and no complaint comes.
    slow.choose(cbid, Flags::default(), "jane@example.org", "");
    let mut slow = slow.registered();
    let (cbid, shaking) = loop {
        let shaking = shake(&house, client());
        if let Some(cbid) = slow.asked_before(&shaking) {
            break (cbid, shaking);
        }
        assert_eq!(seen(shaking), "john@example.org");
    };
    // This time somebody else is faster.
    assert_eq!(refused(shaking).0, PoolError::Timeout);
    let mut fast = Chooser::new(&house, Flags::default());
    assert_eq!(slow.error(), PoolError::LidentryNotVacant);
    let shaking = shake(&house, client());
    let (question, _) = fast.asked();
    slow.choose(cbid, Flags::default(), "jane@example.org", "");
    slow.registered();
    fast.choose(question, Flags::default(), "jim@example.org", "");
    assert_eq!(seen(shaking), "jim@example.org");
}

impl Chooser {
    /// The callback, if one comes before the handshake is over.
    fn asked_before(&mut self, shaking: &JoinHandle<Both>) -> Option<u16> {
        let now = Timespec::default();
        loop {
            let over = shaking.is_finished();
            if poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&now)).unwrap() > 0 {
                return Some(self.asked().0);
            }
            if over {
                return None;
            }
            thread::yield_now();
        }
    }
}

#[test]
fn questions_wait_for_their_turn_within_bounds() {
    let house = furnish(House::with("[limits]\nrequests_per_client = 3\n"));
    let mut chooser = Chooser::new(&house, Flags::default());
    let first = shake(&house, client());
    let (cbid, _) = chooser.asked();
    let waiting: Vec<_> = (0..6).map(|_| shake(&house, client())).collect();
    // Two wait; the others are refused at once. Which is which, chance says.
    while waiting.iter().filter(|shaking| shaking.is_finished()).count() < 4 {
        thread::yield_now();
    }
    let (over, waiting): (Vec<_>, Vec<_>) = waiting.into_iter().partition(JoinHandle::is_finished);
    for shaking in over {
        let (error, text) = refused(shaking);
        assert_eq!(error, PoolError::LimitReached, "{text}");
    }
    chooser.choose(cbid, Flags::default(), "john@example.org", "");
    assert_eq!(seen(first), "john@example.org");
    assert_eq!(waiting.len(), 2);
    for _ in &waiting {
        let (cbid, _) = chooser.asked();
        chooser.choose(cbid, Flags::default(), "jane@example.org", "");
    }
    for shaking in waiting {
        assert_eq!(seen(shaking), "jane@example.org");
    }
}

/// A handshake that is over is not asked about any more, and its late answer is no offence.
#[test]
fn a_request_that_is_over_asks_nothing() {
    let house = furnish(House::with("[limits]\nrequests_per_client = 2\n"));
    let mut chooser = Chooser::new(&house, Flags::default());
    let short = |millis| client().timeout_ms(millis);
    // Enough for the first to be asked about, on a busy machine too.
    let first = shake(&house, short(2000));
    let (cbid, _) = chooser.asked();
    let second = shake(&house, short(300));
    assert_eq!(refused(first).0, PoolError::Timeout);
    assert_eq!(refused(second).0, PoolError::Timeout);
    // Nor does it keep a place in the queue.
    for _ in 0..3 {
        assert_eq!(refused(shake(&house, short(50))).0, PoolError::Timeout);
    }
    chooser.choose(cbid, Flags::default(), "john@example.org", "");
    let shaking = shake(&house, client());
    let (cbid, _) = chooser.asked();
    chooser.choose(cbid, Flags::default(), "jane@example.org", "");
    assert_eq!(seen(shaking), "jane@example.org");
}

#[test]
fn an_identity_that_is_announced_is_waited_for() {
    let house = inhabited();
    let mut chooser = Chooser::new(&house, Flags::default());
    let shaking = shake(&house, client());
    let (cbid, _) = chooser.asked();
    chooser.choose(cbid, Flags::NEW, "new@example.org", "");
    assert!(!house.store().has_identity(&DoNai::parse("new@example.org").unwrap()).unwrap());
    house.identity("new@example.org");
    assert_eq!(seen(shaking), "new@example.org");
    let shaking = shake(&house, client().timeout_ms(2000));
    let (cbid, _) = chooser.asked();
    chooser.choose(cbid, Flags::NEW, "never@example.org", "");
    let (error, text) = refused(shaking);
    assert!(matches!(error, PoolError::Timeout | PoolError::LocalidUnknown), "{text}");
}

#[test]
fn a_pool_that_drains_sends_it_to_the_next() {
    let house = inhabited();
    let mut chooser = Chooser::new(&house, Flags::default());
    let shaking = shake(&house, client());
    let (cbid, _) = chooser.asked();
    house.tell(&ToNetwork::StopAccepting);
    // What was asked is answered yet.
    while !house.flag("draining") {
        thread::yield_now();
    }
    chooser.choose(cbid, Flags::default(), "jane@example.org", "");
    assert_eq!(chooser.error(), PoolError::Draining);
    assert_eq!(seen(shaking), "jane@example.org");
}

//! The rows of the table: what is done in a cell, and what must come of it.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use tls12::*;

use crate::helper::{Library, Peer, Wanted, Workshop};
use crate::hex;
use crate::ours::{Door, Ours};
use crate::support::keys;

/// Against whom.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    pub(crate) ours: Role,
    pub(crate) library: Library,
    pub(crate) datagrams: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Row {
    /// A handshake with the server's key of this number.
    Suite(&'static Suite, usize),
    /// What the client shows, and what the server asks for.
    ClientAuth(Option<usize>, ClientAuth),
    Resumption,
    RenegotiationByUs,
    RenegotiationByPeer,
    /// The server asks for a certificate in a renegotiation.
    LaterCertificate,
    Precursor,
    /// Facts on both sides that must be equal.
    Equal(&'static [&'static str], When),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Full,
    Resumed,
    Renegotiated,
}

const EXPORTERS: &[&str] = &["exported", "exported-with-context"];
const TLS_UNIQUE: &[&str] = &["tls-unique"];
const END_POINT: &[&str] = &["tls-server-end-point"];
const TLS_EXPORTER: &[&str] = &["tls-exporter"];

/// All of them, with what the table calls them.
pub(crate) fn all() -> Vec<(String, Row)> {
    let mut rows = Vec::new();
    for suite in SUITES.iter().filter(|suite| !suite.is_anonymous()) {
        let fitting: &[usize] =
            if suite.authentication == Authentication::Rsa { &[0] } else { &[1, 2] };
        for key in fitting {
            let label = format!("{}, {} key", suite.name, key_name(*key));
            rows.push((label, Row::Suite(suite, *key)));
        }
    }
    for (auth, words) in [
        (ClientAuth::None, "not asked for"),
        (ClientAuth::Requested, "requested"),
        (ClientAuth::Required, "required"),
    ] {
        for shown in [None, Some(0), Some(1), Some(2)] {
            let label = match shown {
                Some(key) => format!("client certificate {words}, {} key", key_name(key)),
                None if auth == ClientAuth::Required => {
                    "client certificate required, none there: refused".to_owned()
                }
                None => format!("client certificate {words}, none there"),
            };
            rows.push((label, Row::ClientAuth(shown, auth)));
        }
    }
    let more = [
        ("session ticket, resumed", Row::Resumption),
        ("renegotiation, begun by us", Row::RenegotiationByUs),
        ("renegotiation, begun by the peer", Row::RenegotiationByPeer),
        ("client certificate in a renegotiation that the server begins", Row::LaterCertificate),
        ("anonymous, then renegotiated with certificates", Row::Precursor),
        ("exporter with and without context equal", Row::Equal(EXPORTERS, When::Full)),
        ("the same, resumed", Row::Equal(EXPORTERS, When::Resumed)),
        ("the same, renegotiated", Row::Equal(EXPORTERS, When::Renegotiated)),
        ("binding tls-unique equal", Row::Equal(TLS_UNIQUE, When::Full)),
        ("the same, resumed", Row::Equal(TLS_UNIQUE, When::Resumed)),
        ("the same, renegotiated", Row::Equal(TLS_UNIQUE, When::Renegotiated)),
        ("binding tls-server-end-point equal", Row::Equal(END_POINT, When::Full)),
        ("binding tls-exporter equal", Row::Equal(TLS_EXPORTER, When::Full)),
        ("the same, renegotiated", Row::Equal(TLS_EXPORTER, When::Renegotiated)),
    ];
    rows.extend(more.map(|(label, row)| (label.to_owned(), row)));
    rows
}

const fn key_name(key: usize) -> &'static str {
    match key {
        0 => "RSA",
        1 => "P-256",
        _ => "Ed25519",
    }
}

/// What a cell says: yes, or why the peer cannot.
pub(crate) type Cell = Result<(), String>;

fn client() -> ClientConfig {
    ClientConfig { server_name: Some("localhost".into()), ..ClientConfig::default() }
}

fn digest_of(key: usize) -> String {
    hex(digest(&SHA256, &keys()[key].certificate).as_ref())
}

/// Both ends of a session.
struct Met {
    ours: Ours,
    peer: Peer,
}

impl Met {
    /// Waits until the session stands.
    fn new(mut ours: Ours, mut peer: Peer) -> Result<Self, String> {
        ours.run_until(|side| side.established);
        if !ours.side().established {
            return Err(why_not(&mut ours, &mut peer));
        }
        peer.hear("established")?;
        Ok(Self { ours, peer })
    }

    /// What the peer knows of the session as it is now.
    fn ask(&mut self) -> Result<(), String> {
        self.peer.facts.clear();
        self.ours.echo("facts\n");
        self.peer.hear("told").map(drop)
    }

    fn fact(&self, name: &str) -> &str {
        self.peer.facts.get(name).map_or("", String::as_str)
    }

    fn summary(&mut self) -> Summary {
        self.ours.side().connection.summary().unwrap().clone()
    }

    /// Waits for a renegotiation that has begun.
    fn renegotiated(&mut self) -> Cell {
        self.ours.run_until(|side| !side.renegotiated.is_empty() || side.refused);
        if self.ours.side().refused {
            return Err("answers no_renegotiation".into());
        }
        if self.ours.side().renegotiated.is_empty() {
            return Err(why_not(&mut self.ours, &mut self.peer));
        }
        self.ours.echo("after it\n");
        Ok(())
    }

    fn renegotiate(&mut self, config: Option<NewConfig>) -> Cell {
        self.ours.side().connection.renegotiate(config).unwrap();
        self.renegotiated()
    }
}

/// Why there is no session, or no longer: what the peer says, or that it offers nothing of what is wanted. All else is a
/// fault of ours.
fn why_not(ours: &mut Ours, peer: &mut Peer) -> String {
    match ours.error() {
        Some(Error::PeerAlert(_) | Error::Truncated) => {
            peer.hear("told").expect_err("a reason").trim_end_matches('.').to_owned()
        }
        Some(error @ (Error::NothingInCommon(_) | Error::NotPrivate | Error::Insufficient(_))) => {
            error.to_string()
        }
        other => panic!("we fail: {other:?}"),
    }
}

pub(crate) struct Bench<'w> {
    pub(crate) workshop: &'w Workshop,
    pub(crate) column: Column,
}

impl Bench<'_> {
    fn wanted(&self) -> Wanted {
        Wanted {
            client: self.column.ours == Role::Server,
            datagrams: self.column.datagrams,
            ..Wanted::default()
        }
    }

    /// Our client, showing `shown`, with a server that is `wanted`.
    fn call(
        &self,
        config: ClientConfig,
        shown: Option<usize>,
        wanted: Wanted,
    ) -> Result<Met, String> {
        let mut peer = self.workshop.start(self.column.library, &wanted);
        let port = peer.hear("ready")?.parse().unwrap();
        Met::new(Ours::client(config, shown, self.column.datagrams, port), peer)
    }

    /// Our server, showing `key`, with a client that is `wanted`.
    fn serve(&self, config: ServerConfig, key: usize, wanted: Wanted) -> Result<Met, String> {
        let door = Door::new(self.column.datagrams);
        let wanted = Wanted { port: door.port(), ..wanted };
        let peer = self.workshop.start(self.column.library, &wanted);
        Met::new(door.next(config, key), peer)
    }

    /// A session with P-256 on the server's side, and on the client's if it is asked.
    fn plain(&self) -> Result<Met, String> {
        let wanted = Wanted { key: Some(1), ..self.wanted() };
        match self.column.ours {
            Role::Client => self.call(client(), Some(1), wanted),
            Role::Server => self.serve(ServerConfig::default(), 1, wanted),
        }
    }

    /// Two sessions, of which the second resumes the first.
    fn resumed(&self) -> Result<Met, String> {
        let wanted = Wanted { key: Some(1), connections: 2, ..self.wanted() };
        match self.column.ours {
            Role::Client => {
                let config = ClientConfig { wants_session: true, ..client() };
                let mut first = self.call(config, None, wanted)?;
                first.ours.echo("first\n");
                let session = first.ours.side().session.take();
                first.ours.end();
                let port = first.peer.hear("ready")?.parse().unwrap();
                let config = ClientConfig { session, ..client() };
                Met::new(Ours::client(config, None, self.column.datagrams, port), first.peer)
            }
            Role::Server => {
                let current = Arc::new(TicketKey::generate().unwrap());
                let tickets = TicketKeys { current, previous: vec![], lifetime: 600 };
                let config =
                    ServerConfig { tickets: Some(Arc::new(tickets)), ..ServerConfig::default() };
                let door = Door::new(self.column.datagrams);
                let wanted = Wanted { port: door.port(), ..wanted };
                let peer = self.workshop.start(self.column.library, &wanted);
                let mut first = Met::new(door.next(config.clone(), 1), peer)?;
                first.ours.echo("first\n");
                first.ours.end();
                Met::new(door.next(config, 1), first.peer)
            }
        }
    }

    pub(crate) fn measure(&self, row: &Row) -> Cell {
        match row {
            Row::Suite(suite, key) => self.suite(suite, *key),
            Row::ClientAuth(shown, auth) => self.client_auth(*shown, *auth),
            Row::Resumption => {
                let mut met = self.resumed()?;
                met.ask()?;
                let resumed = (met.summary().resumed, met.fact("resumed") == "1");
                assert_eq!(resumed.0, resumed.1);
                if resumed.0 { Ok(()) } else { Err("does not resume".into()) }
            }
            Row::RenegotiationByUs => {
                let mut met = self.plain()?;
                met.ours.echo("before it\n");
                met.renegotiate(None)
            }
            Row::RenegotiationByPeer => {
                let mut met = self.plain()?;
                self.have_renegotiated(&mut met, "renegotiate\n")
            }
            Row::LaterCertificate => self.later_certificate(),
            Row::Precursor => self.precursor(),
            Row::Equal(facts, when) => self.equal(facts, *when),
        }
    }

    fn have_renegotiated(&self, met: &mut Met, line: &str) -> Cell {
        met.ours.echo(line);
        if self.column.library == Library::Rustls {
            return met.peer.hear("renegotiating").map(drop);
        }
        met.renegotiated()
    }

    fn suite(&self, suite: &'static Suite, key: usize) -> Cell {
        let common = Common { suites: vec![suite], ..Common::default() };
        let mut met = match self.column.ours {
            Role::Client => {
                let wanted = Wanted { key: Some(key), ..self.wanted() };
                self.call(ClientConfig { common, ..client() }, None, wanted)?
            }
            Role::Server => {
                let config = ServerConfig { common, ..ServerConfig::default() };
                self.serve(config, key, self.wanted())?
            }
        };
        met.ask()?;
        assert_eq!(met.summary().suite, suite);
        assert_eq!(plain_name(met.fact("suite")), plain_name(suite.name));
        if self.column.ours == Role::Server {
            assert_eq!(met.fact("peer"), digest_of(key));
        }
        Ok(())
    }

    fn client_auth(&self, shown: Option<usize>, auth: ClientAuth) -> Cell {
        let expected = shown.filter(|_| auth != ClientAuth::None);
        let refused = shown.is_none() && auth == ClientAuth::Required;
        let seen;
        match self.column.ours {
            Role::Client => {
                let auth = match auth {
                    ClientAuth::None => None,
                    ClientAuth::Requested => Some("request"),
                    ClientAuth::Required => Some("require"),
                };
                let met =
                    self.call(client(), shown, Wanted { key: Some(1), auth, ..self.wanted() });
                if refused {
                    assert!(met.is_err(), "it was not refused");
                    return Ok(());
                }
                let mut met = met?;
                met.ask()?;
                seen = met.fact("peer").to_owned();
                assert_eq!(met.summary().shown.map(|shown| shown.id as usize), expected);
            }
            Role::Server => {
                let config = ServerConfig { client_auth: auth, ..ServerConfig::default() };
                let wanted = Wanted { key: shown, ..self.wanted() };
                if refused {
                    let door = Door::new(self.column.datagrams);
                    let wanted = Wanted { port: door.port(), ..wanted };
                    let _peer = self.workshop.start(self.column.library, &wanted);
                    let mut ours = door.next(config, 1);
                    ours.run_until(|side| side.established);
                    assert_eq!(ours.error(), Some(Error::NoCertificate));
                    return Ok(());
                }
                let mut met = self.serve(config, 1, wanted)?;
                met.ask()?;
                let peer = match met.summary().peer {
                    Some(PeerCertificate::X509(chain)) => hex(digest(&SHA256, &chain[0]).as_ref()),
                    Some(other) => panic!("{other:?}"),
                    None => "none".into(),
                };
                seen = peer;
            }
        }
        assert_eq!(seen, expected.map_or("none".to_owned(), digest_of));
        Ok(())
    }

    fn later_certificate(&self) -> Cell {
        let mut met = self.plain()?;
        match self.column.ours {
            Role::Client => {
                self.have_renegotiated(&mut met, "renegotiate asking\n")?;
                met.ask()?;
                assert_eq!(met.fact("peer"), digest_of(1));
            }
            Role::Server => {
                let asks =
                    ServerConfig { client_auth: ClientAuth::Required, ..ServerConfig::default() };
                met.renegotiate(Some(NewConfig::Server(Arc::new(asks))))?;
                assert!(met.summary().peer.is_some());
            }
        }
        Ok(())
    }

    fn precursor(&self) -> Cell {
        let anonymous = Anonymous::Precursor;
        let common = Common { anonymous, private: true, ..Common::default() };
        let wanted = Wanted { key: Some(1), anonymous: true, ..self.wanted() };
        let mut met = match self.column.ours {
            Role::Client => {
                let config = ClientConfig { common, conceal_name: true, ..client() };
                self.call(config, None, wanted)?
            }
            Role::Server => {
                let client_auth = ClientAuth::Required;
                let config = ServerConfig { common, client_auth, ..ServerConfig::default() };
                self.serve(config, 1, wanted)?
            }
        };
        met.ask()?;
        let summary = met.summary();
        assert!(summary.private && summary.peer.is_some() && !summary.suite.is_anonymous());
        assert_eq!(
            met.fact("peer"),
            if self.column.ours == Role::Server { digest_of(1) } else { "none".into() }
        );
        Ok(())
    }

    fn equal(&self, facts: &[&str], when: When) -> Cell {
        let mut met = if when == When::Resumed { self.resumed()? } else { self.plain()? };
        assert_eq!(met.summary().resumed, when == When::Resumed);
        if when == When::Renegotiated {
            met.renegotiate(None)?;
        }
        met.ask()?;
        let exporter = met.ours.side().connection.exporter().unwrap();
        let export = |context| {
            let mut out = [0; 32];
            exporter.export(crate::LABEL.as_bytes(), context, &mut out).unwrap();
            hex(&out)
        };
        for fact in facts {
            let ours = match *fact {
                "exported" => export(None),
                "exported-with-context" => export(Some(crate::CONTEXT.as_bytes())),
                "tls-unique" => hex(exporter.tls_unique()),
                "tls-exporter" => hex(&exporter.tls_exporter().unwrap()),
                // The certificate is signed with SHA-256.
                _ => match met.ours.side().connection.server_certificate() {
                    Some(PeerCertificate::X509(chain)) => hex(digest(&SHA256, &chain[0]).as_ref()),
                    other => panic!("{other:?}"),
                },
            };
            match met.fact(fact) {
                "" => return Err("it has no function that tells".into()),
                theirs => assert_eq!(theirs, ours, "{fact}"),
            }
        }
        Ok(())
    }
}

/// GnuTLS has names of its own: without WITH, and without the hash where there is but one.
fn plain_name(name: &str) -> String {
    name.replace("WITH_", "").replace("POLY1305_SHA256", "POLY1305")
}

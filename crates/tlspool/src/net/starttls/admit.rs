//! The first look at a STARTTLS request: what can be checked before anything is done.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use tlspool_identity::DoNai;
use tlspool_store::Role;
use tlspool_wire::{PoolError, Starttls, StarttlsFlags as Flags, Text};

use super::Failure;
use super::carriage::Carriage;
use crate::net::client::{Client, InFlight};
use crate::net::limits::{Exceeded, InUse};
use crate::net::registry::Registered;
use crate::net::worker::Worker;

/// A request that passed the first look.
pub(crate) struct Request {
    pub(super) client: Arc<Client>,
    pub(super) reqid: u16,
    pub(super) starttls: Starttls,
    pub(super) role: Role,
    pub(super) local: Option<DoNai>,
    pub(super) remote: Option<DoNai>,
    pub(super) socket: OwnedFd,
    pub(super) carriage: Carriage,
    /// The datagram that began the session, if the program has it.
    pub(super) first: Option<Vec<u8>>,
    /// The pool's end of the plaintext connection, if it came along.
    pub(super) plaintext: Option<OwnedFd>,
    pub(super) registered: Option<Registered>,
    pub(super) session: InUse,
    pub(super) in_flight: InFlight,
    pub(super) begun: Instant,
}

/// Takes the request apart; an error is for the program.
pub(super) fn admit(
    worker: &Worker,
    client: &Arc<Client>,
    in_flight: InFlight,
    reqid: u16,
    starttls: Starttls,
    [descriptor, plaintext]: [Option<OwnedFd>; 2],
) -> Result<Request, Failure> {
    let flags = starttls.flags;
    let not_yet = |what: &str| {
        Failure::new(PoolError::CommandNotImpl, format!("this pool does not do {what} yet"))
    };
    let socket = descriptor.ok_or_else(|| {
        Failure::new(PoolError::CipherSocketNeeded, "STARTTLS needs the socket to run TLS on")
    })?;
    let carriage = Carriage::of(&starttls)?;
    let role = role(flags).map_err(|peer_to_peer| {
        if peer_to_peer {
            return not_yet("peer-to-peer roles");
        }
        Failure::new(PoolError::RecordMalformed, "the flags give no role, or both ends the same")
    })?;
    carriage.check(&socket)?;
    if let Some(plaintext) = &plaintext {
        // Better told now than after the peer was bothered.
        carriage.check_plaintext(plaintext)?;
    }
    let name = |text: &Text<128>, field: &str| match text.as_str() {
        "" => Ok(None),
        name => DoNai::parse(name)
            .map(Some)
            .map_err(|error| Failure::new(PoolError::RecordMalformed, format!("{field}: {error}"))),
    };
    let local = name(&starttls.localid, "localid")?;
    let remote = name(&starttls.remoteid, "remoteid")?;
    let limits = &worker.settings().config.limits;
    let session = worker
        .shared
        .sessions
        .take(client.uid(), limits.sessions, limits.sessions_per_user)
        .map_err(|exceeded| {
            let text = match exceeded {
                Exceeded::All(n) => format!("the pool has {n} sessions; raise limits.sessions"),
                Exceeded::User(n) => {
                    format!("your user has {n} sessions; raise limits.sessions_per_user")
                }
            };
            Failure::new(PoolError::LimitReached, text)
        })?;
    let registered = match starttls.ctlkey {
        key if key.is_none() => None,
        key => Some(worker.shared.registry.register(key, client).map_err(|error| {
            Failure::new(error, "a session with this control key exists; choose a random one")
        })?),
    };
    if flags.contains(Flags::DETACH) && registered.is_none() {
        let text = "a session to detach needs a control key";
        return Err(Failure::new(PoolError::CtlkeyRegistrationFailed, text));
    }
    Ok(Request {
        client: client.clone(),
        reqid,
        starttls,
        role,
        local,
        remote,
        socket,
        carriage,
        first: client.first_datagram(reqid).filter(|_| carriage.is_udp() && role == Role::Server),
        plaintext,
        registered,
        session,
        in_flight,
        begun: Instant::now(),
    })
}

/// Our role by the flags; an error says whether it is left open on purpose (peer to peer).
fn role(flags: Flags) -> Result<Role, bool> {
    let local = flags & Flags::LOCALROLE_PEER;
    let remote = flags & Flags::REMOTEROLE_PEER;
    let role = match local {
        Flags::LOCALROLE_CLIENT => Role::Client,
        Flags::LOCALROLE_SERVER => Role::Server,
        Flags::LOCALROLE_PEER => match remote {
            Flags::REMOTEROLE_SERVER => Role::Client,
            Flags::REMOTEROLE_CLIENT => Role::Server,
            _ => return Err(true),
        },
        _ => return Err(false),
    };
    let same = match role {
        Role::Client => remote == Flags::REMOTEROLE_CLIENT,
        Role::Server => remote == Flags::REMOTEROLE_SERVER,
    };
    if same { Err(false) } else { Ok(role) }
}

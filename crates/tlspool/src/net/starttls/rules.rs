//! What follows from a STARTTLS request's fields, and its outcome, by the rules of the protocol: who
//! must authenticate, what may be resumed, what the final response says.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use aws_lc_rs::digest;
use tlspool_engine::{HandshakeError, PeerAuthentication, Scope};
use tlspool_identity::{DoNai, How};
use tlspool_store::Role;
use tlspool_validate::Endpoint;
use tlspool_validate::sources::Transport;
use tlspool_wire::{PoolError, Starttls, StarttlsFlags as Flags, Text};

use super::Failure;
use crate::net::disclosure::Disclosure;
use crate::net::host::Outcome;
use crate::net::limits::Uid;
use crate::net::worker::Worker;

/// What is demanded of the peer.
pub(super) fn authentication(flags: Flags) -> PeerAuthentication {
    if flags.contains(Flags::IGNORE_REMOTEID) {
        PeerAuthentication::Ignored
    } else if flags.contains(Flags::REQUEST_REMOTEID) {
        PeerAuthentication::Requested
    } else {
        PeerAuthentication::Required
    }
}

/// Everything that must be equal for a session to be resumed, except the local credential of a
/// server, which the engine adds.
pub(super) fn scope(
    worker: &Worker,
    uid: Uid,
    starttls: &Starttls,
    role: Role,
    authentication: PeerAuthentication,
    (remote, local): (Option<&DoNai>, Option<&DoNai>),
    disclosure: &Disclosure,
) -> Scope {
    let mut digest = digest::Context::new(&digest::SHA256);
    digest.update(&[role as u8, authentication as u8]);
    digest.update(&uid.to_ne_bytes());
    let relevant = Flags::DOMAIN_REPRESENTS_USER | Flags::WITHOUT_SNI | Flags::LOCALID_ONTHEFLY;
    digest.update(&(starttls.flags & relevant).0.to_ne_bytes());
    // Fixed-size fields, so that no two combinations look the same.
    digest.update(starttls.localid.field());
    digest.update(starttls.remoteid.field());
    digest.update(starttls.service.field());
    digest.update(&worker.trust_digest());
    digest.update(&worker.policy_digest(remote, local, starttls.service.as_str()));
    let unique = || worker.shared.next_session.fetch_add(1, Ordering::Relaxed);
    digest.update(&disclosure.digest(unique));
    if role == Role::Client && starttls.flags.contains(Flags::LOCALID_CHECK) {
        // A program that wants to be asked is asked each time: nothing is resumed.
        digest.update(&unique().to_ne_bytes());
    }
    let mut scope = [0; 32];
    scope.copy_from_slice(digest.finish().as_ref());
    scope
}

/// The peer's port, if it is reached over the Internet.
pub(super) fn endpoint(socket: &OwnedFd, ipproto: u8) -> Option<Endpoint> {
    let address = rustix::net::getpeername(socket).ok()??;
    let address = std::net::SocketAddr::try_from(address).ok()?;
    let transport = match ipproto {
        6 => Transport::Tcp,
        17 => Transport::Udp,
        132 => Transport::Sctp,
        _ => return None,
    };
    Some(Endpoint { port: address.port(), transport })
}

/// The final response: both names, and of the freedoms given only those that were used.
pub(super) fn reply(request: &Starttls, outcome: &Outcome) -> Starttls {
    let mut unused = Flags::default();
    if outcome.validated.is_some() {
        unused = unused | Flags::REQUEST_REMOTEID | Flags::IGNORE_REMOTEID;
    }
    let how = outcome.validated.as_ref().and_then(|validated| validated.how);
    if how != Some(How::DomainForUser) {
        unused = unused | Flags::DOMAIN_REPRESENTS_USER;
    }
    if !outcome.localid_checked {
        unused = unused | Flags::LOCALID_CHECK;
    }
    if !outcome.on_the_fly {
        unused = unused | Flags::LOCALID_ONTHEFLY;
    }
    let localid = outcome.credential.as_ref().map_or("", |credential| &credential.name);
    let remoteid = outcome.validated.as_ref().map_or("", |validated| validated.identity.as_str());
    Starttls {
        flags: request.flags.without(unused),
        localid: Text::cut(localid),
        remoteid: Text::cut(remoteid),
        ..request.clone()
    }
}

/// What the program is told of a handshake that failed.
pub(super) fn explain(error: &HandshakeError, outcome: &Outcome) -> Failure {
    let number = match error {
        HandshakeError::Refused(_) | HandshakeError::Signature(_) => {
            outcome.error.unwrap_or(PoolError::StirredNotShaken)
        }
        HandshakeError::Tls(rustls::Error::NoCertificatesPresented)
        | HandshakeError::Twelve(tls12::Error::NoCertificate) => PoolError::RemoteidRefused,
        _ => PoolError::StirredNotShaken,
    };
    Failure::new(number, error.to_string())
}

//! What a connection asks of its caller, and what it tells.

use std::sync::Arc;
use std::time::Instant;

use super::{Connection, Phase};
use crate::codec::{CertificateType, PeerCertificate};
use crate::config::{ClientConfig, Credential, ServerConfig};
use crate::crypto::{Digest, Group, SignatureScheme};
use crate::error::Error;
use crate::keys::Role;
use crate::suite::Suite;
use crate::ticket::ClientSession;
use crate::transport::Sent;

/// What the caller must do next.
#[derive(Debug)]
pub enum Output {
    /// Send what was put into the buffer; of datagrams it is one.
    Send,
    /// Over SCTP (RFC 6083 section 4.8): give the association the key that [`crate::Connection::next_exporter`]
    /// exports, under the next number; what the peer sends may be made with it from now on.
    NewKeys,
    /// Over SCTP: wait until the peer has everything that was sent, send what was put into the buffer, then use the
    /// key of [`Self::NewKeys`] for all that follows.
    SendChangeOfKeys,
    /// Over SCTP: the handshake is over, so that the peer uses the new key too. Forget the one before.
    OldKeysDone,
    /// Give this plaintext to the application.
    Data(Vec<u8>),
    /// Over SCTP: the same, with what [`crate::Connection::set_tag`] said of the message it came in.
    Message {
        /// The plaintext.
        data: Vec<u8>,
        /// What was said.
        tag: u64,
    },
    /// Choose what to show; answer with [`Connection::chosen`].
    ChooseCredential(Box<ChooseCredential>),
    /// Sign; answer with [`Connection::signed`].
    Sign(Box<SignRequest>),
    /// Judge the peer; answer with [`Connection::verified`].
    Verify(Box<Verify>),
    /// Keep this to resume it another time.
    Session(Box<ClientSession>),
    /// Both sides are who [`Connection::summary`] says. Data may flow.
    Established,
    /// A renegotiation is done. [`Connection::summary`] is new.
    Renegotiated(Renegotiated),
    /// The peer does not renegotiate. Everything stays as it was.
    RenegotiationRefused,
    /// The peer sends no more data. Ours may still flow.
    PeerClosed,
    /// It is over. What was put into the buffer before tells the peer.
    Closed(Closed),
    /// Call [`Connection::handle_timeout`] at this time, or bring bytes earlier.
    WaitUntil(Instant),
    /// Bring bytes, or the answer that was asked for.
    Idle,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// Both sides said that they are finished.
    Cleanly,
    /// Otherwise.
    Failed(Error),
}

/// A credential is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChooseCredential {
    /// Which side we are.
    pub role: Role,
    /// The name that the client asks for.
    pub server_name: Option<String>,
    /// Types that both sides take, best first. A client shows the one that was negotiated.
    pub certificate_types: Vec<CertificateType>,
    /// Signatures that the peer takes, by its preference. The key must be able to make one of them.
    pub schemes: Vec<SignatureScheme>,
    /// Names of authorities that a server takes, DER; empty: any.
    pub authorities: Vec<Vec<u8>>,
    /// Another handshake went before on this connection.
    pub renegotiation: bool,
    /// The renegotiation is ours.
    pub requested: bool,
}

/// A signature is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignRequest {
    /// By its key.
    pub credential: Arc<Credential>,
    /// How.
    pub scheme: SignatureScheme,
    /// Over this, hashed as the scheme says.
    pub message: Vec<u8>,
}

impl SignRequest {
    /// The digest to sign; `None` for Ed25519, which signs the message itself.
    pub fn digest(&self) -> Option<Digest> {
        self.scheme.digest(&self.message)
    }
}

/// A judgement is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verify {
    /// What the peer has shown; `None`: it was asked, and has nothing.
    pub peer: Option<PeerCertificate>,
    /// It was shown in the session that is resumed; trust may have changed since.
    pub resumed: bool,
    /// Another handshake went before on this connection.
    pub renegotiation: bool,
    /// The renegotiation is ours: the identity may be another one than before.
    pub requested: bool,
}

/// What a renegotiation has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renegotiated {
    /// We asked for it, not the peer.
    pub requested: bool,
    /// The peer shows something else than before. If it was not `requested`, close the connection: the
    /// application believes to speak with somebody else.
    pub peer_changed: bool,
    /// We show something else than before.
    pub shown_changed: bool,
}

/// What was agreed in the latest handshake.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The cipher suite.
    pub suite: &'static Suite,
    /// The group of the key exchange; none in a resumed session.
    pub group: Option<Group>,
    /// What the peer has shown; `None` if nothing.
    pub peer: Option<PeerCertificate>,
    /// SubjectPublicKeyInfo of the peer's key, as the caller answered; empty if none.
    pub peer_key: Vec<u8>,
    /// What we have shown.
    pub shown: Option<Arc<Credential>>,
    /// The name that the client asked for.
    pub server_name: Option<String>,
    /// The application protocol.
    pub alpn: Option<Vec<u8>>,
    /// An earlier session was resumed.
    pub resumed: bool,
    /// No certificate of this connection was visible on the wire.
    pub private: bool,
}

/// A configuration that replaces the present one.
#[derive(Debug, Clone)]
pub enum NewConfig {
    /// A client's.
    Client(Arc<ClientConfig>),
    /// A server's.
    Server(Arc<ServerConfig>),
}

impl Connection {
    /// What to do next; call it until it says [`Output::Idle`] or [`Output::WaitUntil`]. Bytes to send are
    /// appended to `buf`.
    pub fn poll_output(&mut self, buf: &mut Vec<u8>) -> Output {
        // Before anything that is sent with them, or after which the peer may use them.
        if let Some(keys) = &mut self.core.next_keys
            && !std::mem::replace(&mut keys.told, true)
        {
            return Output::NewKeys;
        }
        match self.core.transport.output(buf) {
            Ok(Sent::Bytes) => return Output::Send,
            Ok(Sent::ChangeOfKeys) => {
                if let Some(keys) = &mut self.core.next_keys {
                    keys.changed = true;
                }
                return Output::SendChangeOfKeys;
            }
            Ok(Sent::Nothing) => {}
            Err(error) => self.end(Closed::Failed(error)),
        }
        if self.core.next_keys.as_ref().is_some_and(|keys| keys.changed && keys.done) {
            self.core.next_keys = None;
            return Output::OldKeysDone;
        }
        if let Some(event) = self.core.events.pop_front() {
            return event;
        }
        match self.core.transport.timeout() {
            Some(time) if self.core.phase != Phase::Closed => Output::WaitUntil(time),
            _ => Output::Idle,
        }
    }
}

//! TLS on a socket that somebody else opened: handshake, record protection, relay.
//!
//! The network process calls [`handshake::run`] with a TLS socket and a [`Host`], which answers
//! what a handshake asks for (which certificate, a signature, is this peer acceptable), and then
//! [`relay::run`] with the plaintext socket. The engine holds no private key, reads no database
//! and decides no policy.
//!
//! rustls performs the handshake, inside a stackful coroutine ([`coroutine`]): where rustls calls
//! its signer or verifier synchronously, the coroutine is suspended and the asynchronous host does
//! the work. No thread is ever blocked, and only steps that wait for an answer hold a stack. After
//! the handshake the traffic secrets move into [`record`], which encrypts in place.

mod ask;
pub mod binding;
mod cancel;
mod config;
mod coroutine;
pub mod handshake;
mod linger;
pub mod record;
pub mod relay;
pub mod socket;
mod tickets;
pub mod twelve;

pub use ask::{
    Agreed, CertificateType, Credential, Host, PeerCredential, Refusal, Shown, ShownByPeer,
    SignatureFailure,
};
pub use config::{Engine, EngineOptions, PeerAuthentication};
pub use handshake::{Carrier, Established, HandshakeError, Job, Role, Summary};
pub use relay::{Cancel, End, Ended};
pub use socket::Socket;
pub use tickets::Scope;

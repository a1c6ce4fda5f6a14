//! A server's handshake, first message to last.
//!
//! ```text
//!  ClientHello ─┬─► Choose? ─┬─► Sign? ─┬─► Certificate ─┬─────────────► ClientKeyExchange ─┐
//!               │            │          │ (if requested) └─► Nobody? ─►       ▲            │
//!               │ (anonymous)│          └─────────────────────────────────────┤            │
//!               └────────────┼────────────────────────────────────────────────┘            │
//!                            │                     ┌── CertificateVerify ◄─(if shown)──────┤
//!                            │                     └─► Verify? ─┐                          │
//!                            ▼                                  ▼                          │
//!                      ResumeVerify? ─────────────► ChangeCipherSpec ◄─────────────────────┘
//!                                                               └─► Finished ─► over
//! ```
//! `?`: the caller is asked, and nothing is read until it answers.

mod flight;
mod hello;
mod resumption;

use std::sync::Arc;

use super::{Agreed, Completion, Core, Output, Step, Verify, signature};
use crate::codec::{
    CertificateType, ClientHello, PeerCertificate, ServerKeyExchange, Signed, decode_certificate,
    decode_client_share, kind,
};
use crate::config::{ClientAuth, Credential, ServerConfig};
use crate::crypto::{KeyShare, RecordKey, SignatureScheme, Transcript};
use crate::dtls::FlightEnd;
use crate::error::{Alert, Error};
use crate::keys::{Role, Secrets};
use crate::record::Message;
use crate::suite::Suite;
use crate::ticket::Sealed;

/// A server's handshake in progress.
pub(crate) struct Handshake {
    config: Arc<ServerConfig>,
    hello: ClientHello,
    /// What the client offers and we take, best first by our order.
    suites: Vec<&'static Suite>,
    schemes: Vec<SignatureScheme>,
    types: Vec<CertificateType>,
    transcript: Transcript,
    renegotiation: bool,
    requested: bool,
    state: State,
}

enum State {
    Choose,
    ResumeVerify(Sealed, Arc<Credential>),
    Sign(Ours, SignatureScheme, ServerKeyExchange),
    Certificate(Ours),
    Nobody(Ours),
    ClientKeyExchange(Ours, Option<PeerCertificate>),
    CertificateVerify(Keyed),
    Verify(Keyed, Signed, Vec<u8>),
    ChangeCipherSpec(Keyed),
    Finished(Keyed),
}

/// What we have said in our flight.
struct Ours {
    agreed: Agreed,
    shown: Option<Arc<Credential>>,
    share: KeyShare,
}

/// Secrets are there; what remains is to prove it.
struct Keyed {
    completion: Completion,
    resumed: bool,
    ticket: bool,
    tx: Option<RecordKey>,
}

impl Handshake {
    pub(crate) fn is_asking(&self) -> bool {
        matches!(
            self.state,
            State::Choose
                | State::ResumeVerify(..)
                | State::Sign(..)
                | State::Nobody(..)
                | State::Verify(..)
        )
    }

    pub(crate) fn message(mut self, core: &mut Core, message: &Message) -> Result<Step, Error> {
        let body = message.body();
        // These two are checked against what came before them.
        if !matches!(message.kind(), kind::FINISHED | kind::CERTIFICATE_VERIFY) {
            self.transcript.add(&message.raw);
        }
        self.state = match (self.state, message.kind()) {
            (State::Certificate(ours), kind::CERTIFICATE) => {
                match decode_certificate(ours.agreed.certificate_type, body)? {
                    Some(shown) => State::ClientKeyExchange(ours, Some(shown)),
                    None if self.config.client_auth == ClientAuth::Required => {
                        return Err(Error::NoCertificate);
                    }
                    None => {
                        core.ask(Output::Verify(Box::new(Verify {
                            peer: None,
                            resumed: false,
                            renegotiation: self.renegotiation,
                            requested: self.requested,
                        })));
                        State::Nobody(ours)
                    }
                }
            }
            (State::ClientKeyExchange(ours, shown), kind::CLIENT_KEY_EXCHANGE) => {
                let share = decode_client_share(body, ours.agreed.suite.exchange)?;
                let group = ours.share.group();
                let premaster = ours.share.agree(share)?;
                let agreed = ours.agreed;
                let secrets = Secrets::derive(
                    agreed.suite,
                    &premaster,
                    self.transcript.digest(agreed.suite.hash).as_ref(),
                    agreed.client_random,
                    agreed.server_random,
                )?;
                let (rx, tx) = secrets.record_keys()?;
                core.prepare_rx(rx, &secrets)?;
                let server_name = self.hello.extensions.server_name.clone();
                let completion = Completion {
                    group: Some(group),
                    shown: ours.shown,
                    peer: shown,
                    ..Completion::new(
                        secrets,
                        &agreed,
                        server_name,
                        self.renegotiation,
                        self.requested,
                    )
                };
                let prove = completion.peer.is_some();
                let keyed =
                    Keyed { completion, resumed: false, ticket: agreed.ticket, tx: Some(tx) };
                if prove { State::CertificateVerify(keyed) } else { State::ChangeCipherSpec(keyed) }
            }
            (State::CertificateVerify(keyed), kind::CERTIFICATE_VERIFY) => {
                let signed = Signed::decode(body)?;
                core.ask(Output::Verify(Box::new(Verify {
                    peer: keyed.completion.peer.clone(),
                    resumed: false,
                    renegotiation: self.renegotiation,
                    requested: self.requested,
                })));
                State::Verify(keyed, signed, message.raw.clone())
            }
            (State::Finished(keyed), kind::FINISHED) => {
                self.state = State::Choose;
                return self.finished(core, message, keyed);
            }
            (_, other) => return Err(Error::Unexpected(crate::codec::name(other))),
        };
        Ok(Step::Server(Box::new(self)))
    }

    /// The caller's judgement of the client, with its public key.
    pub(crate) fn verified(
        mut self,
        core: &mut Core,
        key: Result<Vec<u8>, Alert>,
    ) -> Result<Step, Error> {
        let key = key.map_err(Error::Refused)?;
        self.state = match self.state {
            State::Nobody(ours) => State::ClientKeyExchange(ours, None),
            State::Verify(mut keyed, signed, raw) => {
                signature::check_signature(
                    &self.config.common,
                    &key,
                    self.transcript.messages(),
                    &signed,
                    "signature of the handshake",
                )?;
                self.transcript.add(&raw);
                keyed.completion.peer_key = key;
                State::ChangeCipherSpec(keyed)
            }
            State::ResumeVerify(sealed, credential) => {
                self.state = State::Choose;
                return self.resume(core, sealed, credential, key);
            }
            _ => return Err(Error::Misuse("nobody was to be verified")),
        };
        Ok(Step::Server(Box::new(self)))
    }

    pub(crate) fn change_cipher_spec(mut self, core: &mut Core) -> Result<Step, Error> {
        let State::ChangeCipherSpec(keyed) = self.state else {
            return Err(Error::Unexpected("ChangeCipherSpec"));
        };
        core.transport.change_rx()?;
        self.state = State::Finished(keyed);
        Ok(Step::Server(Box::new(self)))
    }

    fn finished(
        mut self,
        core: &mut Core,
        message: &Message,
        mut keyed: Keyed,
    ) -> Result<Step, Error> {
        let secrets = &keyed.completion.secrets;
        let data = core.hear_finished(&mut self.transcript, secrets, Role::Client, message)?;
        keyed.completion.client_verify = data;
        if !keyed.resumed {
            keyed.completion.tls_unique = data;
            keyed = self.prove(core, keyed)?;
        }
        core.complete(keyed.completion)
    }

    /// Our ticket, ChangeCipherSpec and Finished.
    fn prove(&mut self, core: &mut Core, mut keyed: Keyed) -> Result<Keyed, Error> {
        let completion = &mut keyed.completion;
        if keyed.ticket {
            let body = self.ticket(completion);
            core.say(&mut self.transcript, kind::NEW_SESSION_TICKET, &body);
        }
        let Some(tx) = keyed.tx.take() else { return Err(Error::Internal("no key")) };
        let secrets = &completion.secrets;
        core.transport.change_tx(tx)?;
        let data = core.say_finished(&mut self.transcript, secrets, Role::Server)?;
        let last = !keyed.resumed;
        core.transport.end_flight(if last { FlightEnd::Last } else { FlightEnd::Awaited });
        completion.server_verify = data;
        Ok(keyed)
    }
}

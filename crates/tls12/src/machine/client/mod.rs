//! A client's handshake, first message to last.
//!
//! ```text
//!  ServerHello ─┬─► Certificate ─► KeyExchange ─► RequestOrDone ─┬─► Done ─┐
//!               │ (anonymous) ───────────┘                       └────┬────┘
//!               │                                                     ▼
//!               │                        Choose? ◄── share checked ◄─ Verify?   (anonymous: straight on)
//!               │                          │
//!               │                          ├─► Sign? ─┐
//!               │                          ▼          ▼
//!               └─► ResumeVerify? ───────► Ticket ──► ChangeCipherSpec ─► Finished ─► over
//! ```
//! `?`: the caller is asked, and nothing is read until it answers. Ticket only if the server promised one.

mod flight;
mod hello;
mod reply;

use std::sync::Arc;

use super::{Agreed, Completion, Core, Step};
use crate::codec::{
    CertificateRequest, ClientHello, PeerCertificate, ServerKeyExchange, decode_certificate,
    decode_ticket, kind,
};
use crate::config::ClientConfig;
use crate::crypto::{Group, RecordKey, SignatureScheme, Transcript};
use crate::error::Error;
use crate::keys::{Role, Secrets};
use crate::record::Message;
use crate::suite::Suite;
use crate::ticket::ClientSession;

/// A client's handshake in progress.
pub(crate) struct Handshake {
    config: Arc<ClientConfig>,
    hello: ClientHello,
    suites: Vec<&'static Suite>,
    /// The session that was offered.
    session: Option<ClientSession>,
    transcript: Transcript,
    renegotiation: bool,
    pub(crate) requested: bool,
    /// How often the server asked for a cookie.
    cookies: u8,
    state: State,
}

/// A server whose cookie keys have just changed asks a second time.
const MAX_COOKIES: u8 = 3;

enum State {
    ServerHello,
    Certificate(Agreed),
    KeyExchange(Agreed, Option<PeerCertificate>),
    RequestOrDone(Server),
    Done(Server, CertificateRequest),
    Verify(Server, Option<CertificateRequest>),
    Choose(Server, CertificateRequest),
    Sign(Keyed, SignatureScheme),
    ResumeVerify(Agreed, ClientSession),
    Ticket(Keyed),
    ChangeCipherSpec(Keyed),
    Finished(Keyed),
}

/// What the server has said in its flight.
struct Server {
    agreed: Agreed,
    shown: Option<PeerCertificate>,
    key: Vec<u8>,
    exchange: ServerKeyExchange,
    group: Group,
}

/// Secrets are there; what remains is to prove it.
struct Keyed {
    completion: Completion,
    ticket_promised: bool,
    resumed: bool,
    tx: Option<RecordKey>,
}

impl Handshake {
    /// Nothing of the server's was heard yet: it may still refuse.
    pub(crate) fn is_fresh(&self) -> bool {
        matches!(self.state, State::ServerHello)
    }

    pub(crate) fn is_asking(&self) -> bool {
        matches!(
            self.state,
            State::Verify(..) | State::Choose(..) | State::Sign(..) | State::ResumeVerify(..)
        )
    }

    pub(crate) fn message(mut self, core: &mut Core, message: &Message) -> Result<Step, Error> {
        let body = message.body();
        // A Finished is checked against what came before it.
        let finished = message.kind() == kind::FINISHED;
        if !finished {
            self.transcript.add(&message.raw);
        }
        let next = match (self.state, message.kind()) {
            (State::ServerHello, kind::SERVER_HELLO) => {
                self.state = State::ServerHello;
                return self.server_hello(core, body);
            }
            (State::ServerHello, kind::HELLO_VERIFY_REQUEST)
                if core.transport.is_datagram() && !self.renegotiation =>
            {
                self.state = State::ServerHello;
                return self.again_with_cookie(core, body);
            }
            (State::Certificate(agreed), kind::CERTIFICATE) => {
                let Some(shown) = decode_certificate(agreed.certificate_type, body)? else {
                    return Err(Error::Malformed("Certificate"));
                };
                State::KeyExchange(agreed, Some(shown))
            }
            (State::KeyExchange(agreed, shown), kind::SERVER_KEY_EXCHANGE) => {
                let suite = agreed.suite;
                let exchange =
                    ServerKeyExchange::decode(body, suite.exchange, suite.is_anonymous())?;
                let group = flight::check_group(&self.hello, &exchange.params)?;
                State::RequestOrDone(Server { agreed, shown, key: Vec::new(), exchange, group })
            }
            (State::RequestOrDone(server), kind::CERTIFICATE_REQUEST) => {
                if server.agreed.suite.is_anonymous() {
                    // RFC 5246 section 7.4.4.
                    return Err(Error::NothingInCommon("an anonymous server asks who we are"));
                }
                State::Done(server, CertificateRequest::decode(body)?)
            }
            (State::RequestOrDone(server), kind::SERVER_HELLO_DONE) => {
                self.state = State::ServerHello;
                return self.done(core, body, server, None);
            }
            (State::Done(server, request), kind::SERVER_HELLO_DONE) => {
                self.state = State::ServerHello;
                return self.done(core, body, server, Some(request));
            }
            (State::Ticket(mut keyed), kind::NEW_SESSION_TICKET) => {
                let (lifetime, ticket) = decode_ticket(body)?;
                if !ticket.is_empty() {
                    keyed.completion.client_session = Some(ClientSession {
                        suite: keyed.completion.secrets.suite,
                        master: keyed.completion.secrets.master.clone(),
                        ticket: ticket.to_vec(),
                        lifetime,
                        peer: keyed.completion.peer.clone(),
                        shown: keyed.completion.shown.clone(),
                    });
                }
                State::ChangeCipherSpec(keyed)
            }
            (State::Finished(keyed), kind::FINISHED) => {
                self.state = State::ServerHello;
                return self.finished(core, message, keyed);
            }
            (_, other) => return Err(Error::Unexpected(crate::codec::name(other))),
        };
        self.state = next;
        Ok(Step::Client(Box::new(self)))
    }

    pub(crate) fn change_cipher_spec(mut self, core: &mut Core) -> Result<Step, Error> {
        let State::ChangeCipherSpec(keyed) = self.state else {
            return Err(Error::Unexpected("ChangeCipherSpec"));
        };
        core.transport.change_rx()?;
        self.state = State::Finished(keyed);
        Ok(Step::Client(Box::new(self)))
    }

    fn finished(
        mut self,
        core: &mut Core,
        message: &Message,
        mut keyed: Keyed,
    ) -> Result<Step, Error> {
        let secrets = &keyed.completion.secrets;
        let data = core.hear_finished(&mut self.transcript, secrets, Role::Server, message)?;
        keyed.completion.server_verify = data;
        if keyed.resumed {
            keyed.completion.tls_unique = data;
            return self.prove(core, keyed);
        }
        core.complete(keyed.completion)
    }

    fn completion(&self, secrets: Secrets, agreed: &Agreed) -> Completion {
        let server_name = self.config.server_name.clone();
        Completion::new(secrets, agreed, server_name, self.renegotiation, self.requested)
    }
}

fn await_server(keyed: Keyed) -> State {
    if keyed.ticket_promised { State::Ticket(keyed) } else { State::ChangeCipherSpec(keyed) }
}

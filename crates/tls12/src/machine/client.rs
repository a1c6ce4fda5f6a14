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

use std::sync::Arc;

use super::{Agreed, ChooseCredential, Completion, Core, Output, SignRequest, Step, Verify};
use crate::codec::{
    CertificateRequest, CertificateType, ClientExtensions, ClientHello, ECDSA_SIGN, Params,
    PeerCertificate, RSA_SIGN, ServerHello, ServerKeyExchange, Signed, decode_certificate,
    decode_cookie, decode_ticket, encode_certificate, encode_client_share, kind,
};
use crate::config::{Anonymous, ClientConfig, Credential};
use crate::crypto::{
    Group, KeyShare, RecordKey, SignatureScheme, Transcript, dh_group_from_params, equal, key_kind,
    random,
};
use crate::dtls::FlightEnd;
use crate::error::{Alert, Error};
use crate::keys::{Role, Secrets, check_finished};
use crate::record::Message;
use crate::suite::{Authentication, SUITES, Suite};
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
    /// Says ClientHello.
    pub(crate) fn start(
        core: &mut Core,
        config: &Arc<ClientConfig>,
        requested: bool,
    ) -> Result<Self, Error> {
        let renegotiation = core.session.is_some();
        let common = &config.common;
        let anonymous = SUITES.iter().filter(|suite| suite.is_anonymous());
        let named = common.suites.iter().copied().filter(|suite| !suite.is_anonymous());
        let mut suites: Vec<&'static Suite> = Vec::new();
        if !renegotiation && common.anonymous.is_precursor() {
            suites.extend(anonymous.clone());
        }
        if renegotiation || common.anonymous != Anonymous::RequiredPrecursor {
            suites.extend(named);
        }
        if !renegotiation && common.anonymous == Anonymous::Final {
            suites.extend(anonymous);
        }
        let session = config.session.clone().filter(|session| {
            !renegotiation
                && !common.anonymous.is_precursor()
                && suites.contains(&session.suite)
                && session
                    .peer
                    .as_ref()
                    .is_none_or(|peer| common.certificate_types.contains(&peer.certificate_type()))
        });
        let conceal = config.conceal_name && !renegotiation;
        let types = &common.certificate_types;
        let bound = core.session.as_ref().map(|s| s.client_verify.to_vec());
        let ticket = match &session {
            Some(session) => Some(session.ticket.clone()),
            None => (config.wants_session && !renegotiation).then(Vec::new),
        };
        let extensions = ClientExtensions {
            server_name: config.server_name.clone().filter(|_| !conceal),
            groups: Some(common.groups.iter().filter_map(|g| g.code_point()).collect()),
            point_formats: Some(vec![0]),
            schemes: Some(common.schemes.iter().map(|s| s.code_point()).collect()),
            alpn: common.alpn.clone(),
            cert_types: (types[..] != [CertificateType::X509])
                .then(|| types.iter().map(|t| t.code()).collect()),
            extended_master_secret: true,
            ticket,
            renegotiation_info: Some(bound.unwrap_or_default()),
        };
        let mut hello = ClientHello {
            version: core.transport.version(),
            suites: suites.iter().map(|suite| suite.code).collect(),
            cookie: core.transport.is_datagram().then(|| core.cookie.clone()),
            extensions,
            ..ClientHello::default()
        };
        random(&mut hello.random)?;
        if session.is_some() {
            // Tells whether the server resumes (RFC 5077 section 3.4).
            hello.session_id = vec![0; 32];
            random(&mut hello.session_id)?;
        }
        let mut transcript = Transcript::new();
        core.say(&mut transcript, kind::CLIENT_HELLO, &hello.encode());
        core.transport.end_flight(FlightEnd::Awaited);
        let config = config.clone();
        let state = State::ServerHello;
        Ok(Self {
            config,
            hello,
            suites,
            session,
            transcript,
            renegotiation,
            requested,
            cookies: 0,
            state,
        })
    }

    #[cfg(test)]
    pub(crate) fn hello_for_tests(&self) -> &ClientHello {
        &self.hello
    }

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
                let group = check_group(&self.hello, &exchange.params)?;
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

    fn server_hello(mut self, core: &mut Core, body: &[u8]) -> Result<Step, Error> {
        let hello = ServerHello::decode(body, &self.hello.extensions)?;
        let extensions = &hello.extensions;
        if hello.version != core.transport.version() {
            return Err(Error::Version);
        }
        core.transport.version_agreed();
        let Some(&suite) = self.suites.iter().find(|suite| suite.code == hello.suite) else {
            return Err(Error::Illegal("a cipher suite that was not offered"));
        };
        check_binding(core, self.renegotiation, extensions.renegotiation_info.as_deref())?;
        if !extensions.extended_master_secret {
            return Err(Error::Insufficient("no extended master secret (RFC 7627)"));
        }
        if extensions.point_formats.as_ref().is_some_and(|formats| !formats.contains(&0)) {
            return Err(Error::Illegal("no uncompressed points"));
        }
        let common = &self.config.common;
        if extensions.alpn.as_ref().is_some_and(|alpn| !common.alpn.contains(alpn)) {
            return Err(Error::Illegal("an application protocol that was not offered"));
        }
        let session = self.session.take();
        let resumed = !hello.session_id.is_empty() && hello.session_id == self.hello.session_id;
        let certificate_type = match extensions.cert_type {
            None => CertificateType::X509,
            Some(code) => CertificateType::from_code(code)
                .ok_or(Error::Illegal("a certificate type that was not offered"))?,
        };
        let offered = common.certificate_types.contains(&certificate_type);
        if !offered && extensions.cert_type.is_some() {
            return Err(Error::Illegal("a certificate type that was not offered"));
        }
        if !offered && !suite.is_anonymous() && !resumed {
            return Err(Error::UnsupportedCertificate("the server has X.509 certificates only"));
        }
        self.transcript.settle(suite.hash);
        let agreed = Agreed {
            suite,
            client_random: self.hello.random,
            server_random: hello.random,
            certificate_type,
            alpn: hello.extensions.alpn,
            ticket: hello.extensions.ticket,
        };
        self.state = match session {
            Some(session) if resumed => {
                if session.suite != suite {
                    return Err(Error::Illegal("another cipher suite for a resumed session"));
                }
                core.ask(Output::Verify(Box::new(Verify {
                    peer: session.peer.clone(),
                    resumed: true,
                    renegotiation: false,
                    requested: self.requested,
                })));
                State::ResumeVerify(agreed, session)
            }
            _ if suite.is_anonymous() => State::KeyExchange(agreed, None),
            _ => State::Certificate(agreed),
        };
        Ok(Step::Client(Box::new(self)))
    }

    /// HelloVerifyRequest (RFC 6347 section 4.2.1): the hello once more, with its cookie. Neither it nor
    /// the first hello is in the transcript.
    fn again_with_cookie(mut self, core: &mut Core, body: &[u8]) -> Result<Step, Error> {
        self.cookies += 1;
        if self.cookies > MAX_COOKIES {
            return Err(Error::Flood);
        }
        core.cookie = decode_cookie(body)?.to_vec();
        self.hello.cookie = Some(core.cookie.clone());
        self.transcript = Transcript::new();
        core.say(&mut self.transcript, kind::CLIENT_HELLO, &self.hello.encode());
        core.transport.end_flight(FlightEnd::Awaited);
        Ok(Step::Client(Box::new(self)))
    }

    /// ServerHelloDone.
    fn done(
        mut self,
        core: &mut Core,
        body: &[u8],
        server: Server,
        request: Option<CertificateRequest>,
    ) -> Result<Step, Error> {
        if !body.is_empty() {
            return Err(Error::Malformed("ServerHelloDone"));
        }
        if server.shown.is_none() {
            return self.reply(core, server, None);
        }
        core.ask(Output::Verify(Box::new(Verify {
            peer: server.shown.clone(),
            resumed: false,
            renegotiation: self.renegotiation,
            requested: self.requested,
        })));
        self.state = State::Verify(server, request);
        Ok(Step::Client(Box::new(self)))
    }

    /// The caller's judgement of the server, with its public key.
    pub(crate) fn verified(
        mut self,
        core: &mut Core,
        key: Result<Vec<u8>, Alert>,
    ) -> Result<Step, Error> {
        let key = key.map_err(Error::Refused)?;
        match self.state {
            State::Verify(mut server, request) => {
                check_exchange(&self.hello, &self.config, &server, &key)?;
                server.key = key;
                let Some(request) = request else {
                    self.state = State::ServerHello;
                    return self.reply(core, server, None);
                };
                let types = vec![server.agreed.certificate_type];
                core.ask(Output::ChooseCredential(Box::new(ChooseCredential {
                    role: Role::Client,
                    server_name: self.config.server_name.clone(),
                    certificate_types: types,
                    schemes: usable_schemes(&request),
                    authorities: request.authorities.clone(),
                    renegotiation: self.renegotiation,
                    requested: self.requested,
                })));
                self.state = State::Choose(server, request);
                Ok(Step::Client(Box::new(self)))
            }
            State::ResumeVerify(agreed, session) => {
                self.state = State::ServerHello;
                let secrets = Secrets {
                    suite: agreed.suite,
                    master: session.master.clone(),
                    client_random: agreed.client_random,
                    server_random: agreed.server_random,
                };
                let (tx, rx) = secrets.record_keys()?;
                core.prepare_rx(rx, &secrets)?;
                let completion = Completion {
                    peer: session.peer.clone(),
                    peer_key: key,
                    shown: session.shown.clone(),
                    resumed: true,
                    // Without a new ticket the old one stays good.
                    client_session: None,
                    ..self.completion(secrets, &agreed)
                };
                let keyed = Keyed {
                    completion,
                    ticket_promised: agreed.ticket,
                    resumed: true,
                    tx: Some(tx),
                };
                self.state = await_server(keyed);
                Ok(Step::Client(Box::new(self)))
            }
            _ => Err(Error::Misuse("nobody was to be verified")),
        }
    }

    /// The caller's choice of what to show.
    pub(crate) fn chosen(
        mut self,
        core: &mut Core,
        credential: Option<Arc<Credential>>,
    ) -> Result<Step, Error> {
        let State::Choose(server, request) = self.state else {
            return Err(Error::Misuse("no credential was to be chosen"));
        };
        let certificate_type = server.agreed.certificate_type;
        if credential.as_ref().is_some_and(|c| c.certificate.certificate_type() != certificate_type)
        {
            return Err(Error::Misuse("the credential is not of the negotiated type"));
        }
        // What the server cannot check is as good as nothing.
        let schemes = usable_schemes(&request);
        let chosen = credential.and_then(|credential| {
            let scheme = credential.schemes.iter().find(|scheme| schemes.contains(scheme)).copied();
            Some((credential, scheme?))
        });
        let shown = chosen.as_ref().map(|(credential, _)| &credential.certificate);
        let framing = self.config.common.framing;
        let body = encode_certificate(certificate_type, shown, framing);
        core.say(&mut self.transcript, kind::CERTIFICATE, &body);
        self.state = State::ServerHello;
        self.reply(core, server, chosen)
    }

    /// Our flight from ClientKeyExchange on.
    fn reply(
        mut self,
        core: &mut Core,
        server: Server,
        chosen: Option<(Arc<Credential>, SignatureScheme)>,
    ) -> Result<Step, Error> {
        let Server { agreed, shown, key, exchange, group } = server;
        let share = KeyShare::generate(group)?;
        let public = encode_client_share(share.public(), agreed.suite.exchange);
        let (Params::Named { public: theirs, .. } | Params::Finite { public: theirs, .. }) =
            &exchange.params;
        let premaster = share.agree(theirs)?;
        core.say(&mut self.transcript, kind::CLIENT_KEY_EXCHANGE, &public);
        let secrets = Secrets::derive(
            agreed.suite,
            &premaster,
            self.transcript.digest(agreed.suite.hash).as_ref(),
            agreed.client_random,
            agreed.server_random,
        )?;
        let (tx, rx) = secrets.record_keys()?;
        core.prepare_rx(rx, &secrets)?;
        let completion = Completion {
            group: Some(group),
            peer: shown,
            peer_key: key,
            shown: chosen.as_ref().map(|(credential, _)| credential.clone()),
            ..self.completion(secrets, &agreed)
        };
        let keyed =
            Keyed { completion, ticket_promised: agreed.ticket, resumed: false, tx: Some(tx) };
        let Some((credential, scheme)) = chosen else {
            return self.prove(core, keyed);
        };
        core.ask(Output::Sign(Box::new(SignRequest {
            credential,
            scheme,
            message: self.transcript.messages().to_vec(),
        })));
        self.state = State::Sign(keyed, scheme);
        Ok(Step::Client(Box::new(self)))
    }

    /// The caller's signature for CertificateVerify.
    pub(crate) fn signed(mut self, core: &mut Core, signature: Vec<u8>) -> Result<Step, Error> {
        let State::Sign(keyed, scheme) = self.state else {
            return Err(Error::Misuse("no signature was asked for"));
        };
        let mut body = Vec::new();
        Signed { scheme: scheme.code_point(), signature }.encode(&mut body);
        core.say(&mut self.transcript, kind::CERTIFICATE_VERIFY, &body);
        self.state = State::ServerHello;
        self.prove(core, keyed)
    }

    /// ChangeCipherSpec and Finished; then the server's turn, or the end.
    fn prove(mut self, core: &mut Core, mut keyed: Keyed) -> Result<Step, Error> {
        let Some(tx) = keyed.tx.take() else { return Err(Error::Internal("no key")) };
        let secrets = &keyed.completion.secrets;
        core.transport.change_tx(tx)?;
        let digest = self.transcript.digest(secrets.suite.hash);
        let data = secrets.verify_data(Role::Client, digest.as_ref())?;
        core.say(&mut self.transcript, kind::FINISHED, &data);
        let last = keyed.resumed;
        core.transport.end_flight(if last { FlightEnd::Last } else { FlightEnd::Awaited });
        keyed.completion.client_verify = data;
        if keyed.resumed {
            return core.complete(keyed.completion);
        }
        keyed.completion.tls_unique = data;
        self.state = await_server(keyed);
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
        let digest = self.transcript.digest(secrets.suite.hash);
        let expected = secrets.verify_data(Role::Server, digest.as_ref())?;
        check_finished(&expected, message.body())?;
        core.transport.confirm_rx();
        self.transcript.add(&message.raw);
        keyed.completion.server_verify = expected;
        if keyed.resumed {
            keyed.completion.tls_unique = expected;
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

/// RFC 5746 sections 3.4 and 3.5.
fn check_binding(core: &Core, renegotiation: bool, info: Option<&[u8]>) -> Result<(), Error> {
    match (&core.session, info) {
        (Some(session), Some(info)) if renegotiation => {
            let expected = [session.client_verify, session.server_verify].concat();
            if equal(&expected, info) {
                Ok(())
            } else {
                Err(Error::Renegotiation("wrong renegotiation_info"))
            }
        }
        (Some(_), None) => Err(Error::Renegotiation("no renegotiation_info")),
        (_, Some([])) => Ok(()),
        (_, Some(_)) => Err(Error::Renegotiation("renegotiation_info in a first handshake")),
        (_, None) => Err(Error::Insufficient("no secure renegotiation (RFC 5746)")),
    }
}

/// Is the server's share in a group that we take?
fn check_group(hello: &ClientHello, params: &Params) -> Result<Group, Error> {
    match params {
        Params::Named { group, .. } => {
            let offered = hello.extensions.groups.as_ref().is_some_and(|g| g.contains(group));
            Group::from_code_point(*group)
                .filter(|group| offered && !group.is_finite_field())
                .ok_or(Error::Illegal("a group that was not offered"))
        }
        // Servers may know nothing of RFC 7919, so any sound group will do.
        Params::Finite { p, g, .. } => dh_group_from_params(p, g)
            .ok_or(Error::Insufficient("a Diffie-Hellman group that is not known to be sound")),
    }
}

/// Is the server's share signed by the key of its certificate, in a way that was offered?
fn check_exchange(
    hello: &ClientHello,
    config: &ClientConfig,
    server: &Server,
    key: &[u8],
) -> Result<(), Error> {
    let Some(signed) = &server.exchange.signed else {
        return Err(Error::Internal("no signature to check"));
    };
    let suite = server.agreed.suite;
    let Some(kind) = key_kind(key) else {
        return Err(Error::UnsupportedCertificate("its key is of a kind that is not supported"));
    };
    if super::authentication_of(kind) != suite.authentication {
        return Err(Error::UnsupportedCertificate("its key does not fit the cipher suite"));
    }
    let randoms = [hello.random, server.agreed.server_random].concat();
    let message = [&randoms[..], &server.exchange.encoded].concat();
    super::check_signature(&config.common, key, &message, signed, "signature of the key exchange")
}

/// What a client may sign with, to please the server.
fn usable_schemes(request: &CertificateRequest) -> Vec<SignatureScheme> {
    let schemes = request.schemes.iter().filter_map(|code| SignatureScheme::from_code_point(*code));
    schemes
        .filter(|scheme| {
            request.key_types.contains(&match super::authentication_by(*scheme) {
                Authentication::Rsa => RSA_SIGN,
                _ => ECDSA_SIGN,
            })
        })
        .collect()
}

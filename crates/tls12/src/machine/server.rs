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

use std::sync::Arc;

use super::{Agreed, ChooseCredential, Completion, Core, Output, SignRequest, Step, Verify};
use crate::codec::{
    CertificateRequest, CertificateType, ClientHello, Params, PeerCertificate, ServerExtensions,
    ServerHello, ServerKeyExchange, Signed, decode_certificate, decode_client_share,
    encode_certificate, encode_ticket, kind,
};
use crate::config::{Anonymous, ClientAuth, Credential, ServerConfig};
use crate::crypto::{Group, KeyShare, RecordKey, SignatureScheme, Transcript, equal, random};
use crate::dtls::FlightEnd;
use crate::error::{Alert, Error};
use crate::keys::{Role, Secrets, check_finished};
use crate::record::Message;
use crate::suite::{EMPTY_RENEGOTIATION_INFO_SCSV, Exchange, FALLBACK_SCSV, SUITES, Suite};
use crate::ticket::Sealed;

/// End of the random of a server that could do TLS 1.3 (RFC 8446 section 4.1.3).
const DOWNGRADE_TLS12: &[u8; 8] = b"DOWNGRD\x01";

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
    /// A ClientHello came.
    pub(crate) fn start(
        core: &mut Core,
        config: &Arc<ServerConfig>,
        message: &Message,
        requested: bool,
    ) -> Result<Step, Error> {
        let renegotiation = core.session.is_some();
        let hello = ClientHello::decode(message.body(), core.transport.is_datagram())?;
        core.transport.check_version(hello.version)?;
        core.transport.version_agreed();
        if config.serves_tls13 && hello.suites.contains(&FALLBACK_SCSV) {
            return Err(Error::InappropriateFallback);
        }
        check_binding(core, &hello)?;
        let extensions = &hello.extensions;
        if !extensions.extended_master_secret {
            return Err(Error::Insufficient("no extended master secret (RFC 7627)"));
        }
        if extensions.point_formats.as_ref().is_some_and(|formats| !formats.contains(&0)) {
            return Err(Error::Illegal("no uncompressed points"));
        }
        let common = &config.common;
        let offered = extensions.schemes.as_deref().unwrap_or_default();
        // Ours to make, so what the client takes counts, not what we take of it.
        let schemes = offered.iter().filter_map(|code| SignatureScheme::from_code_point(*code));
        let schemes: Vec<_> = schemes.collect();
        let anonymous_first =
            if !renegotiation && common.anonymous != Anonymous::Never { SUITES } else { &[] };
        let anonymous_first = anonymous_first.iter().filter(|suite| suite.is_anonymous());
        let named = common.suites.iter().copied().filter(|suite| !suite.is_anonymous());
        let suites: Vec<_> = anonymous_first
            .chain(named)
            .filter(|suite| hello.suites.contains(&suite.code))
            .filter(|suite| choose_group(&hello, config, suite.exchange).is_some())
            .filter(|suite| {
                let fits = |scheme: &SignatureScheme| {
                    super::authentication_by(*scheme) == suite.authentication
                };
                suite.is_anonymous() || schemes.iter().any(fits)
            })
            .collect();
        let Some(first) = suites.first() else {
            return Err(Error::Insufficient("no cipher suite with its key exchange in common"));
        };
        let anonymous = first.is_anonymous();
        if common.anonymous == Anonymous::RequiredPrecursor && !renegotiation && !anonymous {
            return Err(Error::NoPrecursor);
        }
        let x509 = [CertificateType::X509.code()];
        let their_types = extensions.cert_types.as_deref().unwrap_or(&x509);
        let types: Vec<_> = common
            .certificate_types
            .iter()
            .copied()
            .filter(|t| their_types.contains(&t.code()))
            .collect();
        let mut transcript = Transcript::new();
        transcript.add(&message.raw);
        let handshake = Self {
            config: config.clone(),
            hello,
            suites,
            schemes,
            types,
            transcript,
            renegotiation,
            requested,
            state: State::Choose,
        };
        if anonymous && handshake.config.common.anonymous.is_precursor() {
            return handshake.go_anonymous(core);
        }
        if handshake.types.is_empty() && !anonymous {
            return Err(Error::UnsupportedCertificate("no type of certificates in common"));
        }
        core.ask(Output::ChooseCredential(Box::new(ChooseCredential {
            role: Role::Server,
            server_name: handshake.hello.extensions.server_name.clone(),
            certificate_types: handshake.types.clone(),
            schemes: handshake.signing_schemes(),
            authorities: Vec::new(),
            renegotiation,
            requested,
        })));
        Ok(Step::Server(Box::new(handshake)))
    }

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

    /// Schemes of the client that some suite in common has use for.
    fn signing_schemes(&self) -> Vec<SignatureScheme> {
        let usable = |scheme: &SignatureScheme| self.suite_for(*scheme).is_some();
        self.schemes.iter().copied().filter(usable).collect()
    }

    fn suite_for(&self, scheme: SignatureScheme) -> Option<&'static Suite> {
        let authentication = super::authentication_by(scheme);
        self.suites.iter().copied().find(|suite| suite.authentication == authentication)
    }

    fn go_anonymous(mut self, core: &mut Core) -> Result<Step, Error> {
        let suite = self.suites.iter().copied().find(|suite| suite.is_anonymous());
        let suite = suite.ok_or(Error::NothingInCommon("no certificate for this client"))?;
        let agreed = self.server_hello(core, suite, CertificateType::X509, false, false)?;
        let (share, exchange) = self.share(suite)?;
        core.say(&mut self.transcript, kind::SERVER_KEY_EXCHANGE, &exchange.encode());
        Ok(self.hello_done(core, Ours { agreed, shown: None, share }))
    }

    /// The caller's choice of what to show.
    pub(crate) fn chosen(
        mut self,
        core: &mut Core,
        credential: Option<Arc<Credential>>,
    ) -> Result<Step, Error> {
        let State::Choose = self.state else {
            return Err(Error::Misuse("no credential was to be chosen"));
        };
        let Some(credential) = credential else {
            return self.go_anonymous(core);
        };
        let certificate_type = credential.certificate.certificate_type();
        if !self.types.contains(&certificate_type) {
            return Err(Error::Misuse("the credential is of a type that the client does not take"));
        }
        let scheme = credential
            .schemes
            .iter()
            .find(|scheme| self.schemes.contains(scheme) && self.suite_for(**scheme).is_some());
        let (Some(scheme), Some(suite)) =
            (scheme.copied(), scheme.and_then(|scheme| self.suite_for(*scheme)))
        else {
            return Err(Error::NothingInCommon("the key signs in no way that the client takes"));
        };
        if let Some(sealed) = self.session_of_ticket(&credential) {
            core.ask(Output::Verify(Box::new(Verify {
                peer: sealed.peer.clone(),
                resumed: true,
                renegotiation: false,
                requested: false,
            })));
            self.state = State::ResumeVerify(sealed, credential);
            return Ok(Step::Server(Box::new(self)));
        }
        let ticket = self.config.tickets.is_some() && self.hello.extensions.ticket.is_some();
        let agreed = self.server_hello(core, suite, certificate_type, ticket, false)?;
        let body = encode_certificate(
            certificate_type,
            Some(&credential.certificate),
            self.config.common.framing,
        );
        core.say(&mut self.transcript, kind::CERTIFICATE, &body);
        let (share, exchange) = self.share(suite)?;
        let randoms = [agreed.client_random, agreed.server_random].concat();
        core.ask(Output::Sign(Box::new(SignRequest {
            credential: credential.clone(),
            scheme,
            message: [&randoms[..], &exchange.encoded].concat(),
        })));
        let ours = Ours { agreed, shown: Some(credential), share };
        self.state = State::Sign(ours, scheme, exchange);
        Ok(Step::Server(Box::new(self)))
    }

    /// A session that may be resumed (RFC 5077 section 3.1): of this scope, this name, a suite that is still
    /// in common, and with what is demanded of the client today.
    fn session_of_ticket(&self, credential: &Credential) -> Option<Sealed> {
        let ticket = self.hello.extensions.ticket.as_deref().filter(|ticket| !ticket.is_empty())?;
        if self.renegotiation || self.hello.session_id.is_empty() {
            return None;
        }
        let keys = self.config.tickets.as_ref()?;
        let sealed = keys.open(ticket, &self.config.scope, &credential.fingerprint)?;
        let authenticated = match self.config.client_auth {
            ClientAuth::None => sealed.peer.is_none(),
            ClientAuth::Requested => true,
            ClientAuth::Required => sealed.peer.is_some(),
        };
        let type_fits =
            sealed.peer.as_ref().is_none_or(|peer| self.types.contains(&peer.certificate_type()));
        let same_name = sealed.server_name == self.hello.extensions.server_name;
        let fits = authenticated && type_fits && same_name && self.suites.contains(&sealed.suite);
        fits.then_some(sealed)
    }

    fn server_hello(
        &mut self,
        core: &mut Core,
        suite: &'static Suite,
        certificate_type: CertificateType,
        ticket: bool,
        resumed: bool,
    ) -> Result<Agreed, Error> {
        let theirs = &self.hello.extensions;
        let ours = &self.config.common.alpn;
        let alpn = ours.iter().find(|protocol| theirs.alpn.contains(protocol)).cloned();
        if alpn.is_none() && !ours.is_empty() && !theirs.alpn.is_empty() {
            return Err(Error::NoApplicationProtocol);
        }
        let mut server_random = [0; 32];
        random(&mut server_random)?;
        if self.config.serves_tls13 {
            server_random[24..].copy_from_slice(DOWNGRADE_TLS12);
        }
        let bound = core.session.as_ref().map(|s| [s.client_verify, s.server_verify].concat());
        let formats = theirs.point_formats.is_some() && suite.exchange == Exchange::Ecdhe;
        let hello = ServerHello {
            version: core.transport.version(),
            random: server_random,
            session_id: if resumed { self.hello.session_id.clone() } else { Vec::new() },
            suite: suite.code,
            extensions: ServerExtensions {
                server_name: theirs.server_name.is_some() && !resumed && !suite.is_anonymous(),
                point_formats: formats.then(|| vec![0]),
                alpn: alpn.clone(),
                cert_type: (certificate_type != CertificateType::X509 && !resumed)
                    .then_some(certificate_type.code()),
                extended_master_secret: true,
                ticket,
                renegotiation_info: Some(bound.unwrap_or_default()),
            },
        };
        core.say(&mut self.transcript, kind::SERVER_HELLO, &hello.encode());
        self.transcript.settle(suite.hash);
        let client_random = self.hello.random;
        Ok(Agreed { suite, client_random, server_random, certificate_type, alpn, ticket })
    }

    fn share(&self, suite: &Suite) -> Result<(KeyShare, ServerKeyExchange), Error> {
        let group = choose_group(&self.hello, &self.config, suite.exchange);
        let group = group.ok_or(Error::Internal("no group"))?;
        let share = KeyShare::generate(group)?;
        let public = share.public().to_vec();
        let params = match (group.dh_params(), group.code_point()) {
            (Some((p, g)), _) => Params::Finite { p, g, public },
            (None, Some(group)) => Params::Named { group, public },
            (None, None) => return Err(Error::Internal("a group without a number")),
        };
        let encoded = params.encode();
        Ok((share, ServerKeyExchange { params, encoded, signed: None }))
    }

    /// The caller's signature of our share.
    pub(crate) fn signed(mut self, core: &mut Core, signature: Vec<u8>) -> Result<Step, Error> {
        let State::Sign(ours, scheme, mut exchange) = self.state else {
            return Err(Error::Misuse("no signature was asked for"));
        };
        exchange.signed = Some(Signed { scheme: scheme.code_point(), signature });
        core.say(&mut self.transcript, kind::SERVER_KEY_EXCHANGE, &exchange.encode());
        self.state = State::Choose;
        Ok(self.hello_done(core, ours))
    }

    fn hello_done(mut self, core: &mut Core, ours: Ours) -> Step {
        let asks = self.config.client_auth != ClientAuth::None && !ours.agreed.suite.is_anonymous();
        if asks {
            let schemes = self.config.common.schemes.iter().map(|s| s.code_point()).collect();
            let request = CertificateRequest::new(ours.agreed.certificate_type, schemes);
            core.say(&mut self.transcript, kind::CERTIFICATE_REQUEST, &request.encode());
        }
        core.say(&mut self.transcript, kind::SERVER_HELLO_DONE, &[]);
        core.transport.end_flight(FlightEnd::Awaited);
        self.state =
            if asks { State::Certificate(ours) } else { State::ClientKeyExchange(ours, None) };
        Step::Server(Box::new(self))
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
                super::check_signature(
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

    /// ServerHello, ticket, ChangeCipherSpec and Finished of a resumed session.
    fn resume(
        mut self,
        core: &mut Core,
        sealed: Sealed,
        credential: Arc<Credential>,
        peer_key: Vec<u8>,
    ) -> Result<Step, Error> {
        let kind = credential.certificate.certificate_type();
        let agreed = self.server_hello(core, sealed.suite, kind, true, true)?;
        let secrets = Secrets {
            suite: sealed.suite,
            master: sealed.master,
            client_random: agreed.client_random,
            server_random: agreed.server_random,
        };
        let (rx, tx) = secrets.record_keys()?;
        core.prepare_rx(rx, &secrets)?;
        let server_name = self.hello.extensions.server_name.clone();
        let completion = Completion {
            peer: sealed.peer,
            peer_key,
            shown: Some(credential),
            resumed: true,
            ..Completion::new(secrets, &agreed, server_name, false, false)
        };
        let keyed = Keyed { completion, resumed: true, ticket: true, tx: Some(tx) };
        let mut keyed = self.prove(core, keyed)?;
        keyed.completion.tls_unique = keyed.completion.server_verify;
        self.state = State::ChangeCipherSpec(keyed);
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
        let digest = self.transcript.digest(secrets.suite.hash);
        let expected = secrets.verify_data(Role::Client, digest.as_ref())?;
        check_finished(&expected, message.body())?;
        core.transport.confirm_rx();
        self.transcript.add(&message.raw);
        keyed.completion.client_verify = expected;
        if !keyed.resumed {
            keyed.completion.tls_unique = expected;
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
        let digest = self.transcript.digest(secrets.suite.hash);
        let data = secrets.verify_data(Role::Server, digest.as_ref())?;
        core.say(&mut self.transcript, kind::FINISHED, &data);
        let last = !keyed.resumed;
        core.transport.end_flight(if last { FlightEnd::Last } else { FlightEnd::Awaited });
        completion.server_verify = data;
        Ok(keyed)
    }

    /// A ticket, or the empty one that says there is none after all.
    fn ticket(&self, completion: &Completion) -> Vec<u8> {
        let sealed = Sealed {
            suite: completion.secrets.suite,
            master: completion.secrets.master.clone(),
            server_name: completion.server_name.clone(),
            peer: completion.peer.clone(),
        };
        let made = self.config.tickets.as_ref().zip(completion.shown.as_ref()).and_then(
            |(keys, credential)| {
                let ticket = keys.seal(&sealed, &self.config.scope, &credential.fingerprint)?;
                Some(encode_ticket(keys.lifetime, &ticket))
            },
        );
        made.unwrap_or_else(|| encode_ticket(0, &[]))
    }
}

/// RFC 5746 sections 3.6 and 3.7.
fn check_binding(core: &Core, hello: &ClientHello) -> Result<(), Error> {
    let signal = hello.suites.contains(&EMPTY_RENEGOTIATION_INFO_SCSV);
    match (&core.session, &hello.extensions.renegotiation_info) {
        (None, None) if signal => Ok(()),
        (None, None) => Err(Error::Insufficient("no secure renegotiation (RFC 5746)")),
        (None, Some(info)) if info.is_empty() => Ok(()),
        (None, Some(_)) => Err(Error::Renegotiation("renegotiation_info in a first handshake")),
        (Some(_), _) if signal => Err(Error::Renegotiation("the signal of a first handshake")),
        (Some(_), None) => Err(Error::Renegotiation("no renegotiation_info")),
        (Some(session), Some(info)) if equal(&session.client_verify, info) => Ok(()),
        (Some(_), Some(_)) => Err(Error::Renegotiation("wrong renegotiation_info")),
    }
}

/// Our best group that the client takes. A client that says nothing of finite fields takes any
/// (RFC 7919 section 4), one that says nothing of curves none (RFC 8422 section 4).
fn choose_group(hello: &ClientHello, config: &ServerConfig, exchange: Exchange) -> Option<Group> {
    /// Code points of finite fields (RFC 7919 section 2).
    const FINITE: std::ops::RangeInclusive<u16> = 256..=511;
    let theirs = hello.extensions.groups.as_deref().unwrap_or_default();
    let finite = exchange == Exchange::Dhe;
    let any = finite && !theirs.iter().any(|code| FINITE.contains(code));
    let takes = |group: &Group| any || group.code_point().is_some_and(|c| theirs.contains(&c));
    let ours = config.common.groups.iter().copied();
    ours.filter(|group| group.is_finite_field() == finite).find(takes)
}

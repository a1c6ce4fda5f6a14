//! The hellos: what the client offers, and what we make of it.

use std::sync::Arc;

use super::{Handshake, State};
use crate::codec::{CertificateType, ClientHello, ServerExtensions, ServerHello, kind};
use crate::config::{Anonymous, ServerConfig};
use crate::crypto::{Group, SignatureScheme, Transcript, equal, random};
use crate::error::Error;
use crate::keys::Role;
use crate::machine::signature::authentication_by;
use crate::machine::{Agreed, ChooseCredential, Core, Output, Step};
use crate::record::Message;
use crate::suite::{EMPTY_RENEGOTIATION_INFO_SCSV, Exchange, FALLBACK_SCSV, SUITES, Suite};

/// End of the random of a server that could do TLS 1.3 (RFC 8446 section 4.1.3).
const DOWNGRADE_TLS12: &[u8; 8] = b"DOWNGRD\x01";

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
                let fits =
                    |scheme: &SignatureScheme| authentication_by(*scheme) == suite.authentication;
                suite.is_anonymous() || schemes.iter().any(fits)
            })
            .collect();
        let Some(first) = suites.first() else {
            return Err(Error::Insufficient("no cipher suite with its key exchange in common"));
        };
        let anonymous = first.is_anonymous();
        let private = common.private && !renegotiation;
        if private && !anonymous {
            return Err(Error::NotPrivate);
        }
        let at_once = anonymous && (private || common.anonymous == Anonymous::Precursor);
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
        if at_once {
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

    /// Schemes of the client that some suite in common has use for.
    fn signing_schemes(&self) -> Vec<SignatureScheme> {
        let usable = |scheme: &SignatureScheme| self.suite_for(*scheme).is_some();
        self.schemes.iter().copied().filter(usable).collect()
    }

    pub(super) fn suite_for(&self, scheme: SignatureScheme) -> Option<&'static Suite> {
        let authentication = authentication_by(scheme);
        self.suites.iter().copied().find(|suite| suite.authentication == authentication)
    }

    pub(super) fn server_hello(
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
pub(super) fn choose_group(
    hello: &ClientHello,
    config: &ServerConfig,
    exchange: Exchange,
) -> Option<Group> {
    /// Code points of finite fields (RFC 7919 section 2).
    const FINITE: std::ops::RangeInclusive<u16> = 256..=511;
    let theirs = hello.extensions.groups.as_deref().unwrap_or_default();
    let finite = exchange == Exchange::Dhe;
    let any = finite && !theirs.iter().any(|code| FINITE.contains(code));
    let takes = |group: &Group| any || group.code_point().is_some_and(|c| theirs.contains(&c));
    let ours = config.common.groups.iter().copied();
    ours.filter(|group| group.is_finite_field() == finite).find(takes)
}

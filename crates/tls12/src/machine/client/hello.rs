//! The hellos: what we offer, and whether what the server made of it was among it.

use std::sync::Arc;

use super::{Handshake, MAX_COOKIES, State};
use crate::codec::{
    CertificateType, ClientExtensions, ClientHello, ServerHello, decode_cookie, kind,
};
use crate::config::{Anonymous, ClientConfig};
use crate::crypto::{Transcript, equal, random};
use crate::dtls::FlightEnd;
use crate::error::Error;
use crate::machine::{Agreed, Core, Output, Step, Verify};
use crate::suite::{SUITES, Suite};

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
        if !renegotiation && common.anonymous == Anonymous::Precursor {
            suites.extend(anonymous.clone());
        }
        if renegotiation || !common.private {
            suites.extend(named);
        }
        if !renegotiation && common.anonymous == Anonymous::Final {
            suites.extend(anonymous);
        }
        if suites.is_empty() && common.private {
            return Err(Error::NotPrivate);
        }
        let session = config.session.clone().filter(|session| {
            !renegotiation
                && common.anonymous != Anonymous::Precursor
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

    pub(super) fn server_hello(mut self, core: &mut Core, body: &[u8]) -> Result<Step, Error> {
        let hello = ServerHello::decode(body, &self.hello.extensions)?;
        let extensions = &hello.extensions;
        if hello.version != core.transport.version() {
            return Err(Error::Version);
        }
        core.transport.version_agreed();
        let Some(&suite) = self.suites.iter().find(|suite| suite.code == hello.suite) else {
            return Err(Error::Illegal("a cipher suite that was not offered"));
        };
        check_binding(core, extensions.renegotiation_info.as_deref())?;
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
    pub(super) fn again_with_cookie(mut self, core: &mut Core, body: &[u8]) -> Result<Step, Error> {
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
}

/// RFC 5746 sections 3.4 and 3.5.
fn check_binding(core: &Core, info: Option<&[u8]>) -> Result<(), Error> {
    match (&core.session, info) {
        (Some(session), Some(info)) => {
            let expected = [session.client_verify, session.server_verify].concat();
            if equal(&expected, info) {
                Ok(())
            } else {
                Err(Error::Renegotiation("wrong renegotiation_info"))
            }
        }
        (Some(_), None) => Err(Error::Renegotiation("no renegotiation_info")),
        (None, Some([])) => Ok(()),
        (None, Some(_)) => Err(Error::Renegotiation("renegotiation_info in a first handshake")),
        (None, None) => Err(Error::Insufficient("no secure renegotiation (RFC 5746)")),
    }
}

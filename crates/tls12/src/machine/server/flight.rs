//! Our flight: what we show, our share, its signature, and whether the client is to show something too.

use std::sync::Arc;

use super::hello::choose_group;
use super::{Handshake, Ours, State};
use crate::codec::{
    CertificateRequest, CertificateType, Params, ServerKeyExchange, Signed, encode_certificate,
    kind,
};
use crate::config::{ClientAuth, Credential};
use crate::crypto::KeyShare;
use crate::dtls::FlightEnd;
use crate::error::Error;
use crate::machine::{Core, Output, SignRequest, Step, Verify};
use crate::suite::Suite;

impl Handshake {
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

    pub(super) fn go_anonymous(mut self, core: &mut Core) -> Result<Step, Error> {
        let suite = self.suites.iter().copied().find(|suite| suite.is_anonymous());
        let suite = suite.ok_or(Error::NothingInCommon("no certificate for this client"))?;
        let agreed = self.server_hello(core, suite, CertificateType::X509, false, false)?;
        let (share, exchange) = self.share(suite)?;
        core.say(&mut self.transcript, kind::SERVER_KEY_EXCHANGE, &exchange.encode());
        Ok(self.hello_done(core, Ours { agreed, shown: None, share }))
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
}

//! Our flight: what we show, our share, the proof that the key is ours, and Finished.

use std::sync::Arc;

use super::{Handshake, Keyed, Server, State, await_server};
use crate::codec::{
    CertificateRequest, ECDSA_SIGN, Params, RSA_SIGN, Signed, encode_certificate,
    encode_client_share, kind,
};
use crate::config::Credential;
use crate::crypto::{KeyShare, SignatureScheme};
use crate::dtls::FlightEnd;
use crate::error::Error;
use crate::keys::{Role, Secrets};
use crate::machine::signature::authentication_by;
use crate::machine::{Completion, Core, Output, SignRequest, Step};
use crate::suite::Authentication;

impl Handshake {
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
    pub(super) fn reply(
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
    pub(super) fn prove(mut self, core: &mut Core, mut keyed: Keyed) -> Result<Step, Error> {
        let Some(tx) = keyed.tx.take() else { return Err(Error::Internal("no key")) };
        let secrets = &keyed.completion.secrets;
        core.transport.change_tx(tx)?;
        let data = core.say_finished(&mut self.transcript, secrets, Role::Client)?;
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
}

/// What a client may sign with, to please the server.
pub(super) fn usable_schemes(request: &CertificateRequest) -> Vec<SignatureScheme> {
    let schemes = request.schemes.iter().filter_map(|code| SignatureScheme::from_code_point(*code));
    schemes
        .filter(|scheme| {
            request.key_types.contains(&match authentication_by(*scheme) {
                Authentication::Rsa => RSA_SIGN,
                _ => ECDSA_SIGN,
            })
        })
        .collect()
}

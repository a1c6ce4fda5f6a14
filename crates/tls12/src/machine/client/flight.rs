//! The server's flight: whom it shows, and whether its share is its own.

use super::reply::usable_schemes;
use super::{Handshake, Keyed, Server, State, await_server};
use crate::codec::{CertificateRequest, ClientHello, Params};
use crate::config::ClientConfig;
use crate::crypto::{Group, dh_group_from_params, key_kind};
use crate::error::{Alert, Error};
use crate::keys::{Role, Secrets};
use crate::machine::signature::{authentication_of, check_signature};
use crate::machine::{ChooseCredential, Completion, Core, Output, Step, Verify};

impl Handshake {
    /// ServerHelloDone.
    pub(super) fn done(
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
                // Without a new ticket the old one stays good.
                let completion = Completion {
                    peer: session.peer.clone(),
                    peer_key: key,
                    shown: session.shown.clone(),
                    resumed: true,
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
}

/// Is the server's share in a group that we take?
pub(super) fn check_group(hello: &ClientHello, params: &Params) -> Result<Group, Error> {
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
    if authentication_of(kind) != suite.authentication {
        return Err(Error::UnsupportedCertificate("its key does not fit the cipher suite"));
    }
    let randoms = [hello.random, server.agreed.server_random].concat();
    let message = [&randoms[..], &server.exchange.encoded].concat();
    check_signature(&config.common, key, &message, signed, "signature of the key exchange")
}

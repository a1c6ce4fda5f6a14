//! Sessions that are resumed by a ticket (RFC 5077), and the tickets we give.

use std::sync::Arc;

use super::{Handshake, Keyed, State};
use crate::codec::encode_ticket;
use crate::config::{ClientAuth, Credential};
use crate::error::Error;
use crate::keys::Secrets;
use crate::machine::{Completion, Core, Step};
use crate::ticket::Sealed;

impl Handshake {
    /// A session that may be resumed (RFC 5077 section 3.1): of this scope, this name, a suite that is still
    /// in common, and with what is demanded of the client today.
    pub(super) fn session_of_ticket(&self, credential: &Credential) -> Option<Sealed> {
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

    /// ServerHello, ticket, ChangeCipherSpec and Finished of a resumed session.
    pub(super) fn resume(
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

    /// A ticket, or the empty one that says there is none after all.
    pub(super) fn ticket(&self, completion: &Completion) -> Vec<u8> {
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

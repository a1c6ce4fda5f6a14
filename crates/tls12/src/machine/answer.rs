//! The caller's answers to what the handshake asks, and how it goes on with them.

use std::sync::Arc;

use super::{Connection, Core, Phase, Step};
use crate::config::Credential;
use crate::error::{Alert, Error};

impl Connection {
    /// The answer to [`Output::ChooseCredential`]. `None`: nothing to show, which ends a server's
    /// handshake unless it may stay anonymous. An alert ends it in any case.
    pub fn chosen(&mut self, credential: Result<Option<Arc<Credential>>, Alert>) {
        self.resume(|step, core| {
            let credential = credential.map_err(Error::Refused)?;
            match step {
                Some(Step::Client(handshake)) => handshake.chosen(core, credential),
                Some(Step::Server(handshake)) => handshake.chosen(core, credential),
                _ => Err(Error::Misuse("no credential was to be chosen")),
            }
        });
    }

    /// The answer to [`Output::Sign`]: the signature as TLS carries it (ECDSA: DER), or none.
    pub fn signed(&mut self, signature: Option<Vec<u8>>) {
        self.resume(|step, core| {
            let signature = signature.ok_or(Error::NoSignature)?;
            match step {
                Some(Step::Client(handshake)) => handshake.signed(core, signature),
                Some(Step::Server(handshake)) => handshake.signed(core, signature),
                _ => Err(Error::Misuse("no signature was asked for")),
            }
        });
    }

    /// The answer to [`Output::Verify`]: the SubjectPublicKeyInfo (DER) of the key that the peer signs
    /// with, whatever the kind of certificate, or the alert to send. For a peer that showed nothing, and for a
    /// resumed session, the key is not used.
    pub fn verified(&mut self, key: Result<Vec<u8>, Alert>) {
        self.resume(|step, core| match step {
            Some(Step::Client(handshake)) => handshake.verified(core, key),
            Some(Step::Server(handshake)) => handshake.verified(core, key),
            _ => Err(Error::Misuse("nobody was to be verified")),
        });
    }

    fn resume(&mut self, with: impl FnOnce(Option<Step>, &mut Core) -> Result<Step, Error>) {
        if self.core.phase == Phase::Closed {
            return;
        }
        let step = self.handshake.take();
        match with(step, &mut self.core) {
            Ok(step) => {
                self.go(step);
                self.pump();
            }
            Err(error) => self.fail(error),
        }
    }

    pub(super) fn go(&mut self, step: Step) {
        self.handshake = match step {
            Step::Done => None,
            step => Some(step),
        };
    }

    /// Whether an answer is waited for: until then nothing is read.
    pub fn is_asking(&self) -> bool {
        match &self.handshake {
            Some(Step::Client(handshake)) => handshake.is_asking(),
            Some(Step::Server(handshake)) => handshake.is_asking(),
            _ => false,
        }
    }
}

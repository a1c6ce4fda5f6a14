//! Keys that want their PIN for every signature (`CKA_ALWAYS_AUTHENTICATE`), such as the signature key of a
//! PIV card.
//!
//! Each signature is a try of the PIN, which somebody may have changed since the token was logged in to. So
//! they are made one after the other, under the lock of those who log in, and by its rules: see
//! [`super::login`]. The lock is kept up to the signature, because between the PIN and the signature a card
//! must see nothing else.

use std::time::Instant;

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use super::Fault;
use super::login::{Attempts, Candidate, KEYPAD, Origin, Wanted, about, is_refusal};
use super::token::Token;
use super::watch::Caller;
use crate::KeyError;

/// A signature to be made with such a key.
pub(super) struct Guarded<'a> {
    pub(super) token: &'a Token,
    pub(super) pkcs11: &'a Pkcs11,
    pub(super) session: &'a Session,
    /// Whether the session has a signature that was begun; nothing but its end brings that to an end.
    pub(super) begun: &'a mut bool,
    pub(super) key: ObjectHandle,
    pub(super) wanted: Wanted<'a>,
    pub(super) caller: &'a Caller,
}

impl Guarded<'_> {
    /// Signs with the PIN that the token was logged in with, from memory or its file; or else with one that a
    /// person gives, as for a login. [`Fault::PinRefused`]: there may be another, for another session.
    pub(super) fn sign(mut self, mechanism: &Mechanism<'_>, data: &[u8]) -> Result<Vec<u8>, Fault> {
        let token = self.token;
        let raw = token.module().raw()?;
        let since = Instant::now();
        let mut attempts = token.login_lock();
        token.still_wanted(self.wanted)?;
        if token.logged_in_at_keypad() {
            attempts.failed_since(since)?;
            self.at_keypad(mechanism, &mut attempts)?;
        } else {
            self.with_pin(mechanism, &mut attempts)?;
        }
        let _calling = self.caller.call();
        let signature = raw.sign(self.session, data);
        *self.begun = false; // whatever came of it
        signature
    }

    fn begin(&mut self, mechanism: &Mechanism<'_>) -> Result<(), Fault> {
        let _calling = self.caller.call();
        self.session.sign_init(mechanism, self.key)?;
        *self.begun = true;
        Ok(())
    }

    /// Begins, with a PIN that a person types at the token itself.
    fn at_keypad(
        &mut self,
        mechanism: &Mechanism<'_>,
        attempts: &mut Attempts,
    ) -> Result<(), Fault> {
        if about(self.pkcs11, self.session, self.caller)?.user_pin_locked() {
            return Err(KeyError::PinLocked(self.token.name().to_string()).into());
        }
        self.begin(mechanism)?;
        let _calling = self.caller.call_for(KEYPAD);
        let error = match self.session.login(UserType::ContextSpecific, None) {
            Ok(()) => return Ok(()),
            Err(Error::Pkcs11(rv, _)) if is_refusal(rv) => self.wrong(),
            Err(error) => {
                let fault = Fault::from(error);
                if fault.heals() {
                    return Err(fault);
                }
                fault.into_error(&self.token.name().to_string())
            }
        };
        Err(attempts.keypad_failed(error))
    }

    /// Begins, with a PIN from memory, from the file of the URI, or of a person.
    fn with_pin(
        &mut self,
        mechanism: &Mechanism<'_>,
        attempts: &mut Attempts,
    ) -> Result<(), Fault> {
        let token = self.token;
        let info = about(self.pkcs11, self.session, self.caller)?;
        let at_hand = token.pin_at_hand(&info, self.wanted)?;
        // Before a person's PIN is taken: if this fails, it would be lost.
        self.begin(mechanism)?;
        let Candidate { pin, origin } = match at_hand {
            Some(candidate) => candidate,
            None => Candidate { pin: token.typed_pin(&info, attempts)?, origin: Origin::Person },
        };
        let entered = {
            let _calling = self.caller.call();
            let pin = AuthPin::from(pin.reveal());
            self.session.login(UserType::ContextSpecific, Some(&pin))
        };
        if origin == Origin::Person {
            token.pins().outcome(token.name(), entered.is_ok());
        }
        match entered {
            Ok(()) => {
                match origin {
                    Origin::Memory => {}
                    Origin::File => token.memory().proved(token.name(), &pin),
                    Origin::Person => {
                        token.memory().accepted(token.name(), Some(&pin));
                        attempts.refused = 0;
                    }
                }
                Ok(())
            }
            Err(Error::Pkcs11(rv, _)) if is_refusal(rv) => {
                tracing::warn!(token = %token.name(), "the token refused a PIN for a signature");
                token.memory().refused(token.name(), &pin);
                if origin == Origin::Person {
                    attempts.refused_by_person();
                }
                Err(Fault::PinRefused(self.wrong()))
            }
            Err(error) => {
                if matches!(error, Error::Pkcs11(RvError::PinLocked, _)) {
                    token.memory().refused(token.name(), &pin);
                }
                Err(error.into())
            }
        }
    }

    fn wrong(&self) -> KeyError {
        KeyError::PinWrong(format!(
            "{}: refused for a key that wants it each time",
            self.token.name()
        ))
    }
}

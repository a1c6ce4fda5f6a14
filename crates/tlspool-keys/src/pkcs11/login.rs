//! Logging in to a token, and never trying a wrong PIN twice.
//!
//! The order: a PIN that a person gave before and the token accepted; the `pin-source` file of the
//! URI; a person. Before the last try that the token permits, only a person is asked.

use std::path::Path;
use std::time::Duration;

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::TokenInfo;
use cryptoki::types::AuthPin;

use super::Fault;
use super::token::Token;
use super::watch::Caller;
use crate::KeyError;
use crate::pin::{Pin, PinReply, PinRequest};

/// How long a person may take at the token's own keypad.
const KEYPAD: Duration = Duration::from_mins(2);

impl Token {
    /// Makes sure that the token is logged in. Only one thread does it at a time.
    pub(super) fn login(
        &self,
        pkcs11: &Pkcs11,
        session: &Session,
        pin_source: Option<&Path>,
        caller: &Caller,
    ) -> Result<(), Fault> {
        let mut attempt = self.login_lock();
        let (state, info) = {
            let _calling = caller.call();
            let session = session.get_session_info()?;
            (session.session_state(), pkcs11.get_token_info(session.slot_id())?)
        };
        if matches!(state, SessionState::RoUser | SessionState::RwUser) || !info.login_required() {
            self.set_logged_in(true);
            return Ok(());
        }
        self.set_logged_in(false);
        if info.user_pin_locked() {
            return Err(KeyError::PinLocked(self.name().to_string()).into());
        }
        if info.protected_authentication_path() {
            let _calling = caller.call_for(KEYPAD);
            return match session.login(UserType::User, None) {
                Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                    self.set_logged_in(true);
                    self.set_at_keypad();
                    Ok(())
                }
                Err(Error::Pkcs11(RvError::PinIncorrect, _)) => {
                    let text = format!("{}: refused at its own keypad", self.name());
                    Err(KeyError::PinWrong(text).into())
                }
                Err(error) => Err(error.into()),
            };
        }
        if self.login_unattended(session, &info, pin_source, caller)? {
            self.set_logged_in(true);
            *attempt = 0;
            return Ok(());
        }
        self.login_person(pkcs11, session, &info, caller, &mut attempt)?;
        self.set_logged_in(true);
        *attempt = 0;
        Ok(())
    }

    /// Tries the PINs that need nobody. `Ok(false)`: there is none left to try.
    fn login_unattended(
        &self,
        session: &Session,
        info: &TokenInfo,
        pin_source: Option<&Path>,
        caller: &Caller,
    ) -> Result<bool, Fault> {
        if info.user_pin_final_try() {
            tracing::warn!(token = %self.name(), "the token permits one more PIN: only a person may give it");
            return Ok(false);
        }
        if let Some(pin) = self.memory().pin(self.name())
            && self.try_pin(session, &pin, caller)?
        {
            return Ok(true);
        }
        let Some(path) = pin_source else { return Ok(false) };
        self.files().permit(path)?;
        let pin = Pin::from_file(path)?;
        let wrong = || {
            let file = path.display();
            KeyError::PinWrong(format!(
                "{} refused the PIN in {file}; it is not tried again until that file changes",
                self.name()
            ))
        };
        if self.memory().is_refused(self.name(), &pin) {
            return Err(wrong().into());
        }
        if !self.try_pin(session, &pin, caller)? {
            return Err(wrong().into());
        }
        self.memory().accepted(self.name(), None); // the file is read again when needed
        Ok(true)
    }

    /// Asks the person until a PIN is right, the token locks, or there is no answer yet.
    fn login_person(
        &self,
        pkcs11: &Pkcs11,
        session: &Session,
        info: &TokenInfo,
        caller: &Caller,
        attempt: &mut u32,
    ) -> Result<(), Fault> {
        let locked = || KeyError::Locked(self.name().to_string());
        let mut info = info.clone();
        let low = info.user_pin_count_low() || info.user_pin_final_try();
        if !low && self.counted_low() {
            // Somebody logged in elsewhere, or gave the token a new PIN: an old one may be right now.
            self.memory().forgive(self.name());
        }
        self.set_counted_low(low);
        while *attempt < self.prompts() {
            if info.user_pin_locked() {
                return Err(KeyError::PinLocked(self.name().to_string()).into());
            }
            let request = PinRequest {
                token: self.name().clone(),
                attempt: *attempt + 1,
                count_low: info.user_pin_count_low(),
                final_try: info.user_pin_final_try(),
            };
            let pin = match self.pins().pin(&request) {
                PinReply::Pin(pin) => pin,
                PinReply::Refused => return Err(locked().into()),
                PinReply::Later => return Err(Fault::WaitForPin(locked())),
            };
            if self.memory().is_refused(self.name(), &pin) {
                tracing::warn!(token = %self.name(), "a PIN that it refused before was typed; not tried again");
                self.pins().outcome(self.name(), false);
                *attempt += 1;
                continue;
            }
            let accepted = self.try_pin(session, &pin, caller);
            self.pins().outcome(self.name(), matches!(accepted, Ok(true)));
            if accepted? {
                self.memory().accepted(self.name(), Some(&pin));
                return Ok(());
            }
            *attempt += 1;
            let _calling = caller.call();
            info = pkcs11.get_token_info(session.get_session_info()?.slot_id())?;
            self.set_counted_low(info.user_pin_count_low() || info.user_pin_final_try());
        }
        *attempt = 0;
        Err(locked().into())
    }

    /// Signs with a key that wants its PIN for every signature (CKA_ALWAYS_AUTHENTICATE): the PIN that
    /// the token was logged in with, from memory or its file, or typed at the token's own keypad.
    pub(super) fn sign_guarded(
        &self,
        session: &Session,
        key: ObjectHandle,
        mechanism: &Mechanism<'_>,
        data: &[u8],
        pin_source: Option<&Path>,
        caller: &Caller,
    ) -> Result<Vec<u8>, Fault> {
        let raw = self.module().raw()?;
        let keypad = self.logged_in_at_keypad();
        // Looked for before anything is begun that would have to be ended.
        let pin = if keypad { None } else { Some(self.pin_at_hand(pin_source)?) };
        let _calling = if keypad { caller.call_for(KEYPAD) } else { caller.call() };
        session.sign_init(mechanism, key)?;
        let typed = pin.as_ref().map(|pin| AuthPin::from(pin.reveal()));
        match session.login(UserType::ContextSpecific, typed.as_ref()) {
            Ok(()) => raw.sign(session, data),
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinLocked, _)) => {
                if let Some(pin) = &pin {
                    self.memory().refused(self.name(), pin);
                }
                let text = format!("{}: refused for a key that wants it each time", self.name());
                Err(KeyError::PinWrong(text).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn pin_at_hand(&self, pin_source: Option<&Path>) -> Result<Pin, Fault> {
        if let Some(pin) = self.memory().pin(self.name()) {
            return Ok(pin);
        }
        let Some(path) = pin_source else {
            return Err(KeyError::Locked(self.name().to_string()).into());
        };
        self.files().permit(path)?;
        let pin = Pin::from_file(path)?;
        if self.memory().is_refused(self.name(), &pin) {
            let text = format!("{}: the PIN in {} was refused", self.name(), path.display());
            return Err(KeyError::PinWrong(text).into());
        }
        Ok(pin)
    }

    /// `Ok(false)` when the token refused the PIN, which is then remembered.
    fn try_pin(&self, session: &Session, pin: &Pin, caller: &Caller) -> Result<bool, Fault> {
        let _calling = caller.call();
        match session.login(UserType::User, Some(&AuthPin::from(pin.reveal()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                tracing::info!(token = %self.name(), "logged in");
                Ok(true)
            }
            Err(Error::Pkcs11(
                RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange,
                _,
            )) => {
                tracing::warn!(token = %self.name(), "the token refused a PIN");
                self.memory().refused(self.name(), pin);
                Ok(false)
            }
            Err(error) => {
                if matches!(error, Error::Pkcs11(RvError::PinLocked, _)) {
                    self.memory().refused(self.name(), pin);
                }
                Err(error.into())
            }
        }
    }
}

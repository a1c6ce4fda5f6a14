//! Logging in to a token, and never trying a wrong PIN twice.
//!
//! The order: a PIN that a person gave before and the token accepted; the `pin-source` file of the
//! URI; a person. Before the last try that the token permits, only a person is asked. Each try is made
//! under one lock, so that of several threads that have a PIN that is wrong only the first one finds out.

use std::path::Path;
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::TokenInfo;
use cryptoki::types::AuthPin;

use super::Fault;
use super::token::Token;
use super::watch::Caller;
use crate::KeyError;
use crate::pin::{Pin, PinReply, PinRequest};
use crate::uri::Pkcs11Uri;

/// How long a person may take at the token's own keypad.
pub(super) const KEYPAD: Duration = Duration::from_mins(2);

/// For whom a token is logged in to.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The file with the PIN that the URI names.
    pub(super) pin_source: Option<&'a Path>,
    /// When nobody wants it any more.
    pub(super) deadline: Option<Instant>,
}

impl<'a> Wanted<'a> {
    pub(super) fn of(uri: &'a Pkcs11Uri, deadline: Option<Instant>) -> Self {
        Self { pin_source: uri.pin_source.as_deref(), deadline }
    }
}

/// What those who log in leave for each other; locked while one of them does.
#[derive(Default)]
pub(super) struct Attempts {
    /// PINs in a row that persons gave and the token refused.
    pub(super) refused: u32,
    /// The token was given a good PIN elsewhere, or a new one: what it refused before may be right now,
    /// if a person says so.
    pub(super) forgiven: bool,
    /// When a person last failed at the token's keypad, and how.
    keypad: Option<(Instant, KeyError)>,
}

/// A PIN to try.
pub(super) struct Candidate {
    pub(super) pin: Pin,
    pub(super) origin: Origin,
}

/// Where a PIN comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A person gave it before, and the token accepted it.
    Memory,
    /// The file that the URI names.
    File,
    /// A person gives it now, and waits for what comes of it.
    Person,
}

impl Attempts {
    /// The error of who failed at the keypad while the caller, who has come at `since`, waited for his turn:
    /// a person who was asked in vain is not asked again by each handshake that waited.
    pub(super) fn failed_since(&self, since: Instant) -> Result<(), KeyError> {
        match &self.keypad {
            Some((when, error)) if since < *when => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// A person failed at the keypad.
    pub(super) fn keypad_failed(&mut self, error: KeyError) -> Fault {
        self.keypad = Some((Instant::now(), error.clone()));
        error.into()
    }
}

/// Whether the token says that the PIN is not its own.
pub(super) fn is_refusal(rv: RvError) -> bool {
    matches!(rv, RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange)
}

impl Token {
    /// Makes sure that the token is logged in. Only one thread does it at a time.
    pub(super) fn login(
        &self,
        pkcs11: &Pkcs11,
        session: &Session,
        wanted: Wanted<'_>,
        caller: &Caller,
    ) -> Result<(), Fault> {
        let since = Instant::now();
        let mut attempts = self.login_lock();
        let state = {
            let _calling = caller.call();
            session.get_session_info()?.session_state()
        };
        let mut info = about(pkcs11, session, caller)?;
        if matches!(state, SessionState::RoUser | SessionState::RwUser) || !info.login_required() {
            self.unlocked();
            return Ok(());
        }
        self.set_logged_out();
        self.still_wanted(wanted)?;
        if info.protected_authentication_path() {
            attempts.failed_since(since)?;
            return self.login_at_keypad(pkcs11, session, wanted, caller, &mut attempts);
        }
        while let Some(Candidate { pin, origin }) = self.pin_at_hand(&info, wanted)? {
            if self.try_pin(session, &pin, caller)? {
                if origin == Origin::File {
                    self.memory().accepted(self.name(), None); // it is read again when needed
                    self.memory().proved(self.name(), &pin);
                }
                attempts.refused = 0;
                self.unlocked();
                return Ok(());
            }
            info = about(pkcs11, session, caller)?;
        }
        self.login_person(pkcs11, session, info, caller, &mut attempts)?;
        attempts.refused = 0;
        self.unlocked();
        Ok(())
    }

    /// An error if it took so long to get here that nobody wants it any more.
    pub(super) fn still_wanted(&self, wanted: Wanted<'_>) -> Result<(), KeyError> {
        match wanted.deadline {
            Some(deadline) if deadline <= Instant::now() => {
                Err(KeyError::Timeout(format!("{}: waited for others who log in", self.name())))
            }
            _ => Ok(()),
        }
    }

    /// Has a person type the PIN at the token itself, as often as a person is asked elsewhere. The last try is
    /// not asked for in one go with a wrong PIN.
    fn login_at_keypad(
        &self,
        pkcs11: &Pkcs11,
        session: &Session,
        wanted: Wanted<'_>,
        caller: &Caller,
        attempts: &mut Attempts,
    ) -> Result<(), Fault> {
        let mut asked = 0;
        loop {
            if about(pkcs11, session, caller)?.user_pin_locked() {
                return Err(KeyError::PinLocked(self.name().to_string()).into());
            }
            let typed = {
                let _calling = caller.call_for(KEYPAD);
                session.login(UserType::User, None)
            };
            asked += 1;
            match typed {
                Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                    self.set_at_keypad();
                    self.unlocked();
                    return Ok(());
                }
                Err(Error::Pkcs11(rv, _)) if is_refusal(rv) => {
                    let text = format!("{}: refused at its own keypad", self.name());
                    let last = about(pkcs11, session, caller)?.user_pin_final_try();
                    if asked >= self.prompts() || last || self.still_wanted(wanted).is_err() {
                        return Err(attempts.keypad_failed(KeyError::PinWrong(text)));
                    }
                    tracing::warn!(token = %self.name(), "a wrong PIN was typed at its keypad");
                }
                Err(error) => {
                    let fault = Fault::from(error);
                    if fault.heals() {
                        return Err(fault);
                    }
                    let error = fault.into_error(&self.name().to_string());
                    return Err(attempts.keypad_failed(error));
                }
            }
        }
    }

    /// The next PIN to try that needs nobody. `Ok(None)`: it is a person's turn.
    pub(super) fn pin_at_hand(
        &self,
        info: &TokenInfo,
        wanted: Wanted<'_>,
    ) -> Result<Option<Candidate>, Fault> {
        if info.user_pin_locked() {
            return Err(KeyError::PinLocked(self.name().to_string()).into());
        }
        if info.user_pin_final_try() {
            tracing::warn!(token = %self.name(), "the token permits one more PIN: only a person may give it");
            return Ok(None);
        }
        if let Some(pin) = self.memory().pin(self.name()) {
            return Ok(Some(Candidate { pin, origin: Origin::Memory }));
        }
        let Some(path) = wanted.pin_source else { return Ok(None) };
        self.files().permit(path)?;
        let pin = Pin::from_file(path)?;
        let file = path.display();
        if self.memory().is_refused(self.name(), &pin) {
            let text = format!(
                "{} refused the PIN in {file}; it is not tried again until that file changes",
                self.name()
            );
            return Err(KeyError::PinWrong(text).into());
        }
        if info.user_pin_count_low() && self.memory().is_doubtful(self.name(), &pin) {
            tracing::warn!(
                token = %self.name(), %file,
                "the token was given a wrong PIN before, perhaps that of the file: a person must give it once"
            );
            return Ok(None);
        }
        Ok(Some(Candidate { pin, origin: Origin::File }))
    }

    /// Asks the person until a PIN is right, the token locks, or there is no answer yet.
    fn login_person(
        &self,
        pkcs11: &Pkcs11,
        session: &Session,
        mut info: TokenInfo,
        caller: &Caller,
        attempts: &mut Attempts,
    ) -> Result<(), Fault> {
        loop {
            let pin = self.typed_pin(&info, attempts)?;
            let accepted = self.try_pin(session, &pin, caller);
            self.pins().outcome(self.name(), matches!(accepted, Ok(true)));
            if accepted? {
                self.memory().accepted(self.name(), Some(&pin));
                return Ok(());
            }
            attempts.refused_by_person();
            info = about(pkcs11, session, caller)?;
        }
    }

    /// A PIN that a person gives, and that the token did not refuse before. It is to be tried, and its outcome
    /// to be told.
    pub(super) fn typed_pin(
        &self,
        info: &TokenInfo,
        attempts: &mut Attempts,
    ) -> Result<Pin, Fault> {
        let locked = || KeyError::Locked(self.name().to_string());
        let low = info.user_pin_count_low() || info.user_pin_final_try();
        if !low && self.counted_low() {
            attempts.forgiven = true;
        }
        self.set_counted_low(low);
        while attempts.refused < self.prompts() {
            if info.user_pin_locked() {
                return Err(KeyError::PinLocked(self.name().to_string()).into());
            }
            let request = PinRequest {
                token: self.name().clone(),
                attempt: attempts.refused + 1,
                count_low: info.user_pin_count_low(),
                final_try: info.user_pin_final_try(),
            };
            let pin = match self.pins().pin(&request) {
                PinReply::Pin(pin) => pin,
                PinReply::Refused => return Err(locked().into()),
                PinReply::Later => return Err(Fault::WaitForPin(locked())),
            };
            if attempts.forgiven || !self.memory().is_refused(self.name(), &pin) {
                return Ok(pin);
            }
            tracing::warn!(token = %self.name(), "a PIN that it refused before was typed; not tried again");
            self.pins().outcome(self.name(), false);
            attempts.refused += 1;
        }
        attempts.refused = 0;
        Err(locked().into())
    }

    /// `Ok(false)` when the token refused the PIN, which is then remembered.
    fn try_pin(&self, session: &Session, pin: &Pin, caller: &Caller) -> Result<bool, Fault> {
        let _calling = caller.call();
        match session.login(UserType::User, Some(&AuthPin::from(pin.reveal()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                tracing::info!(token = %self.name(), "logged in");
                Ok(true)
            }
            Err(Error::Pkcs11(rv, _)) if is_refusal(rv) => {
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

impl Attempts {
    /// The token refused what a person gave.
    pub(super) fn refused_by_person(&mut self) {
        self.refused += 1;
        self.forgiven = false;
    }
}

/// What the token says of itself now.
pub(super) fn about(
    pkcs11: &Pkcs11,
    session: &Session,
    caller: &Caller,
) -> Result<TokenInfo, Fault> {
    let _calling = caller.call();
    Ok(pkcs11.get_token_info(session.get_session_info()?.slot_id())?)
}

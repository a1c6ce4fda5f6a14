//! The pool's error numbers (com_err table `tlsP`).

/// Base of the table.
const BASE: i32 = -1_167_372_288;

macro_rules! pool_errors {
    ($($(#[$doc:meta])* $name:ident = $offset:literal, $text:literal;)*) => {
        /// An error of the pool, as its number travels in an ERROR record.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum PoolError {
            $(#[doc = $text] #[error($text)] $name,)*
        }

        impl PoolError {
            /// Every error, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number in `tlserrno`.
            pub const fn code(self) -> i32 {
                match self { $(Self::$name => BASE + $offset,)* }
            }

            /// The error with number `code`, if it is one of the pool's.
            pub fn from_code(code: i32) -> Option<Self> {
                Self::ALL.iter().copied().find(|e| e.code() == code)
            }
        }
    };
}

pool_errors! {
    OutOfMemory = 0, "the pool is out of memory";
    EntangledThreads = 1, "threads got entangled";
    ClientDisconnect = 2, "the client disconnected";
    ClientRefusesCallback = 3, "the client refused a callback";
    CommandNeeded = 4, "a command is needed";
    SuperfluousSocket = 5, "a socket was passed where none is used";
    CipherSocketNeeded = 6, "a connected socket for the TLS side must come along";
    PlainSocketNeeded = 7, "a connected socket for the plaintext side must come along";
    CommandUnknown = 8, "the command is unknown";
    CommandNotImpl = 9, "the command is not implemented";
    CommandBadCallbackResponse = 10, "the answer does not fit any callback of this connection";
    FacilityStarttls = 11, "the STARTTLS facility is not available";
    FacilityStartgss = 12, "the STARTGSS facility is not available";
    FacilityStartssh = 13, "the STARTSSH facility is not available";
    CtlkeyRegistrationFailed = 14, "the control key is in use";
    CtlkeyNotFound = 15, "no session has this control key";
    CtlkeyNotYours = 16, "the session belongs to another connection";
    CtlkeyDetached = 17, "the session is detached";
    CtlkeyAttached = 18, "the session is attached";
    RenegotiateNotFound = 19, "no session to renegotiate";
    RenegotiateNotInterruptable = 20, "the session cannot be interrupted to renegotiate";
    RenegotiateWouldBeInsecure = 21, "renegotiation would be insecure";
    ConnectionHandlerSetup = 22, "the connection could not be set up";
    ConnectionDriverSetup = 23, "the relay could not be set up";
    StirredNotShaken = 24, "the TLS handshake failed";
    PrngUnavailable = 25, "keying material is not available";
    LidentryNotVacant = 26, "another program selects local identities";
    PinentryNotVacant = 27, "another program enters PINs";
    InfokindUnknown = 28, "the kind of information is unknown";
    InfoNotFound = 29, "the session has no such information";
    // New codes go at the end.
    LocalidUnknown = 30, "no such local identity";
    LocalidNotYours = 31, "you may not use this local identity";
    RemoteidRefused = 32, "the peer's identity was not accepted";
    LimitReached = 33, "a limit of the pool is reached";
    Timeout = 34, "time is up";
    RecordMalformed = 35, "the record is malformed";
    KeyUnavailable = 36, "the private key is not available";
    Draining = 37, "the pool is shutting down";
    NotAuthorized = 38, "the peer proved who it is, and may not have this session";
    LocalidRefused = 39, "whoever chooses local identities refused";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_interface() {
        assert_eq!(PoolError::OutOfMemory.code(), -1_167_372_288);
        assert_eq!(PoolError::InfoNotFound.code(), -1_167_372_288 + 29);
        for (offset, error) in PoolError::ALL.iter().enumerate() {
            assert_eq!(error.code(), BASE + offset as i32);
            assert_eq!(PoolError::from_code(error.code()), Some(*error));
        }
        assert_eq!(PoolError::from_code(0), None);
    }
}

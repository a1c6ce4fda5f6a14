//! What a token is given to do, and what becomes of it.

use std::sync::Arc;
use std::time::Instant;

use super::token::TokenKey;
use crate::uri::Pkcs11Uri;
use crate::{KeyError, KeyInfo, SignScheme};

/// Something to do on a session.
pub(crate) enum Work {
    Sign {
        key: Arc<TokenKey>,
        scheme: SignScheme,
        message: Vec<u8>,
    },
    SignDigest {
        key: Arc<TokenKey>,
        scheme: SignScheme,
        digest: Vec<u8>,
    },
    Open {
        uri: Pkcs11Uri,
        text: String,
    },
    Certificates {
        uri: Pkcs11Uri,
    },
    /// Log in, for whoever comes next.
    Unlock,
}

/// What came of it.
pub(crate) enum Done {
    Signature(Vec<u8>),
    Opened(KeyInfo),
    Certificates(Vec<Vec<u8>>),
    Unlocked,
}

/// Who wants a token's PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PinWanted {
    /// Requests wait for it.
    Now,
    /// It would unlock the token for the next request.
    Later,
    No,
}

pub(crate) type Reply = Box<dyn FnOnce(Result<Done, KeyError>) + Send>;

/// A request in the queue.
pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) deadline: Instant,
    pub(crate) reply: Reply,
}

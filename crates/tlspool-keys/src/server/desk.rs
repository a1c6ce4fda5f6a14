//! Who signs on a token on a receiving thread. Each channel has one desk.
//!
//! Of a channel's two receiving threads at most one signs on a token: the other must stay free for
//! keys in files and for other tokens. What it receives meanwhile for the same token it leaves at
//! the desk, for the one who signs there to do next. That saves waking a thread of the token, which
//! costs as much as a software token's signature.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::answer::To;
use crate::SignScheme;
use crate::pkcs11::token::{Token, TokenKey};

/// Requests left for the one who signs; more go to the token's queue, where several threads work.
const ROOM: usize = 8;

/// The desk of one channel.
#[derive(Default)]
pub(super) struct Desk(Mutex<State>);

#[derive(Default)]
struct State {
    /// The token on which somebody signs.
    at_work: Option<Arc<Token>>,
    waiting: VecDeque<Waiting>,
}

/// A request that was left.
pub(super) struct Waiting {
    pub(super) to: To,
    pub(super) key: Arc<TokenKey>,
    pub(super) scheme: SignScheme,
    pub(super) message: Vec<u8>,
}

/// What becomes of a request.
pub(super) enum Claim {
    /// The caller signs, and then calls [`Desk::next`] until there is none.
    Ours(Arc<TokenKey>),
    /// Somebody else will do it.
    Waits,
    /// The token's own threads must do it.
    Busy(Arc<TokenKey>),
}

impl Desk {
    pub(super) fn claim(
        &self,
        to: To,
        key: Arc<TokenKey>,
        scheme: SignScheme,
        message: &[u8],
    ) -> Claim {
        let mut state = self.0.lock();
        match &state.at_work {
            None => {
                state.at_work = Some(key.token.clone());
                Claim::Ours(key)
            }
            Some(token) if Arc::ptr_eq(token, &key.token) && state.waiting.len() < ROOM => {
                let message = message.to_vec();
                state.waiting.push_back(Waiting { to, key, scheme, message });
                Claim::Waits
            }
            Some(_) => Claim::Busy(key),
        }
    }

    /// The next request that was left; if there is none, the desk is free again.
    pub(super) fn next(&self) -> Option<Waiting> {
        let mut state = self.0.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            state.at_work = None;
        }
        next
    }
}

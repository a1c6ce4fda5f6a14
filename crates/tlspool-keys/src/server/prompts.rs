//! Questions for PINs that wait for a person behind the network process.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Bell, Channel};
use crate::TokenName;
use crate::ipc::{Event, Message, PinPrompt};
use crate::pin::{Pin, PinReply, PinRequest, PinSource};
use crate::pkcs11::work::PinWanted;

/// The open questions; a [`PinSource`] that always answers later.
pub(super) struct Prompts {
    channels: Arc<[Channel]>,
    inner: Mutex<Inner>,
    /// Rung when a question was put.
    bell: Arc<Bell>,
}

#[derive(Default)]
struct Inner {
    last: u32,
    tokens: HashMap<TokenName, Prompt>,
}

struct Prompt {
    number: u32,
    attempt: u32,
    answer: Option<Pin>,
    /// No request waits for the answer.
    idle: bool,
}

impl Prompts {
    pub(super) fn new(channels: Arc<[Channel]>, bell: Arc<Bell>) -> Self {
        Self { channels, inner: Mutex::default(), bell }
    }

    /// An answer came; returns the token it is for and whether it is a PIN. `None`: the question
    /// was answered already.
    pub(super) fn answer(&self, number: u32, pin: Option<Pin>) -> Option<(TokenName, bool)> {
        let mut inner = self.inner.lock();
        let open = |prompt: &Prompt| prompt.number == number && prompt.answer.is_none();
        let token = inner.tokens.iter().find(|(_, prompt)| open(prompt))?.0.clone();
        let given = pin.is_some();
        if given {
            inner.tokens.get_mut(&token)?.answer = pin;
        } else {
            inner.tokens.remove(&token);
        }
        drop(inner);
        if !given {
            self.tell(Event::PinDone { prompt: number, accepted: false });
        }
        Some((token, given))
    }

    /// Withdraws the questions whose answers nobody wants, and tells which are those that no request waits for.
    pub(super) fn review(&self, wanted: impl Fn(&TokenName) -> PinWanted) {
        let mut events = Vec::new();
        self.inner.lock().tokens.retain(|token, prompt| {
            let number = prompt.number;
            match wanted(token) {
                PinWanted::Later if prompt.answer.is_none() && !prompt.idle => {
                    prompt.idle = true;
                    events.push(Event::PinIdle { prompt: number });
                }
                // Nor is a PIN kept that came when nobody could take it.
                PinWanted::No => {
                    events.push(Event::PinDone { prompt: number, accepted: false });
                    return false;
                }
                _ => {}
            }
            true
        });
        for event in events {
            self.tell(event);
        }
    }

    /// Whether a request waits for the answer to a question.
    pub(super) fn any(&self) -> bool {
        self.inner.lock().tokens.values().any(|prompt| !prompt.idle)
    }

    fn tell(&self, event: Event) {
        let mut bytes = Vec::new();
        Message::Event(event).encode(&mut bytes);
        self.channels.iter().for_each(|channel| channel.send(&bytes));
    }
}

impl PinSource for Prompts {
    fn pin(&self, request: &PinRequest) -> PinReply {
        let mut inner = self.inner.lock();
        if let Some(prompt) = inner.tokens.get_mut(&request.token) {
            if let Some(pin) = prompt.answer.take() {
                return PinReply::Pin(pin);
            }
            if prompt.attempt == request.attempt && !prompt.idle {
                return PinReply::Later; // asked already
            }
        }
        // The same question, if it is only that somebody waits for the answer again.
        let same = inner.tokens.get(&request.token).filter(|open| open.attempt == request.attempt);
        let number = if let Some(open) = same {
            open.number
        } else {
            inner.last = inner.last.wrapping_add(1).max(1);
            inner.last
        };
        let prompt = Prompt { number, attempt: request.attempt, answer: None, idle: false };
        inner.tokens.insert(request.token.clone(), prompt);
        drop(inner);
        self.tell(Event::PinNeeded(PinPrompt {
            prompt: number,
            attempt: request.attempt,
            count_low: request.count_low,
            final_try: request.final_try,
            token: request.token.clone(),
        }));
        self.bell.ring();
        PinReply::Later
    }

    fn outcome(&self, token: &TokenName, accepted: bool) {
        let prompt = self.inner.lock().tokens.remove(token);
        if let Some(prompt) = prompt {
            self.tell(Event::PinDone { prompt: prompt.number, accepted });
        }
    }

    fn unlocked(&self, token: &TokenName) {
        self.outcome(token, true);
    }
}

//! What the key process does with one request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Server;
use super::desk::{Claim, Waiting};
use crate::ipc::{Answer, Message, Request, decode_request};
use crate::pin::Pin;
use crate::pkcs11::token::TokenKey;
use crate::pkcs11::work::{Done, Job, Reply, Work};
use crate::provider::{Key, mixed_up};
use crate::uri::{KeyUri, Pkcs11Uri};
use crate::{KeyError, KeyId, KeyInfo, SignScheme};

/// No request waits longer, whatever it says.
const MAX_DEADLINE: Duration = Duration::from_mins(10);

/// Buffers that one receiving thread uses again and again.
#[derive(Default)]
pub(super) struct Scratch {
    signature: Vec<u8>,
    datagram: Vec<u8>,
}

/// Whether the datagram must be wiped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Secret,
}

impl Kind {
    pub(super) fn is_secret(self) -> bool {
        self == Self::Secret
    }
}

/// Where an answer goes, and when it is too late.
#[derive(Clone, Copy)]
pub(super) struct To {
    channel: usize,
    id: u32,
    deadline: Instant,
}

impl Server {
    /// Answers one datagram, or sees to it that somebody does.
    pub(super) fn handle(
        self: &Arc<Self>,
        channel: usize,
        datagram: &[u8],
        scratch: &mut Scratch,
    ) -> Kind {
        let Ok(frame) = decode_request(datagram) else {
            tracing::warn!("malformed request on a key channel");
            return Kind::Secret;
        };
        let wait = Duration::from_millis(frame.deadline_ms.into()).min(MAX_DEADLINE);
        let to = To { channel, id: frame.id, deadline: Instant::now() + wait };
        match frame.request {
            Request::Sign { key, scheme, uri, message } => {
                let Some(scheme) = SignScheme::from_number(scheme) else {
                    let text = format!("signature scheme {scheme:#06x}");
                    self.answer(to, &Answer::Failed(KeyError::Unsupported(text)), scratch);
                    return Kind::Plain;
                };
                self.sign(to, key, scheme, uri, message, scratch);
            }
            Request::Open { uri } => match KeyUri::parse(uri) {
                Err(error) => self.failed(to, &error.into()),
                Ok(KeyUri::File(path)) => match self.store.open_file(&path, uri) {
                    Ok(key) => self.opened(to, &key.info),
                    Err(error) => self.failed(to, &error),
                },
                Ok(KeyUri::Pkcs11(parsed)) => {
                    let then =
                        |server: &Arc<Self>, to, opened: Result<Arc<TokenKey>, _>| match opened {
                            Ok(key) => server.opened(to, &key.info),
                            Err(error) => server.failed(to, &error),
                        };
                    self.open_on_token(to, *parsed, uri.to_owned(), then);
                }
            },
            Request::Certificates { uri } => match KeyUri::parse(uri) {
                Err(error) => self.failed(to, &error.into()),
                Ok(KeyUri::File(path)) => self.certificates(to, self.store.certificates_in(&path)),
                Ok(KeyUri::Pkcs11(uri)) => self.certificates_on_token(to, *uri),
            },
            Request::Pin { prompt, pin } => {
                let pin = pin.and_then(Pin::new);
                if let Some((token, given)) = self.prompts.answer(prompt, pin) {
                    if given {
                        self.store.pin_arrived(&token);
                    } else {
                        self.store.pin_denied(&token);
                    }
                }
                self.answer(to, &Answer::Done, scratch);
                return Kind::Secret;
            }
            Request::Status => {
                self.answer(to, &Answer::Status(self.store.status()), scratch);
            }
        }
        Kind::Plain
    }

    fn sign(
        self: &Arc<Self>,
        to: To,
        id: KeyId,
        scheme: SignScheme,
        uri: &str,
        message: &[u8],
        scratch: &mut Scratch,
    ) {
        let mut key = self.store.key(&id);
        if key.is_none() && !uri.is_empty() {
            match KeyUri::parse(uri) {
                Err(error) => return self.failed(to, &error.into()),
                Ok(KeyUri::Pkcs11(parsed)) => {
                    let message = message.to_vec();
                    let then = move |server: &Arc<Self>, to, opened: Result<Arc<TokenKey>, _>| {
                        match opened {
                            Ok(key) if key.info.id == id => {
                                server.sign_on_token(to, key, scheme, &message);
                            }
                            Ok(key) => {
                                server.failed(to, &KeyError::KeyChanged(key.info.uri.clone()));
                            }
                            Err(error) => server.failed(to, &error),
                        }
                    };
                    self.open_on_token(to, *parsed, uri.to_owned(), then);
                    return;
                }
                Ok(KeyUri::File(path)) => match self.store.open_file(&path, uri) {
                    Ok(file) if file.info.id == id => key = Some(Key::File(file)),
                    Ok(_) => return self.failed(to, &KeyError::KeyChanged(uri.to_owned())),
                    Err(error) => return self.failed(to, &error),
                },
            }
        }
        match key {
            None => self.answer(to, &Answer::Failed(KeyError::UnknownKey), scratch),
            Some(Key::File(file)) => {
                let Scratch { signature, datagram } = scratch;
                let answer = match file.key.sign(scheme, message, signature) {
                    Ok(()) => Answer::Signature(signature),
                    Err(error) => Answer::Failed(error),
                };
                Message::Answer { id: to.id, answer }.encode(datagram);
                self.channels[to.channel].send(datagram);
            }
            Some(Key::Token(key)) => {
                let channel = &self.channels[to.channel];
                match channel.desk.claim(to, key, scheme, message) {
                    Claim::Ours(key) => {
                        self.sign_at_once(to, key, scheme, message, scratch);
                        while let Some(Waiting { to, key, scheme, message }) = channel.desk.next() {
                            self.sign_at_once(to, key, scheme, &message, scratch);
                        }
                    }
                    Claim::Waits => {}
                    Claim::Busy(key) => self.sign_on_token(to, key, scheme, message),
                }
            }
        }
    }

    /// On this thread if the token is fast, else by its queue.
    fn sign_at_once(
        self: &Arc<Self>,
        to: To,
        key: Arc<TokenKey>,
        scheme: SignScheme,
        message: &[u8],
        scratch: &mut Scratch,
    ) {
        match key.token.sign_now(&key, scheme, message) {
            Some(Ok(signature)) => self.answer(to, &Answer::Signature(&signature), scratch),
            Some(Err(error)) => self.sign_failed(to, key.info.id, &error),
            None => self.sign_on_token(to, key, scheme, message),
        }
    }

    fn sign_on_token(
        self: &Arc<Self>,
        to: To,
        key: Arc<TokenKey>,
        scheme: SignScheme,
        message: &[u8],
    ) {
        let (token, id, server) = (key.token.clone(), key.info.id, self.clone());
        let reply: Reply = Box::new(move |signed| match signed {
            Ok(Done::Signature(signature)) => {
                server.answer(to, &Answer::Signature(&signature), &mut Scratch::default());
            }
            Ok(_) => server.failed(to, &mixed_up()),
            Err(error) => server.sign_failed(to, id, &error),
        });
        let work = Work::Sign { key, scheme, message: message.to_vec() };
        token.submit(Job { work, deadline: to.deadline, reply });
    }

    /// A key whose token or object is gone is opened anew next time: its URI may lead to another
    /// token now.
    fn sign_failed(&self, to: To, id: KeyId, error: &KeyError) {
        if matches!(
            error,
            KeyError::TokenAbsent(_) | KeyError::NotFound(_) | KeyError::KeyChanged(_)
        ) {
            self.store.forget(&id);
        }
        self.failed(to, error);
    }

    fn open_on_token(
        self: &Arc<Self>,
        to: To,
        uri: Pkcs11Uri,
        text: String,
        then: impl FnOnce(&Arc<Self>, To, Result<Arc<TokenKey>, KeyError>) + Send + 'static,
    ) {
        let server = self.clone();
        self.open_later(to, move || {
            let token = match server.store.resolve(&uri) {
                Ok(token) => token,
                Err(error) => return then(&server, to, Err(error)),
            };
            let (on, by) = (token.clone(), uri.clone());
            let reply: Reply = Box::new(move |opened| {
                let key = match opened {
                    Ok(Done::Opened(info)) => Ok(server.store.adopt(&on, by, info)),
                    Ok(_) => Err(mixed_up()),
                    Err(error) => Err(error),
                };
                then(&server, to, key);
            });
            token.submit(Job { work: Work::Open { uri, text }, deadline: to.deadline, reply });
        });
    }

    fn certificates_on_token(self: &Arc<Self>, to: To, uri: Pkcs11Uri) {
        let server = self.clone();
        self.open_later(to, move || {
            let token = match server.store.resolve(&uri) {
                Ok(token) => token,
                Err(error) => return server.failed(to, &error),
            };
            let reply: Reply = Box::new(move |found| {
                let chain = match found {
                    Ok(Done::Certificates(chain)) => Ok(chain),
                    Ok(_) => Err(mixed_up()),
                    Err(error) => Err(error),
                };
                server.certificates(to, chain);
            });
            token.submit(Job { work: Work::Certificates { uri }, deadline: to.deadline, reply });
        });
    }

    fn open_later(&self, to: To, task: impl FnOnce() + Send + 'static) {
        if !self.opening.push(Box::new(task)) {
            self.failed(to, &KeyError::Busy("opening keys".into()));
        }
    }

    fn opened(&self, to: To, info: &KeyInfo) {
        let (key, algorithm) = (info.id, info.algorithm);
        let answer = Answer::Opened { key, algorithm, spki_der: &info.spki_der };
        self.answer(to, &answer, &mut Scratch::default());
    }

    fn certificates(&self, to: To, chain: Result<Vec<Vec<u8>>, KeyError>) {
        match chain {
            Err(error) => self.failed(to, &error),
            Ok(chain) => {
                let answer = Answer::Certificates(chain.iter().map(Vec::as_slice).collect());
                self.answer(to, &answer, &mut Scratch::default());
            }
        }
    }

    fn failed(&self, to: To, error: &KeyError) {
        self.answer(to, &Answer::Failed(error.clone()), &mut Scratch::default());
    }

    fn answer(&self, to: To, answer: &Answer<'_>, scratch: &mut Scratch) {
        let message = Message::Answer { id: to.id, answer: answer.clone() };
        message.encode(&mut scratch.datagram);
        self.channels[to.channel].send(&scratch.datagram);
    }
}

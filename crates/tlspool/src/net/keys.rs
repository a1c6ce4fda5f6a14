//! A worker's way to the private keys, in another process; and the way of PINs to it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lru::LruCache;
use tlspool_engine::{Credential, Shown};
use tlspool_keys::client::{KeyClient, PinEvent};
use tlspool_keys::ipc::PinPrompt;
use tlspool_keys::pin::Pin;
use tlspool_keys::{KeyError, KeyInfo, SignScheme};
use tlspool_wire::{Pinentry, Text};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::client::ClientId;
use super::pin::Waits;
use super::shared::Shared;

/// Opened keys that a worker remembers.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// What counts as no limit for one question to the key process.
const LONG: Duration = Duration::from_hours(24);

/// A worker's way to the private keys.
pub(crate) struct Keys {
    client: KeyClient,
    opened: RefCell<LruCache<Arc<str>, Rc<KeyInfo>>>,
}

impl Keys {
    pub(crate) fn new(channel: OwnedFd) -> std::io::Result<Self> {
        let client = KeyClient::new(channel)?;
        Ok(Self { client, opened: RefCell::new(LruCache::new(REMEMBERED)) })
    }

    /// The key process was started anew.
    pub(crate) fn restarted(&self, channel: OwnedFd) {
        if let Err(error) = self.client.set_channel(channel) {
            tracing::error!("the new key process cannot be reached: {error}");
        }
    }

    /// Forgets opened keys: files may have changed.
    pub(crate) fn forget(&self) {
        self.opened.borrow_mut().clear();
    }

    /// The certificate chain at a URI.
    pub(crate) async fn certificates(
        &self,
        uri: &str,
        deadline: Option<Instant>,
    ) -> Result<Vec<Vec<u8>>, KeyError> {
        self.within(deadline).certificates(uri).await
    }

    /// SubjectPublicKeyInfo of the key at a URI, DER.
    pub(crate) async fn public_key(
        &self,
        uri: &str,
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>, KeyError> {
        Ok(self.within(deadline).open(uri).await?.spki_der)
    }

    /// The signature of `message` by the key of `credential`, for this program if it is there.
    pub(crate) async fn sign(
        &self,
        program: Option<ClientId>,
        credential: &Credential,
        scheme: u16,
        message: &[u8],
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>, KeyError> {
        let scheme = SignScheme::from_number(scheme)
            .ok_or_else(|| KeyError::Unsupported(format!("signature scheme {scheme:#06x}")))?;
        let program = program.map_or(0, ClientId::number);
        let client = self.within(deadline).for_program(program);
        let key = self.open(&client, credential).await?;
        match client.sign(&key, scheme, message).await {
            Err(KeyError::KeyChanged(_)) => {
                // Opened once more it must still fit the certificate, or it is refused here.
                self.opened.borrow_mut().pop(&credential.key_uri);
                let key = self.open(&client, credential).await?;
                client.sign(&key, scheme, message).await
            }
            signed => signed,
        }
    }

    async fn open(
        &self,
        client: &KeyClient,
        credential: &Credential,
    ) -> Result<Rc<KeyInfo>, KeyError> {
        if let Some(key) = self.opened.borrow_mut().get(&credential.key_uri) {
            return Ok(key.clone());
        }
        let key = Rc::new(client.open(&credential.key_uri).await?);
        let fits = match &credential.shown {
            Shown::OpenPgp { key: expected, .. } => *expected == key.spki_der,
            Shown::X509(chain) => {
                let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
                X509Certificate::from_der(leaf).is_ok_and(|(_, certificate)| {
                    certificate.public_key().raw == key.spki_der.as_slice()
                })
            }
        };
        if !fits {
            let text = format!(
                "{} does not belong to the certificate of {}; import the pair again",
                credential.key_uri, credential.name
            );
            return Err(KeyError::Unsupported(text));
        }
        self.opened.borrow_mut().put(credential.key_uri.clone(), key.clone());
        Ok(key)
    }

    fn within(&self, deadline: Option<Instant>) -> KeyClient {
        let left =
            deadline.map_or(LONG, |deadline| deadline.saturating_duration_since(Instant::now()));
        self.client.with_timeout(left)
    }
}

/// When a PIN is wrong, the token wants it again within this time.
const AGAIN: Duration = Duration::from_secs(2);

/// A question of the key process.
struct Open {
    task: AbortHandle,
    waits: Waits,
}

/// Carries questions for PINs to the PIN desk, and answers to the key process. One worker does it.
pub(crate) async fn enter_pins(keys: KeyClient, shared: Arc<Shared>) {
    let mut events = keys.events();
    let mut open: HashMap<u32, Open> = HashMap::new();
    for prompt in keys.prompts() {
        ask(&keys, &shared, &mut open, prompt);
    }
    loop {
        match events.recv().await {
            Ok(PinEvent::PinNeeded(prompt)) => ask(&keys, &shared, &mut open, prompt),
            Ok(PinEvent::PinDone { prompt, accepted }) => {
                close(&shared, &mut open, prompt, accepted);
            }
            Ok(PinEvent::PinIdle { prompt }) => {
                if let Some(Open { waits, .. }) = open.get_mut(&prompt) {
                    waits.set_wanted(false);
                }
            }
            Err(RecvError::Lagged(_)) => {
                let prompts = keys.prompts();
                let numbers: Vec<u32> = open.keys().copied().collect();
                for number in numbers {
                    if prompts.iter().all(|prompt| prompt.prompt != number) {
                        close(&shared, &mut open, number, false);
                    }
                }
                for prompt in prompts {
                    if !open.contains_key(&prompt.prompt) {
                        ask(&keys, &shared, &mut open, prompt);
                    }
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// A question was answered, or nobody waits for its answer any more.
fn close(shared: &Shared, open: &mut HashMap<u32, Open>, number: u32, accepted: bool) {
    shared.waiting_tokens.lock().retain(|(waiting, _)| *waiting != number);
    let Some(Open { task, waits }) = open.remove(&number) else { return };
    task.abort();
    if !accepted && shared.drain.is_requested() {
        // The program that entered a wrong PIN is not let go before the next question is here.
        tokio::task::spawn_local(async move {
            tokio::time::sleep(AGAIN).await;
            drop(waits);
        });
    }
}

fn ask(keys: &KeyClient, shared: &Arc<Shared>, open: &mut HashMap<u32, Open>, prompt: PinPrompt) {
    let number = prompt.prompt;
    let label = prompt.token.label.clone();
    if !shared.pins.is_attended() && shared.unattended.send(label.clone()).is_err() {
        tracing::warn!("a token waits for its PIN; run tlspool -p");
    }
    if let Some(Open { waits, .. }) = open.get_mut(&number) {
        return waits.set_wanted(true); // it is asked already
    }
    shared.waiting_tokens.lock().push((number, label));
    let waits = Waits::new(shared.pins.clone());
    let (keys, shared) = (keys.clone(), shared.clone());
    let task = tokio::task::spawn_local(async move {
        let pin = shared.pins.ask(&question(&prompt)).await;
        let pin = pin.and_then(|pin| Pin::new(&pin));
        if let Err(error) = keys.submit_pin(number, pin.as_ref()).await {
            tracing::warn!("a PIN could not be handed to the key process: {error}");
        }
    });
    open.insert(number, Open { task: task.abort_handle(), waits });
}

fn question(prompt: &PinPrompt) -> Pinentry {
    let token = &prompt.token;
    let warning = match (prompt.attempt > 1, prompt.final_try) {
        (_, true) => "LAST TRY before the token locks itself. ",
        (true, false) => "Wrong PIN. ",
        (false, false) => "",
    };
    Pinentry {
        attempt: prompt.attempt.saturating_sub(1),
        prompt: Text::cut(&format!("{warning}PIN of token {}", token.label)),
        token_manufacturer: Text::cut(&token.manufacturer),
        token_model: Text::cut(&token.model),
        token_serial: Text::cut(&token.serial),
        token_label: Text::cut(&token.label),
        ..Pinentry::default()
    }
}

impl Keys {
    /// Starts the task that carries PINs, on this worker.
    pub(crate) fn serve_pins(&self, shared: &Arc<Shared>) {
        tokio::task::spawn_local(enter_pins(self.client.clone(), shared.clone()));
    }

    /// What the key process says of its tokens.
    pub(crate) async fn tokens(&self) -> Result<Vec<tlspool_keys::TokenStatus>, KeyError> {
        self.client.with_timeout(Duration::from_secs(1)).status().await
    }
}

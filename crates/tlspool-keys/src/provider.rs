//! The key store: every key that this process can reach, in files and on tokens.
//!
//! Synchronous. The command line calls it directly; the key process ([`crate::server`]) uses the
//! same store, but queues what touches a token. Nothing here ever returns a private key.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::files::Files;
use crate::pem::{self, PemKey};
use crate::pin::{PinMemory, PinSource};
use crate::pkcs11::Fault;
use crate::pkcs11::load::Module;
use crate::pkcs11::token::{Surroundings, Token, TokenKey};
use crate::pkcs11::watch::Watch;
use crate::pkcs11::work::{Done, PinWanted, Work};
use crate::uri::{KeyUri, ObjectClass, Pkcs11Uri};
use crate::{KeyAlgorithm, KeyError, KeyId, KeyInfo, SignScheme, TokenName, TokenStatus};

/// One PKCS #11 module to load.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModuleConfig {
    /// The shared object: an absolute path.
    pub path: PathBuf,
    /// The argument string of modules that take one, such as NSS softokn
    /// (`configdir='sql:/etc/pki/nssdb'`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<String>,
}

/// Settings of a key store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyStoreConfig {
    /// The modules whose tokens are searched.
    pub modules: Vec<ModuleConfig>,
    /// A `module-path` in a URI must name a configured module, or one in these directories. Whoever
    /// may name a URI may then load any library in them, so there are none unless you add some.
    pub module_dirs: Vec<PathBuf>,
    /// Folders whose files may be keys, certificates and PIN sources; empty: any file that this
    /// process can read. Nobody but administrators should be able to write in them.
    pub file_dirs: Vec<PathBuf>,
    /// Sessions, and so threads, for each token.
    pub sessions_per_token: usize,
    /// Requests that may wait for each token.
    pub queue_per_token: usize,
    /// How often a person is asked for a token's PIN before the requests that wait fail.
    pub pin_prompts: u32,
    /// Keep PINs that persons gave in the memory file; refused ones are remembered there in any case.
    pub remember_pins: bool,
    /// A call into a module that takes longer ends the key process, which is started again.
    pub module_timeout_ms: u64,
    /// Keys kept open; others are opened again when they are used.
    pub max_open_keys: usize,
}

impl Default for KeyStoreConfig {
    fn default() -> Self {
        Self {
            modules: Vec::new(),
            module_dirs: Vec::new(),
            file_dirs: Vec::new(),
            sessions_per_token: 4,
            queue_per_token: 4096,
            pin_prompts: 3,
            remember_pins: true,
            module_timeout_ms: 10_000,
            max_open_keys: 8192,
        }
    }
}

/// A module, for listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleInfo {
    /// Where it is.
    pub path: PathBuf,
    /// Its attributes as a URI, with `module-path`.
    pub uri: String,
    /// Who made it.
    pub manufacturer: String,
    /// What it is.
    pub description: String,
    /// Its version.
    pub version: String,
    /// Why it could not be loaded.
    pub error: Option<String>,
}

/// A token, for listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenInfo {
    /// A URI that selects it and no other.
    pub uri: String,
    /// Its name.
    pub name: TokenName,
    /// The module it was found through.
    pub module: PathBuf,
    /// The slot it is in now.
    pub slot_id: u64,
    /// False for a blank token.
    pub initialized: bool,
    /// It needs a PIN.
    pub login_required: bool,
    /// The PIN is typed at the token itself.
    pub keypad: bool,
    /// A wrong PIN was tried.
    pub pin_count_low: bool,
    /// One try is left.
    pub pin_final_try: bool,
    /// No try is left.
    pub pin_locked: bool,
}

/// A key or certificate on a token, for listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// A URI that selects it.
    pub uri: Pkcs11Uri,
    /// What it is.
    pub class: ObjectClass,
    /// The kind of key.
    pub algorithm: Option<KeyAlgorithm>,
}

/// Keys in files and on tokens.
pub struct KeyStore {
    config: KeyStoreConfig,
    around: Surroundings,
    modules: Mutex<Vec<Arc<Module>>>,
    tokens: Mutex<Vec<Arc<Token>>>,
    keys: Mutex<Keys>,
}

struct Keys {
    by_id: LruCache<KeyId, Key>,
    files: LruCache<String, KeyId>,
}

/// An open key.
#[derive(Clone)]
pub(crate) enum Key {
    File(Arc<FileKey>),
    Token(Arc<TokenKey>),
}

/// A key from a file, with how it was opened.
pub(crate) struct FileKey {
    pub(crate) info: KeyInfo,
    pub(crate) key: PemKey,
}

impl KeyStore {
    /// A store that asks `pins` for PINs. Modules are loaded when they are first needed.
    pub fn new(config: KeyStoreConfig, pins: Arc<dyn PinSource>) -> Self {
        Self::with_memory(config, pins, None)
    }

    /// As [`new`](Self::new), with the memory file that keeps PINs when the process dies.
    pub fn with_memory(
        config: KeyStoreConfig,
        pins: Arc<dyn PinSource>,
        memory: Option<OwnedFd>,
    ) -> Self {
        let open_keys = NonZeroUsize::new(config.max_open_keys).unwrap_or(NonZeroUsize::MIN);
        Self {
            around: Surroundings {
                pins,
                memory: Arc::new(PinMemory::restore(memory, config.remember_pins)),
                watch: Arc::new(Watch::new(Duration::from_millis(config.module_timeout_ms))),
                sessions: config.sessions_per_token.max(1),
                queue: config.queue_per_token.max(1),
                prompts: config.pin_prompts.max(1),
                files: Files::new(config.file_dirs.clone()),
            },
            config,
            modules: Mutex::default(),
            tokens: Mutex::default(),
            keys: Mutex::new(Keys {
                by_id: LruCache::new(open_keys),
                files: LruCache::new(open_keys),
            }),
        }
    }

    /// Opens a private key: logs in if needed, finds it, and says what it is.
    pub fn open(&self, uri: &KeyUri) -> Result<KeyInfo, KeyError> {
        let text = uri.to_string();
        match uri {
            KeyUri::File(path) => Ok(self.open_file(path, &text)?.info.clone()),
            KeyUri::Pkcs11(uri) => {
                let token = self.resolve(uri)?;
                let work = Work::Open { uri: (**uri).clone(), text };
                let Done::Opened(info) = token.run_here(&work)? else { return Err(mixed_up()) };
                self.adopt(&token, (**uri).clone(), info.clone());
                Ok(info)
            }
        }
    }

    /// Signs `message` (not its hash) with a key that [`open`](Self::open) returned. ECDSA
    /// signatures are in DER, as TLS wants them.
    pub fn sign(
        &self,
        id: &KeyId,
        scheme: SignScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        match self.key(id).ok_or(KeyError::UnknownKey)? {
            Key::File(key) => {
                let mut signature = Vec::new();
                key.key.sign(scheme, message, &mut signature)?;
                Ok(signature)
            }
            Key::Token(key) => {
                let token = key.token.clone();
                let work = Work::Sign { key, scheme, message: message.to_vec() };
                match token.run_here(&work)? {
                    Done::Signature(signature) => Ok(signature),
                    _ => Err(mixed_up()),
                }
            }
        }
    }

    /// As [`sign`](Self::sign), of a hash that the caller has made with the hash of `scheme`: for
    /// formats that hash themselves, such as OpenPGP. With Ed25519 the hash is the message.
    pub fn sign_digest(
        &self,
        id: &KeyId,
        scheme: SignScheme,
        digest: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        match self.key(id).ok_or(KeyError::UnknownKey)? {
            Key::File(key) => key.key.sign_digest(scheme, digest),
            Key::Token(key) => {
                let token = key.token.clone();
                let work = Work::SignDigest { key, scheme, digest: digest.to_vec() };
                match token.run_here(&work)? {
                    Done::Signature(signature) => Ok(signature),
                    _ => Err(mixed_up()),
                }
            }
        }
    }

    /// Reads certificates, leaf first: those of a file, or those that the URI selects on a token,
    /// with the issuers that the token also holds.
    pub fn certificates(&self, uri: &KeyUri) -> Result<Vec<Vec<u8>>, KeyError> {
        match uri {
            KeyUri::File(path) => self.certificates_in(path),
            KeyUri::Pkcs11(uri) => {
                let work = Work::Certificates { uri: (**uri).clone() };
                match self.resolve(uri)?.run_here(&work)? {
                    Done::Certificates(chain) => Ok(chain),
                    _ => Err(mixed_up()),
                }
            }
        }
    }

    /// Makes a key pair on a token, sensitive and not extractable. The URI selects the token and
    /// names the key with `object` (and `id`, else one is made up); the result names it fully.
    pub fn generate(&self, uri: &KeyUri, algorithm: KeyAlgorithm) -> Result<KeyInfo, KeyError> {
        let uri = on_token(uri, "keys are made")?;
        let made = self.resolve(uri)?.generate(uri, algorithm)?;
        self.open(&made.into())
    }

    /// Writes a certificate (DER) to the token, under the `id` and `object` of the URI.
    pub fn import_certificate(&self, uri: &KeyUri, certificate: &[u8]) -> Result<(), KeyError> {
        let uri = on_token(uri, "certificates are imported")?;
        self.resolve(uri)?.import(uri, certificate)
    }

    /// Destroys what the URI selects by `id`, `object` and `type` (without a type: private and
    /// public key and certificate). Returns how many objects that were.
    pub fn destroy(&self, uri: &KeyUri) -> Result<usize, KeyError> {
        let uri = on_token(uri, "objects are destroyed")?;
        let destroyed = self.resolve(uri)?.destroy(uri)?;
        self.keys.lock().by_id.clear();
        Ok(destroyed)
    }

    /// The configured modules.
    pub fn modules(&self) -> Vec<ModuleInfo> {
        let describe = |config: &ModuleConfig| {
            let mut uri =
                Pkcs11Uri { module_path: Some(config.path.clone()), ..Pkcs11Uri::default() };
            let mut info = ModuleInfo {
                path: config.path.clone(),
                uri: String::new(),
                manufacturer: String::new(),
                description: String::new(),
                version: String::new(),
                error: None,
            };
            let about = self.module(config).and_then(|module| {
                let caller = self.around.watch.caller(&module.name);
                let _calling = caller.call();
                let about = module.context().pkcs11.get_library_info();
                about.map_err(|e| Fault::Module(e).into_error(&module.name))
            });
            match about {
                Ok(about) => {
                    about.manufacturer_id().clone_into(&mut info.manufacturer);
                    about.library_description().clone_into(&mut info.description);
                    info.version = about.library_version().to_string();
                    uri.library_manufacturer = Some(info.manufacturer.clone());
                    uri.library_description = Some(info.description.clone());
                }
                Err(error) => info.error = Some(error.to_string()),
            }
            info.uri = uri.to_string();
            info
        };
        self.config.modules.iter().map(describe).collect()
    }

    /// The tokens in all slots of the configured modules. A module that fails is left out here;
    /// [`modules`](Self::modules) says why.
    pub fn tokens(&self) -> Vec<TokenInfo> {
        let mut listed: Vec<TokenInfo> = Vec::new();
        for module in self.config.modules.iter().filter_map(|config| self.module(config).ok()) {
            let caller = self.around.watch.caller(&module.name);
            let _calling = caller.call();
            let found = Module::tokens(&module.context().pkcs11).unwrap_or_default();
            listed.extend(found.into_iter().map(|token| TokenInfo {
                uri: token.name.uri().to_string(),
                module: module.config.path.clone(),
                slot_id: token.slot.id(),
                initialized: token.info.token_initialized(),
                login_required: token.info.login_required(),
                keypad: token.info.protected_authentication_path(),
                pin_count_low: token.info.user_pin_count_low(),
                pin_final_try: token.info.user_pin_final_try(),
                pin_locked: token.info.user_pin_locked(),
                name: token.name,
            }));
        }
        listed
    }

    /// The keys and certificates on the token that the URI selects. Private keys are listed if the
    /// token can be logged in to.
    pub fn objects(&self, uri: &KeyUri) -> Result<Vec<ObjectInfo>, KeyError> {
        let uri = on_token(uri, "objects are listed")?;
        self.resolve(uri)?.objects(uri)
    }

    /// The state of each token that was used so far.
    pub fn status(&self) -> Vec<TokenStatus> {
        self.tokens.lock().iter().map(|token| token.status()).collect()
    }

    /// The source that answered [`Later`](crate::pin::PinReply::Later) has a PIN now.
    pub fn pin_arrived(&self, token: &TokenName) {
        for token in self.named(token) {
            token.pin_arrived();
        }
    }

    /// The source that answered [`Later`](crate::pin::PinReply::Later) will give none.
    pub fn pin_denied(&self, token: &TokenName) {
        for token in self.named(token) {
            token.pin_denied();
        }
    }

    pub(crate) fn key(&self, id: &KeyId) -> Option<Key> {
        self.keys.lock().by_id.get(id).cloned()
    }

    /// Forgets a key, so that it is opened anew by its URI.
    pub(crate) fn forget(&self, id: &KeyId) {
        self.keys.lock().by_id.pop(id);
    }

    /// The certificates of a file.
    pub(crate) fn certificates_in(&self, path: &Path) -> Result<Vec<Vec<u8>>, KeyError> {
        self.around.files.permit(path)?;
        pem::certificates(path)
    }

    pub(crate) fn open_file(&self, path: &Path, text: &str) -> Result<Arc<FileKey>, KeyError> {
        self.around.files.permit(path)?;
        let known = {
            let mut keys = self.keys.lock();
            let id = keys.files.get(text).copied();
            id.and_then(|id| keys.by_id.get(&id).cloned())
        };
        if let Some(Key::File(key)) = known
            && key.key.is_current()
        {
            return Ok(key);
        }
        let key = PemKey::read(path)?;
        let info = KeyInfo {
            id: KeyId::of(text, key.spki_der()),
            uri: text.to_owned(),
            spki_der: key.spki_der().to_vec(),
            algorithm: key.algorithm(),
        };
        let key = Arc::new(FileKey { info, key });
        let mut keys = self.keys.lock();
        keys.files.put(text.to_owned(), key.info.id);
        keys.by_id.put(key.info.id, Key::File(key.clone()));
        Ok(key)
    }

    pub(crate) fn adopt(&self, token: &Arc<Token>, uri: Pkcs11Uri, info: KeyInfo) -> Arc<TokenKey> {
        let id = info.id;
        let key = Arc::new(TokenKey { token: token.clone(), info, uri });
        self.keys.lock().by_id.put(id, Key::Token(key.clone()));
        key
    }

    /// The one token that the URI means.
    pub(crate) fn resolve(&self, uri: &Pkcs11Uri) -> Result<Arc<Token>, KeyError> {
        let mut failures = Vec::new();
        let modules = self.modules_for(uri, &mut failures)?;
        let mut matches = self.search(&modules, uri, &mut failures);
        if matches.is_empty() {
            let refreshed = modules.iter().filter(|module| {
                let caller = self.around.watch.caller(&module.name);
                module.refresh(&caller)
            });
            if refreshed.count() > 0 {
                matches = self.search(&modules, uri, &mut failures);
            }
        }
        if matches.is_empty() {
            let disturbed: Vec<_> =
                modules.iter().filter(|module| self.disturb(module)).cloned().collect();
            if !disturbed.is_empty() {
                matches = self.search(&modules, uri, &mut failures);
            }
            if !matches.is_empty() {
                for module in &disturbed {
                    module.found_by_disturbing();
                }
            }
        }
        match matches.as_slice() {
            [token] => Ok(token.clone()),
            [] => {
                let mut text = uri.to_string();
                if modules.is_empty() && failures.is_empty() {
                    text.push_str(" (no PKCS #11 module is configured for it)");
                }
                failures.dedup();
                for failure in failures {
                    text = format!("{text}; {failure}");
                }
                Err(KeyError::TokenAbsent(text))
            }
            several => {
                let mut text = format!("{uri} matches several tokens:");
                for token in several {
                    text = format!("{text} {};", token.name());
                }
                Err(KeyError::Ambiguous(format!("{text} add serial= or token=")))
            }
        }
    }

    /// Initialises a module in use again, unless somebody would have to go to a token's keypad.
    fn disturb(&self, module: &Arc<Module>) -> bool {
        let tokens = self.tokens.lock().clone();
        let mut its = tokens.iter().filter(|token| Arc::ptr_eq(token.module(), module));
        if its.any(|token| token.logged_in_at_keypad()) {
            return false;
        }
        module.refresh_in_use(&self.around.watch.caller(&module.name))
    }

    /// Fails requests that waited for a PIN too long.
    pub(crate) fn expire(&self, now: Instant) {
        let tokens = self.tokens.lock().clone();
        for token in &tokens {
            token.expire(now);
        }
    }

    /// The module in which a call takes too long.
    pub(crate) fn hung(&self) -> Option<Arc<str>> {
        self.around.watch.hung()
    }

    /// Who wants the PIN of a token of this name.
    pub(crate) fn pin_wanted(&self, name: &TokenName) -> PinWanted {
        let wanted = |of| self.named(name).iter().any(|token| token.pin_wanted() == of);
        [PinWanted::Now, PinWanted::Later]
            .into_iter()
            .find(|of| wanted(*of))
            .unwrap_or(PinWanted::No)
    }

    fn named(&self, name: &TokenName) -> Vec<Arc<Token>> {
        self.tokens.lock().iter().filter(|token| token.name() == name).cloned().collect()
    }

    fn search(
        &self,
        modules: &[Arc<Module>],
        uri: &Pkcs11Uri,
        failures: &mut Vec<String>,
    ) -> Vec<Arc<Token>> {
        let mut matches: Vec<Arc<Token>> = Vec::new();
        for module in modules {
            let caller = self.around.watch.caller(&module.name);
            let _calling = caller.call();
            let context = module.context();
            if !module.matches(uri, &context.pkcs11) {
                continue;
            }
            let found = match Module::tokens(&context.pkcs11) {
                Ok(found) => found,
                Err(fault) => {
                    failures.push(fault.into_error(&module.name).to_string());
                    continue;
                }
            };
            for token in found {
                // The same token may be seen through two modules.
                let seen = matches.iter().any(|other| *other.name() == token.name);
                if token.info.token_initialized() && !seen && token.matches(uri, &context.pkcs11) {
                    let mut tokens = self.tokens.lock();
                    let known = tokens
                        .iter()
                        .find(|t| *t.name() == token.name && Arc::ptr_eq(t.module(), module))
                        .cloned();
                    matches.push(known.unwrap_or_else(|| {
                        let new = Arc::new(Token::new(module.clone(), &token, &self.around));
                        tokens.push(new.clone());
                        new
                    }));
                }
            }
        }
        matches
    }

    /// The modules to search, loaded. Those that cannot be loaded are told in `failures`.
    fn modules_for(
        &self,
        uri: &Pkcs11Uri,
        failures: &mut Vec<String>,
    ) -> Result<Vec<Arc<Module>>, KeyError> {
        let Some(path) = &uri.module_path else {
            let load = |config| self.module(config).map_err(|e| failures.push(e.to_string())).ok();
            return Ok(self.config.modules.iter().filter_map(load).collect());
        };
        let configured = self.config.modules.iter().find(|config| config.path == *path);
        if let Some(config) = configured {
            return Ok(vec![self.module(config)?]);
        }
        let climbs = path.components().any(|c| matches!(c, std::path::Component::ParentDir));
        if climbs || !self.config.module_dirs.iter().any(|dir| path.starts_with(dir)) {
            let text = format!(
                "module-path {} is not a configured module; add it to the configuration as [[keys.module]]",
                path.display()
            );
            return Err(KeyError::Unsupported(text));
        }
        Ok(vec![self.module(&ModuleConfig { path: path.clone(), args: None })?])
    }

    fn module(&self, config: &ModuleConfig) -> Result<Arc<Module>, KeyError> {
        let mut modules = self.modules.lock();
        if let Some(module) = modules.iter().find(|module| module.config == *config) {
            return Ok(module.clone());
        }
        let module = Arc::new(Module::load(config.clone(), &self.around.watch)?);
        tracing::info!(module = %module.name, "PKCS #11 module loaded");
        modules.push(module.clone());
        Ok(module)
    }
}

fn on_token<'a>(uri: &'a KeyUri, what: &str) -> Result<&'a Pkcs11Uri, KeyError> {
    match uri {
        KeyUri::Pkcs11(uri) => Ok(uri),
        KeyUri::File(_) => {
            Err(KeyError::BadUri(format!("{what} on tokens: give a pkcs11: URI, not {uri}")))
        }
    }
}

impl Drop for KeyStore {
    fn drop(&mut self) {
        self.tokens.lock().iter().for_each(|token| token.close());
    }
}

impl std::fmt::Debug for KeyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyStore").field("config", &self.config).finish_non_exhaustive()
    }
}

pub(crate) fn mixed_up() -> KeyError {
    KeyError::Protocol("a token answered another question".into())
}

impl From<PathBuf> for ModuleConfig {
    fn from(path: PathBuf) -> Self {
        Self { path, args: None }
    }
}

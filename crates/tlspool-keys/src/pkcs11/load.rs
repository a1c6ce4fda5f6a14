//! Loading modules: the one place where foreign code enters a process of the pool.
//!
//! Only the key process and the command line come here. A module file that somebody other than
//! root or our own user can write is refused: it would run with every key in reach.

#![allow(unsafe_code)] // C_Initialize's reserved argument, see `initialize`

use std::ffi::{CString, c_void};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::slot::Slot;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use super::Fault;
use super::raw::Raw;
use super::watch::{Caller, Watch};
use crate::uri::Pkcs11Uri;
use crate::{KeyError, ModuleConfig, TokenName};

/// A module is initialised again at most this often when a token is missing.
const REFRESH_AFTER: Duration = Duration::from_secs(1);

/// The same of one that is in use, for the sake of a token that is not there: the first pause, the
/// longest, and how long calls that run are waited for.
const DISTURB_AFTER: Duration = Duration::from_secs(10);
const DISTURB_AT_MOST: Duration = Duration::from_hours(1);
const DISTURB_WAIT: Duration = Duration::from_millis(200);

/// One loaded and initialised module.
pub(crate) struct Module {
    pub(crate) config: ModuleConfig,
    pub(crate) name: Arc<str>,
    context: RwLock<Context>,
    raw: OnceLock<Raw>,
    /// Sessions that are open in it.
    pub(crate) sessions: AtomicUsize,
    refreshed: Mutex<Instant>,
    /// When it may be initialised again though it is in use, and the pause after that.
    disturb: Mutex<(Instant, Duration)>,
}

/// The initialised library. It is locked for reading during calls, for writing to initialise again.
pub(crate) struct Context {
    pub(crate) pkcs11: Pkcs11,
    /// Counts initialisations: sessions of an earlier one are void.
    pub(crate) generation: u64,
}

impl Module {
    pub(crate) fn load(config: ModuleConfig, watch: &Watch) -> Result<Self, KeyError> {
        check_file(&config.path)?;
        let name: Arc<str> = config.path.display().to_string().into();
        let caller = watch.caller(&name);
        let _calling = caller.call();
        let failed = |e: Error| match e {
            Error::LibraryLoading(e) => KeyError::ModuleFailed(format!("{name}: {e}")),
            e => Fault::Module(e).into_error(&name),
        };
        let pkcs11 = Pkcs11::new(&config.path).map_err(failed)?;
        initialize(&pkcs11, config.args.as_deref()).map_err(failed)?;
        Ok(Self {
            context: RwLock::new(Context { pkcs11, generation: 0 }),
            raw: OnceLock::new(),
            sessions: AtomicUsize::new(0),
            refreshed: Mutex::new(Instant::now()),
            disturb: Mutex::new((Instant::now(), DISTURB_AFTER)),
            name,
            config,
        })
    }

    /// Its functions, for what the safe wrapper lacks.
    pub(super) fn raw(&self) -> Result<&Raw, KeyError> {
        if let Some(raw) = self.raw.get() {
            return Ok(raw);
        }
        let raw = Raw::of(&self.config.path)?;
        Ok(self.raw.get_or_init(|| raw))
    }

    /// The library, for calls; must not be taken twice by one thread.
    pub(crate) fn context(&self) -> RwLockReadGuard<'_, Context> {
        self.context.read()
    }

    /// Initialises the module again if that can disturb nobody: some modules see a new or returned
    /// token only then. Returns whether it did.
    pub(crate) fn refresh(&self, caller: &Caller) -> bool {
        let mut refreshed = self.refreshed.lock();
        let in_use = || self.sessions.load(Ordering::Acquire) != 0;
        // Asked before the lock as well: waiting for it would hold up everybody behind us.
        if in_use() || refreshed.elapsed() < REFRESH_AFTER {
            return false;
        }
        let mut context = self.context.write();
        if in_use() {
            return false;
        }
        *refreshed = Instant::now();
        self.initialize_again(&mut context, caller)
    }

    /// The same though sessions are open, for modules that see a new token only then. Those who work
    /// in it wait, then open new sessions and log in again, so this is kept rare: each time that it
    /// brought nothing, the pause before the next doubles.
    pub(crate) fn refresh_in_use(&self, caller: &Caller) -> bool {
        let mut disturb = self.disturb.lock();
        let (next, pause) = *disturb;
        if Instant::now() < next {
            return false;
        }
        *disturb = (Instant::now() + pause, (pause * 2).min(DISTURB_AT_MOST));
        // A call that takes long is not waited for: everybody would wait behind us.
        let Some(mut context) = self.context.try_write_for(DISTURB_WAIT) else { return false };
        tracing::info!(module = %self.name, "initialised again, to look for a new token");
        self.initialize_again(&mut context, caller)
    }

    /// The token was found: looking was right.
    pub(crate) fn found_by_disturbing(&self) {
        self.disturb.lock().1 = DISTURB_AFTER;
    }

    fn initialize_again(&self, context: &mut Context, caller: &Caller) -> bool {
        let _calling = caller.call();
        context.generation += 1;
        if let Err(error) = context.pkcs11.clone().finalize() {
            tracing::debug!(module = %self.name, %error, "C_Finalize");
        }
        match initialize(&context.pkcs11, self.config.args.as_deref()) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(module = %self.name, %error, "cannot initialise the module again");
                false
            }
        }
    }

    /// The tokens in its slots. Asking for the slot list makes modules look for changes.
    pub(crate) fn tokens(pkcs11: &Pkcs11) -> Result<Vec<Found>, Fault> {
        let mut found = Vec::new();
        for slot in pkcs11.get_slots_with_token()? {
            // A token may vanish between the two calls; the others still count.
            let Ok(info) = pkcs11.get_token_info(slot) else { continue };
            let name = TokenName {
                label: info.label().to_owned(),
                manufacturer: info.manufacturer_id().to_owned(),
                model: info.model().to_owned(),
                serial: info.serial_number().to_owned(),
            };
            found.push(Found { slot, name, info });
        }
        Ok(found)
    }

    /// Whether the `library-…` and `module-…` attributes of a URI mean this module.
    pub(crate) fn matches(&self, uri: &Pkcs11Uri, pkcs11: &Pkcs11) -> bool {
        if uri.module_path.as_ref().is_some_and(|path| *path != self.config.path) {
            return false;
        }
        if uri.module_name.as_deref().is_some_and(|name| !has_name(&self.config.path, name)) {
            return false;
        }
        if uri.library_manufacturer.is_none()
            && uri.library_description.is_none()
            && uri.library_version.is_none()
        {
            return true;
        }
        let Ok(info) = pkcs11.get_library_info() else { return false };
        let version = (info.library_version().major(), info.library_version().minor());
        uri.library_manufacturer.as_deref().is_none_or(|m| m == info.manufacturer_id())
            && uri.library_description.as_deref().is_none_or(|d| d == info.library_description())
            && uri.library_version.is_none_or(|v| v == version)
    }
}

/// A token in a slot.
pub(crate) struct Found {
    pub(crate) slot: Slot,
    pub(crate) name: TokenName,
    pub(crate) info: cryptoki::slot::TokenInfo,
}

impl Found {
    pub(crate) fn matches(&self, uri: &Pkcs11Uri, pkcs11: &Pkcs11) -> bool {
        if !self.name.matches(uri) || uri.slot_id.is_some_and(|id| id != self.slot.id()) {
            return false;
        }
        if uri.slot_description.is_none() && uri.slot_manufacturer.is_none() {
            return true;
        }
        let Ok(slot) = pkcs11.get_slot_info(self.slot) else { return false };
        uri.slot_description.as_deref().is_none_or(|d| d == slot.slot_description())
            && uri.slot_manufacturer.as_deref().is_none_or(|m| m == slot.manufacturer_id())
    }
}

fn initialize(pkcs11: &Pkcs11, args: Option<&str>) -> Result<(), Error> {
    let flags = CInitializeFlags::OS_LOCKING_OK;
    let text = args.map(CString::new).transpose().map_err(Error::NulError)?;
    let done = match &text {
        None => pkcs11.initialize(CInitializeArgs::new(flags)),
        Some(text) => {
            let pointer = NonNull::from(text.as_c_str()).cast::<c_void>();
            // SAFETY: `pointer` is a NUL-terminated string that lives until after the call, which
            // is what modules with parameters (NSS softokn and its relatives) read here; they copy
            // it. The administrator asked for it by giving this module arguments.
            pkcs11.initialize(unsafe { CInitializeArgs::new_with_reserved(flags, pointer) })
        }
    };
    match done {
        // Another path to the same library: fine, it is ready.
        Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        done => done,
    }
}

fn has_name(path: &Path, name: &str) -> bool {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("");
    stem == name || stem.strip_prefix("lib") == Some(name)
}

fn check_file(path: &Path) -> Result<(), KeyError> {
    let fail = |text: &str| Err(KeyError::ModuleFailed(format!("{}: {text}", path.display())));
    if !path.is_absolute() {
        return fail("the path of a module must be absolute");
    }
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) => return fail(&error.to_string()),
    };
    if !meta.is_file() {
        return fail("is not a file");
    }
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != us {
        return fail("is refused because it belongs to another user; root or the pool must own it");
    }
    if meta.mode() & 0o022 != 0 {
        return fail("is refused because its group or everybody may write it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_names_are_file_names_without_lib_and_so() {
        let path = Path::new("/usr/lib/softhsm/libsofthsm2.so");
        assert!(has_name(path, "softhsm2"));
        assert!(has_name(path, "libsofthsm2"));
        assert!(!has_name(path, "softhsm"));
    }

    #[test]
    fn refuses_what_is_not_a_safe_module() {
        let text = |path: &str| check_file(Path::new(path)).unwrap_err().to_string();
        assert!(text("x.so").contains("absolute"));
        assert!(text("/nonexistent/x.so").contains("No such file"));
        assert!(text("/").contains("not a file"));
    }
}

//! INT and TERM end the comparison in order: what was started is ended, what was made is removed.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{BenchError, During, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on a signal only makes [`check`] fail.
pub(crate) fn watch() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().during("signals")?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        let get = |kind| signal(kind).during("signals");
        (get(SignalKind::interrupt())?, get(SignalKind::terminate())?)
    };
    let wait = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        INTERRUPTED.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || runtime.block_on(wait))
        .during("signals")?;
    Ok(())
}

/// An error if a signal came.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        return Err(BenchError::Invalid("interrupted".into()));
    }
    Ok(())
}

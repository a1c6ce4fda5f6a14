//! The way to the pool, which may be restarted while connections arrive.

use std::time::Duration;

use tlspool_client::aio::Pool;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::TunnelError;

/// First pause between two attempts to reach the pool.
const SHORTEST: Duration = Duration::from_millis(20);
/// Pauses double up to this one.
const LONGEST: Duration = Duration::from_secs(1);

/// The pool, and the one who tries to reach it while it is away.
#[derive(Debug)]
pub(crate) struct Way {
    pool: Pool,
    /// The next pause. Whoever holds the lock tries; the others wait for him.
    pause: Mutex<Duration>,
    patience: Duration,
}

impl Way {
    /// To `pool`; each connection waits for it at most `patience`.
    pub(crate) fn new(pool: Pool, patience: Duration) -> Self {
        Self { pool, pause: Mutex::new(SHORTEST), patience }
    }

    /// The pool, connected, as soon as it is there.
    pub(crate) async fn pool(&self) -> Result<&Pool, TunnelError> {
        let Err(mut error) = self.pool.connect().await else { return Ok(&self.pool) };
        let attempts = async {
            let mut pause = self.pause.lock().await;
            loop {
                match self.pool.connect().await {
                    Ok(()) => {
                        *pause = SHORTEST;
                        return;
                    }
                    Err(new) => error = new,
                }
                sleep(*pause).await;
                *pause = (*pause * 2).min(LONGEST);
            }
        };
        match timeout_at(Instant::now() + self.patience, attempts).await {
            Ok(()) => Ok(&self.pool),
            Err(_) => Err(TunnelError::PoolGone { waited: self.patience, error }),
        }
    }
}

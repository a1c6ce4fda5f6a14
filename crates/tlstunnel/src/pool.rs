//! The way to the pool, which may be restarted while connections arrive.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tlspool_client::aio::{Plaintext, Pool};
use tlspool_client::{Error, Session, StarttlsRequest};
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

    /// Has the pool run TLS over `cipher`, as soon as it is there. It may go away after it was seen; as long as
    /// nothing was delivered, the next one is waited for.
    pub(crate) async fn starttls(
        &self,
        request: StarttlsRequest,
        cipher: OwnedFd,
        plaintext: impl Into<Plaintext<'_>>,
    ) -> Result<Session, TunnelError> {
        let deadline = Instant::now() + self.patience;
        let (mut cipher, mut plaintext) = (Some(cipher), plaintext.into());
        loop {
            let pool = self.pool_before(deadline).await?;
            match pool.starttls_with(request.clone(), &mut cipher, &mut plaintext).await {
                Err(Error::NoPool { .. }) => {}
                outcome => return Ok(outcome?),
            }
        }
    }

    /// Waits until the pool is there.
    pub(crate) async fn wait(&self) -> Result<(), TunnelError> {
        self.pool_before(Instant::now() + self.patience).await.map(drop)
    }

    async fn pool_before(&self, deadline: Instant) -> Result<&Pool, TunnelError> {
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
        match timeout_at(deadline, attempts).await {
            Ok(()) => Ok(&self.pool),
            Err(_) => Err(TunnelError::PoolGone { waited: self.patience, error }),
        }
    }
}

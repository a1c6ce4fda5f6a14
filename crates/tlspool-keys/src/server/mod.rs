//! The key process: answers [`crate::ipc`] requests of the network workers.
//!
//! Two threads receive from each worker's channel; the kernel wakes one of them for each datagram.
//! A signature with a key from a file is made right there, and so is one on a token that is known
//! to be fast. Everything else on a token goes to the token's own threads, which answer on the
//! channel the request came from; opening keys, which may load modules and search slots, goes
//! through threads of its own. A thread that ticks fails requests whose PIN did not come in time,
//! and ends the process when a module hangs.
//!
//! This process reads nothing from the network.

mod answer;
mod desk;
mod harden;
mod opening;
mod prompts;

use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use zeroize::Zeroize;

use crate::ipc::MAX_MESSAGE;
use crate::pin::PinSource;
use crate::provider::{KeyStore, KeyStoreConfig};

use desk::Desk;
use opening::Opening;
use prompts::Prompts;

/// The exit code that tells the supervisor that a module hung (`EX_TEMPFAIL`).
pub const EXIT_MODULE_HUNG: u8 = 75;
/// The exit code that tells the supervisor that a thread panicked (`EX_SOFTWARE`): what a module says of lengths is taken
/// at its word, and may be a lie.
pub const EXIT_PANICKED: u8 = 70;

/// Threads that receive from one channel.
const RECEIVERS: usize = 2;
/// Threads that open keys.
const OPENERS: usize = 2;
/// A worker that does not read its answers for this long loses them.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the ticker looks while nobody waits for a PIN, and while somebody does.
const TICK: Duration = Duration::from_secs(1);
const TICK_WAITING: Duration = Duration::from_millis(50);

/// What the supervisor hands to the key process.
#[derive(Debug)]
pub struct KeydBoot {
    /// One SEQPACKET socket for each network worker.
    pub channels: Vec<OwnedFd>,
    /// Modules and limits.
    pub config: KeyStoreConfig,
    /// A memory file that keeps PINs when this process dies; at first empty.
    pub pin_memory: OwnedFd,
    /// Writes the log's last lines. Called before this process ends at once, for nothing else does it then;
    /// it must return within moments.
    pub flush_log: fn(),
}

/// The whole of `tlspool-keyd`. Returns only if it cannot start: it exits with 0 when all channels
/// were closed, with [`EXIT_MODULE_HUNG`] when a module hangs, and with [`EXIT_PANICKED`] when a thread panics, in all
/// cases without the exit handlers of modules, whose threads may still run.
pub fn run_key_process(boot: KeydBoot) -> ExitCode {
    harden::harden();
    harden::lock_pin_memory(&boot.pin_memory);
    let flush_log = boot.flush_log;
    end_with_a_panic(flush_log);
    match serve(boot) {
        Ok(()) => {
            flush_log();
            harden::exit_now(0)
        }
        Err(error) => {
            tracing::error!(%error, "the key process cannot start its threads");
            ExitCode::FAILURE
        }
    }
}

/// A thread that is gone would be missed for good, and with it its token's session and the answer it owed. A new process
/// has all of them.
fn end_with_a_panic(flush_log: fn()) {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        tracing::error!("the key process restarts");
        flush_log();
        harden::exit_now(EXIT_PANICKED);
    }));
}

/// As [`run_key_process`], without hardening the process: for tests that serve from a thread.
pub fn serve(boot: KeydBoot) -> std::io::Result<()> {
    let channels: Arc<[Channel]> = boot.channels.into_iter().map(Channel::new).collect();
    let timeout = Duration::from_millis(boot.config.module_timeout_ms);
    let flush_log = boot.flush_log;
    let bell = Arc::new(Bell::default());
    let prompts = Arc::new(Prompts::new(channels.clone(), bell.clone()));
    let pins: Arc<dyn PinSource> = prompts.clone();
    let store = KeyStore::with_memory(boot.config, pins, Some(boot.pin_memory));
    let opening = Opening::default();
    let server = Arc::new(Server { store, prompts, channels, opening, bell });

    let mut receivers = Vec::new();
    for index in 0..server.channels.len() {
        for _ in 0..RECEIVERS {
            receivers.push(spawn("receive", &server, move |server| server.receive(index))?);
        }
    }
    let mut others = vec![spawn("tick", &server, move |server| server.tick(timeout, flush_log))?];
    for _ in 0..OPENERS {
        others.push(spawn("open", &server, |server| server.opening.serve())?);
    }

    // A thread that panicked is no reason to leave the others.
    for thread in receivers {
        drop(thread.join());
    }
    server.opening.close();
    server.bell.close();
    for thread in others {
        drop(thread.join());
    }
    Ok(())
}

fn spawn(
    name: &str,
    server: &Arc<Server>,
    run: impl FnOnce(&Arc<Server>) + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let server = server.clone();
    Builder::new().name(name.to_owned()).spawn(move || run(&server))
}

/// Everything the threads share.
struct Server {
    store: KeyStore,
    prompts: Arc<Prompts>,
    channels: Arc<[Channel]>,
    opening: Opening,
    bell: Arc<Bell>,
}

/// The socket to one network worker.
struct Channel {
    socket: OwnedFd,
    desk: Desk,
}

/// Wakes the ticker.
#[derive(Default)]
struct Bell {
    closed: Mutex<bool>,
    rings: Condvar,
}

impl Server {
    /// A thread that receives requests until the worker closes its end.
    fn receive(self: &Arc<Self>, index: usize) {
        let channel = &self.channels[index];
        let mut buffer = vec![0; MAX_MESSAGE];
        let mut scratch = answer::Scratch::default();
        loop {
            match recv(&channel.socket, &mut buffer[..], RecvFlags::TRUNC) {
                Ok((_, 0)) => return,
                Ok((_, len)) => {
                    let Some(datagram) = buffer.get_mut(..len) else {
                        tracing::warn!(len, "a request on the key channel is too large");
                        continue;
                    };
                    if self.handle(index, datagram, &mut scratch).is_secret() {
                        datagram.zeroize();
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::debug!(%error, "a key channel ended");
                    return;
                }
            }
        }
    }

    /// The thread that watches time pass.
    fn tick(&self, timeout: Duration, flush_log: fn()) {
        let tick = TICK.min(timeout / 4).max(TICK_WAITING);
        let mut closed = self.bell.closed.lock();
        while !*closed {
            let wait = if self.prompts.any() { TICK_WAITING } else { tick };
            let _ = self.bell.rings.wait_for(&mut closed, wait);
            if let Some(module) = self.store.hung() {
                tracing::error!(
                    %module, ?timeout,
                    "a call into the PKCS #11 module does not return: the key process restarts"
                );
                flush_log();
                harden::exit_now(EXIT_MODULE_HUNG);
            }
            self.store.expire(Instant::now());
            self.prompts.review(|token| self.store.pin_wanted(token));
        }
    }
}

impl Channel {
    fn new(socket: OwnedFd) -> Self {
        if let Err(error) = set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT)) {
            tracing::warn!(%error, "a network worker that hangs may hold up the key process");
        }
        Self { socket, desk: Desk::default() }
    }

    fn send(&self, datagram: &[u8]) {
        loop {
            match send(&self.socket, datagram, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(%error, "an answer of the key process was lost");
                    return;
                }
            }
        }
    }
}

impl Bell {
    fn ring(&self) {
        self.rings.notify_one();
    }

    fn close(&self) {
        *self.closed.lock() = true;
        self.ring();
    }
}

//! Measures what a signature costs, in this process and through the key process.
//!
//! ```text
//! cargo run --release --example signing_rate -- URI [MODULE [PIN]]
//! ```
//! One signature at a time shows the latency, 64 at a time the rate. CPU is that of all threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::time::{ClockId, clock_gettime};
use tlspool_keys::client::KeyClient;
use tlspool_keys::pin::{Pin, PinReply, PinRequest, PinSource};
use tlspool_keys::server::{KeydBoot, serve};
use tlspool_keys::{KeyStore, KeyStoreConfig, KeyUri};

const N: u32 = 5000;

struct Given(Option<Pin>);

impl PinSource for Given {
    fn pin(&self, _: &PinRequest) -> PinReply {
        self.0.clone().map_or(PinReply::Refused, PinReply::Pin)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let uri = args.next().ok_or("usage: signing_rate URI [MODULE [PIN]]")?;
    let modules = args.next().map(|path| std::path::PathBuf::from(path).into());
    let config = KeyStoreConfig { modules: modules.into_iter().collect(), ..Default::default() };
    let pin = args.next().and_then(|pin| Pin::new(&pin));

    let store = KeyStore::new(config.clone(), Arc::new(Given(pin.clone())));
    let key = store.open(&KeyUri::parse(&uri)?)?;
    let scheme = key.algorithm.schemes()[0];
    let message = [0x20; 146]; // as long as what a CertificateVerify with SHA-384 covers
    measure("here", N, || store.sign(&key.id, scheme, &message).map(drop).map_err(Into::into))?;
    drop(store);

    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let pin_memory = memfd_create("pins", MemfdFlags::CLOEXEC)?;
    let boot = KeydBoot { channels: vec![theirs], config, pin_memory, flush_log: || () };
    let server = std::thread::spawn(move || serve(boot));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(async { KeyClient::new(ours) })?;
    let key = runtime.block_on(async {
        let mut events = client.events();
        tokio::select! {
            opened = client.open(&uri) => return opened,
            _ = events.recv() => {}
        }
        for prompt in client.prompts() {
            client.submit_pin(prompt.prompt, pin.as_ref()).await?;
        }
        client.open(&uri).await
    })?;
    measure("through the key process, 1 at a time", N, || {
        runtime.block_on(client.sign(&key, scheme, &message)).map(drop).map_err(Into::into)
    })?;
    let key = Arc::new(key);
    measure("through the key process, 64 at a time", N / 64, || {
        runtime.block_on(async {
            let tasks: Vec<_> = (0..64)
                .map(|_| {
                    let (client, key) = (client.clone(), key.clone());
                    tokio::spawn(async move { client.sign(&key, scheme, &message).await })
                })
                .collect();
            for task in tasks {
                task.await??;
            }
            Ok(())
        })
    })?;
    drop(client);
    drop(runtime);
    server.join().map_err(|_| "the server panicked")??;
    Ok(())
}

fn measure(
    what: &str,
    times: u32,
    mut act: impl FnMut() -> Result<(), Box<dyn std::error::Error>>,
) -> Result<(), Box<dyn std::error::Error>> {
    for _ in 0..times / 10 {
        act()?;
    }
    let (start, cpu) = (Instant::now(), cpu_time());
    for _ in 0..times {
        act()?;
    }
    let signatures = if times == N { times } else { times * 64 };
    let (wall, cpu) = (start.elapsed() / signatures, cpu_time().saturating_sub(cpu) / signatures);
    println!("{what}: {wall:?} each, CPU {cpu:?} each");
    Ok(())
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

//! What a token does by itself: threads that sign straight on its module, without the pool.
//!
//! The module takes its settings from the environment, so a process of its own does it: this
//! program, run again with `--token-rate`.

use std::path::Path;
use std::process::Command;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;

use crate::error::{BenchError, During, Result};
use crate::procs::run;

/// Signatures at a time.
const THREADS: usize = 4;

/// Signatures per second of the token behind `module`, in a child process with `env`.
pub(crate) fn own_rate(
    module: &Path,
    pin: &str,
    env: &[(&'static str, String)],
    time: Duration,
) -> Result<f64> {
    let program = std::env::current_exe().during("finding this program")?;
    let mut command = Command::new(program);
    command.arg("--token-rate").arg(module).args(["--token-pin", pin]);
    command.args(["--window-ms", &time.as_millis().to_string()]);
    command.envs(env.iter().map(|(name, value)| (name, value)));
    let answer = run(&mut command)?;
    let rate = answer.trim().parse();
    rate.map_err(|_| BenchError::Invalid(format!("the token's own rate: {answer:?}")))
}

/// The child's part.
pub(crate) fn measure(module: &Path, pin: &str, time: Duration) -> Result<f64> {
    let failed = |error: Error| BenchError::Invalid(format!("{}: {error}", module.display()));
    sign(module, pin, time).map_err(failed)
}

fn sign(module: &Path, pin: &str, time: Duration) -> std::result::Result<f64, Error> {
    let pkcs11 = Pkcs11::new(module)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let slots = pkcs11.get_slots_with_initialized_token()?;
    let slot = *slots.first().ok_or(Error::InvalidValue)?;
    let login = pkcs11.open_ro_session(slot)?;
    login.login(UserType::User, Some(&AuthPin::from(pin)))?;
    let start = Barrier::new(THREADS);
    let counts: Vec<std::result::Result<f64, Error>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    let session = pkcs11.open_ro_session(slot)?;
                    let keys =
                        session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)])?;
                    let key = *keys.first().ok_or(Error::InvalidValue)?;
                    start.wait();
                    let (begun, mut signatures) = (Instant::now(), 0_u32);
                    while begun.elapsed() < time {
                        session.sign(&Mechanism::Ecdsa, key, &[7; 32])?;
                        signatures += 1;
                    }
                    Ok(f64::from(signatures) / begun.elapsed().as_secs_f64())
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or(Err(Error::InvalidValue)))
            .collect()
    });
    counts.into_iter().sum()
}

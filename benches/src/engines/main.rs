//! The engine `tls12` beside OpenSSL's libssl and rustls, TLS 1.2 and DTLS 1.2, in memory and in one run.
//!
//! Developer's tool: `make bench` runs it. Client and server of one library share a thread, so that both sides'
//! work counts, and the thread's processor time is measured, so that a busy machine disturbs little. All use the
//! same suite, group and key, check the server's signature but no chain, and resume nothing.
#![forbid(unsafe_code)]
#![allow(clippy::cast_precision_loss)] // counts of a few seconds are far below 2^52

#[path = "../../../crates/tls12/tests/interop/anybody.rs"]
mod anybody;
mod libssl;
mod own;
mod rustls_pair;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::time::{ClockId, clock_gettime};

/// What carries the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carrier {
    Stream,
    Datagrams,
}

/// The server's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    P256,
    Rsa2048,
}

/// A self-signed certificate and its key, in DER (PKCS #8).
struct Material {
    certificate: Vec<u8>,
    key: Vec<u8>,
    spki: Vec<u8>,
}

impl Material {
    fn new(key: Key) -> Self {
        use rcgen::PublicKeyData;
        let algorithm = match key {
            Key::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Key::Rsa2048 => &rcgen::PKCS_RSA_SHA256,
        };
        let pair = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let params = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("a name");
        let certificate = params.self_signed(&pair).expect("a certificate");
        Self {
            certificate: certificate.der().to_vec(),
            key: pair.serialize_der(),
            spki: pair.subject_public_key_info(),
        }
    }
}

/// A library, set up for one carrier and one key.
trait Library {
    /// A full handshake.
    fn handshake(&self) -> Box<dyn Session>;
}

/// A client and a server that are connected.
trait Session {
    /// The client sends the message and the server receives it, whole.
    fn carry(&mut self, message: &[u8]);
}

/// Bytes of a message in the bulk tests: a full record, and what fits into a datagram on most paths.
const fn message_size(carrier: Carrier) -> usize {
    match carrier {
        Carrier::Stream => 1 << 14,
        Carrier::Datagrams => 1200,
    }
}

#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// Milliseconds of processor time per figure and round
    #[arg(long, default_value_t = 500)]
    window_ms: u64,
    /// Rounds, of which the median counts
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

/// What addresses are compared by when a processor looks whether a load depends on a store.
const PAGE: usize = 4096;
/// From the place of one round's message to that of the next.
const STRIDE: usize = 592;

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// How often `work` can be done in a second.
fn rate(window: Duration, mut work: impl FnMut()) -> f64 {
    let begin = processor_time();
    let mut times = 0_u32;
    loop {
        work();
        times += 1;
        let spent = processor_time().saturating_sub(begin);
        if spent >= window {
            return f64::from(times) / spent.as_secs_f64();
        }
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn libraries(carrier: Carrier, material: &Material, key: Key) -> Vec<Box<dyn Library>> {
    let mut libraries: Vec<Box<dyn Library>> = vec![
        Box::new(own::Own::new(carrier, material, key)),
        Box::new(libssl::Libssl::new(carrier, material, key)),
    ];
    if carrier == Carrier::Stream {
        libraries.push(Box::new(rustls_pair::Rustls::new(material)));
    }
    libraries
}

/// One line of the table: the median for each library, all measured in turns.
fn line(
    what: &str,
    options: &Options,
    libraries: &[Box<dyn Library>],
    measure: impl Fn(&dyn Library, Duration, usize) -> f64,
) {
    let window = Duration::from_millis(options.window_ms);
    let mut figures = vec![Vec::new(); libraries.len()];
    for round in 0..options.rounds.max(1) {
        for (library, figures) in libraries.iter().zip(&mut figures) {
            figures.push(measure(library.as_ref(), window, round));
        }
    }
    let medians: Vec<f64> = figures.into_iter().map(median).collect();
    print!("| {what} |");
    for at in 0..3 {
        match medians.get(at) {
            Some(figure) => print!(" {figure:.0} |"),
            None => print!(" – |"),
        }
    }
    for at in 1..3 {
        match medians.get(at) {
            Some(other) => print!(" {:.2} |", medians[0] / other),
            None => print!(" – |"),
        }
    }
    println!();
}

fn main() -> ExitCode {
    let options = Options::parse();
    println!("# The engine alone\n");
    println!(
        "Made by `make bench` (`engine-bench`); do not edit. `tls12` beside {} and",
        libssl::version()
    );
    println!(
        "rustls, in memory and in one run: a thread does both sides, and its processor time counts. One side's"
    );
    println!(
        "rate is about twice that of the table. Full handshakes with X25519, of which the server's signature is"
    );
    println!(
        "checked and no chain; messages sealed and opened. Median of {} rounds of {} ms,\neach with its message elsewhere in memory.\n",
        options.rounds.max(1),
        options.window_ms
    );
    println!("| | tls12 | libssl | rustls | to libssl | to rustls |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (carrier, protocol) in [(Carrier::Stream, "TLS 1.2"), (Carrier::Datagrams, "DTLS 1.2")] {
        for (key, name) in [(Key::P256, "P-256"), (Key::Rsa2048, "RSA 2048")] {
            let material = Material::new(key);
            let libraries = libraries(carrier, &material, key);
            let what = format!("{protocol}, full handshakes/s, {name}");
            line(&what, &options, &libraries, |library, window, _| {
                rate(window, || drop(library.handshake()))
            });
        }
        let material = Material::new(Key::P256);
        let libraries = libraries(carrier, &material, Key::P256);
        let size = message_size(carrier);
        let messages = vec![0x5a; PAGE + size];
        let what = format!("{protocol}, MB/s in messages of {size} bytes, AES-128-GCM");
        line(&what, &options, &libraries, |library, window, round| {
            // Copies are slow between some places within a page; which they are, differs from run to run.
            let from = round * STRIDE % PAGE;
            let message = &messages[from..from + size];
            let mut session = library.handshake();
            rate(window, || session.carry(message)) * size as f64 / 1e6
        });
    }
    ExitCode::SUCCESS
}

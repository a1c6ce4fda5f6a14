//! A core dump of the network process, taken while it works, holds no private key and no PIN.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::KeyPair;
use tlspool_tests::authority::algorithm;
use tlspool_tests::{House, is_root, run};

use crate::alone;
use crate::keys::{NO_RESUMPTION, Person, identity_on_token};
use crate::load::Load;
use crate::raw::{Raw, client, server};
use crate::streams::Stream;

const PIN: &str = "correct-horse-4711-staple";

/// What is looked for: a name, and the bytes.
type Needles = Vec<(String, Vec<u8>)>;

/// The names of the needles in `hay`, sorted.
fn found(hay: &[u8], needles: &Needles) -> Vec<String> {
    let mut starts = vec![false; 1 << 16];
    let mut by_start: HashMap<usize, Vec<&(String, Vec<u8>)>> = HashMap::new();
    for needle in needles {
        let start = usize::from(u16::from_be_bytes([needle.1[0], needle.1[1]]));
        starts[start] = true;
        by_start.entry(start).or_default().push(needle);
    }
    let mut names = Vec::new();
    let mut start = 0_u16;
    for (at, byte) in hay.iter().enumerate() {
        start = start << 8 | u16::from(*byte);
        if starts[usize::from(start)] && at > 0 {
            for (name, bytes) in &by_start[&usize::from(start)] {
                if hay[at - 1..].starts_with(bytes) {
                    names.push(name.clone());
                }
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

/// The tag, the content, and what follows, of a DER value.
fn der(bytes: &[u8]) -> (u8, &[u8], &[u8]) {
    let (tag, first, rest) = (bytes[0], usize::from(bytes[1]), &bytes[2..]);
    let (length, rest) = if first < 128 {
        (first, rest)
    } else {
        let (length, rest) = rest.split_at(first - 128);
        (length.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at(length);
    (tag, content, rest)
}

/// The secret numbers of a PKCS #8 key: an elliptic scalar, or exponents and primes of RSA.
fn secret_numbers(pkcs8: &[u8]) -> Vec<Vec<u8>> {
    let (_, content, _) = der(pkcs8);
    let (_, _version, rest) = der(content);
    let (_, _algorithm, rest) = der(rest);
    let (_, private, _) = der(rest);
    let (_, private, _) = der(private);
    let mut fields = Vec::new();
    let mut rest = private;
    while !rest.is_empty() {
        let (tag, content, after) = der(rest);
        fields.push((tag, content.to_vec()));
        rest = after;
    }
    if fields[1].0 == 4 {
        return vec![fields[1].1.clone()]; // ECPrivateKey: version, OCTET STRING
    }
    // RSAPrivateKey: version, n, e, d, p, q, dp, dq, qinv
    let strip = |number: &[u8]| number.strip_prefix(&[0]).unwrap_or(number).to_vec();
    fields[3..9].iter().map(|(_, number)| strip(number)).collect()
}

/// Everything by which the key in a PEM file could be recognised.
fn of_key(name: &str, file: &Path) -> Needles {
    let pem = std::fs::read_to_string(file).unwrap();
    let pkcs8 = KeyPair::from_pem(&pem).unwrap().serialize_der();
    let mut needles = Vec::new();
    for (n, number) in secret_numbers(&pkcs8).into_iter().enumerate() {
        // As written, and as a number in memory; half of it is enough.
        let mut memory = number.clone();
        memory.reverse();
        for (order, bytes) in [("written", number), ("in memory", memory)] {
            let half = bytes.len().min(32);
            needles.push((format!("{name}: number {n} {order}"), bytes[..half].to_vec()));
        }
    }
    let lines = pem.lines().filter(|line| line.len() == 64);
    let pem = lines.enumerate().map(|(n, line)| (format!("{name}: PEM {n}"), line.into()));
    needles.extend(pem);
    needles
}

/// The memory of a process, by gdb.
fn core_of(house: &House, pid: u64) -> Vec<u8> {
    let prefix = house.text("core");
    let said = run(Command::new("gcore").args(["-o", &prefix, &pid.to_string()]));
    let file = PathBuf::from(format!("{prefix}.{pid}"));
    assert!(file.exists(), "gcore (of gdb): {}{}", said.out, said.err);
    let core = std::fs::read(&file).unwrap();
    std::fs::remove_file(file).unwrap();
    assert!(core.len() > 1 << 20, "{} bytes are no core", core.len());
    core
}

#[test]
fn a_core_of_the_network_process_holds_no_secret() {
    let _alone = alone();
    let house = House::with(&format!("{NO_RESUMPTION}[debug]\ncore_dumps = true"));
    let p256 = house.identity("p256.example.com");
    let rsa = house.authority().leaf_with("rsa.example.com", &algorithm::RSA2048, |_| {});
    house.add("rsa.example.com", &rsa);
    let token = identity_on_token(&house, "token.example.com", PIN, "");
    let daemon = house.start();
    let person = Person::who_knows(&house, PIN);

    let names = ["p256.example.com", "rsa.example.com", "token.example.com"];
    let raw = Raw::connect(&house.socket()).unwrap();
    let mut pairs = Vec::new();
    for name in names {
        pairs.extend(raw.pairs(5, &client(name), &server(name)).unwrap());
    }
    assert_eq!(person.asked.now(), 1);
    let load = Load::on(pairs);
    let streams = names.map(|name| Stream::of_raw(house.socket(), client(name), server(name)));
    for stream in &streams {
        stream.await_more(3);
    }
    load.await_rounds(1);
    let status = house.status();
    let pid = |which: &str| status["daemon"][which].as_u64().unwrap();
    let network = core_of(&house, pid("network_pid"));
    let keyd = is_root().then(|| core_of(&house, pid("key_process_pid")));

    let mut secrets: Needles = vec![("PIN".into(), PIN.into())];
    let keys = [("p256", &p256), ("rsa", &rsa), ("token", &token)];
    secrets.extend(keys.iter().flat_map(|(name, leaf)| of_key(name, &leaf.key)));
    assert_eq!(found(&network, &secrets), Vec::<String>::new(), "secrets in the core");

    // The search finds what is there: certificates here, and the keys where they belong.
    let certificates: Needles = keys
        .iter()
        .map(|(name, leaf)| {
            let key = KeyPair::from_pem(&std::fs::read_to_string(&leaf.key).unwrap()).unwrap();
            let public = rcgen::PublicKeyData::subject_public_key_info(&key);
            ((*name).to_owned(), public)
        })
        .collect();
    assert_eq!(found(&network, &certificates), ["p256", "rsa", "token"], "the search is blind");
    match keyd {
        Some(keyd) => {
            let there = found(&keyd, &secrets);
            eprintln!("in the key process: {there:?}");
            for key in ["p256", "rsa"] {
                assert!(
                    there.iter().any(|name| name.starts_with(key)),
                    "blind for {key}: {there:?}"
                );
            }
        }
        None => eprintln!("SKIPPED: only root can look into the key process"),
    }

    // Being looked at has cut nothing.
    load.await_rounds(1);
    for stream in streams {
        stream.await_more(1);
        stream.stop_good();
    }
    drop((load.stop(), raw));
    person.leave();
    daemon.stop();
}

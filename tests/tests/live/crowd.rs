//! Users whom a pool meets all at once, and their directory, which takes its time.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::mpsc;

use rcgen::{CertificateParams, KeyPair, SanType};
use tlspool_client::{Starttls, StarttlsFlags as Flags, Text};
use tlspool_tests::zones::{Signing, ZoneSet, Zones, dns, tlsa};
use tlspool_tests::{House, Leaf};

use crate::fake::{Act, DONE, Fake, done, entry};
use crate::raw::{client, server};

/// A connection of a program has fewer than 1024 requests in flight.
pub(crate) const PROGRAMS: usize = 4;

/// The pool that they meet, which is their own too. `other.example.org` is believed without a directory.
pub(crate) struct Crowd {
    pub(crate) house: House,
    pub(crate) directory: Fake,
    users: usize,
    _zones: Zones,
}

impl Crowd {
    /// So many users. `answer` makes of the entry that was searched for what the directory does; `more` are lines of the
    /// pool's configuration, after `[dns]`.
    pub(crate) fn new(
        users: usize,
        more: &str,
        answer: impl Fn(Vec<u8>) -> Act + Send + Sync + 'static,
    ) -> Self {
        let house = House::new();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)
            .expect("our own limit");
        house.identity("server.example.org");
        house.identity("other.example.org");
        let key = KeyPair::generate().expect("a key");
        let key_file = house.write("users.key", &key.serialize_pem());
        let (mut known, mut rows) = (HashMap::new(), String::new());
        for number in 0..users {
            let name = format!("user{number}@example.com");
            let (pem, der) = certificate(&name, &key);
            known.insert(number.to_string(), der);
            let row = serde_json::json!({
                "name": name, "role": "client", "kind": "x509", "certificate": pem,
                "key": format!("file:{}", key_file.display()),
            });
            let _ = writeln!(rows, "{row}");
        }
        let rows = house.write("users", &rows);
        house.good(&["identity", "import", rows.to_str().expect("temporary paths are text")]);
        house.good(&["policy", "add", ".example.org", "pkix"]);
        house.good(&["policy", "add", "@example.com", "identity", "and", "ldap"]);
        let leaf = house.authority().leaf("ldap.example.com");
        let directory = directory(&leaf, known, answer);
        let port = directory.port;
        let srv = format!("_ldap._tcp SRV 0 0 {port} ldap");
        let record = format!("_{port}._tcp.ldap TLSA {}", tlsa(&leaf));
        let records = ["ldap A 127.0.0.1", &srv, &record];
        let zones = ZoneSet::new().zone("example.com", Signing::Nsec, &records).serve();
        house.configure(&(dns(&zones) + more));
        Self { house, directory, users, _zones: zones }
    }

    /// What the programs of all users ask at once, and the server.
    pub(crate) fn requests(&self) -> Vec<(Starttls, Starttls)> {
        let requests = (0..self.users).map(|number| {
            let localid = Text::cut(&format!("user{number}@example.com"));
            let asks = server("server.example.org");
            // Who comes must say who it is.
            let asks = Starttls { flags: asks.flags.without(Flags::IGNORE_REMOTEID), ..asks };
            (Starttls { localid, ..client("server.example.org") }, asks)
        });
        requests.collect()
    }
}

/// In life a crowd's programs and their directory are on other machines. Here, where they are threads beside the pool,
/// they must not take the processor from it and from whoever else is there: this thread stands back.
pub(crate) fn stand_back() {
    const NICE: i32 = 10;
    // On Linux it is the thread's own.
    rustix::process::setpriority_process(None, NICE).expect("one may always stand back");
}

/// A user's certificate, of the key that all of them have: making a thousand would take longer than the rest.
fn certificate(name: &str, key: &KeyPair) -> (String, Vec<u8>) {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::Rfc822Name(name.try_into().expect("ASCII"))];
    let certificate = params.self_signed(key).expect("a certificate");
    (certificate.pem(), certificate.der().to_vec())
}

fn directory(
    leaf: &Leaf,
    users: HashMap<String, Vec<u8>>,
    answer: impl Fn(Vec<u8>) -> Act + Send + Sync + 'static,
) -> Fake {
    let (started, fake) = mpsc::channel();
    let leaf = leaf.clone();
    std::thread::spawn(move || {
        stand_back();
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime").block_on(async {
            let fake = Fake::searching(&leaf, move |asked| {
                let text = String::from_utf8_lossy(&asked.bytes);
                let user: String = text
                    .split_once("user")
                    .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect())
                    .unwrap_or_default();
                let Some(der) = users.get(&user) else {
                    return vec![Act::Send(done(asked.id, DONE, 0))];
                };
                let name = format!("uid=user{user},dc=example,dc=com");
                let found =
                    entry(asked.id, name.as_bytes(), b"userCertificate;binary", &[der.as_slice()]);
                vec![answer([found, done(asked.id, DONE, 0)].concat())]
            });
            started.send(fake.await).expect("somebody waits");
            std::future::pending::<()>().await;
        });
    });
    fake.recv().expect("it starts")
}

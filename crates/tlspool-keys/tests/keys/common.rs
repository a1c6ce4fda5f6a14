//! A folder, tokens and modules for one test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use tlspool_keys::pin::{Pin, PinReply, PinRequest, PinSource};
use tlspool_keys::{KeyError, KeyInfo, KeyStore, KeyStoreConfig, KeyUri, ModuleConfig, SignScheme};

pub const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub const PIN: &str = "1234";
const HOME: &str = "TLSPOOL_TEST_HOME";

/// The folder of one test.
pub struct Home(PathBuf);

/// Runs `body` in a process of its own, with a fresh folder and the environment that makes
/// SoftHSM2 and the test module live in it.
pub fn run_isolated(test: &str, body: impl FnOnce(&Home)) {
    if let Some(home) = std::env::var_os(HOME) {
        return body(&Home(home.into()));
    }
    let folder = tempfile::tempdir().unwrap();
    let home = Home(folder.path().to_owned());
    std::fs::create_dir(home.file("tokens")).unwrap();
    let config = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
        home.file("tokens").display()
    );
    std::fs::write(home.file("softhsm2.conf"), config).unwrap();
    let name = test.split_once("::").unwrap().1; // without the crate
    let status = home
        .command(&std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .status()
        .unwrap();
    assert!(status.success(), "{name}: {status}");
}

/// Defines a test that runs in a process of its own.
macro_rules! isolated {
    (fn $name:ident($home:ident) $body:block) => {
        #[test]
        fn $name() {
            let test = concat!(module_path!(), "::", stringify!($name));
            crate::common::run_isolated(test, |$home| $body);
        }
    };
}
pub(crate) use isolated;

impl Home {
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A command in the environment of this test.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env(HOME, &self.0)
            .env("SOFTHSM2_CONF", self.file("softhsm2.conf"))
            .env("P11MOCK_MODULE", SOFTHSM)
            .env("P11MOCK_CONTROL", self.file("control"))
            .env("P11MOCK_COUNT", self.file("count"))
            .env("P11MOCK_LOGINS", self.file("logins"))
            .env("P11MOCK_CARD", self.file("card"));
        command
    }

    pub fn run(&self, program: &str, args: &[&str]) {
        let mut command = self.command(Path::new(program));
        let output = command.args(args).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|e| panic!("{program}: {e}"));
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
    }

    /// Makes a SoftHSM2 token with the usual PIN.
    pub fn token(&self, label: &str) {
        let args = ["--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "5678"];
        self.run("softhsm2-util", &args);
    }

    /// How often the test module signed or logged in.
    pub fn count(&self, what: &str) -> usize {
        std::fs::read(self.file(what)).map_or(0, |bytes| bytes.len())
    }

    /// Puts a card in front of the token: its PIN, tries that are left and at most, and what is typed at its
    /// keypad, if it has one.
    pub fn card(&self, pin: &str, left: u32, most: u32, keypad: &str) {
        self.write("card", &format!("{pin} {left} {most} {PIN} {keypad}\n"));
    }

    /// How often the card may be tried yet.
    pub fn tries_left(&self) -> u32 {
        let text = std::fs::read_to_string(self.file("card")).unwrap();
        text.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Tells the test module what to do.
    pub fn control(&self, words: &str) {
        let new = self.write("control.new", words);
        std::fs::rename(new, self.file("control")).unwrap();
    }
}

/// The test module in front of SoftHSM2.
pub fn mock() -> PathBuf {
    assert!(!p11mock::linked().is_null());
    let exe = std::env::current_exe().unwrap();
    let found = exe.ancestors().map(|dir| dir.join("libp11mock.so")).find(|path| path.exists());
    found.expect("libp11mock.so beside the test")
}

pub fn config(module: impl Into<PathBuf>) -> KeyStoreConfig {
    let modules = vec![ModuleConfig { path: module.into(), args: None }];
    KeyStoreConfig { modules, ..KeyStoreConfig::default() }
}

/// A store with one module, whose PINs come from a script.
pub fn store(module: impl Into<PathBuf>, pins: &Arc<Script>) -> KeyStore {
    KeyStore::new(config(module), pins.clone())
}

pub fn uri(text: &str) -> KeyUri {
    KeyUri::parse(text).unwrap()
}

/// Gives PINs one after the other, then refuses, and remembers what it was asked.
#[derive(Default)]
pub struct Script {
    pins: parking_lot::Mutex<Vec<&'static str>>,
    pub asked: parking_lot::Mutex<Vec<PinRequest>>,
}

impl Script {
    pub fn new(pins: &[&'static str]) -> Arc<Self> {
        let pins = pins.iter().rev().copied().collect();
        Arc::new(Self { pins: parking_lot::Mutex::new(pins), ..Self::default() })
    }
}

impl PinSource for Script {
    fn pin(&self, request: &PinRequest) -> PinReply {
        self.asked.lock().push(request.clone());
        let pin = self.pins.lock().pop();
        pin.map_or(PinReply::Refused, |pin| PinReply::Pin(Pin::new(pin).unwrap()))
    }
}

/// Whether the signature is the key's.
pub fn verifies(key: &KeyInfo, scheme: SignScheme, message: &[u8], signature: &[u8]) -> bool {
    let algorithm: &'static dyn VerificationAlgorithm = match scheme {
        SignScheme::RsaPkcs1Sha256 => &RSA_PKCS1_2048_8192_SHA256,
        SignScheme::RsaPkcs1Sha384 => &RSA_PKCS1_2048_8192_SHA384,
        SignScheme::RsaPkcs1Sha512 => &RSA_PKCS1_2048_8192_SHA512,
        SignScheme::RsaPssSha256 => &RSA_PSS_2048_8192_SHA256,
        SignScheme::RsaPssSha384 => &RSA_PSS_2048_8192_SHA384,
        SignScheme::RsaPssSha512 => &RSA_PSS_2048_8192_SHA512,
        SignScheme::EcdsaP256Sha256 => &ECDSA_P256_SHA256_ASN1,
        SignScheme::EcdsaP384Sha384 => &ECDSA_P384_SHA384_ASN1,
        SignScheme::Ed25519 => &ED25519,
    };
    UnparsedPublicKey::new(algorithm, &key.spki_der).verify(message, signature).is_ok()
}

/// Signs with every scheme of the key and checks each signature.
pub fn check_all_schemes(store: &KeyStore, key: &KeyInfo) {
    for &scheme in key.algorithm.schemes() {
        let message = b"what a CertificateVerify covers";
        let signature = store.sign(&key.id, scheme, message).unwrap();
        assert!(verifies(key, scheme, message, &signature), "{scheme:?} with {}", key.uri);
        assert!(!verifies(key, scheme, b"other", &signature), "{scheme:?} with {}", key.uri);
        // A hash that was made elsewhere makes the same kind of signature.
        let Some(hash) = hash(scheme) else { continue };
        let digest = digest::digest(hash, message);
        let signature = store.sign_digest(&key.id, scheme, digest.as_ref()).unwrap();
        assert!(verifies(key, scheme, message, &signature), "{scheme:?} with {}", key.uri);
        let short = &digest.as_ref()[1..];
        let error = store.sign_digest(&key.id, scheme, short);
        assert!(matches!(error, Err(KeyError::Unsupported(_))), "{error:?}");
    }
}

/// The hash of a scheme; none if it signs the message itself.
fn hash(scheme: SignScheme) -> Option<&'static digest::Algorithm> {
    use SignScheme::{
        EcdsaP256Sha256, EcdsaP384Sha384, Ed25519, RsaPkcs1Sha256, RsaPkcs1Sha384, RsaPkcs1Sha512,
        RsaPssSha256, RsaPssSha384, RsaPssSha512,
    };
    match scheme {
        RsaPkcs1Sha256 | EcdsaP256Sha256 | RsaPssSha256 => Some(&digest::SHA256),
        RsaPkcs1Sha384 | EcdsaP384Sha384 | RsaPssSha384 => Some(&digest::SHA384),
        RsaPkcs1Sha512 | RsaPssSha512 => Some(&digest::SHA512),
        Ed25519 => None,
    }
}

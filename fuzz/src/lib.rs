//! What several fuzz targets share: cutting the input, and a host and sockets for the engine.
//!
//! The keys in `fixtures/` exist for these targets only and protect nothing.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustls::SignatureScheme;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tlspool_engine::{
    CertificateType, Credential, Host, Refusal, Shown, ShownByPeer, SignatureFailure,
};

/// A certificate authority for `example.com`, in DER.
pub const ROOT: &[u8] = include_bytes!("../fixtures/root.der");
/// A certificate issued by it.
pub const LEAF: &[u8] = include_bytes!("../fixtures/leaf.der");
/// The leaf's key, PKCS #8.
pub const LEAF_KEY: &[u8] = include_bytes!("../fixtures/leaf.pk8");

/// What is left of the input.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// The next byte; 0 at the end.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Two bytes as a number.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// At most `n` bytes.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A piece with its length in front.
    pub fn piece(&mut self) -> &'a [u8] {
        let n = usize::from(self.short());
        self.take(n)
    }
}

/// The one identity that targets of the engine show.
static CREDENTIAL: LazyLock<Arc<Credential>> = LazyLock::new(|| {
    Arc::new(Credential {
        name: "example.com".into(),
        key_uri: "fuzz:".into(),
        fingerprint: [1; 32],
        schemes: vec![SignatureScheme::ECDSA_NISTP256_SHA256],
        shown: Shown::X509(vec![CertificateDer::from(LEAF)]),
    })
});

/// Shows the leaf, signs with its key, and believes every peer.
#[derive(Default)]
pub struct FuzzHost {
    /// The last chain it was asked about.
    pub asked: bool,
}

impl Host for FuzzHost {
    async fn server_credential(
        &mut self,
        _sni: Option<&str>,
        _schemes: &[SignatureScheme],
        _types: &[CertificateType],
    ) -> Result<Arc<Credential>, Refusal> {
        Ok(CREDENTIAL.clone())
    }

    async fn client_credential(
        &mut self,
        _kind: CertificateType,
    ) -> Result<Option<Arc<Credential>>, Refusal> {
        Ok(Some(CREDENTIAL.clone()))
    }

    async fn has_openpgp(&mut self, _sni: Option<&str>) -> bool {
        false
    }

    async fn sign(
        &mut self,
        _credential: &Credential,
        _scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, SignatureFailure> {
        let failed = || SignatureFailure("no signature".into());
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, LEAF_KEY)
            .map_err(|_| failed())?;
        let signed = key.sign(&SystemRandom::new(), message).map_err(|_| failed())?;
        Ok(signed.as_ref().to_vec())
    }

    async fn verify(&mut self, _peer: ShownByPeer) -> Result<Option<Vec<u8>>, Refusal> {
        self.asked = true;
        Ok(None)
    }

    async fn authorize(&mut self, _shown: Option<&Credential>) -> Result<(), Refusal> {
        Ok(())
    }
}

/// The leaf's key for a rustls peer.
pub fn leaf_key() -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(LEAF_KEY.to_vec()).into()
}

/// Two connected stream sockets.
pub fn stream_pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("a socket pair")
}

/// Runs `future` on a runtime of its own kind, shared by all inputs, for at most a time that no
/// busy machine needs.
pub fn run<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(40), future).await.expect("it comes to an end")
        })
    })
}

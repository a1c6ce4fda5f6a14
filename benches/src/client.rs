//! A light TLS 1.3 client: rustls without its buffers, on a blocking socket.
//!
//! It believes every certificate: its own CPU time should disturb the candidates little.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{DigitallySignedStruct, HandshakeKind, SignatureScheme};

use crate::error::{BenchError, During, Result};

/// No candidate may be silent for longer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Incoming bytes: several records of 16 KiB, so that a read brings much.
const INCOMING: usize = 128 * 1024;
/// Outgoing bytes: four full records with their overhead.
const OUTGOING: usize = 4 * (16 * 1024 + 64) + 1024;
/// Plaintext per write of bulk data.
pub(crate) const BULK: usize = 64 * 1024;

/// The cipher suite offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Suite {
    /// TLS_AES_128_GCM_SHA256, the one that RFC 8446 section 9.1 makes mandatory and browsers prefer
    Aes128,
    /// TLS_AES_256_GCM_SHA384, which OpenSSL's clients prefer
    Aes256,
}

static SUITE: OnceLock<Suite> = OnceLock::new();

impl Suite {
    /// From now on all connections offer this suite; only the first call counts.
    pub(crate) fn choose(self) {
        SUITE.get_or_init(|| self);
    }

    fn chosen() -> Self {
        *SUITE.get_or_init(|| Self::Aes128)
    }
}

/// Configuration that all connections of one thread share.
pub(crate) fn config(resume: bool) -> Result<Arc<ClientConfig>> {
    let suite = match Suite::chosen() {
        Suite::Aes128 => aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        Suite::Aes256 => aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    };
    let provider = CryptoProvider {
        cipher_suites: vec![suite],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    };
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believer { schemes }))
        .with_no_client_auth();
    config.resumption =
        if resume { Resumption::in_memory_sessions(8) } else { Resumption::disabled() };
    Ok(Arc::new(config))
}

/// One TLS connection.
pub(crate) struct Client {
    tls: UnbufferedClientConnection,
    socket: TcpStream,
    incoming: Vec<u8>,
    filled: usize,
    outgoing: Vec<u8>,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// This many bytes of plaintext.
    Bytes(usize),
    /// close_notify.
    End,
}

impl Client {
    /// Connects and shakes hands.
    pub(crate) fn connect(
        config: &Arc<ClientConfig>,
        address: SocketAddr,
        name: &ServerName<'static>,
    ) -> Result<Self> {
        let socket = TcpStream::connect(address).during(format!("connecting to {address}"))?;
        socket.set_nodelay(true).during("TCP_NODELAY")?;
        socket.set_read_timeout(Some(PATIENCE)).during("SO_RCVTIMEO")?;
        socket.set_write_timeout(Some(PATIENCE)).during("SO_SNDTIMEO")?;
        let tls = UnbufferedClientConnection::new(Arc::clone(config), name.clone())?;
        // Small at first: many connections only shake hands. `read` and `write` grow them.
        let mut client =
            Self { tls, socket, incoming: vec![0; 8192], filled: 0, outgoing: vec![0; 4096] };
        client.handshake()?;
        Ok(client)
    }

    /// Whether the session was resumed from a ticket.
    pub(crate) fn resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The socket alone: an idle session costs the load generator no more.
    pub(crate) fn into_socket(self) -> TcpStream {
        self.socket
    }

    /// Room for bulk data.
    pub(crate) fn grow(&mut self) {
        self.incoming.resize(INCOMING, 0);
        self.outgoing.resize(OUTGOING, 0);
    }

    fn handshake(&mut self) -> Result<()> {
        let mut pending = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } =
                self.tls.process_tls_records(&mut self.incoming[..self.filled]);
            let mut blocked = false;
            match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    pending += data
                        .encode(&mut self.outgoing[pending..])
                        .map_err(|e| BenchError::Invalid(format!("handshake: {e}")))?;
                }
                ConnectionState::TransmitTlsData(data) => {
                    self.socket.write_all(&self.outgoing[..pending]).during("handshake")?;
                    pending = 0;
                    data.done();
                }
                ConnectionState::BlockedHandshake => blocked = true,
                ConnectionState::WriteTraffic(_) => return Ok(()),
                other => return Err(BenchError::Invalid(format!("handshake: {other:?}"))),
            }
            self.discard(discard);
            if blocked && self.fill("handshake")? == 0 {
                return Err(BenchError::Invalid("peer closed during the handshake".into()));
            }
        }
    }

    /// Sends `data`, at most [`BULK`] bytes, as TLS records in one write.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<()> {
        let UnbufferedStatus { discard, state, .. } =
            self.tls.process_tls_records(&mut self.incoming[..self.filled]);
        let n = match state? {
            ConnectionState::WriteTraffic(mut traffic) => traffic
                .encrypt(data, &mut self.outgoing)
                .map_err(|e| BenchError::Invalid(format!("encrypting: {e}")))?,
            other => return Err(BenchError::Invalid(format!("writing: {other:?}"))),
        };
        self.discard(discard);
        self.socket.write_all(&self.outgoing[..n]).during("writing")
    }

    /// Waits for plaintext, which is counted and forgotten.
    pub(crate) fn read(&mut self) -> Result<Got> {
        loop {
            let UnbufferedStatus { mut discard, state, .. } =
                self.tls.process_tls_records(&mut self.incoming[..self.filled]);
            let mut got = 0;
            let mut end = false;
            match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        got += record.payload.len();
                    }
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => end = true,
                ConnectionState::WriteTraffic(_) => {}
                other => return Err(BenchError::Invalid(format!("reading: {other:?}"))),
            }
            self.discard(discard);
            if got > 0 {
                return Ok(Got::Bytes(got));
            }
            if end {
                return Ok(Got::End);
            }
            if self.fill("reading")? == 0 {
                return Err(BenchError::Invalid("peer closed without close_notify".into()));
            }
        }
    }

    /// One message of `data`, and as many bytes back.
    pub(crate) fn round_trip(&mut self, data: &[u8]) -> Result<()> {
        self.write(data)?;
        let mut left = data.len();
        while left > 0 {
            match self.read()? {
                Got::Bytes(n) => left = left.saturating_sub(n),
                Got::End => return Err(BenchError::Invalid("echo ended early".into())),
            }
        }
        Ok(())
    }

    fn fill(&mut self, what: &str) -> Result<usize> {
        if self.filled == self.incoming.len() {
            // One whole record always fits after this.
            self.incoming.resize(self.incoming.len() + 20 * 1024, 0);
        }
        let n = self.socket.read(&mut self.incoming[self.filled..]).during(what)?;
        self.filled += n;
        Ok(n)
    }

    fn discard(&mut self, n: usize) {
        if n > 0 {
            self.incoming.copy_within(n..self.filled, 0);
            self.filled -= n;
        }
    }
}

/// Accepts every certificate and signature unseen.
#[derive(Debug)]
struct Believer {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for Believer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

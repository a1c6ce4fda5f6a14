//! A directory that does as the test says, on the test's own runtime.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tlspool_tests::Leaf;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

/// Tags of requests and answers (RFC 4511).
pub(crate) const BIND: u8 = 0x60;
pub(crate) const SEARCH: u8 = 0x63;
pub(crate) const EXTENDED: u8 = 0x77;
pub(crate) const ENTRY: u8 = 0x64;
pub(crate) const DONE: u8 = 0x65;
const REFERENCE: u8 = 0x73;

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) id: u8,
    pub(crate) tag: u8,
    pub(crate) bytes: Vec<u8>,
}

/// What to do about it.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    Send(Vec<u8>),
    /// When there are permits, while other requests are served.
    When(Arc<Semaphore>, Vec<u8>),
    /// Sends this in the clear, then begins TLS.
    StartTls(Vec<u8>),
    Close,
}

/// The directory.
#[derive(Debug)]
pub(crate) struct Fake {
    pub(crate) port: u16,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) searches: Arc<AtomicUsize>,
}

impl Fake {
    /// Starts one that answers StartTLS and bind as it should, and has `play` answer searches.
    pub(crate) async fn searching(
        leaf: &Leaf,
        play: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        Self::start(leaf, move |asked| match asked.tag {
            EXTENDED => vec![Act::StartTls(done(asked.id, 0x78, 0))],
            BIND => vec![Act::Send(done(asked.id, 0x61, 0))],
            SEARCH => play(asked),
            _ => vec![],
        })
        .await
    }

    /// Starts one that has `play` answer everything.
    pub(crate) async fn start(
        leaf: &Leaf,
        play: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let (connections, searches) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let acceptor = TlsAcceptor::from(Arc::new(config(&leaf.certificate, &leaf.key)));
        let play: Arc<Play> = Arc::new(play);
        let fake = Self { port, connections: connections.clone(), searches: searches.clone() };
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (play, acceptor, searches) = (play.clone(), acceptor.clone(), searches.clone());
                tokio::spawn(async move {
                    if let Some(tcp) = serve(tcp, &play, &searches).await
                        && let Ok(tls) = acceptor.accept(tcp).await
                    {
                        serve(tls, &play, &searches).await;
                    }
                });
            }
        });
        fake
    }
}

type Play = dyn Fn(&Asked) -> Vec<Act> + Send + Sync;

fn config(certificate: &Path, key: &Path) -> ServerConfig {
    let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(key).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("they fit")
}

/// Serves a connection; returns it when TLS is to begin.
async fn serve<S>(stream: S, play: &Arc<Play>, searches: &AtomicUsize) -> Option<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut from, mut to) = tokio::io::split(stream);
    let (later, mut due) = mpsc::unbounded_channel::<Vec<u8>>();
    let mut buffer = Vec::new();
    loop {
        while let Some((asked, length)) = request(&buffer) {
            buffer.drain(..length);
            searches.fetch_add(usize::from(asked.tag == SEARCH), Ordering::Relaxed);
            for act in play(&asked) {
                match act {
                    Act::Send(bytes) => to.write_all(&bytes).await.ok()?,
                    Act::When(gate, bytes) => {
                        let later = later.clone();
                        tokio::spawn(async move {
                            let _permit = gate.acquire().await;
                            let _ = later.send(bytes);
                        });
                    }
                    Act::StartTls(bytes) => {
                        to.write_all(&bytes).await.ok()?;
                        return Some(from.unsplit(to));
                    }
                    Act::Close => return None,
                }
            }
            to.flush().await.ok()?;
        }
        tokio::select! {
            read = from.read_buf(&mut buffer) => if read.ok()? == 0 { return None },
            bytes = due.recv() => {
                to.write_all(&bytes?).await.ok()?;
                to.flush().await.ok()?;
            }
        }
    }
}

/// The first whole request, and its length. Ours are short, with small numbers.
fn request(buffer: &[u8]) -> Option<(Asked, usize)> {
    if buffer.first() != Some(&0x30) {
        return None; // TLS, where it was not expected
    }
    let (start, length) = match *buffer.get(1)? {
        length @ 0..=0x7f => (2, usize::from(length)),
        0x80 | 0x81 => (3, usize::from(*buffer.get(2)?)),
        _ => (4, usize::from(*buffer.get(2)?) << 8 | usize::from(*buffer.get(3)?)),
    };
    let bytes = buffer.get(start..start + length)?.to_vec();
    // A number of more than one byte is that of a message that needs no answer here.
    let id = if bytes[1] == 1 { bytes[2] } else { 0 };
    let tag = bytes[2 + usize::from(bytes[1])];
    Some((Asked { id, tag, bytes }, start + length))
}

/// An element in BER.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [&[tag, 0x84], &length[..], content].concat()
}

pub(crate) fn message(id: u8, tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    element(0x30, &[vec![2, 1, id], element(tag, &parts.concat())].concat())
}

/// The end of a request.
pub(crate) fn done(id: u8, tag: u8, code: u8) -> Vec<u8> {
    message(id, tag, &[vec![0x0a, 1, code], element(4, b""), element(4, b"words")])
}

/// An entry with one attribute.
pub(crate) fn entry(id: u8, name: &[u8], attribute: &[u8], values: &[&[u8]]) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|value| element(4, value)).collect();
    let attribute = [element(4, attribute), element(0x31, &values.concat())].concat();
    message(id, ENTRY, &[element(4, name), element(0x30, &element(0x30, &attribute))])
}

/// A hint that the search should go on elsewhere.
pub(crate) fn reference(id: u8, url: &str) -> Vec<u8> {
    message(id, REFERENCE, &[element(4, url.as_bytes())])
}

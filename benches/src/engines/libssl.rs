//! OpenSSL's libssl, through memory.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;

use openssl::pkey::PKey;
use openssl::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode,
    SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::X509;

use super::{Carrier, Key, Library, Material, Session};

pub(crate) fn version() -> &'static str {
    openssl::version::version()
}

/// One direction. Of a stream all pieces run together, of datagrams each stays what it is.
struct Pipe {
    carrier: Carrier,
    pieces: VecDeque<Vec<u8>>,
    /// What of the first piece was read.
    taken: usize,
    /// Pieces that were read, to be used again: nobody is to wait for memory.
    spare: Vec<Vec<u8>>,
}

type Shared = Rc<RefCell<Pipe>>;

fn pipe(carrier: Carrier) -> Shared {
    Rc::new(RefCell::new(Pipe { carrier, pieces: VecDeque::new(), taken: 0, spare: Vec::new() }))
}

struct End {
    incoming: Shared,
    outgoing: Shared,
}

impl Read for End {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.incoming.borrow_mut();
        let Some(first) = pipe.pieces.front() else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let rest = &first[pipe.taken..];
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        if n == rest.len() || pipe.carrier == Carrier::Datagrams {
            pipe.taken = 0;
            let piece = pipe.pieces.pop_front();
            pipe.spare.extend(piece);
        } else {
            pipe.taken += n;
        }
        Ok(n)
    }
}

impl Write for End {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let mut pipe = self.outgoing.borrow_mut();
        let mut piece = pipe.spare.pop().unwrap_or_default();
        piece.clear();
        piece.extend_from_slice(buf);
        pipe.pieces.push_back(piece);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) struct Libssl {
    carrier: Carrier,
    client: SslContext,
    server: SslContext,
}

fn context(carrier: Carrier, key: Key) -> SslContextBuilder {
    let method = match carrier {
        Carrier::Stream => SslMethod::tls(),
        Carrier::Datagrams => SslMethod::dtls(),
    };
    let version = match carrier {
        Carrier::Stream => SslVersion::TLS1_2,
        Carrier::Datagrams => SslVersion::DTLS1_2,
    };
    let suite = match key {
        Key::P256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        Key::Rsa2048 => "ECDHE-RSA-AES128-GCM-SHA256",
    };
    let mut context = SslContextBuilder::new(method).expect("a context");
    context.set_min_proto_version(Some(version)).expect("a version");
    context.set_max_proto_version(Some(version)).expect("a version");
    context.set_cipher_list(suite).expect("a suite");
    // P-256 for the certificate; the exchange takes the first.
    context.set_groups_list("X25519:P-256").expect("groups");
    context.set_verify(SslVerifyMode::NONE);
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    context.set_options(SslOptions::NO_TICKET | SslOptions::NO_QUERY_MTU);
    context
}

impl Libssl {
    pub(crate) fn new(carrier: Carrier, material: &Material, key: Key) -> Self {
        let client = context(carrier, key);
        let mut server = context(carrier, key);
        let certificate = X509::from_der(&material.certificate).expect("a certificate");
        server.set_certificate(&certificate).expect("a certificate");
        let key = PKey::private_key_from_der(&material.key).expect("a key");
        server.set_private_key(&key).expect("the certificate's key");
        Self { carrier, client: client.build(), server: server.build() }
    }

    fn stream(&self, context: &SslContext, incoming: &Shared, outgoing: &Shared) -> SslStream<End> {
        let mut ssl = Ssl::new(context).expect("a connection");
        if self.carrier == Carrier::Datagrams {
            ssl.set_mtu(1400).expect("an MTU");
        }
        let end = End { incoming: incoming.clone(), outgoing: outgoing.clone() };
        SslStream::new(ssl, end).expect("a stream")
    }
}

/// True when it is done.
fn step(result: Result<(), openssl::ssl::Error>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) if error.code() == ErrorCode::WANT_READ => false,
        Err(error) => panic!("{error}"),
    }
}

impl Library for Libssl {
    fn handshake(&self) -> Box<dyn Session> {
        let (up, down) = (pipe(self.carrier), pipe(self.carrier));
        let mut client = self.stream(&self.client, &down, &up);
        let mut server = self.stream(&self.server, &up, &down);
        while !(step(client.connect()) & step(server.accept())) {}
        Box::new(Connected { client, server, room: vec![0; 20_000] })
    }
}

struct Connected {
    client: SslStream<End>,
    server: SslStream<End>,
    room: Vec<u8>,
}

impl Session for Connected {
    fn carry(&mut self, message: &[u8]) {
        assert_eq!(self.client.ssl_write(message).expect("a record"), message.len());
        assert_eq!(self.server.ssl_read(&mut self.room).expect("data"), message.len());
    }
}

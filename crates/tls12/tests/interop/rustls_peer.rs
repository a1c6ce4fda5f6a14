//! The peer of `peers/peer.h` with rustls, in a thread. It has no renegotiation and no anonymous suites.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use aws_lc_rs::digest::{SHA256, digest};
use rustls::crypto::aws_lc_rs as provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection, version};

use crate::anybody::Anybody;
use crate::helper::Wanted;
use crate::hex;
use crate::support::keys;
use crate::support::programs::PATIENCE;

fn shown(key: usize) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let key = keys()[key];
    let private = PrivatePkcs8KeyDer::from(key.pkcs8.clone());
    (vec![key.certificate.clone().into()], PrivateKeyDer::Pkcs8(private))
}

fn server_config(wanted: &Wanted) -> ServerConfig {
    let provider = Arc::new(provider::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS12])
        .unwrap();
    let builder = match wanted.auth {
        None => builder.with_no_client_auth(),
        Some(auth) => builder
            .with_client_cert_verifier(Arc::new(Anybody { provider, required: auth == "require" })),
    };
    let (chain, key) = shown(wanted.key.unwrap());
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.ticketer = provider::Ticketer::new().unwrap();
    config
}

fn client_config(wanted: &Wanted) -> ClientConfig {
    let provider = Arc::new(provider::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody { provider, required: false }));
    match wanted.key {
        None => builder.with_no_client_auth(),
        Some(key) => {
            let (chain, key) = shown(key);
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

/// Starts it; what comes back are its lines.
pub(crate) fn start(wanted: &Wanted) -> Receiver<String> {
    let (sender, lines) = channel();
    let wanted = *wanted;
    std::thread::spawn(move || {
        let server = (!wanted.client).then(|| Arc::new(server_config(&wanted)));
        let client = wanted.client.then(|| Arc::new(client_config(&wanted)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for _ in 0..wanted.connections.max(1) {
            let (stream, connection) = if let Some(config) = &server {
                let port = listener.local_addr().unwrap().port();
                let _ = sender.send(format!("ready {port}"));
                let Ok((stream, _)) = listener.accept() else { return };
                (stream, Connection::Server(ServerConnection::new(config.clone()).unwrap()))
            } else {
                let Some(config) = &client else { return };
                let Ok(stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, wanted.port)) else {
                    return;
                };
                let name = ServerName::try_from("localhost").unwrap();
                (stream, Connection::Client(ClientConnection::new(config.clone(), name).unwrap()))
            };
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
            if let Err(error) = obey(connection, stream, &sender) {
                let _ = sender.send(format!("error {error}"));
            }
        }
    });
    lines
}

fn obey(mut connection: Connection, mut stream: TcpStream, say: &Sender<String>) -> io::Result<()> {
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut stream) {
            // The alert.
            while connection.wants_write() && connection.write_tls(&mut stream).is_ok() {}
            return Err(error);
        }
    }
    let tell = |line: String| say.send(line).map_err(io::Error::other);
    tell("established".into())?;
    let mut buffer = [0; 4096];
    loop {
        let n = match connection.reader().read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.complete_io(&mut stream)?;
                continue;
            }
            read => read?,
        };
        if n == 0 {
            connection.send_close_notify();
            return connection.complete_io(&mut stream).map(drop);
        }
        match &buffer[..n] {
            b"facts\n" => {
                facts(&connection, &tell)?;
                tell("told".into())?;
            }
            line if line.starts_with(b"renegotiate") => {
                tell("error it has no function that begins a renegotiation".into())?;
            }
            _ => {}
        }
        connection.writer().write_all(&buffer[..n])?;
        connection.complete_io(&mut stream)?;
    }
}

fn facts(connection: &Connection, tell: &impl Fn(String) -> io::Result<()>) -> io::Result<()> {
    if let Some(suite) = connection.negotiated_cipher_suite() {
        tell(format!("fact suite {:?}", suite.suite()))?;
    }
    let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    tell(format!("fact resumed {}", u8::from(resumed)))?;
    let peer = connection.peer_certificates().and_then(<[_]>::first);
    let peer = peer.map_or("none".into(), |der| hex(digest(&SHA256, der).as_ref()));
    tell(format!("fact peer {peer}"))?;
    let export = |label: &str, context: Option<&[u8]>| {
        connection
            .export_keying_material([0; 32], label.as_bytes(), context)
            .map(|bytes| hex(&bytes))
    };
    for (name, label, context) in [
        ("exported", crate::LABEL, None),
        ("exported-with-context", crate::LABEL, Some(crate::CONTEXT.as_bytes())),
        ("tls-exporter", crate::BINDING, Some(&b""[..])),
    ] {
        if let Ok(bytes) = export(label, context) {
            tell(format!("fact {name} {bytes}"))?;
        }
    }
    Ok(())
}

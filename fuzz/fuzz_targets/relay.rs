//! A peer that holds the session's keys and sends any records: alerts, key updates, tickets, data,
//! in any order, cut anywhere; as client and as server.
//!
//! Input: switches, then records (content type, payload with its length in front).
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tlspool_engine::record::{MAX_PLAINTEXT, content};
use tlspool_engine::twelve::Wishes;
use tlspool_engine::{
    Engine, EngineOptions, Job, PeerAuthentication, Role, Socket, handshake, relay,
};
use tlspool_fuzz::{FuzzHost, Input, run, stream_pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

static ENGINE: LazyLock<Engine> =
    LazyLock::new(|| Engine::new(&EngineOptions::default()).expect("an engine"));

fn job(role: Role<'static>, scope: u8) -> Job<'static> {
    let authentication = PeerAuthentication::Ignored;
    Job { role, authentication, scope: [scope; 32], exporter: false, twelve: Wishes::default(), first: None }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let switches = input.byte();
    run(async {
        let (near, far) = stream_pair();
        let (near, far_socket) =
            (Socket::stream(near).expect("a socket"), Socket::stream(far).expect("a socket"));
        let client = Role::Client { server: Some("example.com"), sni: true };
        let (mut near_host, mut far_host) = (FuzzHost::default(), FuzzHost::default());
        // A full handshake only now and then: resumption is cheaper.
        let (client_end, server_end) = tokio::join!(
            handshake::run(&ENGINE, &near, job(client, 0), &mut near_host),
            handshake::run(&ENGINE, &far_socket, job(Role::Server, 0), &mut far_host),
        );
        let (client_end, server_end) = (client_end.expect("stands"), server_end.expect("stands"));
        let (us, them, ours, theirs) = if switches & 1 == 0 {
            (server_end, client_end, far_socket, near)
        } else {
            (client_end, server_end, near, far_socket)
        };
        let (plain, application) = stream_pair();
        let relaying = async {
            let plain = Socket::plaintext(plain).expect("a socket");
            relay::run(ours, plain, us.carrier.rustls().expect("rustls"), &relay::Cancel::default()).await
        };
        let peer = async move {
            let mut them = them.carrier.rustls().expect("rustls");
            let mut stream = Vec::new();
            let mut room = vec![0; them.prefix() + MAX_PLAINTEXT + 512];
            let mut records = 0;
            while !input.0.is_empty() && records < 64 {
                records += 1;
                let kind = match input.byte() {
                    n @ 0..128 => n % 8 + 18,
                    128..192 => content::APPLICATION_DATA,
                    n => n,
                };
                let payload = input.piece();
                let payload = &payload[..payload.len().min(MAX_PLAINTEXT)];
                let prefix = them.prefix();
                room[prefix..prefix + payload.len()].copy_from_slice(payload);
                let Ok(n) = them.seal(kind, &mut room, payload.len()) else { break };
                stream.extend_from_slice(&room[..n]);
            }
            if switches & 2 != 0 {
                // Altered, or cut.
                let at = usize::from(switches >> 3) * 7 % stream.len().max(1);
                match stream.get_mut(at) {
                    Some(byte) if switches & 4 == 0 => *byte ^= switches,
                    _ => stream.truncate(at),
                }
            }
            let send = async {
                let _ = theirs.send_all(&stream).await;
                theirs.shutdown_write();
            };
            let receive = async {
                let mut buffer = [0; 4096];
                while matches!(theirs.recv(&mut buffer).await, Ok(1..)) {}
            };
            tokio::join!(send, receive);
        };
        let application = async move {
            let stream = std::os::unix::net::UnixStream::from(application);
            let mut stream = tokio::net::UnixStream::from_std(stream).expect("a socket");
            let _ = stream.write_all(b"from the application").await;
            let mut buffer = [0; 4096];
            while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
        };
        let (ended, (), ()) = tokio::join!(relaying, peer, application);
        drop(ended.end.to_string());
    });
});

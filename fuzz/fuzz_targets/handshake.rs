//! A peer that sends any bytes to a handshake, as client and as server.
//!
//! Input: switches, then pieces with their lengths in front, sent one after the other.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tlspool_engine::twelve::Wishes;
use tlspool_engine::{
    Engine, EngineOptions, Job, PeerAuthentication, Role, Socket, handshake, relay,
};
use tlspool_fuzz::{FuzzHost, Input, run, stream_pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

static ENGINE: LazyLock<Engine> =
    LazyLock::new(|| Engine::new(&EngineOptions::default()).expect("an engine"));

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let switches = input.byte();
    let authentication = match switches & 3 {
        0 => PeerAuthentication::Required,
        1 => PeerAuthentication::Requested,
        _ => PeerAuthentication::Ignored,
    };
    let role = if switches & 4 == 0 {
        Role::Server
    } else {
        Role::Client { server: Some("example.com"), sni: switches & 8 != 0 }
    };
    run(async {
        let (near, far) = stream_pair();
        let engine = async {
            let socket = Socket::stream(near).expect("a socket");
            let scope = [switches; 32];
            let job = Job { role, authentication, scope, exporter: switches & 16 != 0, twelve: Wishes::default(), first: None };
            let mut host = FuzzHost::default();
            if let Ok(established) = handshake::run(&ENGINE, &socket, job, &mut host).await {
                let (plain, application) = stream_pair();
                drop(application);
                let plain = Socket::plaintext(plain).expect("a socket");
                relay::run(socket, plain, established.carrier.rustls().expect("rustls"), &relay::Cancel::default()).await;
            }
        };
        let peer = async {
            let far = std::os::unix::net::UnixStream::from(far);
            let far = tokio::net::UnixStream::from_std(far).expect("a socket");
            let (mut reader, mut writer) = far.into_split();
            let talk = async move {
                while !input.0.is_empty() {
                    if writer.write_all(input.piece()).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            };
            let listen = async move {
                let mut buffer = [0; 4096];
                while matches!(reader.read(&mut buffer).await, Ok(1..)) {}
            };
            tokio::join!(talk, listen);
        };
        tokio::join!(engine, peer);
    });
});

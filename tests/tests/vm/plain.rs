//! TLS over SCTP (RFC 3436): a byte stream on one stream of an association.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::thread;

use tlspool_client::{Plaintext, StarttlsRequest};
use tlspool_sctp::{self as sctp, Info};
use tlspool_tests::app::{noise, plaintext};
use tlspool_tests::sctp::{Capture, Kind, chunk, pair};

use super::messages::Two;

/// Both engines: TLS 1.3 by rustls, and TLS 1.2 with a precursor by tls12.
#[test]
#[ignore = "in the VM"]
fn a_stream_each_way_on_one_stream_of_the_association() {
    for (more, protocol) in [("", "TLSv1.3"), ("[privacy]\nmode = \"attempt\"", "TLSv1.2")] {
        let two = Two::new(more);
        let capture = Capture::start();
        let (near, far) = pair(Kind::Plain);
        let address = rustix::net::getsockname(&near).unwrap();
        let port = std::net::SocketAddr::try_from(address).unwrap().port();
        let stranger = near.try_clone().unwrap();
        let pool = two.servers.pool();
        let server = thread::spawn(move || {
            let request = StarttlsRequest::server().sctp(3).service("smtp").unwrap();
            let mut session = pool.starttls(request, far, Plaintext::pair()).unwrap();
            let mut plaintext = plaintext(&mut session);
            let mut all = Vec::new();
            plaintext.read_to_end(&mut all).unwrap();
            plaintext.write_all(&all).unwrap();
            session.remoteid().to_owned()
        });
        let request = StarttlsRequest::client("example.com").unwrap().sctp(3);
        let request = request.localid("john@example.org").unwrap().service("smtp").unwrap();
        let mut session = two
            .clients
            .pool()
            .starttls(request, near, Plaintext::pair())
            .unwrap_or_else(|error| panic!("{error}\n{}", two.logs()));
        // What comes on another stream is none of TLS.
        let other = Info { stream: 4, ..Info::default() };
        sctp::send(stranger.as_fd(), b"disturbance", other, false).unwrap();
        let mut plaintext = plaintext(&mut session);
        let sent = noise(500_000);
        plaintext.write_all(&sent).unwrap();
        // Half-closed by TLS, which SCTP itself cannot.
        plaintext.shutdown(std::net::Shutdown::Write).unwrap();
        let mut received = Vec::new();
        plaintext.read_to_end(&mut received).unwrap();
        assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
        assert_eq!(server.join().unwrap(), "john@example.org");
        drop((plaintext, session, stranger));
        let log = two.stop();
        assert!(log.contains(protocol), "{log}");
        let mut streams: Vec<_> = capture
            .of(port)
            .iter()
            .flat_map(|packet| packet.chunks.clone())
            .filter(|(kind, ..)| *kind == chunk::DATA)
            .map(|(_, _, value)| u16::from_be_bytes([value[4], value[5]]))
            .collect();
        streams.sort_unstable();
        streams.dedup();
        assert_eq!(streams, [3, 4], "data on other streams");
    }
}

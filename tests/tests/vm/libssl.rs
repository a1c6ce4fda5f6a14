//! DTLS over SCTP with another implementation. libssl has it, but Debian leaves it out; so libssl does DTLS here, and
//! the test carries its records over an association as RFC 6083 says, with keys that libssl exports.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use openssl::ssl::{
    HandshakeError, MidHandshakeSslStream, Ssl, SslContext, SslContextBuilder, SslFiletype,
    SslMethod, SslOptions, SslRef, SslStream, SslVerifyMode,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tlspool_client::wire::MessageHeader;
use tlspool_client::wire::message::{EVERY_STREAM, MessageFlags};
use tlspool_client::{Plaintext, StarttlsRequest};
use tlspool_sctp::{self as sctp, AUTH_KEY, Info, Received};
use tlspool_tests::sctp::{Kind, pair};
use tlspool_tests::{House, LIMIT, Leaf};

const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;
const CLIENT_KEY_EXCHANGE: u8 = 16;

/// What libssl reads and writes: records, in no hurry.
#[derive(Debug, Default)]
struct Desk {
    inbox: VecDeque<Vec<u8>>,
    outbox: Vec<u8>,
}

impl Read for Desk {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let record = self.inbox.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        buffer[..record.len()].copy_from_slice(&record);
        Ok(record.len())
    }
}

impl Write for Desk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outbox.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One end of an association, and how far its keys are.
struct Association {
    socket: OwnedFd,
    key: u16,
    changed: bool,
}

impl Association {
    fn new(socket: OwnedFd) -> Self {
        sctp::tell_messages(socket.as_fd()).unwrap();
        Self { socket, key: 0, changed: false }
    }

    fn receive(&self) -> Received {
        self.receive_into(&mut vec![0; 20_000])
    }

    fn receive_into(&self, buffer: &mut [u8]) -> Received {
        loop {
            match sctp::receive(self.socket.as_fd(), &mut [io::IoSliceMut::new(buffer)]) {
                Err(Errno::AGAIN) => {
                    let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
                    let mut fds = [PollFd::from_borrowed_fd(self.socket.as_fd(), PollFlags::IN)];
                    assert!(poll(&mut fds, Some(&limit)).unwrap() > 0, "nothing comes");
                }
                received => return received.unwrap(),
            }
        }
    }

    /// The next record, with what SCTP says of it.
    fn next(&self) -> (Vec<u8>, Info) {
        let mut buffer = vec![0; 20_000];
        loop {
            match self.receive_into(&mut buffer) {
                Received::Message { length, info, whole } => {
                    assert!(whole);
                    buffer.truncate(length);
                    return (buffer, info);
                }
                Received::End => panic!("the association is over"),
                Received::Dry | Received::Other => {}
            }
        }
    }

    /// The keys of DTLS are known. (After a second libssl sends a flight again, as over UDP: it has the same.)
    fn new_key(&mut self, ssl: &SslRef) {
        if self.key > 0 {
            return;
        }
        let mut key = [0; AUTH_KEY];
        ssl.export_keying_material(&mut key, "EXPORTER_DTLS_OVER_SCTP", None).unwrap();
        self.key = 1;
        sctp::set_key(self.socket.as_fd(), self.key, &key).unwrap();
    }

    /// Sends records, one in a message; the keys change after ChangeCipherSpec.
    fn send(&mut self, mut records: &[u8], info: Info) {
        while !records.is_empty() {
            let length = 13 + usize::from(u16::from_be_bytes([records[11], records[12]]));
            let (record, rest) = records.split_at(length);
            records = rest;
            let changes = record[0] == CHANGE_CIPHER_SPEC && !self.changed;
            if changes {
                sctp::tell_dryness(self.socket.as_fd()).unwrap();
                // Nothing else is awaited here: the peer waits for us.
                while self.receive() != Received::Dry {}
                sctp::forget_dryness(self.socket.as_fd()).unwrap();
            }
            sctp::send(self.socket.as_fd(), record, info, true).unwrap();
            if changes {
                sctp::use_key(self.socket.as_fd(), self.key).unwrap();
                self.changed = true;
            }
        }
    }

    /// The handshake is over.
    fn forget(&self) {
        sctp::remove_key(self.socket.as_fd(), self.key - 1).unwrap();
    }
}

fn is_key_exchange(records: &[u8]) -> bool {
    records.first() == Some(&HANDSHAKE)
        && records[3..5] == [0, 0]
        && records.get(13) == Some(&CLIENT_KEY_EXCHANGE)
}

/// Whether a record among these is the client's key exchange.
fn have_key_exchange(mut records: &[u8]) -> bool {
    while !records.is_empty() {
        if is_key_exchange(records) {
            return true;
        }
        let length = 13 + usize::from(u16::from_be_bytes([records[11], records[12]]));
        records = &records[length..];
    }
    false
}

/// Has libssl shake hands over an association.
fn shake(
    association: &mut Association,
    first: Result<SslStream<Desk>, HandshakeError<Desk>>,
) -> SslStream<Desk> {
    let mut outcome = first;
    loop {
        let mut mid: MidHandshakeSslStream<Desk> = match outcome {
            Ok(mut stream) => {
                let out = std::mem::take(&mut stream.get_mut().outbox);
                association.send(&out, Info::default());
                association.forget();
                return stream;
            }
            Err(HandshakeError::WouldBlock(mid)) => mid,
            Err(error) => panic!("{error}"),
        };
        let out = std::mem::take(&mut mid.get_mut().outbox);
        if have_key_exchange(&out) {
            association.new_key(mid.ssl());
        }
        association.send(&out, Info::default());
        let (record, info) = association.next();
        assert_eq!((info.stream, info.unordered), (0, false));
        let key_exchange = is_key_exchange(&record);
        mid.get_mut().inbox.push_back(record);
        outcome = mid.handshake();
        if key_exchange && let Err(HandshakeError::WouldBlock(mid)) = &outcome {
            association.new_key(mid.ssl());
        }
    }
}

fn context(leaf: &Leaf, anchor: &str) -> SslContext {
    let mut context = SslContextBuilder::new(SslMethod::dtls()).unwrap();
    context.set_certificate_file(leaf.certificate(), SslFiletype::PEM).unwrap();
    context.set_private_key_file(leaf.key(), SslFiletype::PEM).unwrap();
    context.set_ca_file(anchor).unwrap();
    context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    context.set_options(SslOptions::NO_QUERY_MTU);
    context.build()
}

fn ssl(context: &SslContext) -> Ssl {
    let mut ssl = Ssl::new(context).unwrap();
    ssl.set_mtu(16_000).unwrap();
    ssl
}

/// Exchanges messages in both directions.
fn speak(
    association: &mut Association,
    stream: &mut SslStream<Desk>,
    program: &std::os::unix::net::UnixDatagram,
) {
    for n in 0..10_u16 {
        let message = vec![n as u8; 1 + 1500 * usize::from(n)];
        let info = Info { stream: n, ppid: 0x2f00_0000, unordered: n % 2 == 1 };
        stream.write_all(&message).unwrap();
        let out = std::mem::take(&mut stream.get_mut().outbox);
        association.send(&out, info);
        let mut buffer = vec![0; 20_000];
        let length = program.recv(&mut buffer).unwrap();
        let (header, received) = MessageHeader::split(&buffer[..length]).unwrap();
        assert_eq!((header.stream, u32::from_ne_bytes(header.ppid)), (n, info.ppid));
        assert_eq!(header.flags.contains(MessageFlags::UNORDERED), info.unordered);
        assert!(received == message);
        program.send(&buffer[..length]).unwrap();
        let (record, arrived) = association.next();
        assert_eq!(arrived, info);
        stream.get_mut().inbox.push_back(record);
        let mut back = vec![0; 20_000];
        let length = stream.read(&mut back).unwrap();
        assert!(back[..length] == message);
    }
}

fn plaintext(session: &mut tlspool_client::Session) -> std::os::unix::net::UnixDatagram {
    let program = std::os::unix::net::UnixDatagram::from(session.plaintext.take().unwrap());
    program.set_read_timeout(Some(LIMIT)).unwrap();
    program
}

#[test]
#[ignore = "in the VM"]
fn libssl_as_a_server_and_as_a_client() {
    let house = House::new();
    let ours = house.identity("example.com");
    let theirs = house.authority().leaf("john@example.org");
    let daemon = house.start();
    for we_serve in [true, false] {
        let (near, far) = pair(Kind::Authenticated);
        let pool = house.pool();
        // Theirs is a client's certificate; as a server it shows ours, with its own key.
        let context = context(if we_serve { &theirs } else { &ours }, house.anchor());
        let libssl = thread::spawn(move || {
            let mut association = Association::new(far);
            let first = if we_serve {
                ssl(&context).connect(Desk::default())
            } else {
                ssl(&context).accept(Desk::default())
            };
            let stream = shake(&mut association, first);
            (association, stream)
        });
        let request = if we_serve {
            StarttlsRequest::server()
        } else {
            StarttlsRequest::client("example.com").unwrap().localid("example.com").unwrap()
        };
        let request = request.sctp_messages(EVERY_STREAM);
        let mut session = pool
            .starttls(request, near, Plaintext::pair())
            .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
        let expected = if we_serve { "john@example.org" } else { "example.com" };
        assert_eq!(session.remoteid(), expected);
        let (mut association, mut stream) = libssl.join().unwrap();
        let program = plaintext(&mut session);
        speak(&mut association, &mut stream, &program);
        // It leaves without a word of DTLS.
        drop((association, stream));
        assert_eq!(program.recv(&mut [0; 100]).unwrap(), 0);
        daemon.await_log("truncated");
    }
    daemon.stop();
}

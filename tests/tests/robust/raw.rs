//! A program that speaks the socket protocol record by record, well or badly.

use std::collections::HashMap;
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tlspool_client::wire::packet::ErrorReply;
use tlspool_client::wire::{Body, Packet, RECORD_LEN};
use tlspool_client::{CtlKey, PoolError, Starttls, StarttlsFlags as Flags, Text};
use tlspool_tests::LIMIT;
use tlspool_tests::net::tcp_pair;

/// One connection to the pool.
pub(crate) struct Raw(pub(crate) UnixStream);

/// What the pool refused, and the words.
pub(crate) type Refusal = (PoolError, String);

/// Both plaintext ends of a TLS connection: the client's and the server's.
pub(crate) struct Pair {
    pub(crate) near: UnixStream,
    pub(crate) far: UnixStream,
}

impl Raw {
    pub(crate) fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Self(stream))
    }

    /// Sends bytes, any number of them, with descriptors, any number of them.
    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)), "too many");
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let sent = sendmsg(&self.0, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL)?;
            control.clear();
            rest = &rest[sent..];
        }
        Ok(())
    }

    pub(crate) fn send(&self, packet: &Packet, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.send_bytes(&packet.encode(), fd.as_slice())
    }

    pub(crate) fn answer(&self) -> io::Result<Packet> {
        let mut record = [0; RECORD_LEN];
        (&self.0).read_exact(&mut record)?;
        Ok(Packet::decode(&record).expect("the pool sends good records"))
    }

    /// The next record, which must be an error.
    pub(crate) fn refusal(&self) -> Refusal {
        match self.answer().expect("an answer").body {
            Body::Error(error) => told(&error),
            other => panic!("an error was expected: {other:?}"),
        }
    }

    /// Sends a request that must be refused.
    pub(crate) fn refused(&self, body: Body, fds: &[BorrowedFd<'_>]) -> Refusal {
        let packet = Packet { reqid: 77, cbid: 0, body };
        self.send_bytes(&packet.encode(), fds).expect("the pool reads");
        self.refusal()
    }

    /// Asks for TLS on `fd` without waiting for anything.
    #[allow(clippy::needless_pass_by_value)] // the pool has it then, and only the pool
    pub(crate) fn ask(&self, reqid: u16, request: Starttls, fd: OwnedFd) -> io::Result<()> {
        self.send(&Packet { reqid, cbid: 0, body: Body::Starttls(request) }, Some(fd.as_fd()))
    }

    /// Answers PLAINTEXT_CONNECT with the other end of a new pair.
    pub(crate) fn connect_plaintext(&self, asked: &Packet) -> io::Result<UnixStream> {
        let (ours, pools) = UnixStream::pair()?;
        ours.set_read_timeout(Some(LIMIT))?;
        ours.set_write_timeout(Some(LIMIT))?;
        self.send(asked, Some(pools.as_fd()))?;
        Ok(ours)
    }

    /// As [`Self::connect_plaintext`], over TCP: only there can the pool say that a session was cut.
    pub(crate) fn connect_tcp(&self, asked: &Packet) -> io::Result<TcpStream> {
        let (ours, pools) = tcp_pair();
        self.send(asked, Some(pools.as_fd()))?;
        Ok(ours)
    }

    /// Makes `count` TLS connections, both ends of which are the pool's, many at a time.
    pub(crate) fn pairs(
        &self,
        count: usize,
        client: &Starttls,
        server: &Starttls,
    ) -> Result<Vec<Pair>, String> {
        const AT_A_TIME: usize = 64;
        let mut done = Vec::new();
        while done.len() < count {
            let batch = AT_A_TIME.min(count - done.len());
            done.extend(self.batch(&vec![(client.clone(), server.clone()); batch])?);
        }
        Ok(done)
    }

    /// Makes a TLS connection for each pair of requests, a client's and a server's, all at once.
    pub(crate) fn batch(&self, requests: &[(Starttls, Starttls)]) -> Result<Vec<Pair>, String> {
        let gone = |error: io::Error| error.to_string();
        for (n, (client, server)) in (0..).zip(requests) {
            let (near, far) = tcp_pair();
            self.ask(2 * n, server.clone(), near.into()).map_err(gone)?;
            self.ask(2 * n + 1, client.clone(), far.into()).map_err(gone)?;
        }
        let (mut ends, mut finished) = (HashMap::new(), 0);
        while finished < 2 * requests.len() {
            let packet = self.answer().map_err(gone)?;
            match &packet.body {
                Body::PlaintextConnect(_) => {
                    let end = self.connect_plaintext(&packet).map_err(gone)?;
                    ends.insert(packet.reqid, end);
                }
                Body::Starttls(_) => finished += 1,
                Body::Error(error) => return Err(error.message.to_string()),
                other => return Err(format!("{other:?}")),
            }
        }
        let mut pairs = Vec::new();
        for n in 0..requests.len() as u16 {
            let mut end = |reqid| ends.remove(&reqid).ok_or("no PLAINTEXT_CONNECT came");
            pairs.push(Pair { far: end(2 * n)?, near: end(2 * n + 1)? });
        }
        Ok(pairs)
    }
}

fn told(error: &ErrorReply) -> Refusal {
    let number = PoolError::from_code(error.code);
    let number = number.unwrap_or_else(|| panic!("{error:?} is no error of the pool"));
    (number, error.message.to_string())
}

/// A request of a TLS server that does not ask for a certificate.
pub(crate) fn server(localid: &str) -> Starttls {
    let flags = Flags::LOCALROLE_SERVER | Flags::REMOTEROLE_CLIENT | Flags::IGNORE_REMOTEID;
    Starttls { flags, ipproto: 6, localid: Text::cut(localid), ..Starttls::default() }
}

/// A request of a TLS client that verifies its server.
pub(crate) fn client(remoteid: &str) -> Starttls {
    let flags = Flags::LOCALROLE_CLIENT | Flags::REMOTEROLE_SERVER;
    Starttls { flags, ipproto: 6, remoteid: Text::cut(remoteid), ..Starttls::default() }
}

/// The same with more flags.
#[allow(clippy::needless_pass_by_value)] // reads better where it is called
pub(crate) fn with(request: Starttls, flags: Flags) -> Starttls {
    Starttls { flags: request.flags | flags, ..request }
}

/// The same with a control key of this byte.
#[allow(clippy::needless_pass_by_value)] // as above
pub(crate) fn keyed(request: Starttls, key: u8) -> Starttls {
    Starttls { ctlkey: CtlKey([key; 16]), ..request }
}

/// A connected TCP socket for the pool, and the peer's end.
pub(crate) fn tcp() -> (OwnedFd, TcpStream) {
    let (near, far) = tcp_pair();
    (near.into(), far)
}

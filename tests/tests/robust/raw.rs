//! A program that speaks the socket protocol record by record, well or badly.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
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
        let (ours, pools) = plaintext_pair()?;
        self.send(asked, Some(pools.as_fd()))?;
        Ok(ours)
    }

    /// As [`Self::connect_plaintext`], over TCP: only there can the pool say that a session was cut.
    pub(crate) fn connect_tcp(&self, asked: &Packet) -> io::Result<TcpStream> {
        let (ours, pools) = tcp_pair();
        self.send(asked, Some(pools.as_fd()))?;
        Ok(ours)
    }

    /// Sends as many records as there is room for.
    fn send_some(&self, unsent: &mut VecDeque<Unsent>) -> io::Result<()> {
        while let Some(Unsent { packet, fd }) = unsent.front() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let fds = [fd.as_fd()];
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "one fits");
            let record = packet.encode();
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match sendmsg(&self.0, &[IoSlice::new(&record)], &mut control, flags) {
                Ok(sent) => assert_eq!(sent, RECORD_LEN, "the kernel does not cut what is short"),
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            unsent.pop_front();
        }
        Ok(())
    }

    /// Waits for answers, and with `writes` for room to write; nothing is what comes if the time is over.
    fn wait(&self, limit: Duration, writes: bool) -> io::Result<PollFlags> {
        let limit = Timespec::try_from(limit).expect("a few seconds");
        let wanted = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut fds = [PollFd::new(&self.0, wanted)];
        poll(&mut fds, Some(&limit))?;
        Ok(fds[0].revents())
    }

    /// Reads an answer, and sees to it.
    fn news(&self, unsent: &mut VecDeque<Unsent>) -> Result<News, String> {
        let gone = |error: io::Error| error.to_string();
        let packet = self.answer().map_err(gone)?;
        let reqid = packet.reqid;
        match &packet.body {
            Body::PlaintextConnect(_) => {
                let (ours, pools) = plaintext_pair().map_err(gone)?;
                unsent.push_back(Unsent { packet, fd: pools.into() });
                Ok(News::Plaintext(reqid, ours))
            }
            Body::Starttls(_) => Ok(News::Stands(reqid)),
            Body::Error(error) => Err(error.message.to_string()),
            other => Err(format!("{other:?}")),
        }
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
        let mut asked = (0..requests.len() as u16).zip(requests);
        let mut unsent = VecDeque::new();
        let (mut ends, mut finished) = (HashMap::new(), 0);
        while finished < 2 * requests.len() {
            if unsent.is_empty()
                && let Some((n, (client, server))) = asked.next()
            {
                unsent.extend(Unsent::pair(n, client, server));
            }
            // Read while there is no room to write: the pool drops a program that does not take its answers.
            self.send_some(&mut unsent).map_err(gone)?;
            let idle = asked.len() == 0 || !unsent.is_empty();
            let limit = if idle { LIMIT } else { Duration::ZERO };
            let events = self.wait(limit, !unsent.is_empty()).map_err(gone)?;
            if idle && events.is_empty() {
                return Err(format!("nothing comes; {finished} are done"));
            }
            if (events & !PollFlags::OUT).is_empty() {
                continue;
            }
            match self.news(&mut unsent)? {
                News::Plaintext(reqid, end) => drop(ends.insert(reqid, end)),
                News::Stands(_) => finished += 1,
            }
        }
        let mut pairs = Vec::new();
        for n in 0..requests.len() as u16 {
            let mut end = |reqid| ends.remove(&reqid).ok_or("no PLAINTEXT_CONNECT came");
            pairs.push(Pair { far: end(2 * n)?, near: end(2 * n + 1)? });
        }
        Ok(pairs)
    }

    /// Begins a TLS connection every so often until `end`, whatever became of those before, and drops it when it
    /// stands. How long each took, from when it was due.
    #[allow(dead_code)] // not all programs measure
    pub(crate) fn paced(
        &self,
        (client, server): &(Starttls, Starttls),
        every: Duration,
        end: Instant,
    ) -> Result<Vec<Paced>, String> {
        let gone = |error: io::Error| error.to_string();
        let mut due = Instant::now();
        let (mut open, mut number) = (HashMap::new(), 0);
        let (mut unsent, mut done) = (VecDeque::new(), Vec::new());
        while due < end || !open.is_empty() {
            if due < end && Instant::now() >= due {
                unsent.extend(Unsent::pair(number, client, server));
                open.insert(number, (due, Vec::new()));
                number = (number + 1) % (1 << 15);
                due += every;
            }
            self.send_some(&mut unsent).map_err(gone)?;
            let limit =
                if due < end { due.saturating_duration_since(Instant::now()) } else { LIMIT };
            let events = self.wait(limit, !unsent.is_empty()).map_err(gone)?;
            if due >= end && events.is_empty() {
                return Err(format!("nothing comes; {} are not done", open.len()));
            }
            if (events & !PollFlags::OUT).is_empty() {
                continue;
            }
            let (reqid, end) = match self.news(&mut unsent)? {
                News::Plaintext(reqid, end) => (reqid, Some(end)),
                News::Stands(reqid) => (reqid, None),
            };
            let (due, news) = open.get_mut(&(reqid / 2)).ok_or("an answer to nothing")?;
            news.push(end);
            // A plaintext end for each side, and the word that it stands.
            if news.len() == 4 {
                done.push(Paced { due: *due, took: due.elapsed() });
                open.remove(&(reqid / 2));
            }
        }
        Ok(done)
    }
}

/// A TLS connection that was due at a time, and stood so much later.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code)] // as above
pub(crate) struct Paced {
    pub(crate) due: Instant,
    pub(crate) took: Duration,
}

/// What the pool says of a request.
enum News {
    /// It has the plaintext side, of which this is our end.
    Plaintext(u16, UnixStream),
    Stands(u16),
}

/// A record that waits for room, with its descriptor.
struct Unsent {
    packet: Packet,
    fd: OwnedFd,
}

impl Unsent {
    /// What is asked for both ends of a new TCP connection: 2n for the server's, 2n + 1 for the client's.
    fn pair(n: u16, client: &Starttls, server: &Starttls) -> [Self; 2] {
        let (near, far) = tcp_pair();
        let asks = |reqid, request: &Starttls, fd: TcpStream| Self {
            packet: Packet { reqid, cbid: 0, body: Body::Starttls(request.clone()) },
            fd: fd.into(),
        };
        [asks(2 * n, server, near), asks(2 * n + 1, client, far)]
    }
}

/// A plaintext connection: our end, with limits on reading and writing, and the pool's.
fn plaintext_pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, pools) = UnixStream::pair()?;
    ours.set_read_timeout(Some(LIMIT))?;
    ours.set_write_timeout(Some(LIMIT))?;
    Ok((ours, pools))
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

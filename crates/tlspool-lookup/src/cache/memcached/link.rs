//! A connection to memcached: commands one way, answers in their order the other.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, Sleep, sleep, timeout_at};

use super::Server;
use crate::cache::seal::MAX_VALUE;

/// Longest line of an answer, in bytes: `VALUE`, a key, two numbers; or words about an error.
const MAX_LINE: u64 = 1024;

/// A value with its seal.
const MAX_SEALED: usize = MAX_VALUE + 64;

/// Commands and bytes of values that wait for one server; more are not remembered.
const MAX_WAITING: usize = 4096;
const MAX_WAITING_BYTES: usize = 8 << 20;

/// What stands under several keys, in their order; or why the server cannot be asked.
pub(super) type Values = Result<Vec<Option<Vec<u8>>>, String>;

/// A connection. Ends with its last owner.
#[derive(Debug)]
pub(super) struct Link {
    commands: mpsc::Sender<Command>,
    /// Bytes of values that wait.
    waiting: Arc<AtomicUsize>,
    tasks: [AbortHandle; 2],
}

impl Link {
    /// Whether nothing can be asked over it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    /// Asks for the values under `keys`; an error if it cannot be asked.
    pub(super) fn get(&self, keys: Vec<String>) -> Result<oneshot::Receiver<Values>, &'static str> {
        let (reply, answer) = oneshot::channel();
        if self.commands.try_send(Command::Get { keys, reply, asked: Instant::now() }).is_err() {
            return Err(if self.is_closed() { "it hung up" } else { "too many questions wait" });
        }
        Ok(answer)
    }

    /// Has a value remembered, if there is room in the queue.
    pub(super) fn set(&self, key: String, seconds: u64, value: Vec<u8>) {
        let size = value.len();
        if self.waiting.fetch_add(size, Ordering::Relaxed) + size > MAX_WAITING_BYTES
            || self.commands.try_send(Command::Set { key, seconds, value }).is_err()
        {
            // It will be looked up again; that is all.
            self.waiting.fetch_sub(size, Ordering::Relaxed);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

type Reply = oneshot::Sender<Values>;

enum Command {
    Get { keys: Vec<String>, reply: Reply, asked: Instant },
    Set { key: String, seconds: u64, value: Vec<u8> },
}

/// What an answer is to.
enum Due {
    Get { keys: Vec<String>, reply: Reply, asked: Instant },
    Set,
}

/// Connects.
pub(super) async fn open(server: Server, wait: Duration) -> Result<Rc<Link>, String> {
    let deadline = Instant::now() + wait;
    let opened = async {
        Ok::<_, io::Error>(match &server {
            Server::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let (from, to) = stream.into_split();
                link(from, to, wait)
            }
            Server::Unix(path) => {
                let (from, to) = UnixStream::connect(path).await?.into_split();
                link(from, to, wait)
            }
        })
    };
    match timeout_at(deadline, opened).await {
        Ok(Ok(link)) => Ok(Rc::new(link)),
        Ok(Err(error)) => Err(format!("cannot connect: {error}")),
        Err(_) => Err(format!("no connection within {} ms", wait.as_millis())),
    }
}

fn link<R, W>(from: R, to: W, wait: Duration) -> Link
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let (commands, inbox) = mpsc::channel(MAX_WAITING);
    let (due, expected) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn(write(to, inbox, due, Arc::clone(&waiting)));
    let reader = tokio::spawn(read(BufReader::new(from), expected, writer.abort_handle(), wait));
    Link { commands, waiting, tasks: [writer.abort_handle(), reader.abort_handle()] }
}

/// Sends commands. What is due in answer is known to the reader before it can come.
async fn write<W: AsyncWrite + Unpin>(
    mut to: W,
    mut inbox: mpsc::Receiver<Command>,
    due: mpsc::UnboundedSender<Due>,
    waiting: Arc<AtomicUsize>,
) {
    while let Some(command) = inbox.recv().await {
        let (bytes, answer) = match command {
            Command::Get { keys, reply, asked } => {
                let bytes = format!("get {}\r\n", keys.join(" ")).into_bytes();
                (bytes, Due::Get { keys, reply, asked })
            }
            Command::Set { key, seconds, value } => {
                waiting.fetch_sub(value.len(), Ordering::Relaxed);
                let head = format!("set {key} 0 {seconds} {}\r\n", value.len());
                ([head.as_bytes(), &value, b"\r\n"].concat(), Due::Set)
            }
        };
        if due.send(answer).is_err() || to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Reads answers, which come in the order of the commands. Ends the connection at the first that is none, or does
/// not come in time.
async fn read<R: AsyncRead + Unpin>(
    mut from: BufReader<R>,
    mut expected: mpsc::UnboundedReceiver<Due>,
    writer: AbortHandle,
    wait: Duration,
) {
    let mut patience = Patience::new(wait);
    while let Some(due) = expected.recv().await {
        let why = match due {
            Due::Set => {
                // Whether it was stored or there was no room does not matter; that it is one line does.
                let answer = patience.during(Instant::now(), line(&mut from)).await;
                answer.err()
            }
            Due::Get { keys, reply, asked } => {
                let answer = patience.during(asked, values(&mut from, &keys)).await;
                let why = answer.as_ref().err().cloned();
                let _ = reply.send(answer);
                why
            }
        };
        if let Some(why) = why {
            // So that the next command finds the connection closed; the others that wait are told the same.
            writer.abort();
            expected.close();
            while let Some(due) = expected.recv().await {
                if let Due::Get { reply, .. } = due {
                    let _ = reply.send(Err(why.clone()));
                }
            }
            return;
        }
    }
    writer.abort();
}

/// How long answers may take. One timer does for all of them, because to set one costs two system calls: it is set
/// anew only when it has run out, and looks then how long the answer of the moment may still take.
struct Patience {
    wait: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    fn new(wait: Duration) -> Self {
        Self { wait, timer: Box::pin(sleep(wait)) }
    }

    /// Waits for an answer to what was asked then.
    async fn during<T>(
        &mut self,
        asked: Instant,
        answer: impl Future<Output = io::Result<T>>,
    ) -> Result<T, String> {
        let until = asked + self.wait;
        let mut answer = pin!(answer);
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.map_err(|error| error.to_string()),
                () = &mut self.timer => {
                    if Instant::now() >= until {
                        return Err(format!("no answer within {} ms", self.wait.as_millis()));
                    }
                    self.timer.as_mut().reset(until);
                }
            }
        }
    }
}

/// The answer to a `get`: the values that are there, each of one of `keys`, none more often than asked.
async fn values<R: AsyncRead + Unpin>(
    from: &mut BufReader<R>,
    keys: &[String],
) -> io::Result<Vec<Option<Vec<u8>>>> {
    let mut values: Vec<Option<Vec<u8>>> = vec![None; keys.len()];
    loop {
        let head = line(from).await?;
        if head == b"END" {
            return Ok(values);
        }
        let (key, length) = key_and_length(&head).ok_or_else(nonsense)?;
        let mut open = keys.iter().zip(&mut values).filter(|(_, value)| value.is_none());
        let (_, place) = open.find(|(asked, _)| *asked == key).ok_or_else(nonsense)?;
        let mut bytes = Vec::with_capacity(length.min(1 << 16));
        from.take(length as u64).read_to_end(&mut bytes).await?;
        if bytes.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !line(from).await?.is_empty() {
            return Err(nonsense());
        }
        *place = Some(bytes);
    }
}

/// Out of `VALUE key flags length`.
fn key_and_length(line: &[u8]) -> Option<(&str, usize)> {
    let line = std::str::from_utf8(line).ok()?;
    let (key, rest) = line.strip_prefix("VALUE ")?.split_once(' ')?;
    let (flags, length) = rest.split_once(' ')?;
    flags.parse::<u32>().ok()?;
    Some((key, length.parse().ok().filter(|length| *length <= MAX_SEALED)?))
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it answers what was not asked")
}

/// A line without its end.
async fn line<R: AsyncRead + Unpin>(from: &mut BufReader<R>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    match line.strip_suffix(b"\r\n") {
        Some(text) => Ok(text.to_vec()),
        None if line.is_empty() => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up")),
        None => Err(nonsense()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_answer_has_its_time_though_they_share_a_timer() {
        let second = Duration::from_secs(1);
        let mut patience = Patience::new(second);
        let after = |seconds: u32| async move {
            sleep(second * seconds / 10).await;
            Ok(seconds)
        };
        // The timer runs out in the middle of one of these, which has more time.
        for _ in 0..5 {
            assert_eq!(patience.during(Instant::now(), after(8)).await, Ok(8));
        }
        let begin = Instant::now();
        let late = patience.during(begin, after(50)).await;
        assert_eq!(late, Err("no answer within 1000 ms".to_owned()));
        let took = begin.elapsed();
        assert!(took >= second && took < second + Duration::from_millis(10), "{took:?}");
        // What was asked a while ago has less.
        let asked = Instant::now().checked_sub(second / 2).unwrap();
        let begin = Instant::now();
        assert!(patience.during(asked, after(8)).await.is_err());
        assert!(begin.elapsed() < second * 6 / 10, "{:?}", begin.elapsed());
        // One that is there does not wait for anything.
        let there = patience.during(asked, async { Ok(()) }).await;
        assert_eq!(there, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_a_server_that_stalls_are_told() {
        let (ours, _theirs) = tokio::io::duplex(1 << 16);
        let (from, to) = tokio::io::split(ours);
        let link = link(from, to, Duration::from_secs(1));
        link.set("key".to_owned(), 1, b"value".to_vec());
        let answers: Vec<_> = (0..3).map(|_| link.get(vec!["key".to_owned()]).unwrap()).collect();
        for answer in answers {
            assert_eq!(answer.await, Ok(Err("no answer within 1000 ms".to_owned())));
        }
        while !link.is_closed() {
            tokio::task::yield_now().await;
        }
        assert_eq!(link.get(vec!["key".to_owned()]).map(drop), Err("it hung up"));
    }

    #[tokio::test]
    async fn answers_are_read_and_everything_else_is_refused() {
        async fn read(answer: &[u8]) -> Result<[Option<Vec<u8>>; 2], io::ErrorKind> {
            let keys = ["key".to_owned(), "another".to_owned()];
            let values = values(&mut BufReader::new(answer), &keys).await;
            values.map(|values| values.try_into().unwrap()).map_err(|error| error.kind())
        }
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        assert_eq!(read(b"END\r\n").await, Ok([None, None]));
        let value = || Some(b"a\r\nb".to_vec());
        let one = b"VALUE key 0 4\r\na\r\nb\r\nEND\r\n";
        assert_eq!(read(one).await, Ok([value(), None]));
        let other = b"VALUE another 0 4\r\na\r\nb\r\nEND\r\n";
        assert_eq!(read(other).await, Ok([None, value()]));
        let both = b"VALUE another 7 0\r\n\r\nVALUE key 0 4\r\na\r\nb\r\nEND\r\n";
        assert_eq!(read(both).await, Ok([value(), Some(Vec::new())]));
        for (bad, why) in [
            (&b""[..], UnexpectedEof),
            (b"EN", InvalidData),
            (b"ERROR\r\n", InvalidData),
            (b"SERVER_ERROR out of memory\r\n", InvalidData),
            (b"VALUE other 0 1\r\na\r\nEND\r\n", InvalidData),
            (b"VALUE keys 0 1\r\na\r\nEND\r\n", InvalidData),
            (b"VALUE key 0 -1\r\n\r\nEND\r\n", InvalidData),
            (b"VALUE key 0 99999999\r\n", InvalidData),
            (b"VALUE key 0 99999999999999999999\r\n", InvalidData),
            (b"VALUE key 0 5\r\nabc", UnexpectedEof),
            (b"VALUE key 0 1\r\nabc\r\nEND\r\n", InvalidData),
            (b"VALUE key 0 1\r\na\r\nVALUE key 0 1\r\na\r\nEND\r\n", InvalidData),
            (b"VALUE key 0 1\r\na\r\nVALUE other 0 1\r\na\r\nEND\r\n", InvalidData),
            (b"VALUE key 0 1\r\na\r\n", UnexpectedEof),
            (&[b'x'; 5000], InvalidData),
        ] {
            assert_eq!(read(bad).await, Err(why), "{}", String::from_utf8_lossy(bad));
        }
    }
}

//! A DNS server that answers what a test wants, with an honest one behind it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::RecordType;
use tlspool_tests::net::{dial, free_udp_port, limit};

/// Sockets at the same port.
fn listen() -> (UdpSocket, TcpListener, SocketAddr) {
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], free_udp_port()));
        // Somebody may ask from there in this very moment.
        if let (Ok(udp), Ok(tcp)) = (UdpSocket::bind(address), TcpListener::bind(address)) {
            return (udp, tcp, address);
        }
    }
}

/// A question, and what the honest server says.
pub(crate) struct Asked {
    pub(crate) question: Message,
    pub(crate) honest: Message,
    pub(crate) tcp: bool,
    /// How often it was asked before, over whatever.
    pub(crate) before: usize,
    /// An address other than the server's to answer from.
    pub(crate) stranger: Arc<UdpSocket>,
    pub(crate) from: SocketAddr,
}

impl Asked {
    pub(crate) fn name(&self) -> String {
        self.question.queries[0].name().to_ascii().to_lowercase()
    }

    pub(crate) fn kind(&self) -> RecordType {
        self.question.queries[0].query_type()
    }

    /// Whether it is the question on which a test lies.
    pub(crate) fn is(&self, name: &str, kind: RecordType) -> bool {
        self.name() == name && self.kind() == kind
    }
}

/// What it answers, one message after the other; none: silence.
type Answers = Vec<Vec<u8>>;

pub(crate) struct Liar {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, RecordType)>>>,
}

impl Liar {
    /// Answers as `lie` does, which has the answer of `honest`.
    pub(crate) fn start(
        honest: SocketAddr,
        lie: impl Fn(Asked) -> Answers + Send + Sync + 'static,
    ) -> Self {
        let (udp, tcp, address) = listen();
        let stranger = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let lie = {
            let asked = Arc::clone(&asked);
            Arc::new(move |bytes: &[u8], tcp: bool, from: SocketAddr| -> Answers {
                let question = Message::from_vec(bytes).unwrap();
                let honest = ask(honest, bytes);
                let query = &question.queries[0];
                let key = (query.name().to_ascii(), query.query_type());
                let before = {
                    let mut asked = asked.lock().unwrap();
                    asked.push(key.clone());
                    asked.iter().filter(|known| **known == key).count() - 1
                };
                let stranger = Arc::clone(&stranger);
                lie(Asked { question, honest, tcp, before, stranger, from })
            })
        };
        // The threads end with the process.
        let answer = Arc::clone(&lie);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                for message in answer(&buffer[..length], false, from) {
                    let _ = udp.send_to(&message, from);
                }
            }
        });
        thread::spawn(move || {
            while let Ok((stream, from)) = tcp.accept() {
                let answer = Arc::clone(&lie);
                thread::spawn(move || serve(stream, |bytes| answer(bytes, true, from)));
            }
        });
        Self { address, asked }
    }

    /// How many questions it has had.
    pub(crate) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// How often it was asked this.
    pub(crate) fn count_of(&self, name: &str, kind: RecordType) -> usize {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|(n, k)| n.eq_ignore_ascii_case(name) && *k == kind).count()
    }
}

fn serve(mut stream: TcpStream, answer: impl Fn(&[u8]) -> Answers) {
    let _ = limit(&stream);
    while let Some(bytes) = receive(&mut stream) {
        for message in answer(&bytes) {
            let length = u16::try_from(message.len()).unwrap_or(u16::MAX);
            let _ = stream.write_all(&[&length.to_be_bytes()[..], &message].concat());
        }
    }
}

fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// What an honest server answers to a question in bytes, over TCP.
pub(crate) fn ask(server: SocketAddr, bytes: &[u8]) -> Message {
    let mut stream = dial(server).unwrap();
    let length = u16::try_from(bytes.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).unwrap();
    Message::from_vec(&receive(&mut stream).unwrap()).unwrap()
}

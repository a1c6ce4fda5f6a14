//! Our side of a cell, over TCP or UDP.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use tls12::{ClientConfig, Closed, Connection, Error, ServerConfig, dtls};

use crate::support::programs::{Live, LiveDatagrams, PATIENCE, accept_datagrams, connect};
use crate::support::{Shape, Side, credential};

pub(crate) enum Ours {
    Stream(Live),
    Datagrams(LiveDatagrams),
}

fn credentials(key: Option<usize>) -> Vec<Arc<tls12::Credential>> {
    key.iter().map(|key| credential(*key, Shape::X509)).collect()
}

impl Ours {
    pub(crate) fn client(
        config: ClientConfig,
        key: Option<usize>,
        datagrams: bool,
        port: u16,
    ) -> Self {
        if !datagrams {
            return Self::Stream(Live::new(Side::client(config, credentials(key)), connect(port)));
        }
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let config = Arc::new(config);
        let settings = dtls::Config::default();
        let connection = Connection::datagram_client(&config, settings, Instant::now()).unwrap();
        Self::Datagrams(LiveDatagrams { side: Side::new(connection, credentials(key)), socket })
    }

    pub(crate) fn side(&mut self) -> &mut Side {
        match self {
            Self::Stream(live) => &mut live.side,
            Self::Datagrams(live) => &mut live.side,
        }
    }

    pub(crate) fn run_until(&mut self, done: impl Fn(&Side) -> bool) {
        match self {
            Self::Stream(live) => live.run_until(done),
            Self::Datagrams(live) => live.run_until(done),
        }
    }

    fn flush(&mut self) {
        match self {
            Self::Stream(live) => live.flush(),
            Self::Datagrams(live) => live.flush(),
        }
    }

    /// Sends a line, without waiting for anything.
    pub(crate) fn say(&mut self, line: &str) {
        self.side().connection.send(line.as_bytes()).unwrap();
        self.flush();
    }

    /// Sends a line, which the peer sends back.
    pub(crate) fn echo(&mut self, line: &str) {
        self.side().data.clear();
        self.say(line);
        let found = |side: &Side| side.data == line.as_bytes();
        self.run_until(found);
        let closed = self.side().closed.clone();
        assert!(found(self.side()), "no answer to {line:?}: {closed:?}");
    }

    /// Ends the session, and waits for the peer's end.
    pub(crate) fn end(&mut self) {
        self.side().connection.close();
        self.run_until(|side| side.closed.is_some() || side.peer_closed);
    }

    pub(crate) fn error(&mut self) -> Option<Error> {
        match &self.side().closed {
            Some(Closed::Failed(error)) => Some(error.clone()),
            _ => None,
        }
    }
}

/// Where a server of ours takes its sessions from.
pub(crate) enum Door {
    Stream(TcpListener),
    Datagrams(UdpSocket),
}

impl Door {
    pub(crate) fn new(datagrams: bool) -> Self {
        if datagrams {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            Self::Datagrams(socket)
        } else {
            Self::Stream(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
        }
    }

    pub(crate) fn port(&self) -> u16 {
        let address = match self {
            Self::Stream(listener) => listener.local_addr(),
            Self::Datagrams(socket) => socket.local_addr(),
        };
        address.unwrap().port()
    }

    /// The next session. Over UDP all come from the same port.
    pub(crate) fn next(&self, config: ServerConfig, key: usize) -> Ours {
        match self {
            Self::Datagrams(socket) => {
                Ours::Datagrams(accept_datagrams(&Arc::new(config), key, socket))
            }
            Self::Stream(listener) => {
                listener.set_nonblocking(true).unwrap();
                let end = Instant::now() + PATIENCE;
                let stream = loop {
                    if let Ok((stream, _)) = listener.accept() {
                        break stream;
                    }
                    assert!(Instant::now() < end, "nobody connects");
                    std::thread::yield_now();
                };
                stream.set_nonblocking(false).unwrap();
                Ours::Stream(Live::new(Side::server(config, credentials(Some(key))), stream))
            }
        }
    }
}

//! A pool without TLS, for tests: it speaks the protocol and does what the test says.
//!
//! [`FakePool::relay`] plays a whole daemon that copies the plaintext as it is; the scripted calls
//! ([`FakePool::accept`], [`FakeClient::receive`], ...) let a test say each record.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg,
    sendmsg,
};
use tlspool_wire::packet::ErrorReply;
use tlspool_wire::{
    Assembler, Body, Facilities, PROTOCOL_IDENTITY, Packet, Ping, PoolError, StarttlsFlags, Text,
};

/// A listening socket that pretends to be a pool.
#[derive(Debug)]
pub struct FakePool(UnixListener);

/// A program connected to it.
#[derive(Debug)]
pub struct FakeClient {
    socket: UnixStream,
    assembler: Assembler<OwnedFd>,
    /// What it offers beyond the protocol, of what a greeting asks for.
    offers: Facilities,
    /// The second descriptor of the record that was received last.
    second: Option<OwnedFd>,
}

impl FakePool {
    /// Listens at `path`, which it takes over if something is there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(Self(UnixListener::bind(path)?)),
        }
    }

    /// The next program that connects.
    pub fn accept(&self) -> io::Result<FakeClient> {
        let socket = self.0.accept()?.0;
        Ok(FakeClient {
            socket,
            assembler: Assembler::default(),
            offers: Facilities::DRAIN_NOTICE,
            second: None,
        })
    }

    /// Serves programs for ever, each STARTTLS without TLS: names come back as they were asked,
    /// with `names` instead where none was.
    pub fn relay(self, localid: &'static str, remoteid: &'static str) {
        thread::spawn(move || {
            while let Ok(mut client) = self.accept() {
                thread::spawn(move || client.relay(localid, remoteid));
            }
        });
    }
}

impl FakeClient {
    /// From now on, a greeting is told that the plaintext socket may come along.
    pub fn take_plaintext(&mut self) {
        self.offers = self.offers | Facilities::PLAINTEXT_ALONG;
    }

    /// The second descriptor of the record received last.
    pub fn second(&mut self) -> Option<OwnedFd> {
        self.second.take()
    }

    /// The next record, with its descriptor. Answers a client library's greeting by itself: a
    /// PING that asks for drain notices. An error at the end of the connection.
    pub fn receive(&mut self) -> io::Result<(Packet, Option<OwnedFd>)> {
        loop {
            let (packet, descriptor) = self.receive_any()?;
            match &packet.body {
                Body::Ping(ping)
                    if Facilities(ping.facilities).contains(Facilities::DRAIN_NOTICE) =>
                {
                    self.answer(&packet, pong(Facilities::ALL_CURRENT | self.offers))?;
                }
                _ => return Ok((packet, descriptor)),
            }
        }
    }

    /// The next record, whatever it is.
    pub fn receive_any(&mut self) -> io::Result<(Packet, Option<OwnedFd>)> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut room = [IoSliceMut::new(self.assembler.wanted())];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let bytes = recvmsg(&self.socket, &mut room, &mut ancillary, flags)?.bytes;
            if bytes == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    descriptors.for_each(|d| self.assembler.take_descriptor(d));
                }
            }
            if let Some(record) = self.assembler.advance(bytes) {
                let packet = Packet::decode(&record.bytes).map_err(io::Error::other)?;
                self.second = record.second;
                return Ok((packet, record.descriptor));
            }
        }
    }

    /// Sends a record.
    pub fn send(&mut self, packet: &Packet) -> io::Result<()> {
        self.send_bytes(&packet.encode())
    }

    /// Sends bytes as they are, for records in pieces.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut none = SendAncillaryBuffer::default();
        sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut none, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Sends the last answer to `request`.
    pub fn answer(&mut self, request: &Packet, body: Body) -> io::Result<()> {
        self.send(&Packet { reqid: request.reqid, cbid: 0, body })
    }

    /// Sends a callback about `request`.
    pub fn call_back(&mut self, request: &Packet, cbid: u16, body: Body) -> io::Result<()> {
        self.send(&Packet { reqid: request.reqid, cbid, body })
    }

    /// Stops sending, keeps receiving.
    pub fn half_close(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// Stops receiving, keeps sending: what a pool that drains does to have its clients go.
    pub fn stop_receiving(&mut self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Read)
    }

    /// Says of the connection as a whole why it is closed, and closes it.
    pub fn part(mut self, error: PoolError, message: &str) -> io::Result<()> {
        self.send(&Packet::error(0, error, message))
    }

    /// Serves as [`FakePool::relay`] does, until the connection ends.
    fn relay(&mut self, localid: &str, remoteid: &str) -> io::Result<()> {
        let mut handshakes = HashMap::new();
        loop {
            let (packet, descriptor) = self.receive()?;
            let body = match packet.body.clone() {
                Body::Ping(_) => pong(Facilities::ALL_CURRENT),
                Body::ControlDetach(_) | Body::ControlReattach(_) => Body::Success,
                Body::Prng(mut prng) => {
                    prng.buffer.fill(b'r');
                    Body::Prng(prng)
                }
                Body::Info(mut info) => {
                    info.len = 4;
                    info.buffer[..4].copy_from_slice(b"fact");
                    Body::Info(info)
                }
                Body::Starttls(mut s) => match descriptor {
                    None => refusal(PoolError::CipherSocketNeeded),
                    Some(cipher) => {
                        if s.localid.is_empty() {
                            s.localid = Text::cut(localid);
                        }
                        if s.remoteid.is_empty() {
                            s.remoteid = Text::cut(remoteid);
                        }
                        let next = if s.flags.contains(StarttlsFlags::LOCALID_CHECK) {
                            Body::StarttlsLocalid(s.clone())
                        } else {
                            Body::PlaintextConnect(s.clone())
                        };
                        handshakes.insert(packet.reqid, (cipher, s));
                        self.call_back(&packet, 1, next)?;
                        continue;
                    }
                },
                Body::StarttlsLocalid(answer) => {
                    if let Some((_, s)) = handshakes.get_mut(&packet.reqid) {
                        s.localid = answer.localid;
                        let next = Body::PlaintextConnect(s.clone());
                        self.call_back(&packet, 2, next)?;
                        continue;
                    }
                    refusal(PoolError::CommandBadCallbackResponse)
                }
                Body::PlaintextConnect(_) => match (handshakes.remove(&packet.reqid), descriptor) {
                    (None, _) => refusal(PoolError::CommandBadCallbackResponse),
                    (_, None) => refusal(PoolError::PlainSocketNeeded),
                    (Some((cipher, s)), Some(plaintext)) => {
                        copy_both_ways(&cipher.into(), &plaintext.into())?;
                        Body::Starttls(s)
                    }
                },
                Body::Error(reply) => {
                    handshakes.remove(&packet.reqid);
                    Body::Error(reply)
                }
                _ => refusal(PoolError::CommandNotImpl),
            };
            self.answer(&packet, body)?;
        }
    }
}

fn pong(facilities: Facilities) -> Body {
    Body::Ping(Ping { identity: Text::cut(PROTOCOL_IDENTITY), facilities: facilities.0 })
}

fn refusal(error: PoolError) -> Body {
    Body::Error(ErrorReply { code: error.code(), message: Text::cut(&error.to_string()) })
}

/// Reading, writing and shutting down are the same for every stream socket.
fn copy_both_ways(a: &UnixStream, b: &UnixStream) -> io::Result<()> {
    for (mut from, mut to) in [(a.try_clone()?, b.try_clone()?), (b.try_clone()?, a.try_clone()?)] {
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write);
        });
    }
    Ok(())
}

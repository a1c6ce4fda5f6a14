//! RADIUS servers as authorizers (RFC 2865): an Access-Request with both names and the service, no password.
//!
//! Each question has a socket of its own, connected to one server, so that answers cannot be mixed up and come
//! from nowhere else. It is sent several times; then the next server is asked, with a new authenticator. The
//! server that answered last is asked first next time. What is not authentic is as if it had not come: the
//! wait goes on.

pub mod packet;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use self::packet::{Reply, Request, Secret, Verdict};
use super::{Asked, Meeting, within};

/// How to ask.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The servers, in this order.
    pub servers: Vec<SocketAddr>,
    /// What is shared with them.
    pub secret: Secret,
    /// Who we are to them (NAS-Identifier).
    pub nas_identifier: String,
    /// How long an answer is waited for before the question is sent again.
    pub timeout: Duration,
    /// How often each server is sent a question.
    pub attempts: usize,
    /// Whether an answer must have a Message-Authenticator.
    pub require_message_authenticator: bool,
    /// Questions under way.
    pub questions: usize,
}

/// The servers.
#[derive(Debug)]
pub(super) struct Radius {
    settings: Settings,
    /// The one that answered last.
    first: Cell<usize>,
}

impl Radius {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, first: Cell::new(0) }
    }

    /// Asks one server after the other; `by` becomes the one that answered.
    pub(super) async fn ask(
        &self,
        meeting: &Meeting<'_>,
        by: &mut String,
        steps: &mut Vec<String>,
    ) -> Asked {
        let count = self.settings.servers.len();
        let mut problem = "no server is configured".to_owned();
        // Other questions change it meanwhile; this one asks each server.
        let first = self.first.get();
        for turn in 0..count {
            let number = (first + turn) % count;
            let Some(server) = self.settings.servers.get(number) else { break };
            match self.ask_one(*server, meeting, steps).await {
                Ok(reply) => {
                    self.first.set(number);
                    *by = format!("RADIUS server {server}");
                    return judge(reply);
                }
                Err(why) => {
                    problem = format!("{server}: {why}");
                    steps.push(format!("RADIUS server {server}: {why}"));
                }
            }
        }
        Asked::Unreachable(problem)
    }

    async fn ask_one(
        &self,
        server: SocketAddr,
        meeting: &Meeting<'_>,
        steps: &mut Vec<String>,
    ) -> Result<Reply, String> {
        let Settings { secret, nas_identifier, timeout, attempts, .. } = &self.settings;
        let request = Request::new(meeting, nas_identifier, secret)?;
        let failed = |error: io::Error| error.to_string();
        let ours: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(ours).await.map_err(failed)?;
        socket.connect(server).await.map_err(failed)?;
        let mut buffer = vec![0; packet::MAX_PACKET + 1];
        for _ in 0..*attempts {
            socket.send(request.bytes()).await.map_err(failed)?;
            let until = Instant::now() + *timeout;
            while let Ok(received) = timeout_at(until, socket.recv(&mut buffer)).await {
                let length = received.map_err(failed)?;
                match request.open(
                    &buffer[..length],
                    secret,
                    self.settings.require_message_authenticator,
                ) {
                    Verdict::Reply(reply) => return Ok(reply),
                    Verdict::Ignored(why) => {
                        if steps.len() < 16 {
                            steps.push(format!("RADIUS server {server}: ignored, {why}"));
                        }
                    }
                }
            }
        }
        Err(format!("{} ({attempts} times)", within(*timeout)))
    }
}

impl fmt::Display for Radius {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RADIUS")
    }
}

/// What an authentic reply means.
fn judge(reply: Reply) -> Asked {
    let Reply { code, message } = reply;
    match code {
        packet::ACCESS_ACCEPT => Asked::Opinion(true, message),
        packet::ACCESS_REJECT => Asked::Opinion(false, message),
        _ => Asked::Opinion(
            false,
            "it wants to ask the peer something, which cannot be done here".into(),
        ),
    }
}

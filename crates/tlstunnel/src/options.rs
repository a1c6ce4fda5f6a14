//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser, ValueEnum};
use tlspool_client::{StarttlsFlags, StarttlsRequest};

use crate::address::Address;
use crate::error::TunnelError;
use crate::transport::{Carried, STREAMS, Transport};

/// With -u: sessions from one address within five minutes, if nothing else is said.
const SESSIONS_OF_ONE: u32 = 64;

/// TLS in front of, or behind, a plaintext service: the TLS Pool does the work.
#[derive(Debug, Parser)]
#[command(name = "tlstunnel", version, about)]
#[command(group(ArgGroup::new("role").required(true)))]
#[command(group(ArgGroup::new("transport")))]
pub(crate) struct Options {
    /// Be the TLS client: accept plaintext on -l, speak TLS to -r
    #[arg(short = 'c', long, group = "role")]
    pub(crate) client: bool,
    /// Be the TLS server: accept TLS on -l, speak plaintext to -r
    #[arg(short = 's', long, group = "role")]
    pub(crate) server: bool,
    /// Where to listen: host:port, [v6]:port or the path of a UNIX socket
    #[arg(short, long, value_name = "ADDR")]
    pub(crate) listen: Address,
    /// Where to connect: host:port, [v6]:port or the path of a UNIX socket
    #[arg(short, long, value_name = "ADDR")]
    pub(crate) remote: Address,
    /// Our own identity; a server without one has the name that the client asks for
    #[arg(short = 'L', long, value_name = "NAME")]
    pub(crate) localid: Option<String>,
    /// The identity that the peer must prove; a client without one takes the host of -r
    #[arg(short = 'R', long, value_name = "NAME")]
    pub(crate) remoteid: Option<String>,
    /// What to do about the peer's identity [default: require, or ignore for a server without -R]
    #[arg(long, value_name = "HOW")]
    pub(crate) peer: Option<Peer>,
    /// Socket of the TLS Pool
    #[arg(short = 'S', long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Datagrams: DTLS over UDP
    #[arg(short = 'u', long, group = "transport")]
    pub(crate) udp: bool,
    /// Associations: DTLS over SCTP; each message keeps its stream, and has STREAM if the other side is a UNIX socket
    #[arg(short = 'x', long, value_name = "STREAM", group = "transport")]
    pub(crate) sctp: Option<u16>,
    /// Associations: TLS on this stream of SCTP
    #[arg(short = 'y', long, value_name = "STREAM", group = "transport")]
    #[arg(value_parser = clap::value_parser!(u16).range(..=65534))]
    pub(crate) sctp_stream: Option<u16>,
    /// With -y: plaintext is TCP
    #[arg(long, requires = "sctp_stream", conflicts_with_all = ["sctp", "udp"])]
    pub(crate) plain_tcp: bool,
    /// Handshakes under way from one address, for a server [default: a quarter of --pending]; with -u: sessions that
    /// may begin from one address within five minutes [default: 64]
    #[arg(long, value_name = "N")]
    pub(crate) per_source: Option<u32>,
    /// Let sessions outlive the tunnel
    #[arg(short, long)]
    pub(crate) fork: bool,
    /// Name of the service, as in services(5); the pool's policy may depend on it
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Handshakes under way at a time; connections beyond them wait in the kernel's queue
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) pending: u16,
    /// Seconds to connect to -r
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) connect_timeout: u16,
    /// Seconds that a connection waits for a pool that is not there
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub(crate) pool_timeout: u16,
}

/// What to do about the identity of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// Without a proven identity there is no connection
    Require,
    /// Ask for it; a peer may decline
    Request,
    /// Do not ask, do not validate
    Ignore,
}

impl Options {
    /// The request that every connection starts with.
    pub(crate) fn request(&self) -> Result<StarttlsRequest, TunnelError> {
        let named = self.remoteid.as_deref();
        let peer = self.peer.unwrap_or(match named {
            None if self.server => Peer::Ignore,
            _ => Peer::Require,
        });
        let mut request = if self.server {
            StarttlsRequest::server()
        } else {
            match named.or(self.remote.host()) {
                Some(name) => StarttlsRequest::client(name)?,
                None if peer == Peer::Ignore => StarttlsRequest::client("")?,
                None => return Err(TunnelError::NoRemoteid),
            }
        };
        if self.server
            && let Some(name) = named
        {
            request = request.remoteid(name)?;
        }
        if let Some(name) = &self.localid {
            request = request.localid(name)?;
        }
        if let Some(name) = &self.service {
            request = request.service(name)?;
        }
        if let Some(stream) = self.sctp {
            request = request.sctp_messages(stream);
        }
        if let Some(stream) = self.sctp_stream {
            request = request.sctp(stream);
        }
        if self.fork {
            request = request.flags(StarttlsFlags::FORK);
        }
        Ok(match peer {
            Peer::Require => request,
            Peer::Request => request.flags(StarttlsFlags::REQUEST_REMOTEID),
            Peer::Ignore => request.flags(StarttlsFlags::IGNORE_REMOTEID),
        })
    }

    /// What carries TLS, and what carries plaintext.
    pub(crate) fn transports(&self) -> (Transport, Transport) {
        if self.sctp.is_some() {
            (Transport::Sctp(Carried::Dtls), Transport::Sctp(Carried::Messages))
        } else if self.sctp_stream.is_some() {
            let plain =
                if self.plain_tcp { Transport::Tcp } else { Transport::Sctp(Carried::Bytes) };
            (Transport::Sctp(Carried::Tls), plain)
        } else {
            (Transport::Tcp, Transport::Tcp)
        }
    }

    /// Streams that an association must have.
    pub(crate) fn streams(&self) -> u16 {
        match self.sctp.or(self.sctp_stream) {
            None => 1,
            Some(tlspool_wire::message::EVERY_STREAM) => STREAMS,
            Some(stream) => stream + 1,
        }
    }

    /// Handshakes under way at a time: what [`Options::pending`] says, as far as there are descriptors.
    pub(crate) fn most_pending(&self) -> u16 {
        crate::descriptors::handshakes(self.pending)
    }

    /// Handshakes of one address, of `all` that may be under way.
    pub(crate) fn most_pending_of_one(&self, all: u16) -> usize {
        self.per_source.map_or(usize::from(all / 4), |n| n as usize).max(1)
    }

    /// With -u: see [`Options::per_source`].
    pub(crate) fn sessions_of_one(&self) -> u32 {
        self.per_source.unwrap_or(SESSIONS_OF_ONE).max(1)
    }

    /// See [`Options::connect_timeout`].
    pub(crate) fn connect_time(&self) -> Duration {
        Duration::from_secs(self.connect_timeout.into())
    }

    /// See [`Options::pool_timeout`].
    pub(crate) fn pool_time(&self) -> Duration {
        Duration::from_secs(self.pool_timeout.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn request(args: &str) -> Result<StarttlsRequest, TunnelError> {
        let args = std::iter::once("tlstunnel").chain(args.split_whitespace());
        Options::try_parse_from(args).unwrap().request()
    }

    #[test]
    fn the_command_is_sound() {
        Options::command().debug_assert();
        assert!(Options::try_parse_from(["tlstunnel", "-l", "a:1", "-r", "b:2"]).is_err());
        let both = ["tlstunnel", "-c", "-s", "-l", "a:1", "-r", "b:2"];
        assert!(Options::try_parse_from(both).is_err());
    }

    #[test]
    fn streams_have_numbers() {
        let streams = |how: [&str; 2]| {
            let args = ["tlstunnel", "-s", "-l", "a:1", "-r", "b:2"];
            Options::try_parse_from(args.into_iter().chain(how)).ok().map(|o| o.streams())
        };
        assert_eq!(streams(["-y", "65534"]), Some(65535));
        assert_eq!(streams(["-y", "65535"]), None);
        // Each message says which.
        assert_eq!(streams(["-x", "65535"]), Some(STREAMS));
        assert_eq!(streams(["-x", "7"]), Some(8));
    }

    #[test]
    fn a_server_asks_for_a_certificate_only_if_told() {
        let server = StarttlsRequest::server;
        let ignore = server().flags(StarttlsFlags::IGNORE_REMOTEID);
        assert_eq!(request("-s -l :1 -r b:2").unwrap(), ignore);
        let named = server().remoteid("john@example.com").unwrap().flags(StarttlsFlags::FORK);
        assert_eq!(request("-s -l :1 -r b:2 -R john@example.com -f").unwrap(), named);
        let asked = server().localid("example.com").unwrap();
        let asked = asked.flags(StarttlsFlags::REQUEST_REMOTEID).service("imap").unwrap();
        let args = "-s -l :1 -r b:2 --peer request -L example.com --service imap";
        assert_eq!(request(args).unwrap(), asked);
    }

    #[test]
    fn a_client_verifies_the_host_it_connects() {
        let client = |name| StarttlsRequest::client(name).unwrap();
        assert_eq!(request("-c -l /a -r example.com:443").unwrap(), client("example.com"));
        let other = request("-c -l /a -r 192.0.2.1:443 -R example.org").unwrap();
        assert_eq!(other, client("example.org"));
        assert!(matches!(request("-c -l /a -r 192.0.2.1:443"), Err(TunnelError::NoRemoteid)));
        assert!(request("-c -l /a -r /b --peer ignore").is_ok());
    }

    #[test]
    fn sctp_is_asked_for_by_stream() {
        let server = || StarttlsRequest::server().flags(StarttlsFlags::IGNORE_REMOTEID);
        assert_eq!(request("-s -l :1 -r b:2 -x 3").unwrap(), server().sctp_messages(3));
        assert_eq!(request("-s -l :1 -r b:2 -y 0").unwrap(), server().sctp(0));
        for wrong in [
            "-x 1 -y 1",
            "-u -x 1",
            "-x 65536",
            "--plain-tcp",
            "-x 1 --plain-tcp",
            "-u --plain-tcp",
        ] {
            let args = format!("tlstunnel -s -l :1 -r b:2 {wrong}");
            assert!(Options::try_parse_from(args.split_whitespace()).is_err(), "{wrong}");
        }
    }

    /// The manual page is written by hand; it names every option, and no other.
    #[test]
    fn the_manual_names_every_option() {
        let manual = include_str!("../../../man/tlstunnel.8");
        let documented: Vec<&str> = manual
            .lines()
            .filter_map(|line| line.strip_prefix(".It Fl "))
            .flat_map(|line| line.split(" , "))
            .map(|flag| flag.trim_start_matches("Fl ").split(' ').next().unwrap_or_default())
            .collect();
        let mut known = Vec::new();
        for arg in Options::command().get_arguments() {
            known.extend(arg.get_short().map(String::from));
            known.extend(arg.get_long().map(|long| format!("-{long}")));
        }
        known.extend(["h", "-help", "V", "-version"].map(String::from));
        for flag in &known {
            assert!(documented.contains(&flag.as_str()), "tlstunnel.8 lacks -{flag}");
        }
        for flag in documented {
            assert!(known.iter().any(|k| k == flag), "tlstunnel.8 invents -{flag}");
        }
    }
}

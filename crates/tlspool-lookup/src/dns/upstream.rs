//! Questions to servers, and their answers, none of which is believed yet.
//!
//! hickory's client streams carry the messages: over UDP with a port and an identifier of its own for
//! each question, over TCP and TLS on connections that are kept. Its pool of servers is not used: that
//! ends a question at the first server that refuses it, although another may answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::tcp::TcpClientStream;
use hickory_resolver::net::tls::tls_exchange;
use hickory_resolver::net::udp::UdpClientStream;
use hickory_resolver::net::xfer::{DnsExchange, DnsHandle, DnsRequestSender, FirstAnswer};
use hickory_resolver::proto::op::{
    DnsRequest, DnsRequestOptions, DnsResponse, Edns, Message, MessageType, OpCode, Query,
    ResponseCode,
};
use hickory_resolver::proto::rr::{DNSClass, Name, Record, RecordType};
use rustls::pki_types::ServerName;
use tokio::sync::{Mutex, Semaphore};

use super::iterate::Iterator;
use super::settings::{DnsSettings, Forwarder, Protocol, SettingsError, UpstreamSettings};
use super::tls;
use super::work::Work;
use crate::names::LookupFailure;

/// What we take over UDP: what fits everywhere without fragments (RFC 9715).
const UDP_PAYLOAD: u16 = 1232;
/// Records of an answer that are looked at; one with more is refused.
const MAX_RECORDS: usize = 512;
/// Questions under way on one connection.
const MAX_ON_CONNECTION: usize = 1024;

/// An answer, as a server gave it.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) authoritative: bool,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
    pub(super) additionals: Vec<Record>,
}

/// Whom to ask.
pub(super) struct Upstream {
    kind: Kind,
    attempt: Duration,
    attempts: usize,
    questions: Semaphore,
}

enum Kind {
    Forwarders(Vec<Server>),
    Root(Iterator),
}

impl Upstream {
    pub(super) fn new(settings: &DnsSettings) -> Result<Self, SettingsError> {
        let kind = match &settings.upstream {
            UpstreamSettings::Forwarders(list) => {
                Kind::Forwarders(list.iter().map(Server::new).collect::<Result<_, _>>()?)
            }
            UpstreamSettings::Root { hints, port } => Kind::Root(Iterator::new(hints, *port)),
        };
        let nobody = match &kind {
            Kind::Forwarders(list) => list.is_empty(),
            Kind::Root(iterator) => iterator.is_empty(),
        };
        if nobody {
            return Err(SettingsError::NoServer);
        }
        Ok(Self {
            kind,
            attempt: settings.attempt,
            attempts: settings.attempts.max(1),
            questions: Semaphore::new(settings.questions.max(1)),
        })
    }

    /// The answer to a question, negative or not; an error if nobody gives one.
    pub(super) async fn ask(
        &self,
        name: &Name,
        kind: RecordType,
        work: &Work,
    ) -> Result<Reply, LookupFailure> {
        let servers = match &self.kind {
            Kind::Root(iterator) => return iterator.resolve(self, name, kind, work).await,
            Kind::Forwarders(servers) => servers,
        };
        let mut why = String::new();
        for _ in 0..self.attempts {
            for server in servers {
                match self.ask_server(server, name, kind, true, work).await? {
                    Ok(reply) if is_answer(reply.code) => return Ok(reply),
                    Ok(reply) => why = format!("{} answers {}", server.address, reply.code),
                    Err(error) => why = format!("{}: {error}", server.address),
                }
            }
        }
        Err(LookupFailure::Unanswered { name: describe(name, kind), why })
    }

    /// One question to one server; the outer error ends the whole look-up.
    pub(super) async fn ask_server(
        &self,
        server: &Server,
        name: &Name,
        kind: RecordType,
        recursive: bool,
        work: &Work,
    ) -> Result<Result<Reply, String>, LookupFailure> {
        work.question(name)?;
        let permit = self.questions.acquire().await;
        let result = server.ask(question(name, kind, recursive), self.attempt).await;
        drop(permit);
        let response = match result {
            Ok(response) => response,
            Err(error) => return Ok(Err(reason(&error))),
        };
        Ok(reply(response, name, kind))
    }

    pub(super) fn attempts(&self) -> usize {
        self.attempts
    }
}

/// One server, and the connection to it if there is one.
pub(super) struct Server {
    address: SocketAddr,
    transport: Transport,
    connection: Mutex<Option<DnsExchange<TokioRuntimeProvider>>>,
    /// Drives the connection, and ends it when dropped.
    provider: TokioRuntimeProvider,
}

enum Transport {
    UdpTcp,
    Tcp,
    Tls(ServerName<'static>, Arc<rustls::ClientConfig>),
}

impl Server {
    pub(super) fn plain(address: SocketAddr) -> Self {
        Self::with(address, Transport::UdpTcp)
    }

    fn with(address: SocketAddr, transport: Transport) -> Self {
        let (connection, provider) = (Mutex::new(None), TokioRuntimeProvider::new());
        Self { address, transport, connection, provider }
    }

    fn new(forwarder: &Forwarder) -> Result<Self, SettingsError> {
        let address = forwarder.address;
        let transport = match &forwarder.protocol {
            Protocol::UdpTcp => Transport::UdpTcp,
            Protocol::Tcp => Transport::Tcp,
            Protocol::Tls(server) => {
                let (name, config) = tls::client(address, server)?;
                Transport::Tls(name, config)
            }
        };
        Ok(Self::with(address, transport))
    }

    async fn ask(&self, request: DnsRequest, limit: Duration) -> Result<DnsResponse, NetError> {
        let timed = |result: Result<_, tokio::time::error::Elapsed>| match result {
            Ok(result) => result,
            Err(_) => Err(NetError::Timeout),
        };
        if matches!(self.transport, Transport::UdpTcp) {
            let mut stream = UdpClientStream::builder(self.address, self.provider.clone())
                .with_timeout(Some(limit))
                .with_max_retries(0)
                .build();
            let answer = stream.send_message(request.clone()).first_answer();
            match timed(tokio::time::timeout(limit, answer).await) {
                Ok(response) if !response.metadata.truncation => return Ok(response),
                // What is cut or does not parse comes again in a stream, where nobody can slip it in.
                Ok(_) | Err(NetError::Proto(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let result = timed(tokio::time::timeout(limit, self.ask_stream(request, limit)).await);
        if matches!(result, Err(NetError::Timeout)) {
            // Perhaps nobody is at the other end any more.
            *self.connection.lock().await = None;
        }
        result
    }

    async fn ask_stream(
        &self,
        request: DnsRequest,
        limit: Duration,
    ) -> Result<DnsResponse, NetError> {
        let mut fresh = false;
        loop {
            let exchange = {
                let mut slot = self.connection.lock().await;
                if let Some(exchange) = slot.as_ref().filter(|_| !fresh) {
                    exchange.clone()
                } else {
                    fresh = true;
                    let exchange = self.connect(limit).await?;
                    *slot = Some(exchange.clone());
                    exchange
                }
            };
            match exchange.send(request.clone()).first_answer().await {
                Ok(response) if response.metadata.truncation => return Err(NetError::Truncated),
                // The server may have closed a connection that was idle.
                Err(NetError::Timeout | NetError::Busy) if !fresh => return Err(NetError::Timeout),
                Err(_) if !fresh => fresh = true,
                result => {
                    if result.is_err() {
                        *self.connection.lock().await = None;
                    }
                    return result;
                }
            }
        }
    }

    async fn connect(
        &self,
        limit: Duration,
    ) -> Result<DnsExchange<TokioRuntimeProvider>, NetError> {
        let (provider, most) = (self.provider.clone(), Some(MAX_ON_CONNECTION));
        match &self.transport {
            Transport::Tls(name, config) => {
                let config = (**config).clone();
                tls_exchange(self.address, name.clone(), config, limit, most, provider).await
            }
            Transport::UdpTcp | Transport::Tcp => {
                TcpClientStream::exchange(self.address, None, limit, most, provider).await
            }
        }
    }
}

fn question(name: &Name, kind: RecordType, recursive: bool) -> DnsRequest {
    let mut message = Message::query();
    message.add_query(Query::query(name.clone(), kind));
    message.metadata.recursion_desired = recursive;
    // A forwarder that validates must not hide from us what it thinks is wrong.
    message.metadata.checking_disabled = true;
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(true);
    message.set_edns(edns);
    DnsRequest::new(message, DnsRequestOptions::default())
}

/// Sorts out what is no answer to the question.
pub(super) fn reply(response: DnsResponse, name: &Name, kind: RecordType) -> Result<Reply, String> {
    let mut message = response.into_message();
    if message.metadata.message_type != MessageType::Response
        || message.metadata.op_code != OpCode::Query
    {
        return Err("it sent no answer".to_owned());
    }
    let [query] = message.queries.as_slice() else {
        return Err("its answer does not repeat the question".to_owned());
    };
    if query.name() != name || query.query_type() != kind || query.query_class() != DNSClass::IN {
        return Err("its answer is to another question".to_owned());
    }
    let sections = [&mut message.answers, &mut message.authorities, &mut message.additionals];
    if sections.iter().map(|section| section.len()).sum::<usize>() > MAX_RECORDS {
        return Err(format!("its answer has more than {MAX_RECORDS} records"));
    }
    for section in sections {
        section.retain(|record| record.dns_class == DNSClass::IN);
    }
    Ok(Reply {
        code: message.metadata.response_code,
        authoritative: message.metadata.authoritative,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
    })
}

pub(super) fn is_answer(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

pub(super) fn describe(name: &Name, kind: RecordType) -> String {
    format!("{} {kind}", text(name))
}

/// A name as people write it, with odd bytes escaped.
pub(super) fn text(name: &Name) -> String {
    let text = name.to_ascii();
    match text.strip_suffix('.') {
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => text,
    }
}

fn reason(error: &NetError) -> String {
    match error {
        NetError::Timeout => "no answer in time".to_owned(),
        NetError::Truncated => "its answer is cut, even over TCP".to_owned(),
        NetError::Proto(error) => format!("its answer cannot be read: {error}"),
        other => other.to_string(),
    }
}

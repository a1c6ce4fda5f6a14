//! STARTTLS: from the request, over the handshake and the callbacks, to the relay.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use tlspool_engine::record::Traffic;
use tlspool_engine::relay::{self, End};
use tlspool_engine::socket::Unusable;
use tlspool_engine::{
    Cancel, Established, HandshakeError, Job, PeerAuthentication, Role as TlsRole, Scope, Socket,
    Summary, handshake,
};
use tlspool_identity::{DoNai, How};
use tlspool_store::Role;
use tlspool_wire::{Body, Packet, PoolError, Starttls, StarttlsFlags as Flags, Text};
use tokio::time::{Instant as TokioInstant, timeout_at};

use super::client::{Client, InFlight};
use super::host::{Outcome, RequestHost, callback_text};
use super::limits::{Exceeded, InUse, Totals};
use super::program;
use super::registry::{Facts, Registered};
use super::worker::{Loaded, Task, Worker};

/// `timeout` that means no limit.
const NO_LIMIT: u32 = u32::MAX;

/// The ipproto of TCP; those of UDP and SCTP need DTLS.
const IPPROTO_TCP: u8 = 6;

/// A request that passed the first look.
pub(crate) struct Request {
    client: Arc<Client>,
    reqid: u16,
    starttls: Starttls,
    role: Role,
    local: Option<DoNai>,
    remote: Option<DoNai>,
    socket: OwnedFd,
    registered: Option<Registered>,
    session: InUse,
    in_flight: InFlight,
    begun: Instant,
}

/// Why a request fails: the number, and a text for the program and the log.
#[derive(Debug)]
struct Failure {
    error: PoolError,
    text: String,
}

impl Failure {
    fn new(error: PoolError, text: impl Into<String>) -> Self {
        Self { error, text: text.into() }
    }
}

/// Takes a request in: checks what can be checked at once, and gives it to the worker with the
/// least to do.
pub(crate) fn begin(
    worker: &Rc<Worker>,
    client: &Arc<Client>,
    in_flight: InFlight,
    reqid: u16,
    starttls: Starttls,
    descriptor: Option<OwnedFd>,
) {
    let mut request = match admit(worker, client, in_flight, reqid, starttls, descriptor) {
        Ok(request) => Box::new(request),
        Err(failure) => {
            Totals::count(&worker.shared.totals.refused);
            tracing::warn!(client = %client.peer, reqid, error = %failure.error, "refused: {}", failure.text);
            return client.send_error(reqid, failure.error, &failure.text);
        }
    };
    let best = worker.best();
    if best != worker.index {
        request.begun = Instant::now();
        if worker.shared.workers[best].give(Task::Starttls(request)) {
            return;
        }
        return client.send_error(reqid, PoolError::ConnectionHandlerSetup, "a worker has ended");
    }
    tokio::task::spawn_local(perform(worker.clone(), *request));
}

fn admit(
    worker: &Worker,
    client: &Arc<Client>,
    in_flight: InFlight,
    reqid: u16,
    starttls: Starttls,
    descriptor: Option<OwnedFd>,
) -> Result<Request, Failure> {
    let flags = starttls.flags;
    let not_yet = |what: &str| {
        Failure::new(PoolError::CommandNotImpl, format!("this pool does not do {what} yet"))
    };
    if flags.contains(Flags::RENEGOTIATE) {
        return Err(not_yet("renegotiation"));
    }
    let socket = descriptor.ok_or_else(|| {
        Failure::new(PoolError::CipherSocketNeeded, "STARTTLS needs the socket to run TLS on")
    })?;
    if flags.contains(Flags::DTLS) || matches!(starttls.ipproto, 17 | 132) {
        return Err(not_yet("DTLS, UDP or SCTP"));
    }
    if flags.contains(Flags::LOCALID_ONTHEFLY) {
        return Err(not_yet("certificates made on the fly"));
    }
    if starttls.ipproto != IPPROTO_TCP {
        let text = format!("ipproto {} is not TCP (6), UDP (17) or SCTP (132)", starttls.ipproto);
        return Err(Failure::new(PoolError::RecordMalformed, text));
    }
    let role = role(flags).map_err(|peer_to_peer| {
        if peer_to_peer {
            return not_yet("peer-to-peer roles");
        }
        Failure::new(PoolError::RecordMalformed, "the flags give no role, or both ends the same")
    })?;
    tlspool_engine::socket::check(std::os::fd::AsFd::as_fd(&socket), true).map_err(|unusable| {
        Failure::new(PoolError::CipherSocketNeeded, format!("{unusable}; pass a connected one"))
    })?;
    let name = |text: &Text<128>, field: &str| match text.as_str() {
        "" => Ok(None),
        name => DoNai::parse(name)
            .map(Some)
            .map_err(|error| Failure::new(PoolError::RecordMalformed, format!("{field}: {error}"))),
    };
    let local = name(&starttls.localid, "localid")?;
    let remote = name(&starttls.remoteid, "remoteid")?;
    let limits = &worker.settings().config.limits;
    let session = worker
        .shared
        .sessions
        .take(client.uid(), limits.sessions, limits.sessions_per_user)
        .map_err(|exceeded| {
            let text = match exceeded {
                Exceeded::All(n) => format!("the pool has {n} sessions; raise limits.sessions"),
                Exceeded::User(n) => {
                    format!("your user has {n} sessions; raise limits.sessions_per_user")
                }
            };
            Failure::new(PoolError::LimitReached, text)
        })?;
    let registered = match starttls.ctlkey {
        key if key.is_none() => None,
        key => Some(worker.shared.registry.register(key, client).map_err(|error| {
            Failure::new(error, "a session with this control key exists; choose a random one")
        })?),
    };
    if flags.contains(Flags::DETACH) && registered.is_none() {
        let text = "a session to detach needs a control key";
        return Err(Failure::new(PoolError::CtlkeyRegistrationFailed, text));
    }
    Ok(Request {
        client: client.clone(),
        reqid,
        starttls,
        role,
        local,
        remote,
        socket,
        registered,
        session,
        in_flight,
        begun: Instant::now(),
    })
}

/// Our role by the flags; an error says whether it is left open on purpose (peer to peer).
fn role(flags: Flags) -> Result<Role, bool> {
    let local = flags & Flags::LOCALROLE_PEER;
    let remote = flags & Flags::REMOTEROLE_PEER;
    let role = match local {
        Flags::LOCALROLE_CLIENT => Role::Client,
        Flags::LOCALROLE_SERVER => Role::Server,
        Flags::LOCALROLE_PEER => match remote {
            Flags::REMOTEROLE_SERVER => Role::Client,
            Flags::REMOTEROLE_CLIENT => Role::Server,
            _ => return Err(true),
        },
        _ => return Err(false),
    };
    let same = match role {
        Role::Client => remote == Flags::REMOTEROLE_CLIENT,
        Role::Server => remote == Flags::REMOTEROLE_SERVER,
    };
    if same { Err(false) } else { Ok(role) }
}

/// What stands after the handshake and its callbacks.
struct Session {
    peer: Socket,
    application: Socket,
    traffic: Traffic,
    reply: Starttls,
    facts: Facts,
    summary: Summary,
}

/// Performs a request, and starts the relay.
pub(crate) async fn perform(worker: Rc<Worker>, request: Request) {
    let loaded = worker.load();
    let settings = worker.settings();
    let limit = match request.starttls.timeout_ms {
        0 => Some(settings.config.limits.handshake_timeout),
        NO_LIMIT => None,
        millis => Some(Duration::from_millis(millis.into())),
    };
    let deadline = limit.map(|limit| TokioInstant::now() + limit);
    let Request {
        client,
        reqid,
        starttls,
        role,
        local,
        remote,
        socket,
        registered,
        session,
        in_flight,
        begun,
    } = request;
    let mut log =
        Line { client: &client, role, local: String::new(), remote: String::new(), begun };
    let gone = client.gone.clone();
    let attempt = async {
        let attempt = stand_up(
            &worker, &client, reqid, &starttls, role, local, remote, socket, deadline, &mut log,
        );
        match deadline {
            None => attempt.await,
            Some(deadline) => timeout_at(deadline, attempt).await.unwrap_or_else(|_| {
                Err(Failure::new(PoolError::Timeout, "the handshake took too long"))
            }),
        }
    };
    let outcome = tokio::select! {
        outcome = attempt => outcome,
        () = gone.requested() => {
            Err(Failure::new(PoolError::ClientDisconnect, "the program closed its connection"))
        }
    };
    let totals = &worker.shared.totals;
    let standing = match outcome {
        Ok(standing) => standing,
        Err(failure) => {
            Totals::count(&totals.failed);
            worker.shared.failure_rate.count(worker.shared.started.elapsed().as_secs());
            log.failed(&failure);
            worker.shared.failures.add(client.peer.to_string(), failure.text.clone());
            client.send_error(reqid, failure.error, &failure.text);
            drop((session, in_flight));
            worker.shared.one_ended();
            return;
        }
    };
    Totals::count(&totals.handshakes);
    worker.shared.handshake_rate.count(worker.shared.started.elapsed().as_secs());
    if standing.summary.resumed {
        Totals::count(&totals.resumed);
    }
    log.stands(&standing.summary);
    let flags = starttls.flags;
    let number = worker.shared.next_session.fetch_add(1, Ordering::Relaxed);
    let cancel = Cancel::default();
    let forked = flags.contains(Flags::FORK);
    if !forked {
        client.attach(number, cancel.clone());
    }
    if let Some(registered) = &registered {
        let detach = flags.contains(Flags::DETACH);
        registered.stands(number, cancel.clone(), standing.facts, forked, detach);
    }
    client.send(&Packet { reqid, cbid: 0, body: Body::Starttls(standing.reply) });
    drop(in_flight);
    let relay = Relay {
        worker: worker.clone(),
        client: Arc::downgrade(&client),
        number,
        registered,
        _session: session,
        _loaded: loaded,
    };
    // A task of its own: what the handshake needed is not kept for as long as the session lives.
    tokio::task::spawn_local(relay.run(
        standing.peer,
        standing.application,
        standing.traffic,
        cancel,
    ));
}

#[allow(clippy::too_many_arguments)] // the parts of one request, taken apart
async fn stand_up(
    worker: &Rc<Worker>,
    client: &Arc<Client>,
    reqid: u16,
    starttls: &Starttls,
    role: Role,
    local: Option<DoNai>,
    remote: Option<DoNai>,
    socket: OwnedFd,
    deadline: Option<TokioInstant>,
    log: &mut Line<'_>,
) -> Result<Session, Failure> {
    let settings = worker.settings();
    let unusable = |unusable: Unusable| {
        Failure::new(PoolError::CipherSocketNeeded, format!("{unusable}; pass a connected one"))
    };
    let peer = Socket::stream(socket).map_err(unusable)?;
    let _permit = worker.shared.handshakes.acquire().await;
    log.local = local.as_ref().map(ToString::to_string).unwrap_or_default();
    log.remote = remote.as_ref().map(ToString::to_string).unwrap_or_default();
    program::learn(worker, client).await;
    let authentication = authentication(starttls.flags);
    let scope = scope(worker, client, starttls, role, authentication);
    let mut host = RequestHost {
        worker,
        client,
        reqid,
        request: starttls,
        role,
        local,
        remote,
        callback_timeout: settings.config.limits.callback_timeout,
        deadline,
        outcome: Outcome::default(),
    };
    if role == Role::Client && host.local.is_some() {
        // Better told now than after the peer was bothered.
        let local = host.local.clone();
        if let Err(refusal) = host.look_up(local.as_ref()) {
            let error = host.outcome.error.unwrap_or(PoolError::LocalidUnknown);
            return Err(Failure::new(error, refusal.text));
        }
    }
    let server = host.remote.as_ref().map(|name| name.domain().to_owned());
    let job = Job {
        role: match role {
            Role::Server => TlsRole::Server,
            Role::Client => TlsRole::Client {
                server: server.as_deref(),
                sni: !starttls.flags.contains(Flags::WITHOUT_SNI),
            },
        },
        authentication,
        scope,
        exporter: !starttls.ctlkey.is_none(),
    };
    let established = handshake::run(&settings.engine, &peer, job, &mut host).await;
    let mut outcome = host.outcome;
    if let Ok(Established { shown: Some(shown), .. }) = &established {
        // Known from the session that was resumed, where nothing was asked.
        outcome.credential.get_or_insert_with(|| shown.clone());
    }
    if let Some(credential) = &outcome.credential {
        log.local.clone_from(&credential.name);
    }
    if let Some(validated) = &outcome.validated {
        log.remote = validated.identity.to_string();
    }
    let mut established = established.map_err(|error| explain(&error, &outcome))?;
    let reply = reply(starttls, &outcome);
    let plaintext = match outcome.plaintext.take() {
        Some(plaintext) => Ok(plaintext),
        None => connect(client, reqid, &reply, settings.config.limits.callback_timeout).await,
    };
    let application = plaintext.and_then(|plaintext| {
        Socket::plaintext(plaintext).map_err(|unusable| {
            let text = format!("the plaintext side: {unusable}; pass a connected one");
            Failure::new(PoolError::PlainSocketNeeded, text)
        })
    });
    match application {
        Ok(application) => Ok(session(peer, application, established, reply, &outcome, role)),
        Err(failure) => {
            established.refuse(&peer).await;
            Err(failure)
        }
    }
}

fn session(
    peer: Socket,
    application: Socket,
    established: Established,
    reply: Starttls,
    outcome: &Outcome,
    role: Role,
) -> Session {
    let keep = !reply.ctlkey.is_none();
    let facts = Facts {
        peer_certificate: established.peer_chain.first().filter(|_| keep).map(|c| c.to_vec()),
        my_certificate: outcome
            .credential
            .as_ref()
            .filter(|_| keep)
            .and_then(|credential| credential.chain.first())
            .map(|c| c.to_vec()),
        serving: role == Role::Server,
        exporter: established.exporter,
    };
    let Established { summary, traffic, .. } = established;
    Session { peer, application, traffic, reply, facts, summary }
}

/// Asks the program for the plaintext side.
async fn connect(
    client: &Client,
    reqid: u16,
    reply: &Starttls,
    limit: Duration,
) -> Result<OwnedFd, Failure> {
    let refused = |text: &str| Failure::new(PoolError::ClientRefusesCallback, text);
    let body = Body::PlaintextConnect(reply.clone());
    let answer = client
        .call_back(reqid, body, limit)
        .await
        .map_err(|failure| refused(callback_text(failure)))?;
    match (answer.body, answer.descriptor) {
        (Body::Error(error), _) => Err(refused(error.message.as_str())),
        (Body::PlaintextConnect(_) | Body::Starttls(_), Some(descriptor)) => Ok(descriptor),
        (Body::PlaintextConnect(_) | Body::Starttls(_), None) => Err(Failure::new(
            PoolError::PlainSocketNeeded,
            "the answer to PLAINTEXT_CONNECT must carry a socket",
        )),
        _ => Err(Failure::new(
            PoolError::CommandBadCallbackResponse,
            "the callback PLAINTEXT_CONNECT was answered with another command",
        )),
    }
}

fn authentication(flags: Flags) -> PeerAuthentication {
    if flags.contains(Flags::IGNORE_REMOTEID) {
        PeerAuthentication::Ignored
    } else if flags.contains(Flags::REQUEST_REMOTEID) {
        PeerAuthentication::Requested
    } else {
        PeerAuthentication::Required
    }
}

/// Everything that must be equal for a session to be resumed, except the local credential of a
/// server, which the engine adds.
fn scope(
    worker: &Worker,
    client: &Client,
    starttls: &Starttls,
    role: Role,
    authentication: PeerAuthentication,
) -> Scope {
    let mut digest = digest::Context::new(&digest::SHA256);
    digest.update(&[role as u8, authentication as u8]);
    digest.update(&client.uid().to_ne_bytes());
    let relevant = Flags::DOMAIN_REPRESENTS_USER | Flags::WITHOUT_SNI;
    digest.update(&(starttls.flags & relevant).0.to_ne_bytes());
    // Fixed-size fields, so that no two combinations look the same.
    digest.update(starttls.localid.field());
    digest.update(starttls.remoteid.field());
    digest.update(starttls.service.field());
    digest.update(&worker.trust_digest());
    if role == Role::Client && starttls.flags.contains(Flags::LOCALID_CHECK) {
        // A program that wants to be asked is asked each time: nothing is resumed.
        digest.update(&worker.shared.next_session.fetch_add(1, Ordering::Relaxed).to_ne_bytes());
    }
    let mut scope = [0; 32];
    scope.copy_from_slice(digest.finish().as_ref());
    scope
}

/// The final response: both names, and of the freedoms given only those that were used.
fn reply(request: &Starttls, outcome: &Outcome) -> Starttls {
    let mut unused = Flags::default();
    if outcome.validated.is_some() {
        unused = unused | Flags::REQUEST_REMOTEID | Flags::IGNORE_REMOTEID;
    }
    let how = outcome.validated.as_ref().and_then(|validated| validated.how);
    if how != Some(How::DomainForUser) {
        unused = unused | Flags::DOMAIN_REPRESENTS_USER;
    }
    if !outcome.localid_checked {
        unused = unused | Flags::LOCALID_CHECK;
    }
    let localid = outcome.credential.as_ref().map_or("", |credential| &credential.name);
    let remoteid = outcome.validated.as_ref().map_or("", |validated| validated.identity.as_str());
    Starttls {
        flags: request.flags.without(unused),
        localid: Text::cut(localid),
        remoteid: Text::cut(remoteid),
        ..request.clone()
    }
}

fn explain(error: &HandshakeError, outcome: &Outcome) -> Failure {
    let number = match error {
        HandshakeError::Refused(_) | HandshakeError::Signature(_) => {
            outcome.error.unwrap_or(PoolError::StirredNotShaken)
        }
        HandshakeError::Tls(rustls::Error::NoCertificatesPresented) => PoolError::RemoteidRefused,
        _ => PoolError::StirredNotShaken,
    };
    Failure::new(number, error.to_string())
}

/// A session that relays.
struct Relay {
    worker: Rc<Worker>,
    client: std::sync::Weak<Client>,
    number: u64,
    registered: Option<Registered>,
    _session: InUse,
    _loaded: Loaded,
}

impl Relay {
    async fn run(self, peer: Socket, application: Socket, traffic: Traffic, cancel: Cancel) {
        self.worker.began(self.number, &cancel);
        let ended = relay::run(peer, application, traffic, &cancel).await;
        self.worker.ended(self.number);
        let totals = &self.worker.shared.totals;
        totals.bytes_received.fetch_add(ended.received, Ordering::Relaxed);
        totals.bytes_sent.fetch_add(ended.sent, Ordering::Relaxed);
        let (session, received, sent) = (self.number, ended.received, ended.sent);
        match &ended.end {
            End::Closed | End::ApplicationClosed | End::Cancelled => {
                tracing::debug!(session, received, sent, "session {}", ended.end);
            }
            end => tracing::info!(session, received, sent, "session {end}"),
        }
        // A session that was detached and taken over belongs to another connection by now.
        let owner = match &self.registered {
            Some(registered) => registered.owner(),
            None => self.client.upgrade(),
        };
        if let Some(client) = owner {
            client.release(self.number);
        }
        let shared = self.worker.shared.clone();
        drop(self);
        shared.one_ended();
    }
}

/// The one line that a handshake leaves in the log.
struct Line<'a> {
    client: &'a Client,
    role: Role,
    local: String,
    remote: String,
    begun: Instant,
}

impl Line<'_> {
    fn stands(&self, summary: &Summary) {
        tracing::info!(
            client = %self.client.peer,
            role = %self.role,
            local = self.local,
            remote = self.remote,
            protocol = summary.protocol,
            suite = summary.suite,
            group = summary.group,
            resumed = summary.resumed,
            ms = self.begun.elapsed().as_millis() as u64,
            "handshake done"
        );
    }

    fn failed(&self, failure: &Failure) {
        tracing::warn!(
            client = %self.client.peer,
            role = %self.role,
            local = self.local,
            remote = self.remote,
            error = %failure.error,
            ms = self.begun.elapsed().as_millis() as u64,
            "handshake failed: {}", failure.text
        );
    }
}

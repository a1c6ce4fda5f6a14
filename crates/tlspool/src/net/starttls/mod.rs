//! STARTTLS: from the request, over the handshake and the callbacks, to the relay.

mod admit;
mod carriage;
mod line;
mod relay;
mod renegotiate;
mod rules;

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tlspool_engine::twelve::Manner;
use tlspool_engine::{
    Cancel, Carrier, Established, Job, PeerAuthentication, Role as TlsRole, Socket, Summary,
    handshake,
};
use tlspool_identity::DoNai;
use tlspool_store::{Kind, Role};
use tlspool_validate::sources::CredentialKind;
use tlspool_wire::{Body, Packet, PoolError, Starttls, StarttlsFlags as Flags};
use tokio::sync::mpsc;
use tokio::time::{Instant as TokioInstant, timeout_at};

pub(crate) use self::admit::Request;
use self::carriage::Carriage;
use self::line::Line;
use self::relay::Relay;
use self::renegotiate::Part;
pub(crate) use self::renegotiate::Wish;
use super::client::{Client, InFlight};
use super::disclosure::{self, Disclosure};
use super::foresight::Foresight;
use super::host::{Outcome, RequestHost, callback_text};
use super::identities::Asker;
use super::limits::Totals;
use super::policies;
use super::privacy;
use super::program;
use super::registry::{Facts, Stands};
use super::worker::{Task, Worker};

/// `timeout` that means no limit.
const NO_LIMIT: u32 = u32::MAX;

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
    descriptors: [Option<OwnedFd>; 2],
) {
    if starttls.flags.contains(Flags::RENEGOTIATE) {
        let wish = Wish::new(client.clone(), reqid, starttls, in_flight);
        return renegotiate::begin(worker, wish, &descriptors);
    }
    let mut request = match admit::admit(worker, client, in_flight, reqid, starttls, descriptors) {
        Ok(request) => Box::new(request),
        Err(failure) => {
            Totals::count(&worker.shared.totals.refused);
            tracing::warn!(client = %client.peer, reqid, error = %failure.error, "refused: {}", failure.text);
            return client.send_error(reqid, failure.error, &failure.text);
        }
    };
    let best = worker.best(client.pacer.ask(request.begun, client.under_way()));
    if best != worker.index {
        request.begun = Instant::now();
        if worker.shared.workers[best].give(Task::Starttls(request)) {
            return;
        }
        return client.send_error(reqid, PoolError::ConnectionHandlerSetup, "a worker has ended");
    }
    perform(worker.clone(), *request);
}

/// What stands after the handshake and its callbacks.
struct Session {
    peer: Socket,
    application: Socket,
    carrier: Carrier,
    host: RequestHost,
    authentication: PeerAuthentication,
    reply: Starttls,
    facts: Facts,
    summary: Summary,
}

/// Performs a request in a task of its own, in turns with those of other programs.
pub(crate) fn perform(worker: Rc<Worker>, request: Request) {
    let program = request.client.id;
    let sharing = worker.clone();
    // On the heap once, and not moved along with what stands around it.
    let work = Box::pin(carry_out(worker, request));
    tokio::task::spawn_local(async move { sharing.fairness.run(program, work).await });
}

/// Performs a request, and starts the relay.
async fn carry_out(worker: Rc<Worker>, request: Request) {
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
        carriage,
        first,
        plaintext,
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
            &worker,
            &client,
            reqid,
            &starttls,
            role,
            local,
            remote,
            Cipher { socket, carriage, first },
            plaintext,
            deadline,
            &mut log,
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
    // A session of rustls does not renegotiate.
    let (wishes, orders) = match &standing.carrier {
        Carrier::Twelve(_) => {
            let (wishes, orders) = mpsc::unbounded_channel();
            (Some(wishes), Some(orders))
        }
        Carrier::Rustls(_) => (None, None),
    };
    if let Some(registered) = &registered {
        let detach = flags.contains(Flags::DETACH);
        let stands =
            Stands { number, cancel: cancel.clone(), facts: standing.facts, forked, wishes };
        registered.stands(stands, detach);
    }
    client.send(&Packet { reqid, cbid: 0, body: Body::Starttls(standing.reply) });
    drop(in_flight);
    let relay = Relay {
        worker: worker.clone(),
        client: Arc::downgrade(&client),
        number,
        registered: registered.map(Rc::new),
        _session: session,
        _loaded: loaded,
    };
    let (peer, application) = (standing.peer, standing.application);
    // A task of its own: what the handshake needed is not kept for as long as the session lives.
    match standing.carrier {
        Carrier::Rustls(traffic) => {
            tokio::task::spawn_local(relay.run(peer, application, *traffic, cancel));
        }
        Carrier::Twelve(session) => {
            let mut host = standing.host;
            host.client = None;
            // What a renegotiation of the peer's asks has limits of its own; the handshake's is over.
            host.deadline = None;
            let manner = Manner {
                client: role == Role::Client,
                authentication: standing.authentication,
                idle: Some(settings.config.limits.datagram_idle_timeout),
                stream: carriage.stream(),
            };
            let part = Part { session, manner, host, wishes: orders };
            tokio::task::spawn_local(relay.run_twelve(peer, application, part, cancel));
        }
    }
}

/// The peer's side of a request.
struct Cipher {
    socket: OwnedFd,
    carriage: Carriage,
    first: Option<Vec<u8>>,
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
    cipher: Cipher,
    plaintext: Option<OwnedFd>,
    deadline: Option<TokioInstant>,
    log: &mut Line<'_>,
) -> Result<Session, Failure> {
    let settings = worker.settings();
    // One call less where nothing is looked up.
    let endpoint =
        settings.policy.dns.then(|| rules::endpoint(&cipher.socket, starttls.ipproto)).flatten();
    let peer = cipher.carriage.open(cipher.socket)?;
    let _turn = worker.shared.handshakes.wait(client.uid()).await;
    log.local = local.as_ref().map(ToString::to_string).unwrap_or_default();
    log.remote = remote.as_ref().map(ToString::to_string).unwrap_or_default();
    program::learn(worker, client).await;
    let authentication = rules::authentication(starttls.flags);
    let asker = Asker {
        id: client.id,
        peer: client.peer.clone(),
        program: client.program.get().cloned().flatten(),
    };
    let mut host = RequestHost {
        worker: worker.clone(),
        client: Some(client.clone()),
        asker: Rc::new(asker),
        reqid,
        request: starttls.clone(),
        role,
        local,
        remote,
        disclosure: Disclosure::default(),
        callback_timeout: settings.config.limits.callback_timeout,
        deadline,
        endpoint,
        foresight: Foresight::new(worker.lookups.clone()),
        judged_early: None,
        renegotiates: false,
        outcome: Outcome { plaintext, ..Outcome::default() },
    };
    // Better told now than after the peer was bothered.
    let rows = host.prepare_disclosure().map_err(|refusal| {
        Failure::new(host.outcome.error.unwrap_or(PoolError::LocalidUnknown), refusal.text)
    })?;
    let names = (host.remote.as_ref(), host.local.as_ref());
    let uid = client.uid();
    let scope = rules::scope(worker, uid, starttls, role, authentication, names, &host.disclosure);
    let case = privacy::Case {
        role,
        remote: host.remote.as_ref(),
        service: starttls.service.as_str(),
        nameless: authentication == PeerAuthentication::Ignored && host.local.is_none(),
        rows: &rows,
    };
    let mut twelve = privacy::wishes(&settings.config, &case);
    // Nobody else does DTLS.
    twelve.insist |= cipher.carriage.is_dtls();
    if authentication != PeerAuthentication::Ignored {
        // A server answers with what its client offers first; clients mostly have X.509.
        let openpgp = role == Role::Client
            && twelve.openpgp
            && rows.first().is_none_or(|row| row.kind == Kind::OpenPgp);
        let kind = if openpgp { CredentialKind::OpenPgp } else { CredentialKind::X509 };
        host.foresight.expect(kind);
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
        twelve,
        first: cipher.first.as_deref(),
    };
    let established = handshake::run(&settings.engine, &peer, job, &mut host).await;
    let mut outcome = std::mem::take(&mut host.outcome);
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
    let mut established = established.map_err(|error| rules::explain(&error, &outcome))?;
    let commits = outcome.validated.as_mut().map(|v| std::mem::take(&mut v.commits));
    if let Err(text) = policies::commit(&worker.identities, commits.unwrap_or_default()).await {
        established.refuse(&peer).await;
        return Err(Failure::new(PoolError::RemoteidRefused, text));
    }
    let reply = rules::reply(starttls, &outcome);
    let plaintext = match outcome.plaintext.take() {
        Some(plaintext) => Ok(plaintext),
        None => connect(client, reqid, &reply, settings.config.limits.callback_timeout).await,
    };
    let application = plaintext.and_then(|plaintext| cipher.carriage.plaintext(plaintext));
    let application = match application {
        Ok(application) => application,
        Err(failure) => {
            established.refuse(&peer).await;
            return Err(failure);
        }
    };
    disclosure::remember(&worker.identities, uid, outcome.remember.take()).await;
    host.renegotiates = true;
    let facts = if reply.ctlkey.is_none() {
        Facts::default()
    } else {
        let shown = outcome.credential.as_deref();
        Facts::new(role, established.peer.as_ref(), shown, established.exporter)
    };
    let Established { summary, carrier, .. } = established;
    Ok(Session { peer, application, carrier, host, authentication, reply, facts, summary })
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

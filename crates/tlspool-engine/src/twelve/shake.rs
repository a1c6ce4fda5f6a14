//! Performs a handshake of `tls12` on a socket, with a host that answers what it asks.

use std::io::IoSliceMut;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{CertificateError, SignatureScheme};
use tls12::dtls::{self, Start, Verdict};
use tls12::{Alert, ChooseCredential, Closed, Connection, Output, SignRequest, Verify};
use tlspool_sctp::Info;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::association::{Association, Parts};
use super::{Session, certificate_of, client_config, credential_of, explain, server_config};
use crate::ask::{Agreed, Credential, Host, PeerCredential, Refusal, ShownByPeer};
use crate::config::{Engine, PeerAuthentication};
use crate::handshake::{Carrier, Established, HandshakeError, Job, Role};
use crate::socket::{Arrived, Socket};

/// Bytes asked of a stream at a time.
const READ_SIZE: usize = 4096;
/// A datagram may have this many.
const DATAGRAM: usize = 1 << 16;
/// How long what a peer said before it left is read, if nothing more can be sent to it.
const AFTERWORD: Duration = Duration::from_secs(2);

/// Performs a client's handshake.
pub(crate) async fn client<H: Host>(
    engine: &Engine,
    socket: &Socket,
    job: &Job<'_>,
    host: &mut H,
) -> Result<Established, HandshakeError> {
    let (config, shown) = client_config(engine, job);
    let config = Arc::new(config);
    let connection = if socket.is_packets() {
        Connection::datagram_client(&config, settings(socket), Instant::now())
    } else {
        Connection::client(&config)
    };
    let connection = connection.map_err(explain)?;
    let mut session = Session::new(connection, engine, job);
    session.associate(socket)?;
    if let Some((shown, number)) = shown {
        // What the offered session has shown of us keeps the number that it had then.
        session.chosen = vec![shown; number + 1];
    }
    perform(session, socket, &[], job, host).await
}

/// Performs a server's handshake with a client whose first bytes are `first`.
pub(crate) async fn server<H: Host>(
    engine: &Engine,
    socket: &Socket,
    first: &[u8],
    job: &Job<'_>,
    host: &mut H,
) -> Result<Established, HandshakeError> {
    let config = Arc::new(server_config(engine, job));
    if socket.is_sctp_messages() {
        // An association begins with a cookie of its own (RFC 6083 section 3).
        let connection =
            Connection::datagram_server(config, settings(socket), None, Instant::now());
        let mut session = Session::new(connection, engine, job);
        session.associate(socket)?;
        return perform(session, socket, &[], job, host).await;
    }
    if socket.is_packets() {
        let (first, start) = match job.first {
            Some(first) => (first.to_vec(), start_of(first).ok_or(HandshakeError::NotTls)?),
            None => challenge(engine, socket).await?,
        };
        let connection =
            Connection::datagram_server(config, settings(socket), Some(start), Instant::now());
        return perform(Session::new(connection, engine, job), socket, &first, job, host).await;
    }
    let connection = Connection::server(config);
    perform(Session::new(connection, engine, job), socket, first, job, host).await
}

fn settings(socket: &Socket) -> dtls::Config {
    let mode = if socket.is_sctp_messages() { dtls::Mode::Sctp } else { dtls::Mode::Udp };
    dtls::Config { mode, ..dtls::Config::default() }
}

/// Has the client show that it gets what is sent to where it says it is.
async fn challenge(engine: &Engine, socket: &Socket) -> Result<(Vec<u8>, Start), HandshakeError> {
    let address = socket.peer_bytes();
    let mut datagram = vec![0; DATAGRAM];
    let mut answer = [0; 256];
    loop {
        let n = match socket.recv(&mut datagram).await {
            Ok(n) => n,
            Err(error) if is_noise(&error) => continue,
            Err(error) => return Err(error.into()),
        };
        match engine.twelve.judge(&datagram[..n], &address, &mut answer) {
            Verdict::Ignore => {}
            Verdict::Challenge(n) => send(socket, &answer[..n]).await?,
            Verdict::Valid(start) => {
                datagram.truncate(n);
                return Ok((datagram, start));
            }
        }
    }
}

/// The numbers of a hello whose cookie somebody else has found right: those of its record (RFC 6347 section
/// 4.1) and of its message (section 4.2.2).
fn start_of(datagram: &[u8]) -> Option<Start> {
    let record_seq = datagram.get(5..11)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let message_seq = u16::from_be_bytes(datagram.get(17..19)?.try_into().ok()?);
    Some(Start { message_seq, record_seq })
}

async fn perform<H: Host>(
    mut session: Session,
    socket: &Socket,
    first: &[u8],
    job: &Job<'_>,
    host: &mut H,
) -> Result<Established, HandshakeError> {
    let mut errand = Errand::new(host, job.role, job.authentication);
    if !first.is_empty() {
        session.connection.handle_input(first, Instant::now());
    }
    session.shake(socket, &mut errand).await?;
    let summary = session.summary().ok_or(HandshakeError::PeerClosed)?;
    if let Err(refusal) = host.authorize(session.shown().as_deref()).await {
        session.refuse(socket).await;
        return Err(HandshakeError::Refused(refusal.text));
    }
    let agreed = Agreed { private: summary.private, post_quantum: false, forward_secrecy: true };
    Ok(Established {
        summary,
        agreed,
        peer: session.peer(),
        exporter: session.exporter().filter(|_| job.exporter),
        shown: session.shown(),
        carrier: Carrier::Twelve(Box::new(session)),
    })
}

/// Carries questions to the host, and remembers why it refused.
pub(super) struct Errand<'h, H> {
    host: &'h mut H,
    client: bool,
    authentication: PeerAuthentication,
    pub(super) failure: Option<HandshakeError>,
}

impl<'h, H: Host> Errand<'h, H> {
    pub(super) fn new(host: &'h mut H, role: Role<'_>, authentication: PeerAuthentication) -> Self {
        let client = matches!(role, Role::Client { .. });
        Self { host, client, authentication, failure: None }
    }

    fn refused(&mut self, refusal: Refusal) -> Alert {
        self.failure = Some(HandshakeError::Refused(refusal.text));
        alert_for(&refusal.certificate)
    }

    async fn choose(
        &mut self,
        question: &ChooseCredential,
    ) -> Result<Option<Arc<Credential>>, Alert> {
        let schemes: Vec<SignatureScheme> =
            question.schemes.iter().map(|scheme| scheme.code_point().into()).collect();
        let chosen = if self.client {
            let kind = question.certificate_types.first().copied();
            let kind = kind.unwrap_or(tls12::CertificateType::X509);
            let chosen = self.host.client_credential(kind).await;
            // One that the server cannot check is as good as none.
            chosen.map(|chosen| {
                chosen.filter(|c| {
                    c.certificate_type() == kind && c.schemes.iter().any(|s| schemes.contains(s))
                })
            })
        } else {
            let sni = question.server_name.as_deref();
            let types = &question.certificate_types;
            self.host.server_credential(sni, &schemes, types).await.map(Some)
        };
        chosen.map_err(|refusal| self.refused(refusal))
    }

    async fn sign(&mut self, credential: &Credential, request: &SignRequest) -> Option<Vec<u8>> {
        let scheme = SignatureScheme::from(request.scheme.code_point());
        match self.host.sign(credential, scheme, &request.message).await {
            Ok(signature) => Some(signature),
            Err(failure) => {
                self.failure = Some(HandshakeError::Signature(failure.0));
                None
            }
        }
    }

    async fn verify(&mut self, question: Verify, private: bool) -> Result<Vec<u8>, Alert> {
        // `tls12` has no suite without ephemeral keys, and no group that resists quantum computers.
        let agreed = Agreed { private, post_quantum: false, forward_secrecy: true };
        let Some(peer) = question.peer else {
            // Only a client may have nothing to show; whether it must, `tls12` knows.
            return Ok(Vec::new());
        };
        let peer = credential_of(peer);
        let own_key = match &peer {
            PeerCredential::X509(chain) => Some(public_key(chain.first().map(AsRef::as_ref))?),
            _ => None,
        };
        let key = if self.authentication == PeerAuthentication::Ignored {
            own_key.clone()
        } else {
            let shown = ShownByPeer { credential: peer, ocsp: Vec::new(), agreed };
            self.host.verify(shown).await.map_err(|refusal| self.refused(refusal))?
        };
        // Of a peer that is not looked at, an OpenPGP certificate's key is not known.
        own_key.or(key).ok_or(Alert::UNSUPPORTED_CERTIFICATE)
    }
}

/// SubjectPublicKeyInfo of a certificate.
fn public_key(leaf: Option<&[u8]>) -> Result<Vec<u8>, Alert> {
    let (_, certificate) =
        X509Certificate::from_der(leaf.unwrap_or_default()).map_err(|_| Alert::BAD_CERTIFICATE)?;
    Ok(certificate.public_key().raw.to_vec())
}

/// The alert by which the peer is told (RFC 5246 section 7.2.2).
fn alert_for(error: &CertificateError) -> Alert {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Alert::CERTIFICATE_EXPIRED,
        CertificateError::Revoked => Alert::CERTIFICATE_REVOKED,
        CertificateError::UnknownIssuer => Alert::UNKNOWN_CA,
        CertificateError::BadSignature => Alert::DECRYPT_ERROR,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            Alert::UNSUPPORTED_CERTIFICATE
        }
        CertificateError::ApplicationVerificationFailure => Alert::ACCESS_DENIED,
        _ => Alert::BAD_CERTIFICATE,
    }
}

/// What comes from the peer while hands are shaken.
#[derive(Default)]
struct Inlet {
    /// A message of SCTP that is not whole.
    parts: Parts,
    /// The socket is at its end.
    ended: bool,
}

impl Session {
    /// Runs until the connection is established.
    async fn shake<H: Host>(
        &mut self,
        socket: &Socket,
        errand: &mut Errand<'_, H>,
    ) -> Result<(), HandshakeError> {
        let mut out = Vec::new();
        let mut inlet = Inlet::default();
        loop {
            match self.connection.poll_output(&mut out) {
                Output::NewKeys => self.new_keys(socket)?,
                Output::SendChangeOfKeys => {
                    self.change_keys(socket, &mut inlet, &out).await?;
                    out.clear();
                }
                Output::OldKeysDone => self.old_keys_done(socket)?,
                Output::Send => {
                    let sent = send(socket, &out).await;
                    out.clear();
                    // The cause matters more than whether the alert could be sent.
                    if let (None, Err(error)) = (&errand.failure, sent) {
                        return Err(self.unsent(socket, &mut inlet, error).await);
                    }
                }
                Output::Established => return Ok(()),
                Output::Data(data) => self.early.push_back((data, Info::default())),
                Output::Message { data, tag } => {
                    self.early.push_back((data, Info::from_bits(tag)));
                }
                Output::PeerClosed => self.peer_closed = true,
                Output::Closed(how) => {
                    return Err(errand.failure.take().unwrap_or_else(|| match how {
                        Closed::Failed(error) => explain(error),
                        Closed::Cleanly => HandshakeError::PeerClosed,
                    }));
                }
                Output::WaitUntil(time) => {
                    errand.host.peer_is_next();
                    self.receive(socket, &mut inlet, Some(time)).await?;
                }
                Output::Idle => {
                    errand.host.peer_is_next();
                    self.receive(socket, &mut inlet, None).await?;
                }
                // Of a handshake that has not begun yet.
                Output::Renegotiated(_) | Output::RenegotiationRefused => {}
                question => self.answer(question, errand).await,
            }
        }
    }

    /// Answers a question of the connection's.
    pub(super) async fn answer<H: Host>(&mut self, question: Output, errand: &mut Errand<'_, H>) {
        match question {
            Output::ChooseCredential(question) => {
                let chosen = errand.choose(&question).await;
                let chosen = chosen.map(|chosen| {
                    chosen.map(|credential| {
                        let id = self.remember(credential.clone());
                        Arc::new(credential_with(id, &credential, self.fingerprint))
                    })
                });
                self.connection.chosen(chosen);
            }
            Output::Sign(request) => {
                let credential = usize::try_from(request.credential.id)
                    .ok()
                    .and_then(|at| self.chosen.get(at).cloned());
                let signature = match credential {
                    Some(credential) => errand.sign(&credential, &request).await,
                    None => None,
                };
                self.connection.signed(signature);
            }
            Output::Verify(question) => {
                // After a precursor nothing was visible; after a handshake that authenticated, something was.
                let private = question.renegotiation
                    && self.connection.summary().is_none_or(|summary| summary.private);
                let key = errand.verify(*question, private).await;
                self.connection.verified(key);
            }
            Output::Session(session) => {
                let shown = session
                    .shown()
                    .and_then(|shown| self.chosen.get(usize::try_from(shown.id).ok()?).cloned());
                self.engine.twelve.keep(self.scope, *session, shown);
            }
            _ => {}
        }
    }

    /// Looks at what is under the session, if that is SCTP.
    fn associate(&mut self, socket: &Socket) -> Result<(), HandshakeError> {
        if socket.is_sctp_messages() {
            self.association = Some(Association::of(socket)?);
        }
        Ok(())
    }

    pub(super) fn new_keys(&mut self, socket: &Socket) -> std::io::Result<()> {
        let exporter = self.connection.next_exporter();
        match &mut self.association {
            Some(association) => association.new_keys(socket, exporter.as_ref()),
            None => Ok(()),
        }
    }

    pub(super) fn old_keys_done(&mut self, socket: &Socket) -> std::io::Result<()> {
        match &mut self.association {
            Some(association) => association.old_keys_done(socket),
            None => Ok(()),
        }
    }

    /// Our ChangeCipherSpec was sent.
    pub(super) fn change_sent(&mut self, socket: &Socket) -> std::io::Result<()> {
        match &mut self.association {
            Some(association) => association.change_sent(socket),
            None => Ok(()),
        }
    }

    /// Sends a ChangeCipherSpec once the peer has all that went before, and changes keys (RFC 6083 sections 4.7
    /// and 4.8).
    async fn change_keys(
        &mut self,
        socket: &Socket,
        inlet: &mut Inlet,
        change: &[u8],
    ) -> Result<(), HandshakeError> {
        if let Err(error) = tlspool_sctp::tell_dryness(socket.sctp()) {
            return Err(self.unsent(socket, inlet, error.into()).await);
        }
        while !self.receive(socket, inlet, None).await? {
            if inlet.ended {
                return Err(self.ending());
            }
        }
        let mut sent = tlspool_sctp::forget_dryness(socket.sctp()).map_err(std::io::Error::from);
        if sent.is_ok() {
            sent = socket.send_all(change).await;
        }
        if sent.is_ok() {
            sent = self.change_sent(socket);
        }
        match sent {
            Ok(()) => Ok(()),
            Err(error) => Err(self.unsent(socket, inlet, error).await),
        }
    }

    /// Why the handshake is over when the peer is gone: by its alert, if one came before the end.
    fn ending(&mut self) -> HandshakeError {
        let mut unsent = Vec::new();
        loop {
            match self.connection.poll_output(&mut unsent) {
                Output::Closed(Closed::Failed(error)) => return explain(error),
                Output::Closed(Closed::Cleanly) | Output::Idle | Output::WaitUntil(_) => {
                    return HandshakeError::PeerClosed;
                }
                // Nobody is there to be told any more.
                _ => unsent.clear(),
            }
        }
    }

    /// What could not be sent because the peer has left may cross what it said when it did. An association that is over
    /// takes no options either (EINVAL).
    async fn unsent(
        &mut self,
        socket: &Socket,
        inlet: &mut Inlet,
        error: std::io::Error,
    ) -> HandshakeError {
        use std::io::ErrorKind;
        let over = error.kind() == ErrorKind::InvalidInput;
        if !over && !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) {
            return error.into();
        }
        let patience = Instant::now() + AFTERWORD;
        while !inlet.ended && Instant::now() < patience {
            if self.receive(socket, inlet, Some(patience)).await.is_err() {
                break;
            }
        }
        match self.ending() {
            HandshakeError::PeerClosed if !(over && inlet.ended) => error.into(),
            told => told,
        }
    }

    /// Receives once, and brings it to the connection. Over SCTP the value says whether the peer has everything.
    async fn receive(
        &mut self,
        socket: &Socket,
        inlet: &mut Inlet,
        until: Option<Instant>,
    ) -> Result<bool, HandshakeError> {
        let mut buffer = vec![0; if socket.is_packets() { DATAGRAM } else { READ_SIZE }];
        let receive = std::future::poll_fn(|cx| {
            socket.poll_recv_message(cx, &mut [IoSliceMut::new(&mut buffer)])
        });
        let received = match until {
            None => receive.await,
            Some(time) => {
                let Ok(received) = tokio::time::timeout_at(time.into(), receive).await else {
                    self.connection.handle_timeout(Instant::now());
                    return Ok(false);
                };
                received
            }
        };
        let now = Instant::now();
        match received {
            Ok(Arrived::Dry) => return Ok(true),
            Ok(Arrived::End) => {
                inlet.ended = true;
                self.connection.handle_end();
            }
            Ok(Arrived::Bytes { length, info, whole, .. }) => {
                let mut bytes = &buffer[..length];
                let message;
                if !whole || !inlet.parts.is_empty() {
                    inlet.parts.add(bytes, tls12::MAX_RECORD);
                    if !whole {
                        return Ok(false);
                    }
                    message = inlet.parts.take();
                    bytes = &message;
                }
                self.connection.set_tag(info.to_bits());
                self.connection.handle_input(bytes, now);
            }
            // Anybody can make such noise; the time limit is what ends a wait in vain.
            Err(error) if socket.is_lossy() && is_noise(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(false)
    }

    /// Tells the peer `access_denied`: the session ends before any data.
    pub(crate) async fn refuse(&mut self, socket: &Socket) {
        self.connection.abort(Alert::ACCESS_DENIED);
        let mut out = Vec::new();
        while matches!(self.connection.poll_output(&mut out), Output::Send) {
            // The session is over either way.
            let _ = send(socket, &out).await;
            out.clear();
        }
    }
}

/// What `tls12` is told of a credential.
fn credential_with(id: u64, credential: &Credential, fingerprint: bool) -> tls12::Credential {
    let schemes = credential.schemes.iter();
    tls12::Credential {
        id,
        certificate: certificate_of(&credential.shown, fingerprint),
        schemes: schemes
            .filter_map(|scheme| tls12::SignatureScheme::from_code_point((*scheme).into()))
            .collect(),
        fingerprint: credential.fingerprint,
    }
}

/// Sends a piece of a stream, or a datagram. A datagram for which there is no room is lost, as others are.
async fn send(socket: &Socket, bytes: &[u8]) -> std::io::Result<()> {
    match socket.send_all(bytes).await {
        Err(error) if socket.is_lossy() && is_noise(&error) => Ok(()),
        sent => sent,
    }
}

/// Errors of a datagram socket that say nothing of the peer: ICMP messages can be forged.
pub(super) fn is_noise(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(
            Errno::CONNREFUSED
                | Errno::HOSTUNREACH
                | Errno::NETUNREACH
                | Errno::HOSTDOWN
                | Errno::NETDOWN
                | Errno::NOBUFS
                | Errno::PERM
                | Errno::MSGSIZE
        )
    )
}

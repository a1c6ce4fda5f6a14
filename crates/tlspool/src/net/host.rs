//! Answers what a handshake asks, for one STARTTLS request: which identity, a signature, and
//! whether the peer is acceptable.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, SignatureScheme};
use rustls_pki_types::UnixTime;
use tlspool_engine::{
    CertificateType, Credential, Host, PeerCredential, Refusal, ShownByPeer, SignatureFailure,
};
use tlspool_identity::DoNai;
use tlspool_openpgp::{Certificate as OpenPgpCertificate, KeyId, Limits};
use tlspool_store::{AccessError, CertificateSource, Kind, LocalIdentity, Role};
use tlspool_validate::sources::{Caches, Options};
use tlspool_validate::{Endpoint, Inquiry, Negotiated, Peer, Validated};
use tlspool_wire::{Body, PoolError, Starttls, StarttlsFlags, Text};

use super::authorization::{self, Meeting};
use super::chooser::Remember;
use super::client::{CallbackFailure, Client};
use super::disclosure::Disclosure;
use super::fingerprint;
use super::foresight::Foresight;
use super::identities::{self, Asker};
use super::policies;
use super::worker::Worker;

/// The deadline of a handshake without one.
const FAR: Duration = Duration::from_hours(1);

/// The rows of one name.
type Rows = Rc<Vec<LocalIdentity>>;

/// Sees to one handshake.
pub(crate) struct RequestHost {
    pub(crate) worker: Rc<Worker>,
    /// The program's connection, while the request is under way; a session may outlive it.
    pub(crate) client: Option<Arc<Client>>,
    pub(crate) asker: Rc<Asker>,
    pub(crate) reqid: u16,
    pub(crate) request: Starttls,
    pub(crate) role: Role,
    /// Our name, if the program gave one.
    pub(crate) local: Option<DoNai>,
    /// The peer's name, if the program gave one.
    pub(crate) remote: Option<DoNai>,
    /// Whom a client shows if the program named nobody.
    pub(crate) disclosure: Disclosure,
    pub(crate) callback_timeout: Duration,
    /// How long a signature or a look-up may take, which is as long as the handshake may.
    pub(crate) deadline: Option<tokio::time::Instant>,
    /// The peer's port, if it matters and there is one.
    pub(crate) endpoint: Option<Endpoint>,
    /// What validation looks up, as far as it is known before.
    pub(crate) foresight: Foresight,
    /// The peer that was judged before our own name was known.
    pub(crate) judged_early: Option<ShownByPeer>,
    /// The session stands already: what is to be remembered of the peer is stored before it goes on.
    pub(crate) renegotiates: bool,
    /// What was found out.
    pub(crate) outcome: Outcome,
}

/// What a handshake found out about both sides.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) credential: Option<Arc<Credential>>,
    pub(crate) validated: Option<Validated>,
    /// The plaintext descriptor, if it came with the request, or with the choice of local identity.
    pub(crate) plaintext: Option<std::os::fd::OwnedFd>,
    /// Whether it was asked about the local identity.
    pub(crate) localid_checked: bool,
    /// Whether the local identity was made on the fly.
    pub(crate) on_the_fly: bool,
    /// Whom to show another time, and to whom.
    pub(crate) remember: Option<(Remember, Option<DoNai>)>,
    /// The error number for a refusal.
    pub(crate) error: Option<PoolError>,
    /// The meeting that was authorized before the handshake was complete.
    pub(crate) authorized_early: Option<Meeting>,
}

impl RequestHost {
    pub(crate) fn refuse(&mut self, error: PoolError, text: String) -> Refusal {
        self.outcome.error = Some(error);
        Refusal { certificate: CertificateError::ApplicationVerificationFailure, text }
    }

    pub(crate) fn refuse_access(&mut self, error: &AccessError) -> Refusal {
        let number = match error {
            AccessError::Denied { .. } => PoolError::LocalidNotYours,
            AccessError::Store(_) => PoolError::ConnectionHandlerSetup,
            _ => PoolError::LocalidUnknown,
        };
        self.refuse(number, error.to_string())
    }

    /// The rows for `name`, or for the only or default name.
    pub(crate) fn look_up(
        &mut self,
        name: Option<&DoNai>,
    ) -> Result<Rc<Vec<LocalIdentity>>, Refusal> {
        let found = self.worker.identities.borrow_mut().look_up(&self.asker, name, self.role);
        found.map_err(|error| self.refuse_access(&error))
    }

    /// The rows for the name that a server is asked for. A host name that has none may be covered by
    /// a wildcard of those one label up; it is then returned too, for [`Self::choose`] to check.
    fn look_up_host(&mut self, name: Option<&DoNai>) -> Result<(Rows, Option<DoNai>), Refusal> {
        let mut identities = self.worker.identities.borrow_mut();
        let error = match (identities.look_up(&self.asker, name, self.role), name) {
            (Ok(rows), _) => return Ok((rows, None)),
            // It may use this name, but there is none.
            (Err(error @ AccessError::Unknown { .. }), Some(host)) if host.user().is_none() => {
                if let Some((_, parent)) = host.domain().split_once('.')
                    && let Ok(parent) = DoNai::parse(parent)
                    && let Ok(rows) = identities.look_up(&self.asker, Some(&parent), self.role)
                {
                    return Ok((rows, Some(host.clone())));
                }
                error
            }
            (Err(error), _) => error,
        };
        drop(identities);
        Err(self.refuse_access(&error))
    }

    /// The first of `rows` that is of this type, whose key signs with one of `schemes`, and whose certificate covers the
    /// host name `covered`, if there is one. None if no row is of this type.
    async fn choose(
        &mut self,
        rows: &[LocalIdentity],
        kind: CertificateType,
        schemes: Option<&[SignatureScheme]>,
        covered: Option<&DoNai>,
    ) -> Result<Option<Arc<Credential>>, Refusal> {
        let mut problem = None;
        let kind = kind_of(kind);
        let mut found = false;
        for row in rows.iter().filter(|row| row.kind == kind) {
            found = true;
            match self.credential(row, covered).await {
                Ok(credential)
                    if schemes.is_none_or(|schemes| {
                        credential.schemes.iter().any(|scheme| schemes.contains(scheme))
                    }) =>
                {
                    return Ok(Some(credential));
                }
                Ok(_) => {}
                Err(text) => problem = Some(format!("{}: {text}", row.name)),
            }
        }
        if !found {
            return Ok(None);
        }
        let text = problem.unwrap_or_else(|| {
            "the peer supports no signature algorithm of this identity's keys".into()
        });
        Err(self.refuse(PoolError::LocalidUnknown, text))
    }

    async fn credential(
        &mut self,
        row: &LocalIdentity,
        covered: Option<&DoNai>,
    ) -> Result<Arc<Credential>, String> {
        let own = self.own_credential(row).await?;
        match covered {
            None => Ok(own),
            Some(name) => self.worker.identities.borrow_mut().covering(row, &own, name),
        }
    }

    async fn own_credential(&mut self, row: &LocalIdentity) -> Result<Arc<Credential>, String> {
        if let Some(credential) = self.worker.identities.borrow_mut().remembered(row) {
            return Ok(credential);
        }
        let keys = &self.worker.keys;
        let credential = match &row.certificate {
            CertificateSource::Chain(chain) => identities::credential(row, chain.clone())?,
            CertificateSource::Uri(uri) => {
                let chain = keys.certificates(uri, self.deadline).await;
                identities::credential(row, chain.map_err(|e| e.to_string())?)?
            }
            CertificateSource::OpenPgp(certificate) => {
                let key = keys.public_key(&row.key_uri, self.deadline).await;
                let key = key.map_err(|e| e.to_string())?;
                identities::openpgp_credential(row, certificate, &key)?
            }
        };
        let credential = Arc::new(credential);
        self.worker.identities.borrow_mut().remember(row, credential.clone());
        Ok(credential)
    }

    /// Asks the program which local identity to use (LOCALID_CHECK).
    pub(crate) async fn check_localid(
        &mut self,
        proposed: Option<&DoNai>,
    ) -> Result<Option<DoNai>, Refusal> {
        self.outcome.localid_checked = true;
        let localid = Text::cut(proposed.map_or("", DoNai::as_str));
        let body = Body::StarttlsLocalid(Starttls { localid, ..self.request.clone() });
        let refused = PoolError::ClientRefusesCallback;
        let answer = match &self.client {
            Some(client) => client.call_back(self.reqid, body, self.callback_timeout).await,
            None => Err(CallbackFailure::Gone),
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => return Err(self.refuse(refused, callback_text(failure).into())),
        };
        let answered = match answer.body {
            Body::StarttlsLocalid(answered) | Body::Starttls(answered) => answered,
            Body::Error(error) => return Err(self.refuse(refused, error.message.to_string())),
            _ => {
                let text = "the callback STARTTLS_LOCALID was answered with another command";
                return Err(self.refuse(PoolError::CommandBadCallbackResponse, text.into()));
            }
        };
        let accepted = answer.descriptor.is_some();
        self.outcome.plaintext = answer.descriptor.or(self.outcome.plaintext.take());
        match (answered.localid.as_str(), accepted) {
            // A client can do without one, unlike a server.
            ("", false) if self.role == Role::Client => Ok(None),
            ("", false) => {
                let text = "the program accepts no local identity here";
                Err(self.refuse(PoolError::ClientRefusesCallback, text.into()))
            }
            ("", true) => Ok(proposed.cloned()),
            (name, _) => match DoNai::parse(name) {
                Ok(name) => Ok(Some(name)),
                Err(error) => Err(self.refuse(PoolError::LocalidUnknown, error.to_string())),
            },
        }
    }

    /// Our own name, as far as it is known.
    pub(crate) fn own_name(&self) -> Option<DoNai> {
        let shown = self.outcome.credential.as_ref();
        shown.and_then(|shown| DoNai::parse(&shown.name).ok()).or_else(|| self.local.clone())
    }

    /// Judges a peer by policy. The key with which it signs is told for OpenPGP.
    async fn judge(&mut self, shown: &ShownByPeer) -> Result<Option<Vec<u8>>, Refusal> {
        match &shown.credential {
            PeerCredential::X509(chain) => {
                self.judge_as(shown, tlspool_validate::Credential::X509(chain)).await?;
                Ok(None)
            }
            PeerCredential::OpenPgp { key_id, certificate } => {
                let certificate = OpenPgpCertificate::read_binary(certificate, Limits::PEER)
                    .map_err(|error| self.refuse_openpgp(&error))?;
                self.judge_openpgp(shown, &certificate, KeyId(*key_id)).await.map(Some)
            }
            PeerCredential::OpenPgpFingerprint { key_id, fingerprint } => {
                let key = KeyId(*key_id);
                let certificate = self.fetch(fingerprint::Shown { fingerprint, key }).await?;
                self.judge_openpgp(shown, &certificate, key).await.map(Some)
            }
        }
    }

    async fn judge_openpgp(
        &mut self,
        shown: &ShownByPeer,
        certificate: &OpenPgpCertificate,
        key: KeyId,
    ) -> Result<Vec<u8>, Refusal> {
        let credential = tlspool_validate::Credential::OpenPgp(certificate, Some(key));
        self.judge_as(shown, credential).await?;
        let validated = self.outcome.validated.as_ref();
        match validated.and_then(|validated| validated.signing_key.as_ref()) {
            Some(signs) => Ok(signs.spki.clone()),
            None => Err(self.refuse_openpgp(&"nobody knows which key signs the handshake")),
        }
    }

    fn refuse_openpgp(&mut self, why: &dyn std::fmt::Display) -> Refusal {
        self.outcome.error = Some(PoolError::RemoteidRefused);
        let text = format!("the peer's OpenPGP certificate: {why}");
        Refusal { certificate: CertificateError::BadEncoding, text }
    }

    /// Finds an OpenPGP certificate of which the peer has shown but the fingerprint.
    async fn fetch(
        &mut self,
        shown: fingerprint::Shown<'_>,
    ) -> Result<OpenPgpCertificate, Refusal> {
        let known = self.worker.trusted_openpgp(self.request.service.as_str(), shown.fingerprint);
        let options = Options {
            deadline: self.until(),
            caches: if self.request.flags.contains(StarttlsFlags::IGNORE_CACHES) {
                Caches::Ignore
            } else {
                Caches::Use
            },
        };
        let lookups = &self.worker.lookups;
        fingerprint::find(&shown, known, self.remote.as_ref(), lookups, options)
            .await
            .map_err(|why| self.refuse_openpgp(&why))
    }

    /// Judges a peer that shows this credential.
    async fn judge_as(
        &mut self,
        shown: &ShownByPeer,
        credential: tlspool_validate::Credential<'_>,
    ) -> Result<(), Refusal> {
        let trace = tracing::enabled!(tracing::Level::DEBUG);
        let local = self.own_name();
        let inquiry = Inquiry {
            credential,
            peer: if self.role == Role::Server { Peer::Client } else { Peer::Server },
            wanted: self.remote.as_ref(),
            local: local.as_ref(),
            domain_represents_user: self
                .request
                .flags
                .contains(StarttlsFlags::DOMAIN_REPRESENTS_USER),
            service: self.request.service.as_str(),
            endpoint: self.endpoint,
            ignore_caches: self.request.flags.contains(StarttlsFlags::IGNORE_CACHES),
            negotiated: Negotiated {
                private: shown.agreed.private,
                post_quantum: shown.agreed.post_quantum,
                forward_secrecy: shown.agreed.forward_secrecy,
            },
            stapled_ocsp: &shown.ocsp,
            now: UnixTime::now(),
            deadline: self.until(),
            trace,
        };
        self.foresight.arrive().await;
        let result = self.worker.validate(&inquiry, &self.foresight).await;
        self.foresight.forget();
        let trace = match &result {
            Ok(validated) => validated.trace.as_ref(),
            Err(refused) => refused.trace.as_ref(),
        };
        for line in trace.map(ToString::to_string).iter().flat_map(|text| text.lines()) {
            tracing::debug!(client = %self.asker.peer, reqid = self.reqid, "policy: {line}");
        }
        match result {
            Ok(validated) => {
                self.outcome.validated = Some(validated);
                Ok(())
            }
            Err(refused) => {
                self.outcome.error = Some(PoolError::RemoteidRefused);
                let certificate = certificate_error(&refused.refusal);
                Err(Refusal { certificate, text: refused.refusal.to_string() })
            }
        }
    }

    /// Decides whether there may be a session between the peer that is judged and `local`.
    async fn authorize_meeting(&mut self, local: Option<DoNai>) -> Result<Meeting, Refusal> {
        let meeting = Meeting {
            role: self.role,
            remote: self.outcome.validated.as_ref().map(|validated| validated.identity.clone()),
            local,
            service: self.request.service.as_str().into(),
        };
        let settings = self.worker.settings();
        let deadline = self.until();
        let decision = authorization::decide(
            &settings.config.authorization,
            &self.worker.identities,
            &self.worker.lookups,
            &meeting,
            deadline,
        );
        let decision = decision.await;
        if tracing::enabled!(tracing::Level::DEBUG) {
            for step in &decision.steps {
                let (client, says) = (&self.asker.peer, step.says);
                tracing::debug!(%client, reqid = self.reqid, "authorization: {says}, by {step}");
            }
        }
        if decision.allowed {
            Ok(meeting)
        } else {
            Err(self.refuse(PoolError::NotAuthorized, decision.refusal(&meeting)))
        }
    }

    /// A client asks before it shows itself: nothing of it is for a server that it may not meet.
    async fn authorize_early(&mut self) -> Result<(), Refusal> {
        if self.role == Role::Client {
            let meeting = self.authorize_meeting(self.own_name()).await?;
            self.outcome.authorized_early = Some(meeting);
        }
        Ok(())
    }

    /// Stores what is to be remembered of the peer. Until that is done it is not believed.
    async fn commit(&mut self) -> Result<(), Refusal> {
        let commits = self.outcome.validated.as_mut().map(|v| std::mem::take(&mut v.commits));
        let stored = policies::commit(&self.worker.identities, commits.unwrap_or_default()).await;
        stored.map_err(|text| self.refuse(PoolError::RemoteidRefused, text))
    }

    /// The name that a server shall show: the program's, else the client's.
    fn asked_for(&mut self, sni: Option<&str>) -> Result<Option<DoNai>, Refusal> {
        match (&self.local, sni) {
            (Some(local), _) => Ok(Some(local.clone())),
            (None, None) => Ok(None),
            (None, Some(sni)) => DoNai::parse(sni).map(Some).map_err(|error| {
                let text = format!("the client asked for a server name that is none: {error}");
                self.refuse(PoolError::LocalidUnknown, text)
            }),
        }
    }

    /// When what is looked up or decided has to be there.
    pub(crate) fn until(&self) -> std::time::Instant {
        self.deadline.map_or_else(far, tokio::time::Instant::into_std)
    }

    pub(crate) fn wants_check(&self) -> bool {
        self.request.flags.contains(StarttlsFlags::LOCALID_CHECK)
    }
}

/// The end of a handshake without one.
fn far() -> std::time::Instant {
    std::time::Instant::now() + FAR
}

/// The kind of a row for a type of certificate.
pub(crate) fn kind_of(kind: CertificateType) -> Kind {
    match kind {
        CertificateType::X509 => Kind::X509,
        CertificateType::OpenPgp => Kind::OpenPgp,
    }
}

/// What a program is told when its callback brought nothing.
pub(crate) fn callback_text(failure: CallbackFailure) -> &'static str {
    match failure {
        CallbackFailure::Gone => "the program went away during a callback",
        CallbackFailure::Late => "the program took too long to answer a callback",
        CallbackFailure::Full => "too many callbacks of this program wait for answers",
    }
}

impl Host for RequestHost {
    async fn server_credential(
        &mut self,
        sni: Option<&str>,
        schemes: &[SignatureScheme],
        types: &[CertificateType],
    ) -> Result<Arc<Credential>, Refusal> {
        let asked = self.asked_for(sni)?;
        let name =
            if self.wants_check() { self.check_localid(asked.as_ref()).await? } else { asked };
        if self.wants_on_the_fly() {
            return self.show_on_the_fly(name.as_ref(), types).await;
        }
        let (rows, covered) = self.look_up_host(name.as_ref())?;
        let mut refusal = None;
        for kind in types {
            match self.choose(&rows, *kind, Some(schemes), covered.as_ref()).await {
                Ok(Some(credential)) => {
                    self.outcome.credential = Some(credential.clone());
                    return Ok(credential);
                }
                Ok(None) => {}
                Err(refused) => refusal = Some(refused),
            }
        }
        Err(refusal.unwrap_or_else(|| {
            let text = "this identity has no certificate of a type that the client takes";
            self.refuse(PoolError::LocalidUnknown, text.into())
        }))
    }

    async fn client_credential(
        &mut self,
        kind: CertificateType,
    ) -> Result<Option<Arc<Credential>>, Refusal> {
        let Some(name) = self.whom_to_show(kind).await? else { return Ok(None) };
        let credential = if self.wants_on_the_fly() || self.disclosure.is_on_the_fly() {
            self.show_on_the_fly(Some(&name), &[kind]).await?
        } else {
            let rows = self.look_up(Some(&name))?;
            let Some(credential) = self.choose(&rows, kind, None, None).await? else {
                let text = format!("{name} has no certificate of the type that the server takes");
                return Err(self.refuse(PoolError::LocalidUnknown, text));
            };
            self.outcome.credential = Some(credential.clone());
            credential
        };
        if let Some(peer) = self.judged_early.take() {
            if self.local.as_ref() != Some(&name) {
                self.judge(&peer).await?;
            }
            self.authorize_early().await?;
        }
        Ok(Some(credential))
    }

    async fn has_openpgp(&mut self, sni: Option<&str>) -> bool {
        let Ok(name) = self.asked_for(sni) else { return false };
        if self.wants_on_the_fly() {
            return false;
        }
        // A name that is refused is refused again, and told, where it is needed.
        let rows = self.look_up(name.as_ref());
        rows.is_ok_and(|rows| rows.iter().any(|row| row.kind == Kind::OpenPgp))
    }

    async fn sign(
        &mut self,
        credential: &Credential,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, SignatureFailure> {
        let program = self.client.as_ref().map(|client| client.id);
        let scheme = scheme.into();
        let signed =
            self.worker.keys.sign(program, credential, scheme, message, self.deadline).await;
        signed.map_err(|error| {
            self.outcome.error = Some(PoolError::KeyUnavailable);
            SignatureFailure(error.to_string())
        })
    }

    async fn verify(&mut self, peer: ShownByPeer) -> Result<Option<Vec<u8>>, Refusal> {
        let key = self.judge(&peer).await?;
        let undecided = self.wants_check() || self.disclosure.is_open();
        if undecided && self.outcome.credential.is_none() {
            // In TLS 1.2 a client chooses who it is after that, and that name has policies too.
            self.judged_early = Some(peer);
        } else {
            self.authorize_early().await?;
        }
        Ok(key)
    }

    fn peer_is_next(&mut self) {
        self.foresee();
    }

    async fn authorize(&mut self, shown: Option<&Credential>) -> Result<(), Refusal> {
        let shown = shown.and_then(|shown| DoNai::parse(&shown.name).ok());
        // A session that is resumed shows whom it showed, which nobody knew when the server was judged.
        if let (Some(peer), Some(name)) = (self.judged_early.take(), &shown)
            && self.local.as_ref() != Some(name)
        {
            let given = self.local.replace(name.clone());
            let judged = self.judge(&peer).await;
            self.local = given;
            judged?;
        }
        let local = shown.or_else(|| self.own_name());
        let early = self.outcome.authorized_early.take();
        let remote = self.outcome.validated.as_ref().map(|validated| &validated.identity);
        if early.is_none_or(|early| early.remote.as_ref() != remote || early.local != local) {
            self.authorize_meeting(local).await?;
        }
        if self.renegotiates { self.commit().await } else { Ok(()) }
    }
}

/// The error by which rustls sends the alert that fits.
fn certificate_error(refusal: &tlspool_validate::Refusal) -> CertificateError {
    use tlspool_validate::Refusal as R;
    match refusal {
        R::NotYetValid(_) => CertificateError::NotValidYet,
        R::Expired(_) => CertificateError::Expired,
        R::UnknownIssuer { .. } => CertificateError::UnknownIssuer,
        R::BadSignature => CertificateError::BadSignature,
        R::Revoked(_) => CertificateError::Revoked,
        R::WrongUsage(_) | R::Unsupported(_) => CertificateError::InvalidPurpose,
        R::Policy { alert: Some(alert), .. } => by_alert(*alert),
        R::Policy { alert: None, .. } | R::NoPolicy(_) => {
            CertificateError::ApplicationVerificationFailure
        }
        R::NoCertificate
        | R::Malformed(_)
        | R::AuthorityAsPeer
        | R::Constrained(_)
        | R::TooComplex
        | R::NoName { .. }
        | R::OpenPgp(_)
        | R::WrongName { .. } => CertificateError::NotValidForName,
    }
}

/// As above, for the alert of one of a policy's predicates.
fn by_alert(alert: u8) -> CertificateError {
    match alert {
        43 => CertificateError::InvalidPurpose,
        44 => CertificateError::Revoked,
        45 => CertificateError::Expired,
        48 => CertificateError::UnknownIssuer,
        51 => CertificateError::BadSignature,
        _ => CertificateError::NotValidForName,
    }
}

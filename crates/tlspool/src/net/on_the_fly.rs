//! Identities made on the fly (LOCALID_ONTHEFLY, and the choice ONTHEFLY of LIDENTRY): an X.509
//! certificate for a name, signed when it is asked for by the authority that `[on_the_fly]` configures. One
//! key serves all of them, so that none has to be made.
//!
//! A program gets only names that access rules permit to it. A certificate is kept for other requests until
//! it has lived half its life, and is gone when the daemon ends.

use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lru::LruCache;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SerialNumber, SignatureAlgorithm, SigningKey,
};
use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;
use tlspool_engine::{CertificateType, Credential, Refusal};
use tlspool_identity::DoNai;
use tlspool_keys::KeyError;
use tlspool_store::{AccessError, Role};
use tlspool_wire::{PoolError, StarttlsFlags};
use tokio::time::Instant as TokioInstant;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

use super::host::RequestHost;
use super::identities::x509_credential;
use super::keys::Keys;
use crate::admin::signer::{MAX_COMMON_NAME, alternative_name};
use crate::config::OnTheFly;

/// Identities that a worker keeps.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// How far the clocks of peers may be behind ours.
const CLOCK_SKEW: Duration = Duration::from_hours(1);

/// What a worker has made.
pub(crate) struct Workshop {
    made: LruCache<(DoNai, Role), (Arc<Credential>, Instant)>,
    authority: Option<Rc<Authority>>,
}

impl Default for Workshop {
    fn default() -> Self {
        Self { made: LruCache::new(REMEMBERED), authority: None }
    }
}

impl Workshop {
    /// Settings or files may have changed.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    fn remembered(&mut self, asked: &(DoNai, Role)) -> Option<Arc<Credential>> {
        let (credential, until) = self.made.get(asked)?;
        (*until > Instant::now()).then(|| credential.clone())
    }
}

/// Who certifies.
struct Authority {
    /// Its certificate and key, to sign with.
    credential: Credential,
    algorithm: &'static SignatureAlgorithm,
    scheme: SignatureScheme,
    /// SubjectPublicKeyInfo of the identities' key.
    identity_key: Vec<u8>,
    /// Seconds since 1970.
    expires: i64,
}

/// Why nothing is made.
#[derive(Debug, thiserror::Error)]
enum Unmakable {
    #[error("this pool makes no identities on the fly; its configuration has no [on_the_fly]")]
    Unconfigured,
    #[error("the authority of [on_the_fly]: {0}")]
    Authority(String),
    #[error("a key of [on_the_fly]: {0}")]
    Key(#[from] KeyError),
    #[error("no certificate can be made for {0}: {1}")]
    Certificate(DoNai, String),
}

impl Unmakable {
    fn error(&self) -> PoolError {
        match self {
            Self::Unconfigured | Self::Certificate(..) => PoolError::LocalidUnknown,
            Self::Authority(_) | Self::Key(_) => PoolError::KeyUnavailable,
        }
    }
}

impl RequestHost {
    /// An error unless the program may have `name` made; better told before the peer is bothered.
    pub(crate) fn may_make(&mut self, name: &DoNai) -> Result<(), Refusal> {
        let permitted = self.worker.identities.borrow_mut().check_access(&self.asker, name);
        permitted.map_err(|error: AccessError| self.refuse_access(&error))?;
        if self.worker.settings().config.on_the_fly.is_none() {
            return Err(self.unmakable(&Unmakable::Unconfigured));
        }
        Ok(())
    }

    /// Whether the program wants its identity made.
    pub(crate) fn wants_on_the_fly(&self) -> bool {
        self.request.flags.contains(StarttlsFlags::LOCALID_ONTHEFLY)
    }

    /// Shows an identity that is made for this.
    pub(crate) async fn show_on_the_fly(
        &mut self,
        name: Option<&DoNai>,
        types: &[CertificateType],
    ) -> Result<Arc<Credential>, Refusal> {
        let credential = self.make_on_the_fly(name, types).await?;
        self.outcome.on_the_fly = true;
        self.outcome.credential = Some(credential.clone());
        Ok(credential)
    }

    /// Makes an identity, if the peer takes X.509 certificates.
    async fn make_on_the_fly(
        &mut self,
        name: Option<&DoNai>,
        types: &[CertificateType],
    ) -> Result<Arc<Credential>, Refusal> {
        let Some(name) = name else {
            let text = "an identity on the fly needs a name, of the program or of the peer";
            return Err(self.refuse(PoolError::LocalidUnknown, text.into()));
        };
        self.may_make(name)?;
        if !types.contains(&CertificateType::X509) {
            let text = "identities on the fly are X.509, which the peer does not take";
            return Err(self.refuse(PoolError::LocalidUnknown, text.into()));
        }
        let worker = self.worker.clone();
        let asked = (name.clone(), self.role);
        if let Some(credential) = worker.workshop.borrow_mut().remembered(&asked) {
            return Ok(credential);
        }
        let settings = worker.settings();
        let Some(config) = &settings.config.on_the_fly else {
            return Err(self.unmakable(&Unmakable::Unconfigured));
        };
        let made = make(self, config, name).await;
        let (credential, lifetime) = made.map_err(|why| self.unmakable(&why))?;
        let credential = Arc::new(credential);
        let until = Instant::now() + lifetime / 2;
        worker.workshop.borrow_mut().made.put(asked, (credential.clone(), until));
        tracing::info!(client = %self.asker.peer, local = %name, "made an identity on the fly");
        Ok(credential)
    }

    fn unmakable(&mut self, why: &Unmakable) -> Refusal {
        self.refuse(why.error(), why.to_string())
    }
}

/// Makes an identity; it is good for so long, which is no longer than its authority is.
async fn make(
    host: &RequestHost,
    config: &OnTheFly,
    name: &DoNai,
) -> Result<(Credential, Duration), Unmakable> {
    let keys = &host.worker.keys;
    // One whose time is over is read again: it may have been renewed.
    let known = host.worker.workshop.borrow().authority.clone();
    let known = known.filter(|authority| !authority.left().is_zero());
    let authority = if let Some(authority) = known {
        authority
    } else {
        let authority = Rc::new(Authority::open(keys, config, host.deadline).await?);
        host.worker.workshop.borrow_mut().authority = Some(authority.clone());
        authority
    };
    let wrong = |why: String| Unmakable::Certificate(name.clone(), why);
    let lifetime = config.bounded_lifetime().min(authority.left());
    let params = params(name, host.role, lifetime, authority.expires).map_err(wrong)?;
    // What is to be signed is the same both times: the first has it noted, the second signed.
    let blank = authority.certify(&params, Vec::new()).map_err(wrong)?;
    let scheme = authority.scheme.into();
    let program = host.client.as_ref().map(|client| client.id);
    let (credential, message) = (&authority.credential, &blank.to_be_signed);
    let signature = keys.sign(program, credential, scheme, message, host.deadline).await?;
    let signed = authority.certify(&params, signature).map_err(wrong)?;
    if signed.to_be_signed != blank.to_be_signed {
        return Err(wrong("it changed while it was signed".into()));
    }
    let mut chain = vec![signed.certificate];
    chain.extend(authority.credential.chain().iter().map(|above| above.to_vec()));
    let made = x509_credential(name.as_str(), &config.identity_key.0, chain);
    made.map(|credential| (credential, lifetime)).map_err(|why| wrong(why.into()))
}

/// A certificate, and the part of it that its signature is for.
struct Certified {
    certificate: Vec<u8>,
    to_be_signed: Vec<u8>,
}

impl Authority {
    async fn open(
        keys: &Keys,
        config: &OnTheFly,
        deadline: Option<TokioInstant>,
    ) -> Result<Self, Unmakable> {
        let chain = keys.certificates(&config.certificate.0, deadline).await?;
        let identity_key = keys.public_key(&config.identity_key.0, deadline).await?;
        let wrong = |why: &str| Unmakable::Authority(why.to_owned());
        let expires = {
            let leaf = chain.first().ok_or_else(|| wrong("it has no certificate"))?;
            let (_, certificate) =
                X509Certificate::from_der(leaf).map_err(|_| wrong("it is not readable"))?;
            if !certificate.is_ca() {
                return Err(wrong("its certificate is not that of an authority"));
            }
            if !certificate.validity().is_valid() {
                return Err(wrong("its certificate is not in time; renew it, then reload"));
            }
            if certificate.public_key().raw == identity_key.as_slice() {
                return Err(wrong("its key must not be that of the identities"));
            }
            certificate.validity().not_after.timestamp()
        };
        let credential = x509_credential("authority", &config.key.0, chain).map_err(wrong)?;
        let (algorithm, scheme) =
            credential
                .schemes
                .iter()
                .find_map(|&scheme| algorithm(scheme))
                .ok_or_else(|| wrong("its key is of a kind that signs no certificates"))?;
        Ok(Self { credential, algorithm, scheme, identity_key, expires })
    }

    /// How long it is good yet.
    fn left(&self) -> Duration {
        let end = UNIX_EPOCH + Duration::from_secs(u64::try_from(self.expires).unwrap_or(0));
        end.duration_since(SystemTime::now()).unwrap_or_default()
    }

    /// A certificate for the identities' key, with this signature.
    fn certify(&self, params: &CertificateParams, signature: Vec<u8>) -> Result<Certified, String> {
        let certificate = self.credential.chain().first().ok_or("no certificate")?;
        let own = public_key_of(certificate)?;
        let hand =
            Hand { signature, algorithm: self.algorithm, public: own, noted: Mutex::default() };
        let issuer = Issuer::from_ca_cert_der(certificate, &hand).map_err(|e| e.to_string())?;
        let subject = Subject::of(&self.identity_key)?;
        let made = params.clone().signed_by(&subject, &issuer).map_err(|e| e.to_string())?;
        let certificate = made.der().to_vec();
        drop(issuer);
        let to_be_signed = hand.noted.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Certified { certificate, to_be_signed })
    }
}

/// How an authority whose key has this scheme signs certificates.
fn algorithm(scheme: SignatureScheme) -> Option<(&'static SignatureAlgorithm, SignatureScheme)> {
    let algorithm = match scheme {
        SignatureScheme::RSA_PKCS1_SHA256 => &rcgen::PKCS_RSA_SHA256,
        SignatureScheme::ECDSA_NISTP256_SHA256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        SignatureScheme::ED25519 => &rcgen::PKCS_ED25519,
        _ => return None,
    };
    Some((algorithm, scheme))
}

fn public_key_of(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, String> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
    Ok(certificate.public_key().subject_public_key.data.to_vec())
}

/// Signs with a signature that was made elsewhere, and notes what that is for.
struct Hand {
    signature: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
    public: Vec<u8>,
    noted: Mutex<Vec<u8>>,
}

impl PublicKeyData for Hand {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

impl SigningKey for Hand {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner) = message.to_vec();
        Ok(self.signature.clone())
    }
}

/// The key of the identities.
struct Subject {
    public: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl Subject {
    fn of(spki: &[u8]) -> Result<Self, String> {
        use x509_parser::public_key::PublicKey;
        let (_, key) = SubjectPublicKeyInfo::from_der(spki).map_err(|error| error.to_string())?;
        let algorithm = match key.parsed() {
            Ok(PublicKey::RSA(_)) => &rcgen::PKCS_RSA_SHA256,
            Ok(PublicKey::EC(point)) if point.key_size() == 256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Ok(PublicKey::EC(point)) if point.key_size() == 384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            _ if key.algorithm.algorithm == x509_parser::oid_registry::OID_SIG_ED25519 => {
                &rcgen::PKCS_ED25519
            }
            _ => return Err("the identities' key is of a kind that is not supported".into()),
        };
        Ok(Self { public: key.subject_public_key.data.to_vec(), algorithm })
    }
}

impl PublicKeyData for Subject {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

/// What the certificate says.
fn params(
    name: &DoNai,
    role: Role,
    lifetime: Duration,
    expires: i64,
) -> Result<CertificateParams, String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let text = name.as_str();
    let common = if text.len() <= MAX_COMMON_NAME { text } else { "TLS Pool identity" };
    params.distinguished_name.push(DnType::CommonName, common);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages.push(match role {
        Role::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Role::Client => ExtendedKeyUsagePurpose::ClientAuth,
    });
    params.subject_alt_names.push(alternative_name(name).map_err(|error| error.to_string())?);
    params.use_authority_key_identifier_extension = true;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
    let last = Duration::from_secs(u64::try_from(expires).unwrap_or(0));
    params.not_after = epoch + (now + lifetime).min(last);
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| "the system has no random numbers")?;
    // Positive, and never of fewer bytes than it seems.
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from(serial.to_vec()));
    Ok(params)
}

//! Certificates of our own: made, extended, revoked, with every signature by a [`RemoteKey`].
//!
//! They are of version 4 (fingerprints of 20 bytes, which RFC 6091 and every implementation know), and
//! look as GnuPG makes them: a primary key that certifies, bound to each user ID, and a subkey that
//! signs and authenticates, which is the one of TLS. Or one key does it all.

use std::time::{Duration, SystemTime};

use sequoia_openpgp as openpgp;

use openpgp::cert::CertRevocationBuilder;
use openpgp::cert::prelude::SubordinateKeyAmalgamation;
use openpgp::packet::key::{PrimaryRole, PublicParts, SubordinateRole};
use openpgp::packet::signature::SignatureBuilder;
use openpgp::packet::{Key, Signature, UserID};
use openpgp::policy::StandardPolicy;
use openpgp::serialize::Serialize;
use openpgp::types::{KeyFlags, ReasonForRevocation, SignatureType};
use openpgp::{Cert, Packet, armor};
use tlspool_identity::DoNai;

use crate::certificate::one_line;
use crate::key::spki_of;
use crate::signer::{External, RemoteFailure};
use crate::standing::strict;
use crate::{Certificate, RemoteError, RemoteKey};

/// Why a certificate cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The key did not sign.
    #[error("the key did not sign: {0}")]
    Key(RemoteError),
    /// A key that OpenPGP and TLS do not share.
    #[error(
        "the key is of no kind that can be in an OpenPGP certificate: use p256, p384, ed25519 or RSA"
    )]
    Kind,
    /// Another key than that of the certificate.
    #[error("the {0} is another key than the one in the certificate")]
    OtherKey(&'static str),
    /// A display name that would not read as one.
    #[error("the display name {0:?} must not contain < or > or control characters")]
    DisplayName(String),
    /// A time before the certificate, or after 2106.
    #[error("the time does not fit into an OpenPGP packet or is before the certificate's")]
    Time,
    /// The certificate cannot be changed in its present state.
    #[error("the certificate cannot be changed: {0}")]
    State(String),
}

/// What a new certificate is to say.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The names, each in a user ID of its own; the first is the primary one. At least one.
    pub names: &'a [&'a DoNai],
    /// What stands before the names, for people; may be empty.
    pub display_name: &'a str,
    /// The time of creation, which is part of every fingerprint.
    pub created: SystemTime,
    /// How long it is good; none: for ever.
    pub validity: Option<Duration>,
}

/// Why a certificate is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No reason is given: everything that the key signed becomes void.
    Unspecified,
    /// Another key takes its place; what was signed stays good.
    Superseded,
    /// Others may know the key: everything that it signed becomes void.
    Compromised,
    /// It is not used any more; what was signed stays good.
    Retired,
}

/// A revocation: the certificate as it is now, and what to publish.
#[derive(Debug, Clone)]
pub struct Revoked {
    /// The certificate with its revocation.
    pub certificate: Certificate,
    /// The revocation alone, in ASCII armor.
    pub armored: String,
}

/// Makes a certificate. `subkey` is the key of TLS; without it the primary key is.
pub fn create(
    primary: &mut dyn RemoteKey,
    subkey: Option<&mut dyn RemoteKey>,
    wanted: &Wanted<'_>,
) -> Result<Certificate, MakeError> {
    if wanted.display_name.contains(['<', '>']) || wanted.display_name.chars().any(char::is_control)
    {
        return Err(MakeError::DisplayName(wanted.display_name.to_owned()));
    }
    let mut primary = External::new(primary, wanted.created).ok_or(MakeError::Kind)?;
    let mut flags = KeyFlags::empty().set_certification();
    if subkey.is_none() {
        flags = flags.set_signing().set_authentication();
    }
    let key: Key<PublicParts, PrimaryRole> = primary.key().clone().role_into_primary();
    let bare = Cert::try_from(Packet::from(key)).map_err(failed)?;
    let mut packets = Vec::new();
    for (index, name) in wanted.names.iter().enumerate() {
        let user_id = UserID::from(user_id(wanted.display_name, name));
        let signature = SignatureBuilder::new(SignatureType::PositiveCertification)
            .set_hash_algo(primary.hash())
            .set_signature_creation_time(wanted.created)
            .and_then(|builder| builder.set_key_flags(flags.clone()))
            .and_then(|builder| builder.set_key_validity_period(wanted.validity))
            .and_then(|builder| builder.set_primary_userid(index == 0))
            .and_then(|builder| user_id.bind(&mut primary, &bare, builder))
            .map_err(failed)?;
        packets.extend([Packet::from(user_id), signature.into()]);
    }
    if let Some(subkey) = subkey {
        let mut subkey = External::new(subkey, wanted.created).ok_or(MakeError::Kind)?;
        let builder = SignatureBuilder::new(SignatureType::SubkeyBinding)
            .set_key_flags(KeyFlags::empty().set_signing().set_authentication())
            .map_err(failed)?;
        let validity = wanted.validity;
        packets.extend(bind(&mut primary, &mut subkey, &bare, builder, wanted.created, validity)?);
    }
    let (cert, _) = bare.insert_packets(packets).map_err(failed)?;
    let certificate = Certificate::of(cert);
    // Said of one's own work, so that nothing is published that peers refuse.
    certificate.check(wanted.created).map_err(|unfit| MakeError::State(unfit.to_string()))?;
    Ok(certificate)
}

/// A user ID for a name.
fn user_id(display_name: &str, name: &DoNai) -> String {
    match display_name.trim() {
        "" => format!("<{name}>"),
        display => format!("{display} <{name}>"),
    }
}

/// A subkey and the signature that binds it, with one back.
fn bind(
    primary: &mut External<'_>,
    subkey: &mut External<'_>,
    cert: &Cert,
    builder: SignatureBuilder,
    now: SystemTime,
    validity: Option<Duration>,
) -> Result<[Packet; 2], MakeError> {
    let key: Key<PublicParts, SubordinateRole> = subkey.key().clone().role_into_subordinate();
    let back = SignatureBuilder::new(SignatureType::PrimaryKeyBinding)
        .set_hash_algo(subkey.hash())
        .set_signature_creation_time(now)
        .and_then(|back| back.sign_primary_key_binding(subkey, cert.primary_key().key(), &key))
        .map_err(failed)?;
    let signature = builder
        .set_hash_algo(primary.hash())
        .set_signature_creation_time(now)
        .and_then(|builder| builder.set_key_validity_period(validity))
        .and_then(|builder| builder.set_embedded_signature(back))
        .and_then(|builder| key.bind(primary, cert, builder))
        .map_err(failed)?;
    Ok([key.into(), signature.into()])
}

impl Certificate {
    /// The certificate with a later (or earlier) end, at `until` (none: never), also if it has
    /// expired. The user IDs and the subkey of TLS are bound anew at `now`, which must be after they
    /// were bound before; other subkeys stay as they are.
    pub fn renew(
        &self,
        primary: &mut dyn RemoteKey,
        subkey: Option<&mut dyn RemoteKey>,
        now: SystemTime,
        until: Option<SystemTime>,
    ) -> Result<Self, MakeError> {
        let policy = strict(now);
        let primary_key = self.cert.primary_key().key();
        let mut primary = self.primary_signer(primary)?;
        let valid = self.cert.with_policy(&policy, now).map_err(failed)?;
        if let Some(fault) = crate::standing::revoked(&valid.revocation_status()) {
            return Err(MakeError::State(format!("it {fault}")));
        }
        let ends = |created| {
            let Some(until) = until else { return Ok(None) };
            until.duration_since(created).map(Some).map_err(|_| MakeError::Time)
        };
        let period = ends(primary_key.creation_time())?;
        let again = |old: Signature, primary: &External<'_>| {
            SignatureBuilder::from(old)
                .set_hash_algo(primary.hash())
                .set_signature_creation_time(now)
                .and_then(|builder| builder.set_key_validity_period(period))
        };
        let mut packets: Vec<Packet> = Vec::new();
        // Of those before, the last stays, for peers whose clocks are behind; the others go, or
        // the certificate would grow for ever.
        let mut outdated: Vec<Signature> = Vec::new();
        let mut outdate = |old: &mut dyn Iterator<Item = &Signature>, last: &Signature| {
            outdated.extend(old.filter(|signature| *signature != last).cloned());
        };
        if let Ok(direct) = valid.direct_key_signature() {
            let signature = again(direct.clone(), &primary)
                .and_then(|builder| builder.sign_direct_key(&mut primary, primary_key))
                .map_err(failed)?;
            packets.push(signature.into());
            outdate(&mut valid.primary_key().self_signatures(), direct);
        }
        for user_id in crate::names::held(&valid) {
            let signature = again(user_id.binding_signature().clone(), &primary)
                .and_then(|builder| user_id.userid().bind(&mut primary, &self.cert, builder))
                .map_err(failed)?;
            packets.extend([Packet::from(user_id.userid().clone()), signature.into()]);
            outdate(&mut user_id.self_signatures(), user_id.binding_signature());
        }
        if let Some(subkey) = subkey {
            let subkey_spki = subkey.spki().to_vec();
            packets.extend(self.rebind(&mut primary, subkey, &policy, now, ends)?);
            for key in self.subkeys_with(&subkey_spki) {
                let last = key.binding_signature(&policy, now).map_err(failed)?;
                outdate(&mut key.self_signatures(), last);
            }
        }
        let (cert, _) = Cert::clone(&self.cert).insert_packets(packets).map_err(failed)?;
        let keep = |packet: &Packet| !matches!(packet, Packet::Signature(signature) if outdated.contains(signature));
        let cert = Cert::from_packets(cert.into_packets().filter(keep)).map_err(failed)?;
        Ok(Self::of(cert))
    }

    /// The subkey that `subkey` is, bound anew.
    fn rebind(
        &self,
        primary: &mut External<'_>,
        subkey: &mut dyn RemoteKey,
        policy: &StandardPolicy<'_>,
        now: SystemTime,
        ends: impl Fn(SystemTime) -> Result<Option<Duration>, MakeError>,
    ) -> Result<[Packet; 2], MakeError> {
        let found = self.subkeys_with(subkey.spki()).next();
        let found = found.ok_or(MakeError::OtherKey("key of TLS"))?;
        let old = found.binding_signature(policy, now).map_err(failed)?;
        let mut builder = SignatureBuilder::from(old.clone());
        let embedded = openpgp::packet::signature::subpacket::SubpacketTag::EmbeddedSignature;
        builder.hashed_area_mut().remove_all(embedded);
        builder.unhashed_area_mut().remove_all(embedded);
        let period = ends(found.key().creation_time())?;
        let key = found.key().clone().role_into_unspecified();
        let mut subkey = External::of(subkey, key).ok_or(MakeError::OtherKey("key of TLS"))?;
        bind(primary, &mut subkey, &self.cert, builder, now, period)
    }

    fn subkeys_with<'a>(
        &'a self,
        spki: &'a [u8],
    ) -> impl Iterator<Item = SubordinateKeyAmalgamation<'a, PublicParts>> {
        self.cert.keys().subkeys().filter(move |candidate| {
            spki_of(candidate.key().mpis()).is_ok_and(|(_, found)| found == spki)
        })
    }

    /// The certificate, revoked at `now` as a whole; `text` is for people.
    pub fn revoke(
        &self,
        primary: &mut dyn RemoteKey,
        now: SystemTime,
        reason: Reason,
        text: &str,
    ) -> Result<Revoked, MakeError> {
        let mut primary = self.primary_signer(primary)?;
        let hash = primary.hash();
        let code = match reason {
            Reason::Unspecified => ReasonForRevocation::Unspecified,
            Reason::Superseded => ReasonForRevocation::KeySuperseded,
            Reason::Compromised => ReasonForRevocation::KeyCompromised,
            Reason::Retired => ReasonForRevocation::KeyRetired,
        };
        let signature = CertRevocationBuilder::new()
            .set_signature_creation_time(now)
            .and_then(|builder| builder.set_reason_for_revocation(code, text.as_bytes()))
            .and_then(|builder| builder.build(&mut primary, &self.cert, hash))
            .map_err(failed)?;
        let armored = armored(&Packet::from(signature.clone())).map_err(failed)?;
        let (cert, _) = Cert::clone(&self.cert).insert_packets(signature).map_err(failed)?;
        Ok(Revoked { certificate: Self::of(cert), armored })
    }

    fn primary_signer<'k>(
        &self,
        primary: &'k mut dyn RemoteKey,
    ) -> Result<External<'k>, MakeError> {
        let key = self.cert.primary_key().key().clone().role_into_unspecified();
        External::of(primary, key).ok_or(MakeError::OtherKey("certifying key"))
    }
}

/// A packet alone, as GnuPG imports it.
fn armored(packet: &Packet) -> openpgp::Result<String> {
    let comment = [("Comment", "This is a revocation: import it, and publish the certificate")];
    let mut writer = armor::Writer::with_headers(Vec::new(), armor::Kind::PublicKey, comment)?;
    packet.serialize(&mut writer)?;
    Ok(String::from_utf8_lossy(&writer.finalize()?).into_owned())
}

/// What sequoia says, unless it is what the key said.
fn failed(error: anyhow::Error) -> MakeError {
    match error.downcast::<RemoteFailure>() {
        Ok(failure) => MakeError::Key(failure.0),
        Err(error) => MakeError::State(one_line(&error)),
    }
}

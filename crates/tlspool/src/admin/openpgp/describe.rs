//! What an OpenPGP certificate says, for people and for `--json`.

use serde::Serialize;
use tlspool_identity::x509::CertificateNames;
use tlspool_identity::{DoNai, matches};
use tlspool_openpgp::{Certificate, Date, SigningKey, Unfit};

use super::now;

/// The parts of a certificate that an administrator looks at.
#[derive(Debug, Clone, Serialize)]
pub(in crate::admin) struct OpenPgpDescription {
    pub(in crate::admin) fingerprint: String,
    pub(in crate::admin) label: String,
    user_ids: Vec<String>,
    names: Vec<String>,
    created: String,
    pub(in crate::admin) not_after: String,
    keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl OpenPgpDescription {
    pub(in crate::admin) fn of(certificate: &Certificate) -> Self {
        let now = now();
        let user_ids = certificate.user_ids(now).into_iter().map(|user_id| match user_id.fault {
            None => user_id.text,
            Some(fault) => format!("{} ({fault})", user_id.text),
        });
        let names = certificate.names(now);
        let keys = certificate.signing_keys(now).unwrap_or_default();
        Self {
            fingerprint: certificate.fingerprint().to_string(),
            label: certificate.label(now),
            user_ids: user_ids.collect(),
            names: names
                .iter()
                .flat_map(CertificateNames::identities)
                .map(ToString::to_string)
                .collect(),
            created: Date(certificate.created()).to_string(),
            not_after: match (certificate.check(now), certificate.expires(now)) {
                (Err(unfit), _) => unfit.fault.to_string(),
                (Ok(()), Some(end)) => Date(end).to_string(),
                (Ok(()), None) => "for ever".to_owned(),
            },
            keys: keys
                .into_iter()
                .map(|(id, key)| match key {
                    Ok(key) => format!("{id} {} {}", key.algorithm, use_of(&key)),
                    Err(unfit) => format!("{id} {}", unfit.fault),
                })
                .collect(),
            problem: names.err().map(|unfit| unfit.to_string()),
        }
    }

    /// For [`super::output::fields`].
    pub(in crate::admin) fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = vec![("fingerprint", self.fingerprint.clone())];
        fields.extend(self.user_ids.iter().map(|user_id| ("user ID", user_id.clone())));
        fields.extend([
            ("names", self.names.join(", ")),
            ("created", self.created.clone()),
            ("valid until", self.not_after.clone()),
        ]);
        fields.extend(self.keys.iter().map(|key| ("OpenPGP key", key.clone())));
        fields
    }
}

fn use_of(key: &SigningKey) -> &'static str {
    match (key.may_sign, key.may_authenticate) {
        (true, true) => "signs and authenticates",
        (true, false) => "signs",
        _ => "authenticates",
    }
}

/// What a peer will object to when `name` shows `certificate` and signs with the key found in it.
pub(super) fn objections(
    name: &DoNai,
    certificate: &Certificate,
    key: Option<&Result<SigningKey, Unfit>>,
) -> Vec<String> {
    let mut objections = Vec::new();
    match certificate.names(now()) {
        Ok(names) if matches(name, &names, false).is_none() => {
            let carried: Vec<&str> = names.identities().map(DoNai::as_str).collect();
            objections.push(format!("the certificate is not for {name} but for {carried:?}"));
        }
        Ok(_) => {}
        Err(unfit) => objections.push(unfit.to_string()),
    }
    match key {
        Some(Err(unfit)) => objections.push(unfit.to_string()),
        Some(Ok(key)) if !key.may_sign => objections.push(format!(
            "the key {} may authenticate but not sign, which some demand of a server",
            key.id
        )),
        _ => {}
    }
    objections.dedup();
    objections
}

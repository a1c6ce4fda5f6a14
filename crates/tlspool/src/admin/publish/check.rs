//! `tlspool identity check`: what a stranger concludes about our identities, and what to do about it.

use std::fmt::Write as _;
use std::io::Write;

use clap::Args;
use serde::Serialize;
use tlspool_identity::DoNai;
use tlspool_keys::{KeyError, KeyStore, KeyUri};
use tlspool_store::{Kind, LocalIdentity};
use tlspool_validate::trace::{Trace, Truth};
use tlspool_validate::{CertificateDer, Endpoint, KeyId, Peer, Refused, Validated};

use super::{Credential, Meeting, Place};
use crate::admin::identity::find;
use crate::admin::openpgp::now;
use crate::admin::{AdminContext, AdminError, output};
use crate::net::stranger::{self, Showing};

/// Looks an identity up from outside, and says what a stranger would conclude
///
/// The stranger follows the default policy, with the trust anchors of the system and nothing else: it believes what
/// the domain publishes. [dns] must be configured.
#[derive(Debug, Args)]
pub(in crate::admin) struct CheckArgs {
    /// The name, or the number of a row
    name: String,
    #[command(flatten)]
    place: Place,
    /// One JSON document per line
    #[arg(long)]
    json: bool,
}

/// A conclusion.
#[derive(Debug, Serialize)]
struct Conclusion<'a> {
    name: &'a str,
    /// The number of the row.
    id: i64,
    kind: &'static str,
    /// Where it is met, as TLSA records have it.
    place: String,
    believed: bool,
    /// Who vouches.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    /// What is missing, and what to do.
    advice: Vec<String>,
    trace: Option<&'a Trace>,
}

/// What is shown, in the types of the validator.
enum Shown {
    X509(Vec<CertificateDer<'static>>),
    OpenPgp {
        certificate: tlspool_openpgp::Certificate,
        /// The key that signs.
        key: KeyId,
        /// Why the daemon does not show it, whatever a directory may know of it.
        unfit: Option<String>,
    },
}

impl Shown {
    /// What the daemon shows for `row`; for OpenPGP its key signs, whatever else the certificate holds.
    fn of(row: &LocalIdentity, keys: &KeyStore) -> Result<Self, AdminError> {
        Ok(match Credential::of(row, keys)? {
            Credential::X509(chain) => {
                Self::X509(chain.into_iter().map(CertificateDer::from).collect())
            }
            Credential::OpenPgp(certificate) => {
                let uri = KeyUri::parse(&row.key_uri).map_err(KeyError::from)?;
                let spki = keys.open(&uri)?.spki_der;
                let Some(key) = certificate.key_id_by_spki(&spki) else {
                    return Err(AdminError::Usage(format!(
                        "{}, number {}: its key {} is none of its OpenPGP certificate's; import the pair again",
                        row.name, row.id, row.key_uri
                    )));
                };
                let fit = certificate.signing_key_by_spki(&spki, now());
                let unfit = fit.and_then(Result::err).map(|unfit| unfit.to_string());
                Self::OpenPgp { certificate, key, unfit }
            }
        })
    }

    fn credential(&self) -> tlspool_validate::Credential<'_> {
        match self {
            Self::X509(chain) => tlspool_validate::Credential::X509(chain),
            Self::OpenPgp { certificate, key, .. } => {
                tlspool_validate::Credential::OpenPgp(certificate, Some(*key))
            }
        }
    }

    fn unfit(&self) -> Option<&str> {
        match self {
            Self::X509(_) => None,
            Self::OpenPgp { unfit, .. } => unfit.as_deref(),
        }
    }
}

pub(in crate::admin) fn run(
    args: &CheckArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    args.place.check()?;
    let rows = find(&context.store_to_read()?, &args.name)?;
    args.place.fits(&args.name, &rows)?;
    let keys = context.key_store();
    let mut shown: Vec<(&LocalIdentity, Shown)> = Vec::new();
    for row in &rows {
        shown.push((row, Shown::of(row, &keys)?));
    }
    let mut meetings = Vec::new();
    for (row, shown) in &shown {
        let place = &args.place;
        meetings.extend(place.meetings(row).into_iter().map(|meeting| (*row, shown, meeting)));
    }
    let showings: Vec<Showing<'_>> = meetings
        .iter()
        .map(|(row, shown, meeting)| showing(&row.name, shown, *meeting, &args.place))
        .collect();
    let results = stranger::judge(&context.config, &showings).map_err(AdminError::Usage)?;
    let mut refused = 0;
    for ((row, shown, meeting), result) in meetings.iter().zip(&results) {
        let owner = args.place.owner(*meeting, row.name.domain());
        let conclusion = conclude(row, shown, &owner, result);
        refused += usize::from(!conclusion.believed);
        if args.json {
            output::json(out, &conclusion)?;
        } else {
            out.write_all(told(&conclusion).as_bytes()).map_err(AdminError::Output)?;
        }
    }
    if refused == 0 {
        return Ok(());
    }
    let all = results.len();
    Err(AdminError::NotBelieved(format!(
        "strangers refuse {} in {refused} of {all} cases",
        args.name
    )))
}

fn showing<'a>(
    name: &'a DoNai,
    shown: &'a Shown,
    meeting: Meeting,
    place: &'a Place,
) -> Showing<'a> {
    let (peer, endpoint) = match meeting {
        Meeting::Client => (Peer::Client, None),
        Meeting::Server(port) => {
            (Peer::Server, Some(Endpoint { port, transport: place.transport.into() }))
        }
    };
    Showing { credential: shown.credential(), name, peer, endpoint, service: &place.service }
}

fn conclude<'a>(
    row: &'a LocalIdentity,
    shown: &Shown,
    owner: &str,
    result: &'a Result<Validated, Refused>,
) -> Conclusion<'a> {
    let unshown = |why| format!("the pool does not show it, {why}; `tlspool identity renew`");
    let (trace, refusal) = match result {
        Ok(validated) => (validated.trace.as_deref(), shown.unfit().map(unshown)),
        Err(refused) => (refused.trace.as_deref(), Some(refused.refusal.to_string())),
    };
    let believed = refusal.is_none();
    Conclusion {
        name: row.name.as_str(),
        id: row.id,
        kind: row.kind.as_str(),
        place: owner.to_owned(),
        believed,
        source: result.as_ref().ok().filter(|_| believed).map(|validated| validated.source),
        refusal,
        advice: trace.map_or_else(Vec::new, |trace| advice(row, owner, trace)),
        trace,
    }
}

/// What the trace means for the one who publishes.
fn advice(row: &LocalIdentity, owner: &str, trace: &Trace) -> Vec<String> {
    let name = &row.name;
    let domain = name.domain();
    let mut advice = Vec::new();
    for asked in &trace.asked {
        let why = &asked.why;
        let for_dns = row.kind == Kind::X509 && name.user().is_none();
        let line = match (asked.predicate, asked.truth) {
            ("dane", Truth::Absent) if for_dns => format!(
                "the DNS has no usable TLSA record at {owner} ({why}): add what \
                 `tlspool identity publish {name} --dns` prints to the zone, and sign it"
            ),
            ("dane", Truth::False) => format!(
                "the TLSA records at {owner} are for another certificate ({why}): replace them by what \
                 `tlspool identity publish {name} --dns` prints"
            ),
            ("dane", Truth::Failed) => format!("the DNS of {domain} cannot be relied on: {why}"),
            ("ldap", Truth::Absent) if why.contains("has no directory") => format!(
                "{domain} has no directory that can be found: if it is to have one, give it SRV records \
                 (_ldap._tcp.{domain}), and TLSA records for its own host and port"
            ),
            ("ldap", Truth::Absent) => format!(
                "the directory of {domain} lists nothing for {name}: add what \
                 `tlspool identity publish {name} --ldif` prints, with ldapadd"
            ),
            ("ldap", Truth::False) => format!(
                "the directory of {domain} contradicts ({why}): give it what \
                 `tlspool identity publish {name} --ldif --replace` prints, with ldapmodify"
            ),
            ("ldap", Truth::Failed) => format!(
                "the directory of {domain} cannot be relied on, so nobody is believed who has one: {why}"
            ),
            _ => continue,
        };
        advice.push(line);
    }
    advice
}

fn told(conclusion: &Conclusion<'_>) -> String {
    let Conclusion { name, id, kind, place, .. } = conclusion;
    let outcome = match (conclusion.source, &conclusion.refusal) {
        (Some(source), _) => format!("a stranger believes it, by {source}"),
        (None, Some(refusal)) => format!("a stranger does not believe it: {refusal}"),
        (None, None) => "a stranger does not believe it".to_owned(),
    };
    let mut text = format!("{name}, number {id} ({kind}), at {place}: {outcome}\n");
    for line in conclusion.trace.map(ToString::to_string).iter().flat_map(|text| text.lines()) {
        let _ = writeln!(text, "  {line}");
    }
    // Who is believed may still have more vouch for it.
    let word = if conclusion.believed { "possible" } else { "to do" };
    for line in &conclusion.advice {
        let _ = writeln!(text, "  {word}: {line}");
    }
    text
}

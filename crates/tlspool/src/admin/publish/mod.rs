//! `tlspool identity publish` and `check`: what a domain has to say about an identity so that strangers
//! believe it, and whether it says so.

mod check;
mod ldif;
mod tlsa;

use std::io::Write;

use clap::{Args, ValueEnum};
use tlspool_keys::{KeyError, KeyStore, KeyUri};
use tlspool_lookup::directory::base_of;
use tlspool_openpgp::Certificate;
use tlspool_store::{CertificateSource, LocalIdentity, Role, Roles};
use tlspool_validate::sources::Transport;

use self::ldif::Ldif;
use super::identity::{RoleArg, find};
use super::output::note;
use super::{AdminContext, AdminError, openpgp};

pub(super) use check::{CheckArgs, run as check};

/// Prints what to publish of an identity, so that strangers can validate it
///
/// Without --dns and --ldif both are printed. The records are for a zone that is signed with DNSSEC, the LDIF is
/// for ldapadd.
#[derive(Debug, Args)]
pub(super) struct PublishArgs {
    /// The name, or the number of a row
    name: String,
    /// Only the TLSA records, for the domain's zone
    #[arg(long, conflicts_with = "ldif")]
    dns: bool,
    /// Only the LDIF, for the domain's directory
    #[arg(long)]
    ldif: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    fields: tlsa::Fields,
    /// The entry that a user has in the directory already
    #[arg(long, value_name = "DN")]
    entry: Option<String>,
    /// The entry below which the directory has OpenPGP keys [default: that of the domain]
    #[arg(long, value_name = "DN")]
    key_space: Option<String>,
    /// It was published before: the LDIF replaces that
    #[arg(long)]
    replace: bool,
}

/// Where an identity is met.
#[derive(Debug, Args)]
struct Place {
    /// The ports of the server, separated by commas
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', default_values_t = [443_u16],
          value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// How the server is reached
    #[arg(long, value_enum, default_value_t = TransportArg::Tcp)]
    transport: TransportArg,
    /// The service that a client uses, as programs name it; without it, any
    #[arg(long, default_value = "")]
    service: String,
    /// Only as this [default: what the identity may be used for; for users, client]
    #[arg(long, value_enum)]
    role: Option<RoleArg>,
}

/// Transports, as the command line writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TransportArg {
    Tcp,
    Udp,
    Sctp,
}

impl TransportArg {
    /// As in the owner of a TLSA record (RFC 6698 section 3).
    fn label(self) -> &'static str {
        match self {
            Self::Tcp => "_tcp",
            Self::Udp => "_udp",
            Self::Sctp => "_sctp",
        }
    }
}

impl From<TransportArg> for Transport {
    fn from(transport: TransportArg) -> Self {
        match transport {
            TransportArg::Tcp => Self::Tcp,
            TransportArg::Udp => Self::Udp,
            TransportArg::Sctp => Self::Sctp,
        }
    }
}

/// One way in which an identity is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meeting {
    /// As a server at this port.
    Server(u16),
    /// As a client.
    Client,
}

impl Place {
    /// The ways in which `row` is met; none if it is for another role only.
    fn meetings(&self, row: &LocalIdentity) -> Vec<Meeting> {
        let wanted: Roles = match self.role {
            Some(role) => role.into(),
            // Nobody connects to a user.
            None if row.name.user().is_some() && row.roles == Roles::Both => Roles::Client,
            None => row.roles,
        };
        let both = |role: Role| row.roles.include(role) && wanted.include(role);
        let mut meetings = Vec::new();
        if both(Role::Server) {
            meetings.extend(self.port.iter().map(|port| Meeting::Server(*port)));
        }
        if both(Role::Client) {
            meetings.push(Meeting::Client);
        }
        meetings
    }

    /// Whether any of the rows of `name` is met in the wanted way.
    fn fits(&self, name: &str, rows: &[LocalIdentity]) -> Result<(), AdminError> {
        if rows.iter().any(|row| !self.meetings(row).is_empty()) {
            return Ok(());
        }
        let each = rows.iter().map(|row| format!("number {} is for {} only", row.id, row.roles));
        Err(AdminError::Usage(format!("{name}: {}", each.collect::<Vec<_>>().join(", "))))
    }

    /// The owner of TLSA records for a meeting with `domain`, with the dot of the root.
    fn owner(&self, meeting: Meeting, domain: &str) -> String {
        match meeting {
            Meeting::Server(port) => format!("_{port}.{}.{domain}.", self.transport.label()),
            Meeting::Client if self.service.is_empty() => format!("_client.{domain}."),
            Meeting::Client => format!("_{}._client.{domain}.", self.service),
        }
    }

    /// Whether the service can stand in an owner's name.
    fn check(&self) -> Result<(), AdminError> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.service.len() < 63 && self.service.bytes().all(fits) {
            return Ok(());
        }
        let text = "a service has up to 62 lower case letters, digits and hyphens";
        Err(AdminError::Usage(text.to_owned()))
    }
}

/// What an identity shows.
enum Credential {
    /// A chain in DER, leaf first; never empty.
    X509(Vec<Vec<u8>>),
    /// An OpenPGP certificate.
    OpenPgp(Certificate),
}

impl Credential {
    fn of(row: &LocalIdentity, keys: &KeyStore) -> Result<Self, AdminError> {
        let chain = match &row.certificate {
            CertificateSource::OpenPgp(bytes) => {
                return openpgp::read_stored(bytes).map(Self::OpenPgp);
            }
            CertificateSource::Chain(chain) => chain.clone(),
            CertificateSource::Uri(uri) => {
                keys.certificates(&KeyUri::parse(uri).map_err(KeyError::from)?)?
            }
        };
        if chain.is_empty() {
            let text = format!("{}, number {}, has no certificate", row.name, row.id);
            return Err(AdminError::Usage(text));
        }
        Ok(Self::X509(chain))
    }
}

/// Prints the records and the LDIF of all rows of a name.
pub(super) fn publish(
    args: &PublishArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    args.place.check()?;
    let rows = find(&context.store_to_read()?, &args.name)?;
    let keys = context.key_store();
    let mut shown = Vec::new();
    for row in &rows {
        shown.push((row, Credential::of(row, &keys)?));
    }
    let mut text = String::new();
    if !args.ldif {
        args.place.fits(&args.name, &rows)?;
        text += &records(args, &shown)?;
    }
    if !args.dns && !args.ldif {
        text.push('\n');
    }
    if !args.dns {
        text += &entries(args, &shown)?;
    }
    out.write_all(text.as_bytes()).map_err(AdminError::Output)?;
    note(format_args!(
        "when it is published, see whether it is found: tlspool identity check {}",
        args.name
    ));
    Ok(())
}

/// TLSA records, each once, in the form of zone files.
fn records(
    args: &PublishArgs,
    shown: &[(&LocalIdentity, Credential)],
) -> Result<String, AdminError> {
    let mut lines: Vec<String> = Vec::new();
    let mut add = |line: String| {
        if !lines.contains(&line) {
            lines.push(line);
        }
    };
    for (row, credential) in shown {
        match credential {
            Credential::OpenPgp(_) => {
                add(format!(
                    "; {}: DANE is not for OpenPGP certificates, its directory is",
                    row.name
                ));
            }
            Credential::X509(_) if row.name.user().is_some() => {
                add(format!(
                    "; {}: DANE is for domains, not for users, its directory is",
                    row.name
                ));
            }
            Credential::X509(chain) => {
                let meetings = args.place.meetings(row);
                if meetings.is_empty() {
                    continue;
                }
                add(format!("; {}: for its zone, which must be signed with DNSSEC", row.name));
                let data = args.fields.of(chain)?;
                for meeting in meetings {
                    add(format!("{} IN TLSA {data}", args.place.owner(meeting, row.name.domain())));
                }
            }
        }
    }
    Ok(lines.join("\n") + "\n")
}

/// Entries of the directory, in LDIF; an OpenPGP certificate has one, whichever of its keys are identities.
fn entries(
    args: &PublishArgs,
    shown: &[(&LocalIdentity, Credential)],
) -> Result<String, AdminError> {
    let mut ldif = Ldif::default();
    let mut certificates: Vec<&[u8]> = Vec::new();
    let mut openpgp: Vec<(&LocalIdentity, Certificate)> = Vec::new();
    for (row, credential) in shown {
        match credential {
            Credential::X509(chain) => {
                certificates.extend(chain.first().map(Vec::as_slice));
            }
            Credential::OpenPgp(certificate) => {
                let is_it = |known: &Certificate| known.fingerprint() == certificate.fingerprint();
                match openpgp.iter_mut().find(|(_, known)| is_it(known)) {
                    // Either copy may have what the other lacks.
                    Some((_, known)) => {
                        let both = known.merge(certificate);
                        *known = both.map_err(|error| AdminError::Usage(error.to_string()))?;
                    }
                    None => openpgp.push((row, certificate.clone())),
                }
            }
        }
    }
    for (row, certificate) in openpgp {
        let space = args.key_space.clone();
        let space = space.unwrap_or_else(|| base_of(row.name.domain()));
        ldif.openpgp(&certificate, &space, args.replace);
    }
    if let ([(row, _), ..], false) = (shown, certificates.is_empty()) {
        ldif.x509(&row.name, &certificates, args.entry.as_deref(), args.replace);
    }
    Ok(ldif.into_text())
}

//! `tlspool identity create`: a key on a token or in a file, and a certificate or request with it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::Ed25519KeyPair;
use clap::{Args, ValueEnum};
use tlspool_identity::DoNai;
use tlspool_keys::{KeyAlgorithm, KeyError, KeyInfo, KeyStore, KeyUri};
use tlspool_store::{CertificateSource, Kind, NewIdentity, Store};
use zeroize::Zeroizing;

use super::identity::{Properties, parse_key_uri};
use super::openpgp::{self, OpenPgpArgs};
use super::output::{self, note};
use super::signer::{StoreSigner, Wanted};
use super::{AdminContext, AdminError};
use crate::users;

/// Makes a key, and a self-signed certificate, a signing request or an OpenPGP certificate with it
///
/// The key is made on the token that --token names, or under the URI of --key. Without either
/// there must be exactly one token. With --csr the identity is added later, when the certificate is
/// there: tlspool identity add.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// The name: example.com or john@example.com
    pub(super) name: DoNai,
    /// Where to make the key: pkcs11:token=…;object=… or file:/path
    #[arg(long, value_name = "URI", value_parser = parse_key_uri, conflicts_with = "token")]
    key: Option<KeyUri>,
    /// The token to make the key on, under the identity's name
    #[arg(long, value_name = "URI", value_parser = parse_key_uri)]
    token: Option<KeyUri>,
    /// The kind of key
    #[arg(long, value_enum, default_value_t = Algorithm::P256)]
    pub(super) algorithm: Algorithm,
    /// Use the key that is there already under --key instead of making one
    #[arg(long, requires = "key")]
    pub(super) existing_key: bool,
    /// Make a self-signed certificate (the default)
    #[arg(long, conflicts_with = "csr")]
    self_signed: bool,
    /// How many days the self-signed or OpenPGP certificate is good
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
    pub(super) days: u32,
    /// Write a signing request (PKCS #10, PEM) for an authority to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    csr: Option<PathBuf>,
    /// A further name in the certificate; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(super) alt: Vec<DoNai>,
    #[command(flatten)]
    pub(super) openpgp: OpenPgpArgs,
    #[command(flatten)]
    pub(super) properties: Properties,
}

/// Kinds of keys, as the command line writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Algorithm {
    P256,
    P384,
    #[value(alias = "rsa-2048")]
    Rsa2048,
    #[value(alias = "rsa-3072")]
    Rsa3072,
    #[value(alias = "rsa-4096")]
    Rsa4096,
    Ed25519,
}

impl From<Algorithm> for KeyAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::P256 => Self::P256,
            Algorithm::P384 => Self::P384,
            Algorithm::Rsa2048 => Self::Rsa { bits: 2048 },
            Algorithm::Rsa3072 => Self::Rsa { bits: 3072 },
            Algorithm::Rsa4096 => Self::Rsa { bits: 4096 },
            Algorithm::Ed25519 => Self::Ed25519,
        }
    }
}

pub(super) fn run(
    args: &CreateArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    // First, so that no key is made for an identity that cannot be stored.
    let mut store = context.store()?;
    let keys = context.key_store();
    let uri = key_uri(args, &keys)?;
    if args.openpgp.openpgp {
        return openpgp::create(args, &uri, (&mut store, &keys), context, out);
    }
    if args.existing_key {
        let key = keys.open(&uri)?;
        let made = certify(args, &store, &keys, &key, out)?;
        return show(&store, made, out);
    }
    let key = make_key(&keys, &uri, args.algorithm, context)?;
    let made = certify(args, &store, &keys, &key, out).inspect_err(|_| discard(&keys, &key))?;
    show(&store, made, out)
}

/// Shows the row that was made. It stands, and so does its key, whether anybody can read that or not.
pub(super) fn show(store: &Store, id: Option<i64>, out: &mut dyn Write) -> Result<(), AdminError> {
    let Some(id) = id else { return Ok(()) };
    super::identity::show_rows(store, &store.identity(id)?.into_iter().collect::<Vec<_>>(), out)
}

/// Where the key is to be made.
fn key_uri(args: &CreateArgs, keys: &KeyStore) -> Result<KeyUri, AdminError> {
    let token = match (&args.key, &args.token) {
        (Some(key), _) => key.clone(),
        (None, Some(token)) => token.clone(),
        (None, None) => only_token(keys)?,
    };
    Ok(match token {
        KeyUri::Pkcs11(mut uri) if !args.existing_key && uri.object.is_none() => {
            uri.object = Some(args.name.to_string());
            KeyUri::Pkcs11(uri)
        }
        KeyUri::File(path) if args.token.is_some() => {
            let text = format!("{} is a file, no token; use --key", path.display());
            return Err(AdminError::Usage(text));
        }
        other => other,
    })
}

fn only_token(keys: &KeyStore) -> Result<KeyUri, AdminError> {
    let mut tokens = keys.tokens().into_iter().filter(|token| token.initialized);
    match (tokens.next(), tokens.next()) {
        (Some(token), None) => Ok(KeyUri::parse(&token.uri).map_err(KeyError::from)?),
        (None, _) => Err(AdminError::Usage(
            "no token was found; name a PKCS #11 module in the configuration and see: tlspool token \
             modules; or give --key file:/path"
                .to_owned(),
        )),
        _ => Err(AdminError::Usage(
            "there are several tokens; say which with --token, see: tlspool token list".to_owned(),
        )),
    }
}

pub(super) fn make_key(
    keys: &KeyStore,
    uri: &KeyUri,
    algorithm: Algorithm,
    context: &AdminContext,
) -> Result<KeyInfo, AdminError> {
    if let KeyUri::File(path) = uri {
        make_key_file(path, algorithm, context)?;
        return Ok(keys.open(uri)?);
    }
    Ok(keys.generate(uri, algorithm.into())?)
}

/// A PKCS #8 file that only its owner can read: the user of the key process, if root makes it.
fn make_key_file(
    path: &Path,
    algorithm: Algorithm,
    context: &AdminContext,
) -> Result<(), AdminError> {
    let pem =
        new_key(algorithm).map_err(|why| AdminError::Certificate(format!("no new key: {why}")))?;
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let owner = context.key_user.as_deref().filter(|_| rustix::process::geteuid().is_root());
        if let Some(user) = owner.and_then(users::user) {
            fchown(&file, Some(user.uid), Some(user.gid))?;
        }
        file.write_all(pem.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| AdminError::writing(path, error))
}

/// A new private key: PKCS #8 in PEM.
fn new_key(algorithm: Algorithm) -> Result<Zeroizing<String>, String> {
    use rcgen::{KeyPair, RsaKeySize};
    let rsa = |size| KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
    let pair = match algorithm {
        Algorithm::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        Algorithm::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        Algorithm::Rsa2048 => rsa(RsaKeySize::_2048),
        Algorithm::Rsa3072 => rsa(RsaKeySize::_3072),
        Algorithm::Rsa4096 => rsa(RsaKeySize::_4096),
        Algorithm::Ed25519 => {
            // In version 1 of PKCS #8: OpenSSL 3 does not read version 2, which rcgen writes.
            let pair = Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1());
            let der = pair.map_err(|error| error.to_string())?;
            return Ok(Zeroizing::new(output::to_pem("PRIVATE KEY", der.as_ref())));
        }
    };
    pair.map(|pair| Zeroizing::new(pair.serialize_pem())).map_err(|error| error.to_string())
}

/// Removes a key that was just made for nothing.
pub(super) fn discard(keys: &KeyStore, key: &KeyInfo) {
    let result = match KeyUri::parse(&key.uri) {
        Ok(KeyUri::File(path)) => std::fs::remove_file(path).map_err(|error| error.to_string()),
        Ok(uri) => keys.destroy(&whole(uri)).map(drop).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = result {
        note(format_args!("the new key {} is left over and not used: {error}", key.uri));
    }
}

/// The URI of all objects of a key, not of the private one alone.
fn whole(uri: KeyUri) -> KeyUri {
    match uri {
        KeyUri::Pkcs11(mut uri) => {
            uri.class = None;
            KeyUri::Pkcs11(uri)
        }
        file @ KeyUri::File(_) => file,
    }
}

/// Makes the certificate and adds the identity, whose number it returns; or writes a request for one.
fn certify(
    args: &CreateArgs,
    store: &Store,
    keys: &KeyStore,
    key: &KeyInfo,
    out: &mut dyn Write,
) -> Result<Option<i64>, AdminError> {
    let signer = StoreSigner::new(keys, key)?;
    let roles = args.properties.role.into();
    let wanted = Wanted { name: &args.name, others: &args.alt, roles };
    if let Some(file) = &args.csr {
        let request = wanted.request(&signer)?;
        write_request(file, &request, out)?;
        note(format_args!(
            "have it signed, then: tlspool identity add {} --certificate FILE --key '{}'",
            args.name, key.uri
        ));
        return Ok(None);
    }
    let certificate = wanted.self_signed(&signer, args.days)?;
    let id = store.add_identity(&NewIdentity {
        name: &args.name,
        roles,
        kind: Kind::X509,
        certificate: CertificateSource::Chain(vec![certificate]),
        key_uri: &key.uri,
        preference: args.properties.preference,
        is_default: args.properties.default,
    })?;
    Ok(Some(id))
}

fn write_request(file: &Path, request: &str, out: &mut dyn Write) -> Result<(), AdminError> {
    if file == Path::new("-") {
        return out.write_all(request.as_bytes()).map_err(AdminError::Output);
    }
    std::fs::write(file, request).map_err(|error| AdminError::writing(file, error))
}

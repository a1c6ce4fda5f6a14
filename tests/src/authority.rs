//! Certificates for tests.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber, SignatureAlgorithm, date_time_ymd,
};

use crate::process::openssl;

/// Kinds of keys.
pub mod algorithm {
    pub use rcgen::{
        PKCS_ECDSA_P256_SHA256 as P256, PKCS_ECDSA_P384_SHA384 as P384, PKCS_ED25519 as ED25519,
        PKCS_RSA_SHA256 as RSA2048,
    };
}

/// An authority whose certificate and key are files.
#[derive(Debug)]
pub struct Authority {
    /// Its certificate, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

/// A certificate with its key, as files.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

impl Leaf {
    /// The certificate's path.
    pub fn certificate(&self) -> &str {
        self.certificate.to_str().expect("temporary paths are text")
    }

    /// The key's path.
    pub fn key(&self) -> &str {
        self.key.to_str().expect("temporary paths are text")
    }
}

impl Authority {
    /// Makes one in `folder`, with files called after `name`.
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, format!("Authority {name}"));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let files = Leaf {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}.key")),
        };
        write(&files, &certificate.pem(), &key);
        let Leaf { certificate, key: key_file } = files;
        let issuer = Issuer::new(params, key);
        Self { certificate, key: key_file, issuer, folder: folder.to_owned() }
    }

    /// The path of its certificate.
    pub fn certificate(&self) -> &str {
        self.certificate.to_str().expect("temporary paths are text")
    }

    /// The path of its key.
    pub fn key(&self) -> &str {
        self.key.to_str().expect("temporary paths are text")
    }

    /// A certificate for `name`, good for clients and servers, with a P-256 key.
    pub fn leaf(&self, name: &str) -> Leaf {
        self.leaf_with(name, &algorithm::P256, |_| {})
    }

    /// As [`Self::leaf`], but no longer good.
    pub fn expired(&self, name: &str) -> Leaf {
        self.leaf_with(name, &algorithm::P256, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        })
    }

    /// A certificate that `change` may alter.
    pub fn leaf_with(
        &self,
        name: &str,
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Leaf {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san(name)];
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = new_key(algorithm);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let number = self.next();
        let files = Leaf {
            certificate: self.folder.join(format!("{name}-{number}.pem")),
            key: self.folder.join(format!("{name}-{number}.key")),
        };
        write(&files, &certificate.pem(), &key);
        files
    }

    /// A list of revoked certificates by their serial numbers (RFC 5280 section 5), in DER.
    pub fn revocation_list(&self, revoked: &[u64]) -> Vec<u8> {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2124, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked
                .iter()
                .map(|number| RevokedCertParams {
                    serial_number: SerialNumber::from(*number),
                    revocation_time: date_time_ymd(2024, 1, 1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").der().to_vec()
    }

    /// Signs a request (PEM), with the names that it asks for; returns the certificate's file.
    pub fn sign(&self, request: &Path) -> PathBuf {
        let certificate = request.with_extension("pem");
        openssl(&[
            "x509",
            "-req",
            "-days",
            "30",
            "-copy_extensions",
            "copy",
            "-in",
            request.to_str().expect("temporary paths are text"),
            "-CA",
            self.certificate(),
            "-CAkey",
            self.key(),
            "-out",
            certificate.to_str().expect("temporary paths are text"),
        ]);
        certificate
    }

    fn next(&self) -> usize {
        let entries = std::fs::read_dir(&self.folder).expect("the folder is there");
        entries.count()
    }
}

fn new_key(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    if algorithm == &rcgen::PKCS_ED25519 {
        // OpenSSL does not read the kind of PKCS #8 that rcgen makes of these.
        let pem = openssl(&["genpkey", "-algorithm", "ed25519"]);
        return KeyPair::from_pem_and_sign_algo(&pem, algorithm).expect("a key");
    }
    KeyPair::generate_for(algorithm).expect("a key")
}

/// The name in a certificate, by its form.
fn san(name: &str) -> SanType {
    if name.contains('@') {
        SanType::Rfc822Name(name.try_into().expect("ASCII"))
    } else {
        SanType::DnsName(name.try_into().expect("ASCII"))
    }
}

fn write(files: &Leaf, certificate: &str, key: &KeyPair) {
    std::fs::write(&files.certificate, certificate).expect("a file");
    std::fs::write(&files.key, key.serialize_pem()).expect("a file");
}

//! OpenLDAP's `slapd` as the directory of a domain, unprivileged, in a temporary folder.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tempfile::TempDir;

use crate::LIMIT;
use crate::authority::Leaf;
use crate::net::free_port;
use crate::process::{Process, Said, run};

/// What PGP key servers in LDAP have beyond the standard: classes and attributes under this prefix.
const PGP_SCHEMA: &str = "
objectidentifier pgp 1.3.6.1.4.1.3401.8.2
attributetype ( pgp:8 NAME 'pgpBaseKeySpaceDN' EQUALITY distinguishedNameMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.12 SINGLE-VALUE )
attributetype ( pgp:11 NAME 'pgpKey' EQUALITY caseIgnoreMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( pgp:12 NAME 'pgpCertID' EQUALITY caseIgnoreMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( pgp:16 NAME 'pgpUserID' EQUALITY caseIgnoreMatch SUBSTR caseIgnoreSubstringsMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( pgp:23 NAME 'pgpServerInfo' STRUCTURAL MUST cn MAY pgpBaseKeySpaceDN )
objectclass ( pgp:24 NAME 'pgpKeyInfo' STRUCTURAL MUST pgpCertID MAY ( pgpUserID $ pgpKey ) )
";

/// Who may change the directory, with which password; for [`Slapd::modify`].
const MANAGER: &str = "cn=manager";
/// Its password.
pub const PASSWORD: &str = "314159";

/// Some programs cannot be found by a user's search path.
const SLAPD: &str = "/usr/sbin/slapd";

/// The entries of one domain, in LDIF.
#[derive(Debug, Clone)]
pub struct Entries {
    base: String,
    ldif: String,
}

impl Entries {
    /// Of `domain`: its base entry with these certificates (DER) and anchors, and `ou=People`.
    pub fn new(domain: &str, certificates: &[&[u8]], anchors: &[&[u8]]) -> Self {
        let labels: Vec<_> = domain.split('.').map(|label| format!("dc={label}")).collect();
        let base = labels.join(",");
        let mut entries = Self { base: base.clone(), ldif: String::new() };
        let mut classes = vec!["top", "organization", "dcObject"];
        if !certificates.is_empty() {
            classes.push("pkiUser");
        }
        if !anchors.is_empty() {
            classes.push("pkiCA");
        }
        let mut attributes: Vec<_> =
            classes.iter().map(|class| ("objectClass", class.as_bytes())).collect();
        attributes.push(("o", domain.as_bytes()));
        attributes.extend(certificates.iter().map(|der| ("userCertificate;binary", *der)));
        attributes.extend(anchors.iter().map(|der| ("cACertificate;binary", *der)));
        entries.add(&base, &attributes);
        entries.unit("People");
        entries
    }

    /// The base: `dc=example,dc=com`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Any entry.
    pub fn add(&mut self, name: &str, attributes: &[(&str, &[u8])]) -> &mut Self {
        let ldif = &mut self.ldif;
        let _ = writeln!(ldif, "dn:: {}", base64(name.as_bytes()));
        for (attribute, value) in attributes {
            let _ = writeln!(ldif, "{attribute}:: {}", base64(value));
        }
        ldif.push('\n');
        self
    }

    /// An organizational unit below the base.
    pub fn unit(&mut self, unit: &str) -> &mut Self {
        let name = format!("ou={unit},{}", self.base);
        self.add(&name, &[("objectClass", b"organizationalUnit"), ("ou", unit.as_bytes())])
    }

    /// A user in `ou=People`, with these certificates (DER).
    pub fn user(&mut self, uid: &str, mail: &str, certificates: &[&[u8]]) -> &mut Self {
        let name = format!("uid={},ou=People,{}", uid.replace(',', "\\,"), self.base);
        let (uid, mail) = (uid.as_bytes(), mail.as_bytes());
        let mut attributes: Vec<(&str, &[u8])> = vec![
            ("objectClass", b"inetOrgPerson"),
            ("cn", uid),
            ("sn", uid),
            ("uid", uid),
            ("mail", mail),
        ];
        attributes.extend(certificates.iter().map(|der| ("userCertificate;binary", *der)));
        self.add(&name, &attributes)
    }

    /// Says that OpenPGP keys are below `ou=UNIT`, and makes that.
    pub fn key_space(&mut self, unit: &str) -> &mut Self {
        self.unit(unit);
        let name = format!("cn=PGPServerInfo,{}", self.base);
        let space = format!("ou={unit},{}", self.base);
        self.add(
            &name,
            &[
                ("objectClass", b"pgpServerInfo"),
                ("cn", b"PGPServerInfo"),
                ("pgpBaseKeySpaceDN", space.as_bytes()),
            ],
        )
    }

    /// An armored OpenPGP key in `ou=UNIT`: its key ID in 16 hexadecimal digits, its user IDs.
    pub fn key(&mut self, unit: &str, id: &str, users: &[&str], armored: &[u8]) -> &mut Self {
        let name = format!("pgpCertID={id},ou={unit},{}", self.base);
        let mut attributes: Vec<(&str, &[u8])> =
            vec![("objectClass", b"pgpKeyInfo"), ("pgpCertID", id.as_bytes())];
        attributes.extend(users.iter().map(|user| ("pgpUserID", user.as_bytes())));
        attributes.push(("pgpKey", armored));
        self.add(&name, &attributes)
    }
}

/// How to start one.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Address; `127.0.0.1` if empty.
    pub address: String,
    /// Port for plain LDAP with StartTLS; a free one if 0.
    pub port: u16,
    /// Port for `ldaps`; a free one if 0.
    pub ldaps: u16,
    /// A command line that runs another, such as `ip netns exec NAME`.
    pub within: Vec<String>,
    /// Lines for the configuration, before the databases.
    pub more: String,
}

/// A directory that runs.
#[derive(Debug)]
pub struct Slapd {
    /// Where it listens.
    pub address: String,
    /// Port for plain LDAP with StartTLS.
    pub port: u16,
    /// Port for `ldaps`.
    pub ldaps: u16,
    within: Vec<String>,
    process: Process,
    marks: AtomicUsize,
    dir: TempDir,
}

impl Slapd {
    /// Starts one on free ports of 127.0.0.1, which shows the certificate `leaf`.
    pub fn start(leaf: &Leaf, domains: &[&Entries]) -> Self {
        Self::with(Setup::default(), leaf, domains)
    }

    /// Starts one.
    pub fn with(setup: Setup, leaf: &Leaf, domains: &[&Entries]) -> Self {
        let Setup { mut address, mut port, mut ldaps, within, more } = setup;
        if address.is_empty() {
            "127.0.0.1".clone_into(&mut address);
        }
        for port in [&mut port, &mut ldaps] {
            if *port == 0 {
                *port = free_port();
            }
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("slapd.conf");
        fs::write(&file, configuration(dir.path(), leaf, domains, &more)).expect("a file");
        for (number, domain) in domains.iter().enumerate() {
            let ldif = dir.path().join(format!("{number}.ldif"));
            fs::write(&ldif, &domain.ldif).expect("a file");
            let said = run(Command::new(SLAPD)
                .args(["-T", "add", "-n", &(number + 1).to_string(), "-f"])
                .arg(&file)
                .arg("-l")
                .arg(&ldif));
            assert!(said.ok, "slapadd: {}", said.err);
        }
        let urls = format!("ldap://{address}:{port} ldaps://{address}:{ldaps}");
        let mut command = inside(&within, SLAPD);
        // With a debug level it stays in the foreground, and says when it is ready.
        command.arg("-f").arg(&file).args(["-h", &urls, "-d", "stats"]);
        let process = Process::start(&mut command);
        process.await_words("slapd starting");
        let marks = AtomicUsize::new(0);
        let slapd = Self { address, port, ldaps, within, process, marks, dir };
        slapd.await_listening();
        slapd
    }

    /// It says that it starts a moment before it listens.
    fn await_listening(&self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let connected = if self.within.is_empty() {
                let ports = [self.port, self.ldaps];
                ports.iter().all(|port| TcpStream::connect((&*self.address, *port)).is_ok())
            } else {
                // There is no entry of that name, but somebody who says so.
                !self.search("", "(objectClass=*)").err.contains("Can't contact LDAP server")
            };
            if connected {
                return;
            }
            assert!(Instant::now() < deadline, "slapd does not listen: {}", self.process.said());
            std::thread::yield_now();
        }
    }

    /// Changes entries, in LDIF as `ldapmodify` wants it.
    pub fn modify(&self, base: &str, ldif: &str) {
        self.load("ldapmodify", base, ldif);
    }

    /// Adds entries, in LDIF as `ldapadd` wants it.
    pub fn add(&self, base: &str, ldif: &str) {
        self.load("ldapadd", base, ldif);
    }

    fn load(&self, program: &str, base: &str, ldif: &str) {
        let file = self.dir.path().join("change.ldif");
        fs::write(&file, ldif).expect("a file");
        let said = run(inside(&self.within, program)
            .args(["-x", "-H", &format!("ldap://{}:{}", self.address, self.port)])
            .args(["-D", &format!("{MANAGER},{base}"), "-w", PASSWORD, "-f"])
            .arg(&file));
        assert!(said.ok, "{program}: {}\n{ldif}", said.err);
    }

    /// Replaces the values of one attribute of an entry.
    pub fn replace(&self, base: &str, name: &str, attribute: &str, values: &[&[u8]]) {
        let mut ldif = format!("dn:: {}\nchangetype: modify\n", base64(name.as_bytes()));
        let _ = writeln!(ldif, "replace: {attribute}");
        for value in values {
            let _ = writeln!(ldif, "{attribute}:: {}", base64(value));
        }
        self.modify(base, &ldif);
    }

    /// What OpenLDAP's own client finds, anonymously.
    pub fn search(&self, base: &str, filter: &str) -> Said {
        let url = format!("ldap://{}:{}", self.address, self.port);
        run(inside(&self.within, "ldapsearch").args(["-x", "-LLL", "-H", &url, "-b", base, filter]))
    }

    /// What it wrote to its log, as far as it was read; of what it did last something may be missing.
    pub fn log(&self) -> String {
        self.process.said()
    }

    /// Its log with everything that it has done by now. A search of our own, whose lines are left out, is the last that is
    /// waited for.
    pub fn whole_log(&self) -> String {
        let mark = format!("cn=mark{}", self.marks.fetch_add(1, Ordering::Relaxed));
        self.search(&mark, "(objectClass=*)");
        let log = self.process.await_words(&format!("SRCH base=\"{mark}\""));
        let connection =
            |line: &str| line.split_once("conn=")?.1.split(' ').next().map(str::to_owned);
        let ours: Vec<_> = log
            .lines()
            .filter(|line| line.contains("SRCH base=\"cn=mark"))
            .map(connection)
            .collect();
        let others = log.lines().filter(|line| !ours.contains(&connection(line)));
        others.flat_map(|line| [line, "\n"]).collect()
    }

    /// Waits until its log has `words`.
    pub fn await_log(&self, words: &str) -> String {
        self.process.await_words(words)
    }
}

fn configuration(dir: &Path, leaf: &Leaf, domains: &[&Entries], more: &str) -> String {
    let schema = dir.join("pgp.schema");
    fs::write(&schema, PGP_SCHEMA).expect("a file");
    let mut text = String::new();
    for name in ["core", "cosine", "inetorgperson"] {
        let _ = writeln!(text, "include /etc/ldap/schema/{name}.schema");
    }
    let _ = writeln!(text, "include {}", schema.display());
    let _ = writeln!(text, "modulepath /usr/lib/ldap\nmoduleload back_mdb");
    let _ = writeln!(text, "TLSCertificateFile {}", leaf.certificate());
    let _ = writeln!(text, "TLSCertificateKeyFile {}", leaf.key());
    let _ = writeln!(text, "threads 4\n{more}");
    for (number, domain) in domains.iter().enumerate() {
        let data = dir.join(number.to_string());
        fs::create_dir(&data).expect("a folder");
        let base = &domain.base;
        let _ = writeln!(text, "database mdb\nsuffix \"{base}\"\nmaxsize 67108864");
        let _ = writeln!(text, "directory {}", data.display());
        let _ = writeln!(text, "rootdn \"{MANAGER},{base}\"\nrootpw {PASSWORD}");
        // Anyone may read, as a domain that publishes wants it.
        let _ = writeln!(text, "access to * by * read");
    }
    text
}

fn inside(within: &[String], program: &str) -> Command {
    match within {
        [] => Command::new(program),
        [first, more @ ..] => {
            let mut command = Command::new(first);
            command.args(more).arg(program);
            command
        }
    }
}

/// Base64, as LDIF has values that are not plain text.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

//! The configuration file: what the daemon, its child processes and its commands are told.
//!
//! [`Config::load`] reads the file once, in the supervisor; the other processes get the result. A key
//! that is not known and a value that makes no sense are refused with file, line, column, key and what
//! would be right ([`ConfigError`]). Every key stands in `etc/tlspool.toml.example` and in
//! tlspool.toml(5); tests hold both to that.

mod authorization;
mod diagnose;
mod lookups;
mod on_the_fly;
mod places;
mod privacy;
mod validation;
mod values;

pub use authorization::{Ask, Authorization, AuthorizingProgram, Radius, RadiusServer, Ruling};
pub use diagnose::ConfigError;
pub use lookups::{Cache, Dns, Http, Ldap};
pub use on_the_fly::{OnTheFly, SafeUri};
pub use places::Places;
pub use privacy::{
    OpenPgp, OpenPgpDescriptor, OpenPgpFraming, PeerSelector, Privacy, PrivacyMode, PrivacyRule,
};
pub use validation::{DirectoryMatch, Validation};
pub use values::{
    AbsolutePath, CacheServer, FileMode, Forwarder, ForwarderTls, GroupName, HttpUrl, UserName,
};

use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::Duration;
use tlspool_keys::{KeyStoreConfig, ModuleConfig};
pub(crate) use values::parse_duration;
use values::{at_least_one, duration, module_time, some_time};

/// The version of the file format that this daemon reads.
pub const VERSION: u32 = 1;

/// Most workers, and so key channels; the kernel passes at most 253 descriptors in one message.
pub const MAX_WORKERS: u32 = 128;

/// Most listening sockets, for the same reason.
pub const MAX_SOCKETS: usize = 64;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Version of the format, [`VERSION`].
    #[serde(deserialize_with = "known_version")]
    pub version: u32,
    /// Whom the network process runs as, when started by root.
    pub user: Option<UserName>,
    /// Its group; the user's own if absent.
    pub group: Option<GroupName>,
    /// Whom the key process runs as, when started by root.
    pub key_user: Option<UserName>,
    /// Its group; the user's own if absent.
    pub key_group: Option<GroupName>,
    /// Whom the look-up process runs as, when started by root.
    pub lookup_user: Option<UserName>,
    /// Its group; the user's own if absent.
    pub lookup_group: Option<GroupName>,
    /// The locked file with the number of the running daemon; `tlspool.pid` in `runtime_dir` if absent.
    pub pid_file: Option<AbsolutePath>,
    /// Folder of the control socket.
    pub runtime_dir: AbsolutePath,
    /// The SQLite file with identities, access and trust.
    pub database: AbsolutePath,
    /// Worker threads of the network process; the number of processors if absent.
    #[serde(deserialize_with = "workers")]
    pub workers: Option<u32>,
    /// Where programs connect.
    #[serde(rename = "socket")]
    pub sockets: Vec<Socket>,
    /// Where the log goes.
    pub log: Log,
    /// Bounds of every table and every wait.
    pub limits: Limits,
    /// Tokens and PINs.
    pub keys: Keys,
    /// Whom peers must be certified by.
    pub trust: Trust,
    /// How peers are judged.
    pub validation: Validation,
    /// Which peers may have a session.
    pub authorization: Authorization,
    /// The protocol towards peers.
    pub tls: Tls,
    /// Where names are resolved; absent: nothing that is published is looked up.
    pub dns: Option<Dns>,
    /// How directories are asked.
    pub ldap: Ldap,
    /// How OCSP answers and revocation lists are fetched.
    pub http: Http,
    /// How long, and where, answers are remembered.
    pub cache: Cache,
    /// What is hidden from observers.
    pub privacy: Privacy,
    /// OpenPGP certificates.
    pub openpgp: OpenPgp,
    /// Who certifies identities that are made on the fly; absent: none are.
    pub on_the_fly: Option<OnTheFly>,
    /// How the network process and the look-up process are shut in.
    pub confinement: Confinement,
    /// For those who look for faults.
    pub debug: Debug,
}

/// One `[[socket]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// Where it stands in the file system.
    pub path: AbsolutePath,
    /// Who may connect.
    #[serde(default = "Socket::default_mode")]
    pub mode: FileMode,
    /// Whom it belongs to; who started the daemon if absent.
    #[serde(default)]
    pub owner: Option<UserName>,
    /// The group it belongs to; the owner's if absent.
    #[serde(default)]
    pub group: Option<GroupName>,
}

impl Socket {
    fn default_mode() -> FileMode {
        FileMode(0o660)
    }

    /// A socket with the default permissions.
    pub fn at(path: AbsolutePath) -> Self {
        Self { path, mode: Self::default_mode(), owner: None, group: None }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Where lines go.
    pub target: LogTarget,
    /// The least urgent lines that are still written.
    pub level: LogLevel,
}

/// Where log lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogTarget {
    /// Standard error in the foreground; in the background journald if it is there, else syslog,
    /// else standard error.
    #[default]
    Auto,
    /// Standard error.
    Stderr,
    /// systemd's journal.
    Journald,
    /// `/dev/log`.
    Syslog,
}

/// How urgent a line must be to be logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What somebody must repair.
    Error,
    /// What somebody should look at.
    Warn,
    /// One line a handshake.
    #[default]
    Info,
    /// One line a request.
    Debug,
    /// Everything.
    Trace,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections of programs at a time.
    #[serde(deserialize_with = "at_least_one")]
    pub clients: u32,
    /// Of these, by one user.
    #[serde(deserialize_with = "at_least_one")]
    pub clients_per_user: u32,
    /// Requests in flight on one connection.
    #[serde(deserialize_with = "at_least_one")]
    pub requests_per_client: u32,
    /// TLS sessions at a time.
    #[serde(deserialize_with = "at_least_one")]
    pub sessions: u32,
    /// Of these, by one user.
    #[serde(deserialize_with = "at_least_one")]
    pub sessions_per_user: u32,
    /// Handshakes at a time; those beyond wait their turn within their time.
    #[serde(deserialize_with = "at_least_one")]
    pub handshakes: u32,
    /// Look-ups under way for one worker.
    #[serde(deserialize_with = "at_least_one")]
    pub look_ups: u32,
    /// Time for one handshake, when the request names none.
    #[serde(serialize_with = "duration::serialize", deserialize_with = "some_time")]
    pub handshake_timeout: Duration,
    /// Time for a program to answer a callback (PLAINTEXT_CONNECT, STARTTLS_LOCALID).
    #[serde(serialize_with = "duration::serialize", deserialize_with = "some_time")]
    pub callback_timeout: Duration,
    /// Time that sessions get to end after TERM or `-k`.
    #[serde(with = "duration")]
    pub drain_timeout: Duration,
    /// After this time without a datagram of the peer's, a DTLS session ends.
    #[serde(serialize_with = "duration::serialize", deserialize_with = "some_time")]
    pub datagram_idle_timeout: Duration,
}

/// `[keys]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keys {
    /// PKCS #11 modules to load.
    #[serde(rename = "module")]
    pub modules: Vec<Module>,
    /// Folders in which `file:` URIs may name keys, certificates and PIN sources; empty: any file that
    /// the key process can read.
    pub file_dirs: Vec<AbsolutePath>,
    /// Sessions opened on one token, and so signatures that it makes at a time.
    #[serde(deserialize_with = "at_least_one")]
    pub sessions_per_token: u32,
    /// After this the module counts as hanging and the key process is restarted.
    #[serde(serialize_with = "duration::serialize", deserialize_with = "module_time")]
    pub module_timeout: Duration,
    /// How often a person is asked for the PIN of a token before the handshakes that wait for it fail; the
    /// token's own counter stops earlier if it must.
    #[serde(deserialize_with = "at_least_one")]
    pub pin_prompts: u32,
    /// Keep typed PINs in memory so that the key process can be restarted without asking again.
    pub remember_pins: bool,
    /// Whose programs may enter PINs, besides root's and those of the user that the network process runs as; empty:
    /// everybody's who may connect.
    pub pin_users: Vec<UserName>,
}

/// One `[[keys.module]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// The shared library.
    pub path: AbsolutePath,
    /// Initialisation string, for modules that want one (NSS softokn: `configdir='…'`).
    #[serde(default)]
    pub args: Option<String>,
}

/// `[trust]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trust {
    /// Use the trust anchors of the system.
    pub system: bool,
    /// PEM files, or folders of them, with further anchors.
    pub anchors: Vec<AbsolutePath>,
}

/// `[tls]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    /// The oldest version spoken.
    pub min_version: TlsVersion,
    /// Session tickets a server sends after a full TLS 1.3 handshake, with its first data; 0 = no
    /// resumption.
    pub tickets: u32,
    /// How long a ticket is good; its key rotates twice as often.
    #[serde(with = "duration")]
    pub ticket_lifetime: Duration,
    /// Sessions remembered for resumption as a client; 0 = none.
    pub client_cache: u32,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246 with the extensions that make it safe.
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V1_3,
}

/// `[confinement]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Confinement {
    /// Which files they can reach.
    pub landlock: Strictness,
    /// Which system calls they can make.
    pub seccomp: Strictness,
}

/// What to do when the kernel lacks a way to shut a process in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strictness {
    /// Do not start.
    Require,
    /// Log it and go on.
    #[default]
    BestEffort,
    /// Do not try.
    Off,
}

/// `[debug]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Debug {
    /// Let the network process dump core (and be looked into by a debugger of the same user). It holds
    /// no key and no PIN, but session secrets and plaintext.
    pub core_dumps: bool,
}

impl Config {
    /// What holds where the file is silent, for the user who runs us.
    pub fn defaults() -> Self {
        Self::default_in(&Places::of_this_user())
    }

    fn default_in(places: &Places) -> Self {
        let user = |name: &str| places.root.then(|| UserName(name.to_owned()));
        Self {
            version: VERSION,
            user: user("tlspool"),
            group: None,
            key_user: user("tlspool-keys"),
            key_group: None,
            lookup_user: user("tlspool-lookup"),
            lookup_group: None,
            pid_file: None,
            runtime_dir: places.runtime_dir.clone(),
            database: places.database.clone(),
            workers: None,
            sockets: vec![Socket::at(places.socket.clone())],
            log: Log::default(),
            limits: Limits::default(),
            keys: Keys::default(),
            trust: Trust::default(),
            validation: Validation::default(),
            authorization: Authorization::default(),
            tls: Tls::default(),
            dns: None,
            ldap: Ldap::default(),
            http: Http::default(),
            cache: Cache::default(),
            privacy: Privacy::default(),
            openpgp: OpenPgp::default(),
            on_the_fly: None,
            confinement: Confinement::default(),
            debug: Debug::default(),
        }
    }

    /// Reads `path`, or the default file if `path` is `None`; a default file that is not there leaves
    /// the defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let default = Places::of_this_user().config;
        let file = path.unwrap_or(&default);
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, file),
            Err(e) if path.is_none() && e.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::defaults())
            }
            Err(source) => Err(ConfigError::Unreadable { file: file.to_owned(), source }),
        }
    }

    /// Reads the text of a file; `file` is for the errors.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let config: Self =
            toml::from_str(text).map_err(|error| diagnose::explain(&error, text, file))?;
        match config.contradiction() {
            None => Ok(config),
            Some((key, problem)) => Err(diagnose::about(&key, problem, text, file)),
        }
    }

    /// What no single value shows: the key at fault and what to do.
    fn contradiction(&self) -> Option<(String, String)> {
        if self.sockets.is_empty() || self.sockets.len() > MAX_SOCKETS {
            return Some((
                "socket".into(),
                format!("there must be from 1 to {MAX_SOCKETS} [[socket]] sections"),
            ));
        }
        for (n, socket) in self.sockets.iter().enumerate() {
            if self.sockets[..n].iter().any(|other| other.path == socket.path) {
                return Some((
                    format!("socket.{n}.path"),
                    format!("{} stands in another [[socket]] already; leave one out", socket.path),
                ));
            }
            // sockaddr_un holds 108 bytes, one of them the final NUL.
            if socket.path.as_os_str().len() > 107 {
                return Some((
                    format!("socket.{n}.path"),
                    "the path of a socket has at most 107 bytes; choose a shorter one".into(),
                ));
            }
        }
        // The same for the control socket, whose name has at most 16 bytes before it is renamed.
        if self.runtime_dir.as_os_str().len() > 107 - 16 {
            return Some((
                "runtime_dir".into(),
                "a socket is made in it, so its path has at most 91 bytes; choose a shorter one"
                    .into(),
            ));
        }
        for (key, share, all, whole) in [
            ("clients_per_user", self.limits.clients_per_user, "clients", self.limits.clients),
            ("sessions_per_user", self.limits.sessions_per_user, "sessions", self.limits.sessions),
        ] {
            if share > whole {
                return Some((
                    format!("limits.{key}"),
                    format!(
                        "one user's share is more than limits.{all} ({whole}); make it {whole} or less"
                    ),
                ));
            }
        }
        if self.on_the_fly.as_ref().is_some_and(|fly| fly.key == fly.identity_key) {
            let problem =
                "the authority's own key must not be that of the identities; make another";
            return Some(("on_the_fly.identity_key".into(), problem.into()));
        }
        lookups::contradiction(self).or_else(|| authorization::contradiction(self))
    }

    /// Whether anything is asked of others, and so whether there is a look-up process.
    pub fn looks_up(&self) -> bool {
        self.dns.is_some() || self.authorization.asks()
    }

    /// The PID file.
    pub fn pid_file(&self) -> AbsolutePath {
        self.pid_file.clone().unwrap_or_else(|| self.runtime_dir.join("tlspool.pid"))
    }

    /// The control socket of the supervisor.
    pub fn control_socket(&self) -> AbsolutePath {
        self.runtime_dir.join("control.sock")
    }

    /// The number of workers, at least one.
    pub fn worker_count(&self) -> usize {
        self.workers.map_or_else(processors, |n| n as usize)
    }

    /// Fixes the number of workers: the processors may become more or fewer, the workers do not.
    pub(crate) fn fix_workers(&mut self) {
        self.workers.get_or_insert(processors() as u32); // at most MAX_WORKERS
    }
}

impl Keys {
    /// The same, as the crate that opens keys wants it.
    pub(crate) fn store_config(&self) -> KeyStoreConfig {
        let module = |module: &Module| ModuleConfig {
            path: module.path.to_path_buf(),
            args: module.args.clone(),
        };
        KeyStoreConfig {
            modules: self.modules.iter().map(module).collect(),
            file_dirs: self.file_dirs.iter().map(|dir| dir.to_path_buf()).collect(),
            sessions_per_token: self.sessions_per_token as usize,
            pin_prompts: self.pin_prompts,
            remember_pins: self.remember_pins,
            module_timeout_ms: self.module_timeout.as_millis() as u64,
            ..KeyStoreConfig::default()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::defaults()
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { target: LogTarget::Auto, level: LogLevel::Info }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 10_000,
            clients_per_user: 5000,
            requests_per_client: 1024,
            sessions: 100_000,
            sessions_per_user: 50_000,
            handshakes: 4096,
            look_ups: 8192,
            handshake_timeout: Duration::from_secs(30),
            callback_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_mins(10),
            datagram_idle_timeout: Duration::from_mins(5),
        }
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            modules: Vec::new(),
            file_dirs: Vec::new(),
            sessions_per_token: 8,
            module_timeout: Duration::from_secs(10),
            pin_prompts: 3,
            remember_pins: true,
            pin_users: vec![UserName("root".into())],
        }
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self { system: true, anchors: Vec::new() }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            min_version: TlsVersion::V1_2,
            tickets: 2,
            ticket_lifetime: Duration::from_hours(12),
            client_cache: 4096,
        }
    }
}

impl Default for Confinement {
    fn default() -> Self {
        Self { landlock: Strictness::BestEffort, seccomp: Strictness::BestEffort }
    }
}

fn known_version<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    match u32::deserialize(d)? {
        VERSION => Ok(VERSION),
        other => Err(serde::de::Error::invalid_value(
            serde::de::Unexpected::Unsigned(u64::from(other)),
            &"1, the only version of the file format so far",
        )),
    }
}

/// How many there are for us, at least one and not too many.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_WORKERS as usize))
}

fn workers<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    match Option::<u32>::deserialize(d)? {
        Some(n) if n == 0 || n > MAX_WORKERS => Err(serde::de::Error::invalid_value(
            serde::de::Unexpected::Unsigned(u64::from(n)),
            &"a number of threads from 1 to 128",
        )),
        n => Ok(n),
    }
}

#[cfg(test)]
mod tests;

//! A pool in a temporary folder, with identities of its own.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use tempfile::TempDir;
use tlspool_client::{Error, Plaintext, Pool, Session, StarttlsRequest};
use tlspool_identity::DoNai;
use tlspool_keys::KeyStoreConfig;
use tlspool_keys::server::{KeydBoot, serve};
use tlspool_store::{CertificateSource, Kind, Mode, NewIdentity, NewTrustAnchor, Roles, Store};
use tlspoold::config::Config;
use tlspoold::net::{Listener, NetworkBoot, run};
use tlspoold::supervisor::message::{Channel, FromNetwork, ToNetwork, pair};

/// A running pool.
pub(crate) struct House {
    pub(crate) dir: TempDir,
    pub(crate) socket: PathBuf,
    pub(crate) config: Config,
    supervisor: Mutex<Channel>,
    authority: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With lines of configuration added.
    pub(crate) fn with(configuration: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tlspool.toml");
        let database = dir.path().join("tlspool.db");
        let text = format!(
            "version = 1\ndatabase = \"{}\"\n[trust]\nsystem = false\n{configuration}",
            database.display()
        );
        let config = Config::parse(&text, &file).unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Test Authority");
        let key = rcgen::KeyPair::generate().unwrap();
        let authority = params.self_signed(&key).unwrap();
        let store = Store::open(&database, Mode::ReadWrite).unwrap();
        let anchor = NewTrustAnchor {
            kind: Kind::X509,
            service: None,
            certificate: authority.der(),
            label: "Test Authority",
        };
        store.add_trust_anchor(&anchor).unwrap();

        let socket = dir.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let (near, far) = pair().unwrap();
        let (mut ours, mut keyds) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (worker, keyd) = pair().unwrap();
            ours.push(worker);
            keyds.push(keyd);
        }
        let pin_memory = memfd_create("pins", MemfdFlags::CLOEXEC).unwrap();
        let boot = KeydBoot {
            channels: keyds,
            config: KeyStoreConfig::default(),
            pin_memory,
            flush_log: || (),
        };
        thread::spawn(move || serve(boot));
        let listeners = vec![Listener { fd: listener.into(), path: socket.clone() }];
        let boot =
            NetworkBoot { config: config.clone(), listeners, supervisor: far, key_channels: ours };
        thread::spawn(move || run(boot));
        let mut supervisor = Channel::new(near);
        let ready = supervisor.recv::<FromNetwork>().unwrap().unwrap().0;
        assert!(matches!(ready, FromNetwork::Ready), "{ready:?}");
        let authority = rcgen::Issuer::new(params, key);
        Self { dir, socket, config, supervisor: Mutex::new(supervisor), authority }
    }

    /// Adds an identity whose key is a file.
    pub(crate) fn identity(&self, name: &str) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([]).unwrap();
        params.subject_alt_names = vec![if name.contains('@') {
            rcgen::SanType::Rfc822Name(name.try_into().unwrap())
        } else {
            rcgen::SanType::DnsName(name.try_into().unwrap())
        }];
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let file = self.dir.path().join(format!("{name}.key"));
        std::fs::write(&file, key.serialize_pem()).unwrap();
        let name = DoNai::parse(name).unwrap();
        let new = NewIdentity {
            name: &name,
            roles: Roles::Both,
            kind: Kind::X509,
            certificate: CertificateSource::Chain(vec![certificate.der().to_vec()]),
            key_uri: &format!("file:{}", file.display()),
            preference: 100,
            is_default: false,
        };
        self.store().add_identity(&new).unwrap();
        self.changed();
    }

    /// Waits until the pool cannot but see that the tables have changed: a worker that has just looked does not look
    /// again for 5 ms.
    #[allow(clippy::unused_self)] // it is about this pool
    pub(crate) fn changed(&self) {
        let changed = Instant::now();
        while changed.elapsed() <= Duration::from_millis(5) {
            thread::yield_now();
        }
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(self.dir.path().join("tlspool.db"), Mode::ReadWrite).unwrap()
    }

    pub(crate) fn pool(&self) -> Pool {
        Pool::at(&self.socket)
    }

    /// A raw connection, for those who do not behave.
    pub(crate) fn raw(&self) -> UnixStream {
        UnixStream::connect(&self.socket).unwrap()
    }

    pub(crate) fn tell(&self, message: &ToNetwork) {
        self.supervisor.lock().unwrap().send(message, &[]).unwrap();
    }

    pub(crate) fn hear(&self) -> FromNetwork {
        self.supervisor.lock().unwrap().recv::<FromNetwork>().unwrap().unwrap().0
    }

    /// What `tlspool status` shows of the network process.
    fn whole_status(&self) -> serde_json::Value {
        self.tell(&ToNetwork::Status { id: 1 });
        loop {
            match self.hear() {
                FromNetwork::Status { status, .. } => return status,
                FromNetwork::Drained => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// A figure of `tlspool status`.
    pub(crate) fn status(&self, name: &str) -> u64 {
        self.whole_status()[name].as_u64().unwrap()
    }

    /// One that is true or false.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.whole_status()[name].as_bool().unwrap()
    }

    /// One of the totals.
    pub(crate) fn total(&self, name: &str) -> u64 {
        self.whole_status()["totals"][name].as_u64().unwrap()
    }

    /// Waits until a figure of `tlspool status` has this value.
    pub(crate) fn await_status(&self, name: &str, value: u64) {
        while self.status(name) != value {
            thread::yield_now();
        }
    }
}

pub(crate) fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// Runs a client's and a server's request against each other over TCP.
pub(crate) fn both(
    client: (&Pool, StarttlsRequest),
    server: (&Pool, StarttlsRequest),
) -> (Result<Session, Error>, Result<Session, Error>) {
    let (near, far) = tcp_pair();
    thread::scope(|scope| {
        let serving =
            scope.spawn(move || server.0.starttls(server.1, OwnedFd::from(far), Plaintext::pair()));
        let connected = client.0.starttls(client.1, OwnedFd::from(near), Plaintext::pair());
        (connected, serving.join().unwrap())
    })
}

/// The application's end of a session.
pub(crate) fn plaintext(session: &mut Session) -> UnixStream {
    UnixStream::from(session.plaintext.take().unwrap())
}

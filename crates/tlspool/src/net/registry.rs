//! Sessions by their control keys: who may ask about them, detach them and take them over.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tlspool_engine::binding::Exporter;
use tlspool_engine::{Cancel, Credential, PeerCredential};
use tlspool_store::Role;
use tlspool_wire::{CtlKey, PoolError};
use tokio::sync::mpsc;

use super::client::Client;
use super::limits::Uid;
use super::starttls::Wish;

/// All sessions that have a control key.
#[derive(Default)]
pub(crate) struct Registry(Mutex<HashMap<CtlKey, Record>>);

/// What is known of a session beyond its relay.
#[derive(Default)]
pub(crate) struct Facts {
    /// Leaf certificates in DER.
    pub(crate) peer_certificate: Option<Vec<u8>>,
    pub(crate) my_certificate: Option<Vec<u8>>,
    /// Whether we are the TLS server, whose certificate counts for tls-server-end-point.
    pub(crate) serving: bool,
    pub(crate) exporter: Option<Exporter>,
}

impl Facts {
    /// Of a handshake's end.
    pub(crate) fn new(
        role: Role,
        peer: Option<&PeerCredential>,
        shown: Option<&Credential>,
        exporter: Option<Exporter>,
    ) -> Self {
        let peer_certificate = match peer {
            Some(PeerCredential::X509(chain)) => chain.first().map(|leaf| leaf.to_vec()),
            _ => None,
        };
        Self {
            peer_certificate,
            my_certificate: shown.and_then(|shown| shown.chain().first()).map(|c| c.to_vec()),
            serving: role == Role::Server,
            exporter,
        }
    }
}

/// A session that stands, as it is entered.
pub(crate) struct Stands {
    pub(crate) number: u64,
    pub(crate) cancel: Cancel,
    pub(crate) facts: Facts,
    pub(crate) forked: bool,
    /// Where wishes to renegotiate go; none if the session cannot.
    pub(crate) wishes: Option<mpsc::UnboundedSender<Box<Wish>>>,
}

struct Record {
    user: Uid,
    owner: Owner,
    session: Option<Standing>,
}

/// A session that stands.
struct Standing {
    number: u64,
    cancel: Cancel,
    facts: Arc<Facts>,
    /// Survives its connection even while attached (FORK).
    forked: bool,
    wishes: Option<mpsc::UnboundedSender<Box<Wish>>>,
}

enum Owner {
    Attached(Weak<Client>),
    Detached,
}

impl Owner {
    /// The connection it is attached to. A session whose connection is gone is detached by that.
    fn client(&self) -> Option<Arc<Client>> {
        match self {
            Self::Attached(client) => client.upgrade().filter(|c| !c.gone.is_requested()),
            Self::Detached => None,
        }
    }

    fn must_be(&self, client: &Client) -> Result<(), PoolError> {
        match self.client() {
            Some(owner) if owner.id == client.id => Ok(()),
            Some(_) => Err(PoolError::CtlkeyNotYours),
            None => Err(PoolError::CtlkeyDetached),
        }
    }
}

/// A control key in use; free again when this is dropped.
pub(crate) struct Registered {
    registry: Arc<Registry>,
    key: CtlKey,
}

impl Registry {
    /// Takes `key` for a session that `client` is about to start.
    pub(crate) fn register(
        self: &Arc<Self>,
        key: CtlKey,
        client: &Arc<Client>,
    ) -> Result<Registered, PoolError> {
        match self.0.lock().entry(key) {
            Entry::Occupied(_) => Err(PoolError::CtlkeyRegistrationFailed),
            Entry::Vacant(place) => {
                let owner = Owner::Attached(Arc::downgrade(client));
                place.insert(Record { user: client.uid(), owner, session: None });
                Ok(Registered { registry: self.clone(), key })
            }
        }
    }

    /// What `client` may know of the session.
    pub(crate) fn facts(&self, key: &CtlKey, client: &Client) -> Result<Arc<Facts>, PoolError> {
        let sessions = self.0.lock();
        let record = sessions.get(key).ok_or(PoolError::CtlkeyNotFound)?;
        record.owner.must_be(client)?;
        let standing = record.session.as_ref().ok_or(PoolError::CtlkeyNotFound)?;
        Ok(standing.facts.clone())
    }

    /// Hands a wish to renegotiate to the session that it names, or says why not.
    pub(crate) fn renegotiate(&self, wish: Box<Wish>) -> Result<(), (PoolError, Box<Wish>)> {
        let sessions = self.0.lock();
        let check = || {
            let record =
                sessions.get(&wish.starttls.ctlkey).ok_or(PoolError::RenegotiateNotFound)?;
            record.owner.must_be(&wish.client)?;
            let standing = record.session.as_ref().ok_or(PoolError::RenegotiateNotFound)?;
            standing.wishes.as_ref().ok_or(PoolError::RenegotiateNotInterruptable)
        };
        match check() {
            Ok(wishes) => {
                wishes.send(wish).map_err(|unsent| (PoolError::RenegotiateNotFound, unsent.0))
            }
            Err(error) => Err((error, wish)),
        }
    }

    /// Detaches the session from `client`.
    pub(crate) fn detach(&self, key: &CtlKey, client: &Client) -> Result<(), PoolError> {
        let mut sessions = self.0.lock();
        let record = sessions.get_mut(key).ok_or(PoolError::CtlkeyNotFound)?;
        record.owner.must_be(client)?;
        let standing = record.session.as_ref().ok_or(PoolError::CtlkeyNotFound)?;
        client.release(standing.number);
        record.owner = Owner::Detached;
        Ok(())
    }

    /// Attaches a detached session to `client`, of the same user or root.
    pub(crate) fn reattach(&self, key: &CtlKey, client: &Arc<Client>) -> Result<(), PoolError> {
        let mut sessions = self.0.lock();
        let record = sessions.get_mut(key).ok_or(PoolError::CtlkeyNotFound)?;
        if record.owner.client().is_some() {
            return Err(PoolError::CtlkeyAttached);
        }
        if record.user != client.uid() && client.uid() != 0 {
            return Err(PoolError::CtlkeyNotYours);
        }
        let standing = record.session.as_ref().ok_or(PoolError::CtlkeyNotFound)?;
        if !standing.forked {
            client.attach(standing.number, standing.cancel.clone());
        }
        record.owner = Owner::Attached(Arc::downgrade(client));
        Ok(())
    }
}

impl Registered {
    /// The session stands. Its connection must already hold its `cancel`, unless it is forked.
    pub(crate) fn stands(&self, stands: Stands, detach: bool) {
        let Stands { number, cancel, facts, forked, wishes } = stands;
        let mut sessions = self.registry.0.lock();
        let Some(record) = sessions.get_mut(&self.key) else { return };
        if detach {
            if let Some(client) = record.owner.client() {
                client.release(number);
            }
            record.owner = Owner::Detached;
        }
        let facts = Arc::new(facts);
        record.session = Some(Standing { number, cancel, facts, forked, wishes });
    }

    /// The session was renegotiated.
    pub(crate) fn renegotiated(&self, facts: Facts) {
        let mut sessions = self.registry.0.lock();
        let session = sessions.get_mut(&self.key).and_then(|record| record.session.as_mut());
        if let Some(session) = session {
            session.facts = Arc::new(facts);
        }
    }

    /// The connection it is attached to now, if any: the session ends there.
    pub(crate) fn owner(&self) -> Option<Arc<Client>> {
        self.registry.0.lock().get(&self.key)?.owner.client()
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.0.lock().remove(&self.key);
    }
}

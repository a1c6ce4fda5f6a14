//! The tables: local identities, who may use them and to whom they are shown, trust anchors, policies, pins,
//! and which peers may meet which names.
//!
//! One SQLite file in WAL mode. The command line writes it, also while the daemon runs; the network
//! process reads it through [`Mode::ReadOnly`] (its directory must be writable all the same: WAL
//! readers keep their locks in shared memory beside the file). Every look-up of a handshake goes
//! through an index with a cached statement, so 100,000 names cost what ten cost.
//!
//! A [`Store`] is one connection and belongs to one thread. [`Store::data_version`] tells cheaply
//! whether another process has changed anything, for callers that cache.
//!
//! No secret is ever stored here: keys are named by URI, and a URI with a PIN in it is refused.
#![forbid(unsafe_code)]

mod access;
mod authorization;
mod disclosure;
mod error;
mod identities;
mod model;
mod open;
mod pin;
mod policy;
mod schema;
mod trust;

pub use access::{AccessError, AccessRule, Caller, Subject};
pub use authorization::{AuthorizationRow, DEFAULT_POSITION, Effect, MAX_COMMENT, Peers};
pub use disclosure::{Disclosed, DisclosureRow, MAX_DISCLOSED, MAX_REMEMBERED, Place};
pub use error::StoreError;
pub use identities::{MAX_CHAIN_BYTES, check_stored_uri};
pub use model::{
    CertificateSource, Fingerprint, Kind, LocalIdentity, NewIdentity, Role, Roles, fingerprint,
};
pub use open::{Mode, Store};
pub use pin::PinRow;
pub use policy::{PolicyRow, PolicySide};
pub use schema::SCHEMA_VERSION;
pub use trust::{NewTrustAnchor, TrustAnchorRow};

//! Names: who a peer is, who we are, and which patterns match them.
//!
//! A [`DoNai`] (domain or network access identifier) is the one kind of name that applications,
//! the store, certificates and logs talk about. A [`Selector`] matches many of them, and
//! [`DoNai::lookup_order`] lists the selectors of a name from concrete to general. [`x509`] reads
//! names out of certificates, and out of OpenPGP user IDs too; [`matching`] compares a wanted name with what a credential carries.
//!
//! This crate does no I/O and knows no time and no keys; everything here is a function of its
//! arguments, so it can be fuzzed as it stands.
#![forbid(unsafe_code)]

pub mod der;
mod domain;
mod donai;
pub mod matching;
mod openpgp;
mod selector;
pub mod x509;

pub use donai::{DoNai, MAX_LEN, NameError, is_hidden};
pub use matching::{How, Match, matches};
pub use selector::{DomainPart, LookupOrder, Selector, UserPart};

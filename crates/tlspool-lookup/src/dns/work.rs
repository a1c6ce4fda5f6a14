//! How much one look-up may cost, whatever the servers answer.

use std::cell::Cell;

use hickory_resolver::proto::rr::Name;

use super::upstream::text;
use crate::names::LookupFailure;

/// Questions to servers. A name of six labels in as many zones takes about 20, from the root 40.
const QUESTIONS: u32 = 120;
/// Signatures to verify. The same takes about 15; this bounds what a zone with many keys of one tag and
/// many signatures costs.
const SIGNATURES: u32 = 100;
/// NSEC3 names to hash.
const DENIALS: u32 = 60;

/// What is left of it.
#[derive(Debug)]
pub(super) struct Work {
    questions: Cell<u32>,
    signatures: Cell<u32>,
    denials: Cell<u32>,
}

impl Work {
    pub(super) fn new() -> Self {
        Self {
            questions: Cell::new(QUESTIONS),
            signatures: Cell::new(SIGNATURES),
            denials: Cell::new(DENIALS),
        }
    }

    pub(super) fn question(&self, name: &Name) -> Result<(), LookupFailure> {
        take(&self.questions, name, QUESTIONS, "questions to servers")
    }

    pub(super) fn signature(&self, name: &Name) -> Result<(), LookupFailure> {
        take(&self.signatures, name, SIGNATURES, "signatures")
    }

    pub(super) fn denial(&self, name: &Name) -> Result<(), LookupFailure> {
        take(&self.denials, name, DENIALS, "proofs of absence")
    }
}

fn take(left: &Cell<u32>, name: &Name, limit: u32, what: &str) -> Result<(), LookupFailure> {
    let Some(rest) = left.get().checked_sub(1) else {
        let why = format!("it takes more than {limit} {what}");
        return Err(LookupFailure::OutOfBounds { name: text(name), why });
    };
    left.set(rest);
    Ok(())
}

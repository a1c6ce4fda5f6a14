//! Following aliases from a name to its records.

use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, RData, RecordType};

use super::chain::{Step, Validator};
use super::upstream::{describe, text};
use super::work::Work;
use crate::names::LookupFailure;

/// Aliases in a row.
const MAX_ALIASES: usize = 8;

/// The records that a name leads to.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    pub(super) outcome: Outcome,
    /// Where secure aliases lead; none if there is none, or one is not secure.
    pub(super) canonical: Option<Name>,
    /// How long all of this counts at most.
    pub(super) lasts: Duration,
}

#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// Secure, and every alias was.
    Secure(Vec<RData>),
    /// These, but they or an alias are in an unsigned zone; why.
    Unsigned(Vec<RData>, Arc<str>),
    /// None; why.
    Absent(Arc<str>),
}

/// The records of `kind` at `name`, behind aliases.
pub(super) async fn resolve(
    validator: &Validator,
    name: &Name,
    kind: RecordType,
    work: &Work,
) -> Result<Resolved, LookupFailure> {
    let mut seen = vec![name.clone()];
    let mut canonical = None;
    let mut unsigned: Option<Arc<str>> = None;
    let mut at = name.clone();
    let mut lasts = Duration::MAX;
    loop {
        let (step, step_lasts) = validator.step(&at, kind, work).await?;
        lasts = lasts.min(step_lasts);
        let outcome = match (step, &unsigned) {
            (Step::Secure(records), None) => Outcome::Secure(records),
            (Step::Secure(records), Some(why)) => Outcome::Unsigned(records, Arc::clone(why)),
            (Step::Unsigned(records, why), before) => {
                Outcome::Unsigned(records, before.clone().unwrap_or(why))
            }
            (Step::Absent(why), _) => Outcome::Absent(why),
            (Step::Alias(target), _) => {
                at = target;
                canonical = unsigned.is_none().then(|| at.clone());
                next(&mut seen, &at, name, kind)?;
                continue;
            }
            (Step::UnsignedAlias(target, why), _) => {
                at = target;
                unsigned.get_or_insert(why);
                canonical = None;
                next(&mut seen, &at, name, kind)?;
                continue;
            }
        };
        return Ok(Resolved { outcome, canonical, lasts });
    }
}

fn next(
    seen: &mut Vec<Name>,
    at: &Name,
    name: &Name,
    kind: RecordType,
) -> Result<(), LookupFailure> {
    let why = if seen.contains(at) {
        format!("its aliases lead in a circle at {}", text(at))
    } else if seen.len() > MAX_ALIASES {
        format!("more than {MAX_ALIASES} aliases in a row")
    } else {
        seen.push(at.clone());
        return Ok(());
    };
    Err(LookupFailure::OutOfBounds { name: describe(name, kind), why })
}

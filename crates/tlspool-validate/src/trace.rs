//! How a policy came to its answer: for `tlspool policy explain`, and for the debug log.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::policy::{Node, Predicate, Verdict};
use crate::sources::Origin;

/// The whole of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// Whom it is about.
    pub name: String,
    /// Whether everything that applies holds.
    pub holds: bool,
    /// How long it took.
    #[serde(rename = "elapsed_us", serialize_with = "micros")]
    pub elapsed: Duration,
    /// The expressions that apply; all must hold.
    pub expressions: Vec<Traced>,
    /// The predicates that were asked, in the order in which they were answered.
    pub asked: Vec<Asked>,
}

/// One expression.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Traced {
    /// `remote` or `local`.
    pub side: &'static str,
    /// The selector of its row; none: it is the default.
    pub selector: Option<String>,
    /// The service of its row; none: any.
    pub service: Option<String>,
    /// The expression.
    pub expression: String,
    /// Whether it holds.
    pub holds: bool,
    /// Its parts.
    pub tree: Part,
}

/// A part of an expression, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// `and`, `or`, `not`, or as it is written.
    pub text: String,
    /// What it came to.
    pub truth: Truth,
    /// Whether the outcome follows from this part.
    pub decided: bool,
    /// The predicate, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicate: Option<&'static str>,
    /// Its parts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Self>,
}

/// What a part came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Its source has nothing to say.
    Absent,
    /// Its source could not be asked.
    Failed,
    /// It does not follow from what is known.
    Open,
    /// It was not needed.
    NotAsked,
}

impl Truth {
    fn as_str(self) -> &'static str {
        match self {
            Self::True => "true",
            Self::False => "false",
            Self::Absent => "absent",
            Self::Failed => "failed",
            Self::Open => "not true",
            Self::NotAsked => "not asked",
        }
    }
}

/// A predicate that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    /// Which.
    pub predicate: &'static str,
    /// What it came to.
    pub truth: Truth,
    /// Why.
    pub why: String,
    /// Where the answer came from, if it was looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// How long it took.
    #[serde(rename = "elapsed_us", serialize_with = "micros")]
    pub elapsed: Duration,
    /// Steps on the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn micros<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
}

impl From<Verdict> for Truth {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::True => Self::True,
            Verdict::False => Self::False,
            Verdict::Absent => Self::Absent,
            Verdict::Failed => Self::Failed,
        }
    }
}

impl Part {
    /// What `node` came to by the `verdicts`, and which of its parts decided that it holds or not.
    pub(crate) fn of(node: &Node, verdicts: &[Option<Verdict>]) -> Self {
        let mut part = Self::bare(node, verdicts);
        part.decide();
        part
    }

    fn bare(node: &Node, verdicts: &[Option<Verdict>]) -> Self {
        let named = |text: &str, truth, parts| Self {
            text: text.to_owned(),
            truth,
            decided: false,
            predicate: None,
            parts,
        };
        let all = |nodes: &[Node]| -> Vec<Self> {
            nodes.iter().map(|node| Self::bare(node, verdicts)).collect()
        };
        match node {
            Node::Constant(true) => named("true", Truth::True, Vec::new()),
            Node::Constant(false) => named("false", Truth::False, Vec::new()),
            Node::Holds { predicate, .. } => {
                let truth = verdicts[predicate.index()].map_or(Truth::NotAsked, Truth::from);
                let part = named(&node.to_string(), truth, Vec::new());
                Self { predicate: Some(predicate.as_str()), ..part }
            }
            Node::Not(inner) => {
                let inner = Self::bare(inner, verdicts);
                let truth = match inner.value() {
                    Truth::True => Truth::False,
                    Truth::False => Truth::True,
                    _ => Truth::Open,
                };
                named("not", truth, vec![inner])
            }
            Node::And(nodes) => {
                let parts = all(nodes);
                let truth = joined(&parts, Truth::False, Truth::True);
                named("and", truth, parts)
            }
            Node::Or(nodes) => {
                let parts = all(nodes);
                let truth = joined(&parts, Truth::True, Truth::False);
                named("or", truth, parts)
            }
        }
    }

    /// With `?`, absence counts as true.
    fn value(&self) -> Truth {
        match self.truth {
            Truth::Absent if self.text.ends_with('?') => Truth::True,
            truth => truth,
        }
    }

    /// Marks this part, and those of its parts from which its value follows.
    fn decide(&mut self) {
        self.decided = true;
        let value = self.value();
        let one_is_enough = match self.text.as_str() {
            "or" => value == Truth::True,
            // Whatever is not true makes an `and` fail.
            "and" => value != Truth::True,
            _ => false,
        };
        if one_is_enough {
            let alike = self.parts.iter_mut().find(|part| match value {
                Truth::True | Truth::False => part.value() == value,
                _ => !matches!(part.value(), Truth::True | Truth::NotAsked),
            });
            if let Some(part) = alike {
                part.decide();
            }
        } else {
            self.parts.iter_mut().filter(|p| p.truth != Truth::NotAsked).for_each(Self::decide);
        }
    }

    fn write(&self, depth: usize, asked: &[Asked], out: &mut String) {
        let mark = if self.decided { '*' } else { ' ' };
        let indented = format!("{:indent$}{}", "", self.text, indent = depth * 2);
        let _ = write!(out, "{mark} {:<10}{indented:<26}", self.truth.as_str());
        let told = self
            .predicate
            .and_then(|predicate| asked.iter().find(|asked| asked.predicate == predicate));
        if let Some(asked) = told {
            let _ = write!(out, " {}", asked.timing());
            if !asked.why.is_empty() {
                let _ = write!(out, "  {}", asked.why);
            }
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        for step in told.into_iter().flat_map(|asked| &asked.steps) {
            let _ = writeln!(out, "{:indent$}- {step}", "", indent = 14 + depth * 2);
        }
        for part in &self.parts {
            part.write(depth + 1, asked, out);
        }
    }
}

fn joined(parts: &[Part], one: Truth, all: Truth) -> Truth {
    if parts.iter().any(|part| part.value() == one) {
        one
    } else if parts.iter().all(|part| part.value() == all) {
        all
    } else {
        Truth::Open
    }
}

impl Asked {
    fn timing(&self) -> String {
        let origin = match self.origin {
            None => "here",
            Some(Origin::Live) => "live",
            Some(Origin::Memory) => "memory",
            Some(Origin::Memcached) => "memcached",
        };
        format!("[{origin}, {}]", time(self.elapsed))
    }
}

/// A short time for people.
fn time(elapsed: Duration) -> String {
    let micros = elapsed.as_micros();
    if micros < 10_000 {
        format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10)
    } else {
        format!("{} ms", micros / 1000)
    }
}

impl Trace {
    /// What `predicate` came to, if it was asked.
    pub fn asked(&self, predicate: Predicate) -> Option<&Asked> {
        self.asked.iter().find(|asked| asked.predicate == predicate.as_str())
    }
}

impl fmt::Display for Trace {
    /// A tree in text; a star marks what decided.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.holds { "believed" } else { "refused" };
        writeln!(f, "{}: {outcome}, in {}", self.name, time(self.elapsed))?;
        for traced in &self.expressions {
            let service = traced.service.as_ref().map_or_else(String::new, |s| format!(" ({s})"));
            let whose = match &traced.selector {
                Some(selector) => format!("{} {selector}{service}", traced.side),
                None => format!("{}, the default", traced.side),
            };
            let holds = if traced.holds { "holds" } else { "does not hold" };
            writeln!(f, "policy for {whose} {holds}:")?;
            let mut tree = String::new();
            traced.tree.write(0, &self.asked, &mut tree);
            f.write_str(&tree)?;
        }
        Ok(())
    }
}

//! Policy expressions: what must hold of a peer before it is believed.
//!
//! Words, `and`, `or`, `not`, parentheses; `not` binds closest, `or` loosest. A predicate is true, false
//! or *absent*: its source provably has nothing to say. `name?` also accepts absence. A look-up that
//! fails never makes an expression hold, not even behind `not`, and neither does absence without a
//! `?`: this is Kleene's logic with "nothing is known" as its third value, and only true is enough.
//!
//! [`Expression::parse`] reads what an administrator writes, [`Expression::import`] also the one-letter
//! postfix form of earlier pools. Displaying an expression gives its canonical text, which reads
//! back as the same. The crate's evaluator asks for predicates; nothing here knows what they mean.

mod parse;
mod postfix;
mod survey;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

pub use parse::{ExpressionError, Mistake};
pub(crate) use survey::{blame, survey};
#[cfg(test)]
pub(crate) use tests::{Random, reference};

/// Longest text of an expression, in bytes.
pub const MAX_LENGTH: usize = 1024;

/// Deepest nesting of parentheses and `not`.
pub const MAX_DEPTH: usize = 32;

/// What is demanded of a remote peer for which no policy is in the tables: what is published must match,
/// and something must vouch.
pub const DEFAULT_FOR_REMOTES: &str =
    "identity and dane? and ldap? and (dane or ldap or pkix or openpgp or pin)";

/// What can be asked about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Predicate {
    /// The peer showed a credential for the wanted name.
    Identity,
    /// Chain to a trust anchor, in time, right usage, for the wanted name.
    Pkix,
    /// A DNSSEC-secure TLSA record matches.
    Dane,
    /// The directory of the name's domain lists this very credential.
    Ldap,
    /// The pinned fingerprint matches.
    Pin,
    /// An OpenPGP certificate that is valid and certified by a trusted key.
    OpenPgp,
    /// Not revoked according to certificate revocation lists.
    Crl,
    /// Not revoked according to OCSP.
    Ocsp,
    /// Ephemeral key exchange.
    ForwardSecrecy,
    /// Certificates were not visible on the wire.
    Private,
    /// Post-quantum key exchange.
    Pq,
    /// We are the client.
    Client,
    /// We are the server.
    Server,
}

impl Predicate {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 13] = [
        Self::Identity,
        Self::Pkix,
        Self::Dane,
        Self::Ldap,
        Self::Pin,
        Self::OpenPgp,
        Self::Crl,
        Self::Ocsp,
        Self::ForwardSecrecy,
        Self::Private,
        Self::Pq,
        Self::Client,
        Self::Server,
    ];

    /// The word for it in expressions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Pkix => "pkix",
            Self::Dane => "dane",
            Self::Ldap => "ldap",
            Self::Pin => "pin",
            Self::OpenPgp => "openpgp",
            Self::Crl => "crl",
            Self::Ocsp => "ocsp",
            Self::ForwardSecrecy => "forward-secrecy",
            Self::Private => "private",
            Self::Pq => "pq",
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// Its place in tables over all predicates.
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is known of a predicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Its source provably has nothing to say.
    Absent,
    /// Its source could not be asked, or is not to be believed: never good enough.
    Failed,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::True => "true",
            Self::False => "false",
            Self::Absent => "absent",
            Self::Failed => "failed",
        })
    }
}

/// A part of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// `true` or `false`.
    Constant(bool),
    /// A predicate; with `or_absent` written `name?`.
    Holds {
        /// Which.
        predicate: Predicate,
        /// Whether absence is accepted.
        or_absent: bool,
    },
    /// `not …`
    Not(Box<Self>),
    /// `… and …`: two or more.
    And(Vec<Self>),
    /// `… or …`: two or more.
    Or(Vec<Self>),
}

/// A policy expression within its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    root: Node,
}

impl Expression {
    /// Reads an expression in words.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        let root = parse::parse(text)?;
        // What is stored and shown is the canonical text; it must read back.
        if root.to_string().len() > MAX_LENGTH {
            return Err(ExpressionError { at: 0, length: text.len(), mistake: Mistake::TooLong });
        }
        Ok(Self { root })
    }

    /// Reads an expression in words, or else in the one-letter postfix form of earlier pools:
    /// `T` pkix, `D` dane, `G` ldap, `C` and `R` crl, `O` ocsp, `P` pin, `I` identity, `F`
    /// forward-secrecy, `A` private, `Q` pq, `S` server, `1`, `0`; a lower-case letter is the weaker
    /// form (`name?`); `&`, `|`, `~`, and `?`, which takes the condition from the top, then what
    /// counts if it holds, then what counts otherwise.
    pub fn import(text: &str) -> Result<Self, ExpressionError> {
        match Self::parse(text) {
            Err(_) if postfix::looks_like(text) => postfix::parse(text).map(|root| Self { root }),
            result => result,
        }
    }

    /// Whether the text can only be meant as the one-letter postfix form.
    pub fn is_postfix(text: &str) -> bool {
        Self::parse(text).is_err() && postfix::looks_like(text) && postfix::parse(text).is_ok()
    }

    /// [`DEFAULT_FOR_REMOTES`].
    pub fn default_for_remotes() -> &'static Self {
        static DEFAULT: LazyLock<Expression> = LazyLock::new(|| {
            let [identity, dane, ldap, pkix, openpgp, pin] = [
                Predicate::Identity,
                Predicate::Dane,
                Predicate::Ldap,
                Predicate::Pkix,
                Predicate::OpenPgp,
                Predicate::Pin,
            ]
            .map(|predicate| Node::Holds { predicate, or_absent: false });
            let or_absent = |predicate| Node::Holds { predicate, or_absent: true };
            Expression {
                root: Node::And(vec![
                    identity,
                    or_absent(Predicate::Dane),
                    or_absent(Predicate::Ldap),
                    Node::Or(vec![dane, ldap, pkix, openpgp, pin]),
                ]),
            }
        });
        &DEFAULT
    }

    /// What it consists of.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Whether `predicate` stands in it with a `?`.
    pub(crate) fn accepts_absence(&self, predicate: Predicate) -> bool {
        fn within(node: &Node, wanted: Predicate) -> bool {
            match node {
                Node::Constant(_) => false,
                Node::Holds { predicate, or_absent } => *or_absent && *predicate == wanted,
                Node::Not(inner) => within(inner, wanted),
                Node::And(parts) | Node::Or(parts) => parts.iter().any(|part| within(part, wanted)),
            }
        }
        within(&self.root, predicate)
    }
}

impl fmt::Display for Node {
    /// Canonical: with the parentheses that are needed and no others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |f: &mut fmt::Formatter<'_>, parts: &[Self], word: &str| {
            for (n, part) in parts.iter().enumerate() {
                if n > 0 {
                    write!(f, " {word} ")?;
                }
                let enclosed = matches!((word, part), (_, Self::Or(_)) | ("and", Self::And(_)));
                if enclosed { write!(f, "({part})")? } else { write!(f, "{part}")? }
            }
            Ok(())
        };
        match self {
            Self::Constant(value) => write!(f, "{value}"),
            Self::Holds { predicate, or_absent: false } => write!(f, "{predicate}"),
            Self::Holds { predicate, or_absent: true } => write!(f, "{predicate}?"),
            Self::Not(inner) => match **inner {
                Self::And(_) | Self::Or(_) => write!(f, "not ({inner})"),
                _ => write!(f, "not {inner}"),
            },
            Self::And(parts) => join(f, parts, "and"),
            Self::Or(parts) => join(f, parts, "or"),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.root.fmt(f)
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        Self::parse(text)
    }
}

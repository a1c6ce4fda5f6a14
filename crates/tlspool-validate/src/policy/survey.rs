//! What an expression comes to while only some predicates are known, and which are still needed.
//!
//! An expression holds if it is true in Kleene's three-valued logic. Pushing `not` down to the
//! predicates turns that into two values: behind an even number of `not`, a predicate must be true (or
//! absent, with `?`); behind an odd number it must be false. So a walk that carries along whether
//! it is behind a `not` decides with yes and no alone.

use super::{Expression, Node, Predicate, Verdict};

/// What is known of each predicate, by [`Predicate::index`].
pub(crate) type Board = [Option<Verdict>; Predicate::ALL.len()];

/// A set of predicates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Set(u16);

impl Set {
    pub(crate) fn has(self, predicate: Predicate) -> bool {
        self.0 & 1 << predicate.index() != 0
    }

    fn of(predicate: Predicate) -> Self {
        Self(1 << predicate.index())
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Predicate> {
        Predicate::ALL.into_iter().filter(move |predicate| self.has(*predicate))
    }

    fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Whether all of `expressions` hold, if that is decided; else the predicates that can still change
/// the outcome.
pub(crate) fn survey(expressions: &[&Expression], board: &Board) -> Result<bool, Set> {
    let parts = expressions.iter().map(|expression| expression.root());
    all(parts, true, board)
}

fn node(node: &Node, straight: bool, board: &Board) -> Result<bool, Set> {
    match node {
        Node::Constant(value) => Ok(*value == straight),
        Node::Holds { predicate, or_absent } => {
            let known = board[predicate.index()];
            known.map_or(Err(Set::of(*predicate)), |v| Ok(satisfied(v, *or_absent, straight)))
        }
        Node::Not(inner) => self::node(inner, !straight, board),
        // De Morgan: behind `not`, `and` and `or` change places.
        Node::And(parts) if straight => all(parts.iter(), straight, board),
        Node::Or(parts) if !straight => all(parts.iter(), straight, board),
        Node::And(parts) | Node::Or(parts) => any(parts, straight, board),
    }
}

fn satisfied(verdict: Verdict, or_absent: bool, straight: bool) -> bool {
    match verdict {
        Verdict::True => straight,
        Verdict::False => !straight,
        Verdict::Absent => or_absent && straight,
        Verdict::Failed => false,
    }
}

fn all<'n>(
    parts: impl Iterator<Item = &'n Node>,
    straight: bool,
    board: &Board,
) -> Result<bool, Set> {
    let mut open = None;
    for part in parts {
        match node(part, straight, board) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(more) => open = Some(more.union(open.unwrap_or_default())),
        }
    }
    open.map_or(Ok(true), Err)
}

fn any(parts: &[Node], straight: bool, board: &Board) -> Result<bool, Set> {
    let mut open = None;
    for part in parts {
        match node(part, straight, board) {
            Ok(false) => {}
            Ok(true) => return Ok(true),
            Err(more) => open = Some(more.union(open.unwrap_or_default())),
        }
    }
    open.map_or(Ok(false), Err)
}

/// Why an expression does not hold, once that is decided: the predicates at fault, in its order.
pub(crate) fn blame(expression: &Expression, board: &Board) -> Vec<Predicate> {
    let mut found = Vec::new();
    collect(expression.root(), true, board, &mut found);
    found
}

fn collect(at: &Node, straight: bool, board: &Board, found: &mut Vec<Predicate>) {
    match at {
        Node::Constant(_) => {}
        Node::Holds { predicate, .. } => {
            if !found.contains(predicate) {
                found.push(*predicate);
            }
        }
        Node::Not(inner) => collect(inner, !straight, board, found),
        Node::And(parts) | Node::Or(parts) => {
            let one_is_enough = matches!(at, Node::And(_)) == straight;
            let failing = |part: &&Node| node(part, straight, board) == Ok(false);
            let failing = parts.iter().filter(failing);
            let most = if one_is_enough { 1 } else { parts.len() };
            failing.take(most).for_each(|part| collect(part, straight, board, found));
        }
    }
}

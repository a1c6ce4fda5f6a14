//! Reads the one-letter postfix form of earlier pools, such as `TCO|DG|&&`.

use super::parse::{ExpressionError, Mistake, joined};
use super::{MAX_DEPTH, MAX_LENGTH, Node, Predicate};

/// Whether a text consists of that form's characters.
pub(super) fn looks_like(text: &str) -> bool {
    let text = text.trim();
    !text.is_empty()
        && text.chars().all(|c| c.is_whitespace() || "&|~?01".contains(c) || letter(c).is_some())
}

fn letter(c: char) -> Option<Predicate> {
    Some(match c.to_ascii_uppercase() {
        'T' => Predicate::Pkix,
        'D' => Predicate::Dane,
        'G' => Predicate::Ldap,
        'C' | 'R' => Predicate::Crl,
        'O' => Predicate::Ocsp,
        'P' => Predicate::Pin,
        'I' => Predicate::Identity,
        'F' => Predicate::ForwardSecrecy,
        'A' => Predicate::Private,
        'Q' => Predicate::Pq,
        'S' => Predicate::Server,
        _ => return None,
    })
}

pub(super) fn parse(text: &str) -> Result<Node, ExpressionError> {
    if text.len() > MAX_LENGTH {
        return Err(ExpressionError { at: 0, length: text.len(), mistake: Mistake::TooLong });
    }
    // Each value with its depth, so that no expression is built that words could not say.
    let mut stack: Vec<Node> = Vec::new();
    let mut size = 0;
    for (at, c) in text.char_indices().filter(|(_, c)| !c.is_whitespace()) {
        let error = |mistake| ExpressionError { at, length: c.len_utf8(), mistake };
        let needed = match c {
            '~' => 1,
            '&' | '|' => 2,
            '?' => 3,
            _ => 0,
        };
        let found = stack.len();
        if found < needed {
            return Err(error(Mistake::TooFewValues { operator: c, needed, found }));
        }
        let operands = stack.split_off(found - needed);
        let node = match c {
            '0' | '1' => Node::Constant(c == '1'),
            '&' => joined(operands, Node::And),
            '|' => joined(operands, Node::Or),
            '~' => negated(operands),
            '?' => {
                let [otherwise, then, condition] =
                    <[Node; 3]>::try_from(operands).map_err(|_| error(Mistake::OperandExpected))?;
                // The condition is said twice, so a chain of them grows fast.
                size += count(&condition);
                if size > MAX_LENGTH {
                    return Err(error(Mistake::TooLong));
                }
                let holds = joined(vec![condition.clone(), then], Node::And);
                let fails = joined(vec![negated(vec![condition]), otherwise], Node::And);
                joined(vec![holds, fails], Node::Or)
            }
            other => {
                let predicate =
                    letter(other).ok_or_else(|| error(Mistake::UnknownLetter(other)))?;
                Node::Holds { predicate, or_absent: other.is_ascii_lowercase() }
            }
        };
        if depth(&node) > MAX_DEPTH {
            return Err(error(Mistake::TooDeep));
        }
        stack.push(node);
    }
    let left = stack.len();
    let root = match (stack.pop(), left) {
        (Some(root), 1) => root,
        (None, _) => return Err(ExpressionError { at: 0, length: 0, mistake: Mistake::Empty }),
        (Some(_), left) => {
            let mistake = Mistake::ValuesLeft(left);
            return Err(ExpressionError { at: text.len(), length: 0, mistake });
        }
    };
    if root.to_string().len() > MAX_LENGTH {
        return Err(ExpressionError { at: 0, length: text.len(), mistake: Mistake::TooLong });
    }
    Ok(root)
}

fn negated(mut operands: Vec<Node>) -> Node {
    match operands.pop() {
        Some(operand) => Node::Not(Box::new(operand)),
        // Its caller has counted them.
        None => Node::Constant(false),
    }
}

fn count(node: &Node) -> usize {
    match node {
        Node::Constant(_) | Node::Holds { .. } => 1,
        Node::Not(inner) => 1 + count(inner),
        Node::And(parts) | Node::Or(parts) => 1 + parts.iter().map(count).sum::<usize>(),
    }
}

/// As the parser of words counts: each operand is a level below what it is an operand of.
fn depth(node: &Node) -> usize {
    let below = |parts: &[Node]| parts.iter().map(depth).max().unwrap_or(0);
    1 + match node {
        Node::Constant(_) | Node::Holds { .. } => 0,
        // In words, an operand in parentheses is one level below the operator.
        Node::Not(inner) => depth(inner),
        Node::And(parts) | Node::Or(parts) => below(parts),
    }
}

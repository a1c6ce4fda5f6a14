//! Reads expressions in words.

use std::fmt;

use super::{MAX_DEPTH, MAX_LENGTH, Node, Predicate};

/// An expression that cannot be read, with the place of the mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpressionError {
    /// Where the mistake begins: a byte of the text.
    pub at: usize,
    /// How many bytes are mistaken; 0 where something is missing.
    pub length: usize,
    /// The mistake.
    pub mistake: Mistake,
}

/// What is wrong, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// Nothing there.
    #[error("it is empty; for no demands at all, write true")]
    Empty,
    /// Too long.
    #[error("it is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// Too deep.
    #[error("it is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    /// No such word.
    #[error("there is no predicate {word:?}; {}", hint(*meant))]
    UnknownWord {
        /// The word, cut to a length that can be shown.
        word: String,
        /// What may have been meant.
        meant: Option<&'static str>,
    },
    /// A character that no expression has.
    #[error("{0:?} has no meaning here{hint}", hint = character_hint(*.0))]
    UnknownCharacter(char),
    /// An operand is missing.
    #[error("a predicate, `not` or `(` must stand here")]
    OperandExpected,
    /// An operator is missing.
    #[error("`and` or `or` must stand before this")]
    OperatorExpected,
    /// A parenthesis is not closed.
    #[error("the `(` here is never closed")]
    NotClosed,
    /// A parenthesis too many.
    #[error("there is no `(` for this `)`")]
    NotOpened,
    /// A `?` not behind a predicate.
    #[error("`?` must follow the name of a predicate at once, as in `dane?`")]
    StrayQuestionMark,
    /// Postfix: not a letter of that form.
    #[error(
        "{0:?} is no letter of the postfix form; it has T D G C R O P I F A Q S, 1, 0, & | ~ ?"
    )]
    UnknownLetter(char),
    /// Postfix: an operator without its operands.
    #[error("{operator:?} needs {needed} values before it, there are {found}")]
    TooFewValues {
        /// The operator.
        operator: char,
        /// How many it takes.
        needed: usize,
        /// How many there are.
        found: usize,
    },
    /// Postfix: more than one value at the end.
    #[error("{0} values are left at the end; join them by & or |")]
    ValuesLeft(usize),
}

fn hint(meant: Option<&str>) -> String {
    if let Some(word) = meant {
        return format!("did you mean {word}?");
    }
    let words = Predicate::ALL.map(Predicate::as_str).join(", ");
    format!("there are {words}, true and false")
}

fn character_hint(character: char) -> &'static str {
    match character {
        '&' => "; write `and`",
        '|' | ',' => "; write `or`",
        '!' | '~' => "; write `not`",
        _ => "",
    }
}

impl ExpressionError {
    /// The text with the place marked on a second line, for terminals.
    pub fn pointed(&self, text: &str) -> String {
        let (mut line, mut marks) = (String::new(), String::new());
        for (at, character) in text.char_indices().take(MAX_LENGTH) {
            // One column each; control characters must not reach a terminal.
            line.push(if character.is_control() { ' ' } else { character });
            let marked = (self.at..self.at + self.length.max(1)).contains(&at);
            marks.push(if marked { '^' } else { ' ' });
        }
        if self.at >= text.len() {
            marks.push('^');
        }
        format!("{line}\n{}", marks.trim_end())
    }
}

impl fmt::Display for ExpressionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at character {}: {}", self.at + 1, self.mistake)
    }
}

impl std::error::Error for ExpressionError {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    And,
    Or,
    Not,
    Open,
    Close,
    QuestionMark,
    Constant(bool),
    Predicate(Predicate),
    End,
}

/// The next token, and where it stands.
#[derive(Debug, Clone, Copy)]
struct At {
    token: Token,
    from: usize,
    length: usize,
}

impl At {
    fn error(self, mistake: Mistake) -> ExpressionError {
        ExpressionError { at: self.from, length: self.length, mistake }
    }
}

struct Parser<'t> {
    text: &'t str,
    /// How much of it was read.
    read: usize,
    next: At,
    depth: usize,
}

pub(super) fn parse(text: &str) -> Result<Node, ExpressionError> {
    let whole = |mistake| ExpressionError { at: 0, length: text.len(), mistake };
    if text.len() > MAX_LENGTH {
        return Err(whole(Mistake::TooLong));
    }
    if text.trim().is_empty() {
        return Err(whole(Mistake::Empty));
    }
    let nothing = At { token: Token::End, from: 0, length: 0 };
    let mut parser = Parser { text, read: 0, next: nothing, depth: 0 };
    parser.advance()?;
    let root = parser.any_of()?;
    match parser.next.token {
        Token::End => Ok(root),
        Token::Close => Err(parser.next.error(Mistake::NotOpened)),
        Token::QuestionMark => Err(parser.next.error(Mistake::StrayQuestionMark)),
        _ => Err(parser.next.error(Mistake::OperatorExpected)),
    }
}

impl Parser<'_> {
    /// `a or b or c`
    fn any_of(&mut self) -> Result<Node, ExpressionError> {
        let mut parts = vec![self.all_of()?];
        while self.next.token == Token::Or {
            self.advance()?;
            parts.push(self.all_of()?);
        }
        Ok(joined(parts, Node::Or))
    }

    /// `a and b and c`
    fn all_of(&mut self) -> Result<Node, ExpressionError> {
        let mut parts = vec![self.operand()?];
        while self.next.token == Token::And {
            self.advance()?;
            parts.push(self.operand()?);
        }
        Ok(joined(parts, Node::And))
    }

    fn operand(&mut self) -> Result<Node, ExpressionError> {
        let begun = self.next;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(begun.error(Mistake::TooDeep));
        }
        let node = match begun.token {
            Token::Not => {
                self.advance()?;
                Node::Not(Box::new(self.operand()?))
            }
            Token::Open => {
                self.advance()?;
                let inner = self.any_of()?;
                match self.next.token {
                    Token::Close => self.advance()?,
                    Token::End => return Err(begun.error(Mistake::NotClosed)),
                    Token::QuestionMark => {
                        return Err(self.next.error(Mistake::StrayQuestionMark));
                    }
                    _ => return Err(self.next.error(Mistake::OperatorExpected)),
                }
                inner
            }
            Token::Constant(value) => {
                self.advance()?;
                Node::Constant(value)
            }
            Token::Predicate(predicate) => {
                self.advance()?;
                let touches = self.next.from == begun.from + begun.length;
                let or_absent = self.next.token == Token::QuestionMark && touches;
                if or_absent {
                    self.advance()?;
                }
                Node::Holds { predicate, or_absent }
            }
            Token::QuestionMark => return Err(begun.error(Mistake::StrayQuestionMark)),
            Token::And | Token::Or | Token::Close | Token::End => {
                return Err(begun.error(Mistake::OperandExpected));
            }
        };
        self.depth -= 1;
        Ok(node)
    }

    fn advance(&mut self) -> Result<(), ExpressionError> {
        let rest = &self.text[self.read..];
        let begun = self.read + (rest.len() - rest.trim_start().len());
        let rest = &self.text[begun..];
        let Some(first) = rest.chars().next() else {
            self.next = At { token: Token::End, from: self.text.len(), length: 0 };
            return Ok(());
        };
        let word = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '?' => (Token::QuestionMark, 1),
            c if word(c) => {
                let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
                let token = token_of(&rest[..length]).map_err(|mistake| ExpressionError {
                    at: begun,
                    length,
                    mistake,
                })?;
                (token, length)
            }
            other => {
                let mistake = Mistake::UnknownCharacter(other);
                return Err(ExpressionError { at: begun, length: other.len_utf8(), mistake });
            }
        };
        self.next = At { token, from: begun, length };
        self.read = begun + length;
        Ok(())
    }
}

/// One part as itself, several joined; what is joined in the same way is not nested.
pub(super) fn joined(mut parts: Vec<Node>, join: fn(Vec<Node>) -> Node) -> Node {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let same = std::mem::discriminant(&join(Vec::new()));
    let mut flat = Vec::with_capacity(parts.len());
    for part in parts {
        let alike = std::mem::discriminant(&part) == same;
        match part {
            Node::And(inner) | Node::Or(inner) if alike => flat.extend(inner),
            part => flat.push(part),
        }
    }
    join(flat)
}

fn token_of(word: &str) -> Result<Token, Mistake> {
    let lower = word.to_ascii_lowercase();
    let token = match lower.as_str() {
        "and" => Token::And,
        "or" => Token::Or,
        "not" => Token::Not,
        "true" | "1" => Token::Constant(true),
        "false" | "0" => Token::Constant(false),
        other => {
            let known = Predicate::ALL.into_iter().find(|predicate| predicate.as_str() == other);
            let unknown = || Mistake::UnknownWord {
                word: word.chars().take(40).collect(),
                meant: nearest(other),
            };
            Token::Predicate(known.ok_or_else(unknown)?)
        }
    };
    Ok(token)
}

/// The word that differs least, if it differs little.
fn nearest(word: &str) -> Option<&'static str> {
    if word.len() > 20 {
        return None;
    }
    let synonym = match word {
        "tlsa" | "dnssec" => Some("dane"),
        "directory" => Some("ldap"),
        "x509" | "ca" | "chain" => Some("pkix"),
        "pgp" | "gpg" => Some("openpgp"),
        "pfs" | "fs" => Some("forward-secrecy"),
        "name" => Some("identity"),
        _ => None,
    };
    let others = ["true", "false", "and", "or", "not"];
    let words = Predicate::ALL.into_iter().map(Predicate::as_str).chain(others);
    let close = || {
        let distances = words.map(|known| (distance(word, known), known));
        let (distance, known) = distances.min_by_key(|(distance, _)| *distance)?;
        // Of a short word, one letter is much.
        let bearable = if known.len() <= 3 { 1 } else { 2 };
        (distance <= bearable && distance < word.len()).then_some(known)
    };
    synonym.or_else(close)
}

/// How many letters must be changed, added or left out (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

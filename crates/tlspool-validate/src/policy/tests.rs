use super::survey::Board;
use super::*;

/// Numbers that are the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    pub(crate) fn expression(&mut self) -> Expression {
        Expression { root: self.node(4) }
    }

    fn node(&mut self, depth: usize) -> Node {
        match self.below(if depth == 0 { 6 } else { 12 }) {
            0 => Node::Constant(self.below(2) == 0),
            1..=5 => Node::Holds {
                predicate: Predicate::ALL[self.below(13) as usize],
                or_absent: self.below(3) == 0,
            },
            6..=7 => Node::Not(Box::new(self.node(depth - 1))),
            kind => {
                let parts = (0..2 + self.below(3)).map(|_| self.node(depth - 1)).collect();
                let join = if kind.is_multiple_of(2) { Node::And } else { Node::Or };
                parse::joined(parts, join)
            }
        }
    }

    pub(crate) fn verdict(&mut self) -> Verdict {
        let all = [Verdict::True, Verdict::False, Verdict::Absent, Verdict::Failed];
        all[self.below(4) as usize]
    }
}

/// Kleene's logic as in the textbook: true is 2, false 0, nothing known 1.
pub(crate) fn reference(node: &Node, board: &Board) -> u8 {
    match node {
        Node::Constant(value) => 2 * u8::from(*value),
        Node::Holds { predicate, or_absent } => match board[predicate.index()] {
            Some(Verdict::True) => 2,
            Some(Verdict::Absent) if *or_absent => 2,
            Some(Verdict::False) => 0,
            Some(Verdict::Absent | Verdict::Failed) | None => 1,
        },
        Node::Not(inner) => 2 - reference(inner, board),
        Node::And(parts) => parts.iter().map(|part| reference(part, board)).min().unwrap(),
        Node::Or(parts) => parts.iter().map(|part| reference(part, board)).max().unwrap(),
    }
}

#[test]
fn canonical_text_reads_back() {
    for (text, canonical) in [
        ("identity", "identity"),
        ("  PKIX  AND Dane? ", "pkix and dane?"),
        ("(pkix)", "pkix"),
        ("not (not pkix)", "not not pkix"),
        ("pkix or dane and ldap", "pkix or dane and ldap"),
        ("pkix or (dane and ldap)", "pkix or dane and ldap"),
        ("(pkix or dane) and ldap", "(pkix or dane) and ldap"),
        ("not (pkix or dane)", "not (pkix or dane)"),
        ("((pkix and dane) and ldap)", "pkix and dane and ldap"),
        ("1 and not 0", "true and not false"),
        ("forward-secrecy and pq", "forward-secrecy and pq"),
        (DEFAULT_FOR_REMOTES, DEFAULT_FOR_REMOTES),
    ] {
        let expression = Expression::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(expression.to_string(), canonical);
        assert_eq!(Expression::parse(canonical).unwrap(), expression);
    }
    assert_eq!(Expression::default_for_remotes().to_string(), DEFAULT_FOR_REMOTES);
}

#[test]
fn mistakes_point_at_the_word() {
    for (text, at, length, words) in [
        ("", 0, 0, "it is empty"),
        ("pkix and danee", 9, 5, "did you mean dane?"),
        ("pkix or tlsa", 8, 4, "did you mean dane?"),
        ("pkix and zzzzzz", 9, 6, "there are identity, pkix"),
        ("pkix dane", 5, 4, "`and` or `or` must stand before this"),
        ("pkix and", 8, 0, "must stand here"),
        ("and pkix", 0, 3, "must stand here"),
        ("pkix and or dane", 9, 2, "must stand here"),
        ("(pkix and dane", 0, 1, "never closed"),
        ("pkix)", 4, 1, "no `(` for this"),
        ("()", 1, 1, "must stand here"),
        ("pkix & dane", 5, 1, "write `and`"),
        ("!pkix", 0, 1, "write `not`"),
        ("dane ?", 5, 1, "must follow the name"),
        ("true?", 4, 1, "must follow the name"),
        ("(pkix or dane)?", 14, 1, "must follow the name"),
        ("dane??", 5, 1, "must follow the name"),
        ("pkix and dané", 9, 5, "did you mean dane?"),
        ("pkix and \u{1}", 9, 1, "has no meaning"),
    ] {
        let error = Expression::parse(text).unwrap_err();
        assert_eq!((error.at, error.length), (at, length), "{text}: {error}");
        assert!(error.to_string().contains(words), "{text}: {error}");
    }
    let error = Expression::parse("pkix and danee").unwrap_err();
    assert_eq!(error.pointed("pkix and danee"), "pkix and danee\n         ^^^^^");
    assert_eq!(
        Expression::parse("pkix and").unwrap_err().pointed("pkix and"),
        "pkix and\n        ^"
    );
}

#[test]
fn length_and_depth_are_bounded() {
    let deep = |n: usize| "(".repeat(n) + "pkix" + &")".repeat(n);
    assert!(Expression::parse(&deep(MAX_DEPTH - 1)).is_ok());
    assert_eq!(Expression::parse(&deep(MAX_DEPTH)).unwrap_err().mistake, Mistake::TooDeep);
    let nots = "not ".repeat(200) + "pkix";
    assert_eq!(Expression::parse(&nots).unwrap_err().mistake, Mistake::TooDeep);
    let long = "pkix or ".repeat(127) + "pkix";
    assert!(Expression::parse(&long).is_ok());
    assert_eq!(
        Expression::parse(&format!("{long} or pkix")).unwrap_err().mistake,
        Mistake::TooLong
    );
    // Short as it is written, too long as it would be stored.
    let short = "1 or ".repeat(200) + "1";
    assert_eq!(Expression::parse(&short).unwrap_err().mistake, Mistake::TooLong);
}

#[test]
fn the_older_form_is_imported() {
    for (text, words) in [
        ("TCO|DG|&&", "pkix and (crl or ocsp) and (dane or ldap)"),
        ("T", "pkix"),
        ("Id&g&DG|T|P|&", "identity and dane? and ldap? and (dane or ldap or pkix or pin)"),
        ("p", "pin?"),
        ("1", "true"),
        ("0~", "not false"),
        ("FAQ&&", "forward-secrecy and private and pq"),
        ("Rr|", "crl or crl?"),
        // If we are the server then pkix, else dane.
        ("DTS?", "server and pkix or not server and dane"),
        ("T D |", "pkix or dane"),
        // Words come first.
        ("dane?", "dane?"),
        ("pkix and dane", "pkix and dane"),
    ] {
        let expression = Expression::import(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(expression.to_string(), words);
        assert_eq!(Expression::parse(words).unwrap(), expression);
    }
    for (text, at, mistake) in [
        ("T&", 1, Mistake::TooFewValues { operator: '&', needed: 2, found: 1 }),
        ("DT?", 2, Mistake::TooFewValues { operator: '?', needed: 3, found: 2 }),
        ("TD", 2, Mistake::ValuesLeft(2)),
    ] {
        let error = Expression::import(text).unwrap_err();
        assert_eq!((error.at, error.mistake), (at, mistake), "{text}");
    }
    assert!(matches!(Expression::import("Tx").unwrap_err().mistake, Mistake::UnknownWord { .. }));
    assert!(Expression::is_postfix("TD&") && !Expression::is_postfix("1"));
    // Doubling the condition again and again must not grow without end.
    let grown = "11S?".to_owned() + &"11SS?1S??".repeat(40);
    let _ = Expression::import(&grown);
    let tower = "T".to_owned() + &"~".repeat(500);
    assert_eq!(Expression::import(&tower).unwrap_err().mistake, Mistake::TooDeep);
}

#[test]
fn a_survey_equals_the_reference() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20_000 {
        let expression = random.expression();
        let mut board: Board = [None; 13];
        for known in &mut board {
            *known = Some(random.verdict());
        }
        let holds = reference(expression.root(), &board) == 2;
        assert_eq!(survey(&[&expression], &board), Ok(holds), "{expression} {board:?}");
        if holds {
            assert!(
                expression.root() == &Node::Constant(true)
                    || blame(&expression, &board).len() <= 13
            );
        }
        // What is decided while some are unknown stays so whatever they turn out to be; what is not
        // decided names predicates that are unknown.
        let mut partial = board;
        for known in &mut partial {
            if random.below(2) == 0 {
                *known = None;
            }
        }
        match survey(&[&expression], &partial) {
            Ok(early) => assert_eq!(early, holds, "{expression} {partial:?}"),
            Err(open) => assert!(open.iter().all(|p| partial[p.index()].is_none())),
        }
        // And it reads back.
        let text = expression.to_string();
        if text.len() <= MAX_LENGTH {
            assert_eq!(Expression::parse(&text).unwrap(), expression, "{text}");
        }
    }
}

#[test]
fn nothing_unknown_helps_even_behind_not() {
    let mut board: Board = [Some(Verdict::False); 13];
    for unknown in [Verdict::Failed, Verdict::Absent] {
        board[Predicate::Dane.index()] = Some(unknown);
        for text in ["dane", "not dane", "not (dane and pkix) and dane", "not not dane"] {
            let expression = Expression::parse(text).unwrap();
            assert_eq!(survey(&[&expression], &board), Ok(false), "{text} {unknown}");
        }
    }
    let accepts = Expression::parse("dane?").unwrap();
    assert_eq!(survey(&[&accepts], &board), Ok(true));
    board[Predicate::Dane.index()] = Some(Verdict::Failed);
    assert_eq!(survey(&[&accepts], &board), Ok(false));
}

#[test]
fn blame_names_what_is_at_fault() {
    let mut board: Board = [Some(Verdict::True); 13];
    let default = Expression::default_for_remotes();
    for absent in [Predicate::Dane, Predicate::Ldap, Predicate::OpenPgp, Predicate::Pin] {
        board[absent.index()] = Some(Verdict::Absent);
    }
    board[Predicate::Pkix.index()] = Some(Verdict::False);
    assert_eq!(
        blame(default, &board),
        [Predicate::Dane, Predicate::Ldap, Predicate::Pkix, Predicate::OpenPgp, Predicate::Pin]
    );
    board[Predicate::Identity.index()] = Some(Verdict::False);
    assert_eq!(blame(default, &board), [Predicate::Identity]);
}

/// What the fuzz target asserts, on what looks like expressions.
#[test]
fn whatever_is_read_reads_back() {
    let pieces = [
        "identity", "dane", "ldap?", "pin?", "and", "or", "not", "(", ")", "?", " ", "true", "0",
        "T", "D", "g", "S", "&", "|", "~", "é", "\u{0}", "pq",
    ];
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut read = 0;
    for _ in 0..50_000 {
        let length = random.below(12);
        let spaced = random.below(2) == 0;
        let mut text = String::new();
        for _ in 0..length {
            text += pieces[random.below(pieces.len() as u64) as usize];
            if spaced {
                text.push(' ');
            }
        }
        for result in [Expression::parse(&text), Expression::import(&text)] {
            match result {
                Ok(expression) => {
                    read += 1;
                    let canonical = expression.to_string();
                    assert!(canonical.len() <= MAX_LENGTH);
                    assert_eq!(Expression::parse(&canonical).as_ref(), Ok(&expression), "{text}");
                }
                Err(error) => {
                    assert!(error.at <= text.len(), "{text}");
                    assert!(!error.to_string().is_empty() && !error.pointed(&text).is_empty());
                }
            }
        }
    }
    assert!(read > 1000, "{read}");
}

//! `tlspool choose`: a person chooses whom clients show, where their programs name nobody.
//!
//! It registers as the program that chooses (LIDENTRY of the socket protocol, as any program may) and asks
//! on the terminal. With standard input not a terminal, each answer is a line of it, for scripts.
//!
//! Whoever interrupts it in the middle of a question has refused: the pool takes the end of its connection
//! for that.

use super::{socket, visible};
use crate::cli::ChooseArgs;
use crate::config::ConfigError;
use rustix::termios::{QueueSelector, tcflush};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use tlspool_client::{Cancel, Lidentry, LidentryFlags as Flags, Pool, PoolError, Refusal, Text};
use tlspool_identity::DoNai;

/// The longest line that is read; a name is shorter.
const MAX_LINE: u64 = 1024;

/// How often a person may mistype before that is a refusal.
const ATTEMPTS: usize = 5;

#[derive(Debug, thiserror::Error)]
pub(super) enum ChooseError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot ask on the terminal: {0}; give the answers on standard input instead")]
    Terminal(io::Error),
    #[error("{0}")]
    Pool(tlspool_client::Error),
}

pub(super) fn run(config: Option<&Path>, args: &ChooseArgs) -> Result<(), ChooseError> {
    let mut person = Person::find().map_err(ChooseError::Terminal)?;
    let pool = Pool::at(socket(config, args.socket.as_deref())?);
    let cancel = Cancel::new();
    let mut flags = Flags::WANT_DBENTRY | Flags::WANT_CANDIDATES;
    if !args.all {
        flags = flags | Flags::SKIP_DBENTRY;
    }
    let registration = Lidentry { flags, timeout: args.timeout, ..Lidentry::default() };
    let mut shown = Vec::new();
    let mut ended = false;
    let error = pool.lidentry_service(registration, &cancel, |entry| {
        if entry.flags.contains(Flags::DBENTRY) {
            shown.push(Candidate::of(entry));
            return Ok(());
        }
        let question = Question::of(entry, std::mem::take(&mut shown));
        let began = Instant::now();
        let answer = question.put(&mut person).unwrap_or(Answer::Over);
        if began.elapsed() > Duration::from_secs(entry.timeout.into()) {
            // Nothing can be done about a terminal that is gone.
            let _ = person.say("That was too late: the request has failed.\n");
        }
        if args.once || answer == Answer::Over {
            ended = true;
            cancel.cancel();
        }
        match answer {
            Answer::Chosen(choice) => choice.enter(entry),
            Answer::Refused | Answer::Over => Err(refusal("the person refused")),
        }
    });
    if ended { Ok(()) } else { Err(ChooseError::Pool(error)) }
}

fn refusal(words: &str) -> Refusal {
    Refusal { code: PoolError::LocalidRefused.code(), message: words.to_owned() }
}

/// An identity that may be chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    /// Empty: nobody.
    local: String,
    /// The selector whose row has it; none: it is in no row.
    stored: Option<String>,
}

impl Candidate {
    fn of(entry: &Lidentry) -> Self {
        let known = !entry.flags.contains(Flags::CANDIDATE);
        Self {
            local: visible(entry.localid.as_str()),
            stored: known.then(|| visible(entry.remoteid.as_str())),
        }
    }
}

/// What a person is asked.
#[derive(Debug)]
struct Question {
    remote: String,
    /// What the program proposes; empty: nothing.
    proposed: String,
    candidates: Vec<Candidate>,
    /// The selectors for which a choice may be remembered.
    selectors: Vec<String>,
}

/// What a person answers.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Chosen(Choice),
    Refused,
    /// The end of the input.
    Over,
}

#[derive(Debug, PartialEq, Eq)]
struct Choice {
    /// Empty: nobody.
    local: String,
    /// For which remotes to remember it.
    remember: Option<String>,
}

impl Choice {
    fn enter(self, entry: &mut Lidentry) -> Result<(), Refusal> {
        let long = |_| refusal("a name is too long");
        entry.localid = Text::new(&self.local).map_err(long)?;
        if let Some(selector) = &self.remember {
            entry.remoteid = Text::new(selector).map_err(long)?;
            // Who chooses again wants that from now on.
            entry.flags = entry.flags | Flags::DBINSERT | Flags::DBREORDER;
        }
        Ok(())
    }
}

impl Question {
    fn of(entry: &Lidentry, mut candidates: Vec<Candidate>) -> Self {
        let remote = visible(entry.remoteid.as_str());
        let proposed = visible(entry.localid.as_str());
        // Nobody is always offered, and has a place of its own.
        candidates.retain(|candidate| !candidate.local.is_empty());
        if !proposed.is_empty() && candidates.iter().all(|known| known.local != proposed) {
            candidates.insert(0, Candidate { local: proposed.clone(), stored: None });
        }
        let selectors = match DoNai::parse(&remote) {
            Ok(name) => name
                .lookup_order()
                .take(usize::from(entry.maxlevels) + 1)
                .map(|selector| selector.to_string())
                .collect(),
            Err(_) => Vec::new(),
        };
        Self { remote, proposed, candidates, selectors }
    }

    fn put(&self, person: &mut Person) -> io::Result<Answer> {
        let first = format!("\nWho shall we be for {}?\n   0  nobody\n", self.remote);
        let mut lines = vec![first];
        for (at, candidate) in self.candidates.iter().enumerate() {
            let mut why = match &candidate.stored {
                Some(selector) => format!("  (remembered for {selector})"),
                None => String::new(),
            };
            if candidate.local == self.proposed {
                why += "  (proposed by the program)";
            }
            lines.push(format!("{:4}  {}{why}\n", at + 1, candidate.local));
        }
        person.say(&lines.concat())?;
        let local = person.until("Number or name, empty to refuse: ", |line| self.local(line))?;
        let local = match local {
            Given::Value(local) => local,
            Given::Nothing => return Ok(Answer::Refused),
            Given::Over => return Ok(Answer::Over),
        };
        let mut lines = vec!["Remember this for\n   0  nobody else: ask again\n".to_owned()];
        for (at, selector) in self.selectors.iter().enumerate() {
            lines.push(format!("{:4}  {}\n", at + 1, described(selector)));
        }
        person.say(&lines.concat())?;
        let remember = person.until("Number, empty for 0: ", |line| {
            let number: usize = line.parse().ok()?;
            match number.checked_sub(1) {
                None => Some(None),
                Some(at) => self.selectors.get(at).map(|selector| Some(selector.clone())),
            }
        })?;
        match remember {
            Given::Value(remember) => Ok(Answer::Chosen(Choice { local, remember })),
            Given::Nothing => Ok(Answer::Chosen(Choice { local, remember: None })),
            Given::Over => Ok(Answer::Over),
        }
    }

    /// The name that a line stands for.
    fn local(&self, line: &str) -> Option<String> {
        match line.parse::<usize>() {
            Ok(0) => Some(String::new()),
            Ok(number) => self.candidates.get(number - 1).map(|known| known.local.clone()),
            Err(_) => DoNai::parse(line).ok().map(|name| name.to_string()),
        }
    }
}

/// A selector in words.
fn described(selector: &str) -> String {
    let words = match selector.split_once('@') {
        None if selector == "." => "any host",
        None if selector.starts_with('.') => "any host below",
        Some(("", ".")) => "anybody",
        Some(("", domain)) if domain.starts_with('.') => "anybody at any host below",
        Some(("", _)) => "anybody there",
        Some((_, domain)) if domain.starts_with('.') => "this user at any host below",
        _ => return selector.to_owned(),
    };
    format!("{selector}  ({words})")
}

/// What a line of input came to.
#[derive(Debug, PartialEq, Eq)]
enum Given<T> {
    Value(T),
    Nothing,
    Over,
}

/// Where answers come from.
enum Person {
    Terminal(BufReader<File>),
    Lines(BufReader<io::Stdin>),
}

impl Person {
    fn find() -> io::Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Lines(BufReader::new(io::stdin())));
        }
        let tty = File::options().read(true).write(true).open("/dev/tty")?;
        Ok(Self::Terminal(BufReader::new(tty)))
    }

    fn say(&mut self, words: &str) -> io::Result<()> {
        match self {
            Self::Terminal(tty) => tty.get_ref().write_all(words.as_bytes()),
            Self::Lines(_) => {
                let mut out = io::stdout().lock();
                out.write_all(words.as_bytes())?;
                out.flush()
            }
        }
    }

    /// Asks until a line is understood; what was typed before the question was seen answers nothing.
    fn until<T>(&mut self, prompt: &str, read: impl Fn(&str) -> Option<T>) -> io::Result<Given<T>> {
        for _ in 0..ATTEMPTS {
            if let Self::Terminal(tty) = self {
                tcflush(tty.get_ref(), QueueSelector::IFlush)?;
            }
            self.say(prompt)?;
            let line = match self {
                Self::Terminal(tty) => line(tty)?,
                Self::Lines(stdin) => {
                    println!();
                    line(stdin)?
                }
            };
            match line.as_deref() {
                None => return Ok(Given::Over),
                Some("") => return Ok(Given::Nothing),
                Some(text) => match read(text) {
                    Some(value) => return Ok(Given::Value(value)),
                    None => self.say(&format!("{} is none of these.\n", visible(text)))?,
                },
            }
        }
        Ok(Given::Nothing)
    }
}

/// The next line, trimmed; none at the end of the input. The rest of a line that is too long is not an
/// answer to the next question.
fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    if from.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    if bytes.last() != Some(&b'\n') && bytes.len() as u64 == MAX_LINE {
        from.skip_until(b'\n')?;
    }
    Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(flags: Flags, localid: &str, remoteid: &str) -> Lidentry {
        let (localid, remoteid) = (Text::cut(localid), Text::cut(remoteid));
        Lidentry { flags, maxlevels: 3, localid, remoteid, ..Lidentry::default() }
    }

    fn question() -> Question {
        let known = Candidate::of(&entry(Flags::DBENTRY, "a@a.example", ".example.com"));
        let other = Candidate::of(&entry(
            Flags::DBENTRY | Flags::CANDIDATE,
            "b@a.example",
            "www.example.com",
        ));
        let nobody = Candidate::of(&entry(Flags::DBENTRY, "", ".example.com"));
        assert_eq!(known.stored.as_deref(), Some(".example.com"));
        assert_eq!(other.stored, None);
        let asked = entry(Flags::default(), "c@a.example", "www.example.com");
        Question::of(&asked, vec![known, nobody, other])
    }

    #[test]
    fn a_question_has_its_candidates_and_selectors() {
        let question = question();
        let locals: Vec<&str> = question.candidates.iter().map(|c| c.local.as_str()).collect();
        assert_eq!(locals, ["c@a.example", "a@a.example", "b@a.example"]);
        assert_eq!(question.selectors, ["www.example.com", ".example.com", ".com", "."]);
        assert_eq!(question.local("0").as_deref(), Some(""));
        assert_eq!(question.local("3").as_deref(), Some("b@a.example"));
        assert_eq!(question.local("4"), None);
        assert_eq!(question.local("New@A.example").as_deref(), Some("new@a.example"));
        assert_eq!(question.local("a b"), None);
    }

    #[test]
    fn a_choice_says_what_to_remember() {
        let mut asked = entry(Flags::default(), "", "www.example.com");
        let choice = Choice { local: "a@a.example".into(), remember: Some(".com".into()) };
        choice.enter(&mut asked).unwrap();
        assert_eq!((asked.localid.as_str(), asked.remoteid.as_str()), ("a@a.example", ".com"));
        assert_eq!(asked.flags, Flags::DBINSERT | Flags::DBREORDER);
        let long = Choice { local: "x".repeat(200), remember: None };
        assert!(long.enter(&mut asked).is_err());
    }

    #[test]
    fn lines_end_and_are_bounded() {
        let text = format!(" 1 \n{}\n\nlast", "x".repeat(3000));
        let mut input = text.as_bytes();
        let mut next = || line(&mut input).unwrap();
        assert_eq!(next().as_deref(), Some("1"));
        assert_eq!(next().map(|line| line.len()), Some(1024));
        assert_eq!(next().as_deref(), Some(""));
        assert_eq!(next().as_deref(), Some("last"));
        assert_eq!(next(), None);
    }

    #[test]
    fn selectors_in_words() {
        assert_eq!(described("www.example.com"), "www.example.com");
        assert_eq!(described("john@example.com"), "john@example.com");
        assert_eq!(described(".com"), ".com  (any host below)");
        assert_eq!(described("."), ".  (any host)");
        assert_eq!(described("@."), "@.  (anybody)");
        assert_eq!(described("john@."), "john@.  (this user at any host below)");
    }
}

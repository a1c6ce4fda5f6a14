//! `tlspool -p`: asks a person for the PINs that tokens wait for.
//!
//! It registers as the pool's PIN program (PINENTRY of the socket protocol, as any program may) and asks
//! on the terminal, without echo. A PIN is wiped after it was sent. With standard input not a terminal,
//! each PIN is a line of it, for scripts.

use super::{socket, visible};
use crate::cli::Cli;
use crate::config::ConfigError;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use tlspool_client::{Cancel, Pool};
use tlspool_wire::{Pinentry, Text};
use zeroize::Zeroizing;

/// How long a person may take: longer than any handshake waits.
const ANSWER_TIME: Duration = Duration::from_mins(10);
/// With `--once`: how long nothing is asked before nothing is waited for.
const QUIET: Duration = Duration::from_secs(2);
/// Control-C as a byte of the line.
const INTERRUPT: u8 = 3;

#[derive(Debug, thiserror::Error)]
pub(super) enum PinError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("cannot ask on the terminal: {0}; give the PIN on standard input instead")]
    Terminal(io::Error),
    #[error("{0}")]
    Pool(tlspool_client::Error),
}

/// What happened to one question.
enum Said {
    Pin(Zeroizing<Vec<u8>>),
    Nothing,
    Interrupted,
}

pub(super) fn run(cli: &Cli) -> Result<(), PinError> {
    let mut person = Person::find().map_err(PinError::Terminal)?;
    let pool = Pool::at(socket(cli.config.as_deref(), cli.socket.as_deref())?);
    let cancel = Cancel::new();
    let (asked, questions) = channel();
    let watch = cli.once.then(|| watch_for_quiet(cancel.clone(), questions));
    let mut ended = false;
    let error = pool.pin_service(0, ANSWER_TIME.as_micros() as u32, &cancel, |entry| {
        let _ = asked.send(Asked::Begins);
        match person.ask(entry) {
            Said::Pin(pin) => *entry.pin = text_of(&pin),
            Said::Nothing => {}
            Said::Interrupted => {
                ended = true;
                cancel.cancel();
            }
        }
        let _ = asked.send(Asked::Ends);
    });
    let quiet = match watch {
        Some(watch) => {
            drop(asked);
            watch.join().unwrap_or(false)
        }
        None => false,
    };
    if ended || quiet { Ok(()) } else { Err(PinError::Pool(error)) }
}

enum Asked {
    Begins,
    Ends,
}

/// Cancels when no token has asked for a while; tells whether it did.
fn watch_for_quiet(
    cancel: Cancel,
    questions: std::sync::mpsc::Receiver<Asked>,
) -> std::thread::JoinHandle<bool> {
    std::thread::spawn(move || {
        loop {
            match questions.recv_timeout(QUIET) {
                // While a person types, there is no hurry.
                Ok(Asked::Begins) if questions.recv().is_ok() => {}
                Ok(Asked::Ends) => {}
                Ok(Asked::Begins) | Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    cancel.cancel();
                    return true;
                }
            }
        }
    })
}

fn text_of(pin: &[u8]) -> Text<128> {
    std::str::from_utf8(pin).ok().and_then(|pin| Text::new(pin).ok()).unwrap_or(Text::EMPTY)
}

/// Where PINs come from.
enum Person {
    Terminal(File),
    Lines(io::Stdin),
}

impl Person {
    fn find() -> io::Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Lines(io::stdin()));
        }
        File::options().read(true).write(true).open("/dev/tty").map(Self::Terminal)
    }

    fn ask(&mut self, entry: &Pinentry) -> Said {
        match self {
            Self::Terminal(tty) => ask_hidden(tty, &question(entry)).unwrap_or(Said::Interrupted),
            Self::Lines(stdin) => {
                println!("{}", question(entry));
                read_line(&mut stdin.lock()).unwrap_or(Said::Interrupted)
            }
        }
    }
}

/// What the person reads: the pool's words if it has some, and which token it is. Labels come from tokens,
/// so control characters do not reach the terminal.
fn question(entry: &Pinentry) -> String {
    let label = visible(entry.token_label.as_str());
    let mut words = visible(entry.prompt.as_str());
    if words.is_empty() || !words.contains(&label) {
        let wrong = if words.is_empty() && entry.attempt > 0 { "Wrong PIN." } else { "" };
        words = format!("{words}{wrong} PIN of token {label}");
    }
    let about =
        [entry.token_manufacturer.as_str(), entry.token_model.as_str()].map(visible).join(" ");
    let words = words.trim();
    match about.trim() {
        "" => format!("{words}, empty to refuse: "),
        about => format!("{words} ({about}), empty to refuse: "),
    }
}

/// Puts the terminal back as it was, whatever happens.
struct Hidden<'a> {
    tty: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    /// No echo. Control-C ends the line instead of the process, which could not put the echo back.
    fn new(tty: &'a File) -> io::Result<Self> {
        let before = tcgetattr(tty)?;
        let mut hidden = before.clone();
        hidden.local_modes -= LocalModes::ECHO | LocalModes::ISIG;
        hidden.local_modes |= LocalModes::ICANON;
        hidden.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(tty, OptionalActions::Flush, &hidden)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.tty, OptionalActions::Flush, &self.before);
    }
}

/// The echo is off before the question is seen: who types fast is not shown either.
fn ask_hidden(tty: &File, question: &str) -> io::Result<Said> {
    let said = {
        let hidden = Hidden::new(tty)?;
        write!({ hidden.tty }, "{question}")?;
        read_line(&mut { hidden.tty })?
    };
    writeln!({ tty })?;
    Ok(said)
}

/// One line, byte by byte, so that no buffer keeps a copy.
fn read_line(from: &mut impl Read) -> io::Result<Said> {
    let mut line = Zeroizing::new(Vec::with_capacity(256));
    let mut byte = Zeroizing::new([0u8]);
    loop {
        match from.read(&mut byte[..])? {
            0 if line.is_empty() => return Ok(Said::Interrupted),
            0 => break,
            _ => match byte[0] {
                b'\n' => break,
                INTERRUPT => return Ok(Said::Interrupted),
                _ if line.len() >= 256 => return Ok(Said::Nothing),
                other => line.push(other),
            },
        }
    }
    Ok(if line.is_empty() { Said::Nothing } else { Said::Pin(line) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(label: &str, attempt: u32) -> Pinentry {
        Pinentry {
            attempt,
            token_label: Text::new(label).unwrap(),
            token_model: Text::new("SoftHSM v2").unwrap(),
            ..Pinentry::default()
        }
    }

    #[test]
    fn the_question_names_the_token_and_tells_a_wrong_pin() {
        assert_eq!(question(&entry("web", 0)), "PIN of token web (SoftHSM v2), empty to refuse: ");
        assert!(question(&entry("web", 1)).starts_with("Wrong PIN. PIN of token web"));
        let asked = Pinentry { prompt: Text::cut("Last try for web"), ..entry("web", 2) };
        assert_eq!(question(&asked), "Last try for web (SoftHSM v2), empty to refuse: ");
        assert!(!question(&entry("\u{1b}[2J", 0)).contains('\u{1b}'));
    }

    #[test]
    fn lines_end_in_a_pin_a_refusal_or_the_end() {
        let mut input: &[u8] = b"1234\n\nlast";
        assert!(matches!(read_line(&mut input).unwrap(), Said::Pin(pin) if *pin == b"1234"));
        assert!(matches!(read_line(&mut input).unwrap(), Said::Nothing));
        assert!(matches!(read_line(&mut input).unwrap(), Said::Pin(pin) if *pin == b"last"));
        assert!(matches!(read_line(&mut input).unwrap(), Said::Interrupted));
        assert!(matches!(read_line(&mut &b"12\x03"[..]).unwrap(), Said::Interrupted));
    }

    #[test]
    fn a_pin_that_the_protocol_cannot_carry_is_a_refusal() {
        assert_eq!(text_of(b"1234").to_string(), "1234");
        assert_eq!(text_of(&[b'1'; 200]), Text::EMPTY);
        assert_eq!(text_of(&[0xff]), Text::EMPTY);
    }
}

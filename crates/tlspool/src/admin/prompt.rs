//! Asking a person for a PIN on the terminal, without echo.

use std::fs::File;
use std::io::{Read, Write};

use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use tlspool_keys::pin::{MAX_PIN, Pin, PinReply, PinRequest, PinSource};
use zeroize::Zeroizing;

/// How often a PIN is asked before the person has to start anew; the token may stop earlier.
const ATTEMPTS: u32 = 3;

/// Asks on the controlling terminal.
#[derive(Debug, Clone, Copy)]
pub struct TerminalPins;

impl PinSource for TerminalPins {
    fn pin(&self, request: &PinRequest) -> PinReply {
        if request.attempt > ATTEMPTS {
            return PinReply::Refused;
        }
        let warning = match (request.attempt, request.final_try, request.count_low) {
            (_, true, _) => "The next wrong PIN locks the token!\n",
            (1, _, true) => "A wrong PIN was tried before.\n",
            (1, ..) => "",
            _ => "Wrong PIN.\n",
        };
        match ask(&format!("{warning}PIN of token {}: ", request.token)) {
            Ok(Some(text)) => Pin::new(&text).map_or(PinReply::Refused, PinReply::Pin),
            Ok(None) => PinReply::Refused,
            Err(error) => {
                super::output::note(format_args!(
                    "cannot ask for the PIN ({error}); give it with pin-source=file:/path in the URI"
                ));
                PinReply::Refused
            }
        }
    }
}

/// Asks for a line on `/dev/tty` without showing it. None if the person pressed ^C or ^D, or
/// entered nothing. The text is wiped when dropped.
pub fn ask(question: &str) -> std::io::Result<Option<Zeroizing<String>>> {
    let tty = File::options().read(true).write(true).open("/dev/tty")?;
    // A token's label comes from outside: it must not drive the terminal.
    let question: String = question.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let line = {
        // First, because it drops what was typed before, which nobody typed for this question.
        let _quiet = Quiet::new(&tty)?;
        (&tty).write_all(question.as_bytes())?;
        read_line(&tty)
    };
    (&tty).write_all(b"\n")?;
    Ok(line?.filter(|text| !text.is_empty()))
}

/// Reads bytes up to the end of the line, with the keys that people expect.
fn read_line(mut tty: impl Read) -> std::io::Result<Option<Zeroizing<String>>> {
    // Room for all of it at once: growing would leave copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_PIN + 1));
    let mut byte = [0];
    loop {
        if tty.read(&mut byte)? == 0 {
            return Ok(None);
        }
        match byte[0] {
            b'\r' | b'\n' => break,
            0x03 | 0x04 => return Ok(None),
            0x08 | 0x7f => drop_character(&mut line),
            0x15 => line.clear(),
            _ if line.len() > MAX_PIN => {}
            other => line.push(other),
        }
    }
    match std::str::from_utf8(&line) {
        Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
        Err(_) => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "not UTF-8")),
    }
}

/// Removes the last character, which may be several bytes of UTF-8.
fn drop_character(line: &mut Vec<u8>) {
    while let Some(byte) = line.pop() {
        if byte & 0xc0 != 0x80 {
            break;
        }
    }
}

/// The terminal without echo, byte by byte, and as it was when dropped. Signals are off, so that ^C
/// cannot end the program with the echo gone; it arrives as a byte.
struct Quiet<'a> {
    tty: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(tty: &'a File) -> std::io::Result<Self> {
        let before = tcgetattr(tty)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        quiet.input_modes.insert(InputModes::ICRNL);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(tty, OptionalActions::Flush, &quiet)?;
        Ok(Self { tty, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = tcsetattr(self.tty, OptionalActions::Flush, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Option<String> {
        read_line(bytes).unwrap().map(|text| text.as_str().to_owned())
    }

    #[test]
    fn keys_do_what_people_expect() {
        assert_eq!(typed(b"1234\n"), Some("1234".to_owned()));
        assert_eq!(typed("12é\x7f\x7f34\r".as_bytes()), Some("134".to_owned()));
        assert_eq!(typed(b"wrong\x15right\n"), Some("right".to_owned()));
        assert_eq!(typed(b"12\x03"), None);
        assert_eq!(typed(b"12"), None);
        assert_eq!(
            typed(&[b"x".repeat(1000), b"\n".to_vec()].concat()).unwrap().len(),
            MAX_PIN + 1
        );
        assert!(read_line(&b"\xff\n"[..]).is_err());
    }
}

//! An authorizer that is a program behind a UNIX socket: a line of JSON each way, then the connection is
//! closed. docs/authorization.md has it for those who write one.
//!
//! ```text
//! {"version":1,"role":"server","remote":"john@example.org","local":"mail.example.com","service":"imap"}
//! {"allow":true}
//! ```

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::{Asked, Meeting, reason, within};

/// The version of the lines.
const VERSION: u32 = 1;

/// Bytes of an answer, with the end of its line.
pub const MAX_LINE: usize = 4096;

/// How long to wait while the program's queue of connections is full.
const QUEUE: Duration = Duration::from_millis(5);

/// How to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its socket.
    pub path: PathBuf,
    /// Time for an answer.
    pub timeout: Duration,
    /// Questions under way.
    pub questions: usize,
}

/// The program.
#[derive(Debug)]
pub(super) struct Program(Settings);

/// What it is asked.
#[derive(Debug, Serialize)]
struct Question<'a> {
    version: u32,
    role: &'a str,
    remote: Option<&'a str>,
    local: Option<&'a str>,
    service: Option<&'a str>,
}

/// What it answers.
#[derive(Debug, Deserialize)]
struct Line {
    /// Yes, no, or nothing to say (null). It must be there.
    #[serde(deserialize_with = "present")]
    allow: Option<bool>,
    #[serde(default)]
    reason: Option<String>,
}

/// Absence is no null.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    Option::deserialize(from)
}

impl Program {
    pub(super) fn new(settings: Settings) -> Self {
        Self(settings)
    }

    pub(super) async fn ask(&self, meeting: &Meeting<'_>) -> Asked {
        match timeout(self.0.timeout, self.exchange(meeting)).await {
            Ok(asked) => asked,
            Err(_) => Asked::Unreachable(within(self.0.timeout)),
        }
    }

    async fn exchange(&self, meeting: &Meeting<'_>) -> Asked {
        let unreachable = |error: io::Error| Asked::Unreachable(error.to_string());
        let mut stream = match self.connect().await {
            Ok(stream) => stream,
            Err(error) => return unreachable(error),
        };
        // One that answers before it has read everything may have closed its side; what it says counts.
        if let Err(error) = stream.write_all(question(meeting).as_bytes()).await
            && !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
        {
            return unreachable(error);
        }
        read(&mut stream).await
    }

    /// Connects; a full queue is waited for, within the time for an answer.
    async fn connect(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.0.path).await {
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(QUEUE).await,
                connected => return connected,
            }
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.path.display())
    }
}

/// The line that asks.
fn question(meeting: &Meeting<'_>) -> String {
    let named = |text| Some(text).filter(|text: &&str| !text.is_empty());
    let question = Question {
        version: VERSION,
        role: if meeting.server { "server" } else { "client" },
        remote: named(meeting.remote),
        local: named(meeting.local),
        service: named(meeting.service),
    };
    // Text and numbers are always JSON.
    serde_json::to_string(&question).unwrap_or_default() + "\n"
}

/// Reads the line that answers.
async fn read(from: &mut (impl AsyncRead + Unpin)) -> Asked {
    let mut line = Vec::with_capacity(256);
    loop {
        let mut piece = [0; 512];
        match from.read(&mut piece).await {
            Ok(0) if line.is_empty() => {
                return Asked::Unreachable("it hung up without an answer".to_owned());
            }
            Ok(0) => {
                return Asked::Unreachable("it hung up in the middle of its answer".to_owned());
            }
            Ok(length) => line.extend_from_slice(&piece[..length]),
            Err(error) => return Asked::Unreachable(error.to_string()),
        }
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            return read_line(&line[..end]);
        }
        if line.len() > MAX_LINE {
            return Asked::Failed(format!("its answer has more than {MAX_LINE} bytes"));
        }
    }
}

/// What a line says, without its end.
pub fn read_line(line: &[u8]) -> Asked {
    if line.len() > MAX_LINE {
        return Asked::Failed(format!("its answer has more than {MAX_LINE} bytes"));
    }
    match serde_json::from_slice::<Line>(line) {
        Ok(Line { allow: Some(allow), reason: why }) => {
            Asked::Opinion(allow, reason(why.as_deref().unwrap_or_default()))
        }
        Ok(Line { allow: None, .. }) => Asked::Silent,
        Err(error) => Asked::Failed(format!("its answer is none: {}", reason(&error.to_string()))),
    }
}

//! Decisions by others: may a peer, which has proved its name, have a session with us?
//!
//! [`Authorizers`] asks a program behind a UNIX socket ([`program`]) or RADIUS servers ([`radius`]). Each answer
//! is of the moment: nothing is remembered, and equal questions are asked as often as they come. How many are
//! under way at each authorizer is bounded, and so is the time; who comes on top of the bound is told so, as
//! an error. What cannot be asked, or gives no answer in time, is *unreachable*, which an administrator may
//! permit; what answers wrongly is a failure, which denies. Runs on one thread, within a local tokio runtime.

pub mod program;
pub mod radius;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tlspool_identity::is_hidden;
use tlspool_validate::sources::{
    Answer, Authorizer, Found, Looking, Opinion, Options, Origin, Outcome, Query,
};
use tokio::time::timeout_at;

use self::program::Program;
use self::radius::Radius;

/// Longest reason that an authorizer's is cut to, in bytes.
const MAX_REASON: usize = 200;

/// Who is asked; neither by default.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// A program behind a UNIX socket.
    pub program: Option<program::Settings>,
    /// RADIUS servers.
    pub radius: Option<radius::Settings>,
}

/// Asks authorizers.
#[derive(Debug, Default)]
pub struct Authorizers {
    program: Option<(Program, Seats)>,
    radius: Option<(Radius, Seats)>,
}

/// Who meets whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meeting<'a> {
    /// The peer's name; empty if it has shown none.
    pub remote: &'a str,
    /// Ours; empty if we have none here.
    pub local: &'a str,
    /// The service; empty if unknown.
    pub service: &'a str,
    /// We are the server.
    pub server: bool,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// It has an opinion; why, in words that may be empty.
    Opinion(bool, String),
    /// It has none.
    Silent,
    /// It could not be asked, or did not answer in time; why.
    Unreachable(String),
    /// It answered what is no answer, or there was no room to ask; why.
    Failed(String),
}

impl Authorizers {
    /// Asks nobody yet.
    pub fn new(settings: Settings) -> Self {
        let Settings { program, radius } = settings;
        Self {
            program: program.map(|settings| {
                let seats = Seats::new(settings.questions);
                (Program::new(settings), seats)
            }),
            radius: radius.map(|settings| {
                let seats = Seats::new(settings.questions);
                (Radius::new(settings), seats)
            }),
        }
    }

    /// Asks one of them.
    pub fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        Box::pin(async move {
            let begun = Instant::now();
            let mut steps = Vec::new();
            let outcome = self.ask(query, options.deadline, &mut steps).await;
            Found { outcome, origin: Origin::Live, elapsed: begun.elapsed(), lasts: None, steps }
        })
    }

    async fn ask(&self, query: &Query, deadline: Instant, steps: &mut Vec<String>) -> Outcome {
        let Query::Authorize { authorizer, remote, local, service, server } = query else {
            return Outcome::Failed("this is no question for an authorizer".to_owned());
        };
        let meeting = Meeting { remote, local, service, server: *server };
        let (by, asked) = match authorizer {
            Authorizer::Program => {
                let Some((program, seats)) = &self.program else { return not_configured() };
                let by = program.to_string();
                let asked = match seats.take(&by) {
                    Ok(_seat) => in_time(deadline, program.ask(&meeting)).await,
                    Err(full) => full,
                };
                (by, asked)
            }
            Authorizer::Radius => {
                let Some((radius, seats)) = &self.radius else { return not_configured() };
                match seats.take("RADIUS") {
                    Ok(_seat) => {
                        let mut by = radius.to_string();
                        let asked = in_time(deadline, radius.ask(&meeting, &mut by, steps)).await;
                        (by, asked)
                    }
                    Err(full) => (radius.to_string(), full),
                }
            }
        };
        let answer =
            |opinion, why| Outcome::Present(Answer::Authorization { opinion, by: by.clone(), why });
        match asked {
            Asked::Opinion(true, why) => answer(Opinion::Allow, why),
            Asked::Opinion(false, why) => answer(Opinion::Deny, why),
            Asked::Silent => Outcome::Absent(format!("{by} has no opinion")),
            Asked::Unreachable(why) => answer(Opinion::Unreachable, why),
            Asked::Failed(why) => Outcome::Failed(format!("{by}: {why}")),
        }
    }
}

fn not_configured() -> Outcome {
    Outcome::Failed("this authorizer is not configured".to_owned())
}

async fn in_time(deadline: Instant, asking: impl Future<Output = Asked>) -> Asked {
    match timeout_at(deadline.into(), asking).await {
        Ok(asked) => asked,
        Err(_) => Asked::Unreachable("no answer before the handshake's time was up".to_owned()),
    }
}

/// How many questions may be under way.
#[derive(Debug)]
struct Seats {
    taken: Rc<Cell<usize>>,
    limit: usize,
}

struct Seat(Rc<Cell<usize>>);

impl Seats {
    fn new(limit: usize) -> Self {
        Self { taken: Rc::default(), limit }
    }

    fn take(&self, whose: &str) -> Result<Seat, Asked> {
        if self.taken.get() >= self.limit {
            let limit = self.limit;
            let text = format!("{limit} questions are under way at {whose}, which is the limit");
            return Err(Asked::Failed(text));
        }
        self.taken.set(self.taken.get() + 1);
        Ok(Seat(self.taken.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// The reason of somebody outside, fit for a log and a terminal.
fn reason(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim().chars() {
        let c = if is_hidden(c) { '?' } else { c };
        if out.len() + c.len_utf8() > MAX_REASON {
            break;
        }
        out.push(c);
    }
    out
}

/// In words for people.
fn within(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}

#[cfg(test)]
mod tests;

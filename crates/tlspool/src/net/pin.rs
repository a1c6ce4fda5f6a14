//! PIN entry: one program at a time is registered, and asked for each token that waits. `keys.pin_users` says whose that
//! may be; root's takes the place of anybody else's.
//!
//! A PIN passes through this process only in records that are wiped as soon as they are handed
//! on to the key process; it is kept nowhere here.
//!
//! A daemon that drains lets its program go to the successor, as soon as no request of its own waits for a token.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tlspool_engine::Cancel;
use tlspool_wire::{Body, Pinentry, PoolError};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::client::{Client, InFlight};
use super::limits::ROOT;

/// How long a registered program may take to answer when it did not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);

/// The longest time to answer that counts.
const MAX_TIMEOUT: Duration = Duration::from_mins(10);

/// Where tokens wait for PINs and a program enters them.
#[derive(Default)]
pub(crate) struct PinDesk {
    desk: Mutex<Desk>,
    /// Told when a program registers.
    arrived: Notify,
    /// One question at a time, so that a person sees one prompt.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Desk {
    registrant: Option<Registrant>,
    /// Tokens for whose PIN a request waits.
    questions: usize,
    /// New requests go to another daemon.
    drains: bool,
}

struct Registrant {
    client: Arc<Client>,
    reqid: u16,
    timeout: Duration,
    /// When the answer to the current question is due; later, another program may take over.
    due: Option<Instant>,
    /// Asked when another program takes its place: what it is asked for, that one is asked.
    replaced: Cancel,
    _in_flight: InFlight,
}

impl PinDesk {
    /// Registers `client` as the program that enters PINs.
    pub(crate) fn register(
        &self,
        client: &Arc<Client>,
        reqid: u16,
        request: &Pinentry,
        in_flight: InFlight,
    ) -> Result<(), PoolError> {
        let mut desk = self.desk.lock();
        if desk.is_over() {
            return Err(PoolError::Draining);
        }
        if let Some(holder) = &desk.registrant {
            let late = holder.due.is_some_and(|due| due < Instant::now());
            let replaces_itself = holder.client.id == client.id && holder.reqid == reqid;
            let yields = client.uid() == ROOT && holder.client.uid() != ROOT;
            if !holder.client.gone.is_requested() && !late && !replaces_itself && !yields {
                return Err(PoolError::PinentryNotVacant);
            }
            if late || yields {
                let text = if late {
                    "your answer came too late; another program enters PINs now"
                } else {
                    "a program of root enters PINs now"
                };
                holder.client.send_error(holder.reqid, PoolError::PinentryNotVacant, text);
            }
            if !replaces_itself {
                holder.replaced.request();
            }
        }
        let timeout = match request.timeout_us {
            0 | u32::MAX => DEFAULT_TIMEOUT,
            micros => Duration::from_micros(micros.into()).min(MAX_TIMEOUT),
        };
        tracing::info!(client = %client.peer, "enters PINs from now on");
        desk.registrant = Some(Registrant {
            client: client.clone(),
            reqid,
            timeout,
            due: None,
            replaced: Cancel::default(),
            _in_flight: in_flight,
        });
        drop(desk);
        self.arrived.notify_waiters();
        Ok(())
    }

    /// The connection is gone; if it entered PINs, the place is vacant.
    pub(crate) fn client_left(&self, client: &Client) {
        let registrant = &mut self.desk.lock().registrant;
        if registrant.as_ref().is_some_and(|holder| holder.client.id == client.id) {
            *registrant = None;
        }
    }

    /// The daemon drains: tokens that wait here are still asked for, then the program is let go.
    pub(crate) fn drain(&self) {
        let mut desk = self.desk.lock();
        desk.drains = true;
        desk.let_go();
    }

    /// Whether a program is registered.
    pub(crate) fn is_attended(&self) -> bool {
        let desk = self.desk.lock();
        desk.registrant.as_ref().is_some_and(|holder| !holder.client.gone.is_requested())
    }

    /// Asks for a PIN; waits for a program to register if none is. `None` if the person refuses.
    pub(crate) async fn ask(&self, question: &Pinentry) -> Option<Zeroizing<String>> {
        let _turn = self.turn.lock().await;
        loop {
            let arrived = self.arrived.notified();
            let Some((client, reqid, timeout, replaced)) = self.begin() else {
                arrived.await;
                continue;
            };
            let body = Body::Pinentry(Pinentry {
                timeout_us: u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX),
                ..question.clone()
            });
            let asking = Asking { desk: self, client: &client };
            let answer = tokio::select! {
                answer = client.call_back(reqid, body, timeout) => answer,
                () = replaced.requested() => {
                    drop(asking);
                    continue;
                }
            };
            drop(asking);
            let Ok(answer) = answer else {
                // It left or sleeps: the next program to register is asked instead.
                self.client_left(&client);
                client.send_error(reqid, PoolError::Timeout, "no PIN came in time");
                continue;
            };
            return match &answer.body {
                Body::Pinentry(entered) if !entered.pin.is_empty() => {
                    let token = question.token_label.as_str();
                    tracing::info!(client = %client.peer, token, "a PIN was entered");
                    Some(Zeroizing::new(entered.pin.as_str().to_owned()))
                }
                _ => None,
            };
        }
    }

    fn begin(&self) -> Option<(Arc<Client>, u16, Duration, Cancel)> {
        let mut desk = self.desk.lock();
        let holder = desk.registrant.as_mut();
        let holder = holder.filter(|holder| !holder.client.gone.is_requested())?;
        holder.due = Some(Instant::now() + holder.timeout);
        Some((holder.client.clone(), holder.reqid, holder.timeout, holder.replaced.clone()))
    }

    fn finish(&self, client: &Client) {
        if let Some(holder) = self.desk.lock().registrant.as_mut()
            && holder.client.id == client.id
        {
            holder.due = None;
        }
    }
}

/// A question is with a program; until this is dropped, as it is when nobody needs the answer any more.
struct Asking<'a> {
    desk: &'a PinDesk,
    client: &'a Client,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.desk.finish(self.client);
    }
}

impl Desk {
    /// Whether nobody will be asked any more.
    fn is_over(&self) -> bool {
        self.drains && self.questions == 0
    }

    /// Sends the program to the next daemon, if it is not needed here any more.
    fn let_go(&mut self) {
        if self.is_over()
            && let Some(holder) = self.registrant.take()
        {
            let text = "this pool is being replaced; register again";
            holder.client.send_error(holder.reqid, PoolError::Draining, text);
        }
    }
}

/// A token waits for its PIN; until this is dropped.
pub(crate) struct Waits {
    desk: Arc<PinDesk>,
    /// A request waits, too.
    wanted: bool,
}

impl Waits {
    pub(crate) fn new(desk: Arc<PinDesk>) -> Self {
        let mut waits = Self { desk, wanted: false };
        waits.set_wanted(true);
        waits
    }

    /// Whether a request waits for the token. If none does, a daemon that drains lets the program go.
    pub(crate) fn set_wanted(&mut self, wanted: bool) {
        if std::mem::replace(&mut self.wanted, wanted) == wanted {
            return;
        }
        let mut desk = self.desk.desk.lock();
        if wanted {
            desk.questions += 1;
        } else {
            desk.questions -= 1;
            desk.let_go();
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.set_wanted(false);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tlspool_wire::{Packet, Text};
    use tokio::runtime::{Builder, LocalOptions};

    use super::super::client::Answer;
    use super::super::limits::Meter;
    use super::super::peer::Peer;
    use super::*;

    /// A program's connection, and the program's end of it.
    fn program(uid: u32) -> (Arc<Client>, UnixStream) {
        let (here, there) = UnixStream::pair().unwrap();
        let peer = Peer { pid: 7, uid, groups: Vec::new() };
        let counted = Arc::<Meter>::default().take(uid, 10, 10).ok().unwrap();
        (Client::new(Arc::new(here.into()), peer, counted), there)
    }

    fn register(desk: &PinDesk, client: &Arc<Client>) -> Result<(), PoolError> {
        let request = Pinentry { timeout_us: u32::MAX - 1, ..Pinentry::default() };
        desk.register(client, 5, &request, client.begin(10).unwrap())
    }

    /// The next record that the program gets.
    fn next(program: &mut UnixStream) -> Packet {
        use std::io::Read;
        let mut bytes = [0; tlspool_wire::RECORD_LEN];
        program.read_exact(&mut bytes).unwrap();
        Packet::decode(&bytes).unwrap()
    }

    #[test]
    fn root_takes_the_place_and_the_question() {
        let desk = Arc::<PinDesk>::default();
        let ((user, mut at_user), (root, mut at_root)) = (program(1000), program(ROOT));
        register(&desk, &user).unwrap();
        let (other, _at_other) = program(1001);
        assert_eq!(register(&desk, &other), Err(PoolError::PinentryNotVacant));
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.unwrap().block_on(async {
            let asking = desk.clone();
            let asked = tokio::task::spawn_local(async move {
                let question = Pinentry { token_label: Text::cut("web"), ..Pinentry::default() };
                asking.ask(&question).await
            });
            tokio::task::yield_now().await;
            let Body::Pinentry(question) = next(&mut at_user).body else { panic!("no question") };
            // As long as it wanted, within bounds.
            assert_eq!(u128::from(question.timeout_us), MAX_TIMEOUT.as_micros());
            register(&desk, &root).unwrap();
            let Body::Error(error) = next(&mut at_user).body else { panic!("it was not told") };
            assert_eq!(PoolError::from_code(error.code), Some(PoolError::PinentryNotVacant));
            while !asked.is_finished()
                && desk.desk.lock().registrant.as_ref().unwrap().due.is_none()
            {
                tokio::task::yield_now().await;
            }
            let again = next(&mut at_root);
            let body =
                Body::Pinentry(Pinentry { pin: Text::cut("1234").into(), ..Pinentry::default() });
            assert!(root.answered(again.reqid, again.cbid, Answer { body, descriptor: None }));
            assert_eq!(asked.await.unwrap().unwrap().as_str(), "1234");
        });
        // Root's is not displaced by anybody.
        assert_eq!(register(&desk, &user), Err(PoolError::PinentryNotVacant));
        assert_eq!(register(&desk, &program(ROOT).0), Err(PoolError::PinentryNotVacant));
    }
}

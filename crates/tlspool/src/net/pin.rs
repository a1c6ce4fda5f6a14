//! PIN entry: one program at a time is registered, and asked for each token that waits.
//!
//! A PIN passes through this process only in records that are wiped as soon as they are handed
//! on to the key process; it is kept nowhere here.
//!
//! A daemon that drains lets its program go to the successor, as soon as no token of its own waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tlspool_wire::{Body, Pinentry, PoolError};
use tokio::sync::Notify;
use zeroize::Zeroizing;

use super::client::{Client, InFlight};

/// How long a registered program may take to answer when it did not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);

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
    /// Tokens that wait for a PIN.
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
            if !holder.client.gone.is_requested() && !late && !replaces_itself {
                return Err(PoolError::PinentryNotVacant);
            }
            if late {
                let text = "your answer came too late; another program enters PINs now";
                holder.client.send_error(holder.reqid, PoolError::PinentryNotVacant, text);
            }
        }
        let timeout = match request.timeout_us {
            0 | u32::MAX => DEFAULT_TIMEOUT,
            micros => Duration::from_micros(micros.into()),
        };
        desk.registrant = Some(Registrant {
            client: client.clone(),
            reqid,
            timeout,
            due: None,
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
            let Some((client, reqid, timeout)) = self.begin() else {
                arrived.await;
                continue;
            };
            let body = Body::Pinentry(Pinentry {
                timeout_us: u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX),
                ..question.clone()
            });
            let asking = Asking { desk: self, client: &client };
            let answer = client.call_back(reqid, body, timeout).await;
            drop(asking);
            let Ok(answer) = answer else {
                // It left or sleeps: the next program to register is asked instead.
                self.client_left(&client);
                client.send_error(reqid, PoolError::Timeout, "no PIN came in time");
                continue;
            };
            return match &answer.body {
                Body::Pinentry(entered) if !entered.pin.is_empty() => {
                    Some(Zeroizing::new(entered.pin.as_str().to_owned()))
                }
                _ => None,
            };
        }
    }

    fn begin(&self) -> Option<(Arc<Client>, u16, Duration)> {
        let mut desk = self.desk.lock();
        let holder = desk.registrant.as_mut();
        let holder = holder.filter(|holder| !holder.client.gone.is_requested())?;
        holder.due = Some(Instant::now() + holder.timeout);
        Some((holder.client.clone(), holder.reqid, holder.timeout))
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
pub(crate) struct Waits(Arc<PinDesk>);

impl Waits {
    pub(crate) fn new(desk: Arc<PinDesk>) -> Self {
        desk.desk.lock().questions += 1;
        Self(desk)
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let mut desk = self.0.desk.lock();
        desk.questions -= 1;
        desk.let_go();
    }
}

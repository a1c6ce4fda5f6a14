//! Programs that serve the pool: PIN entry, and the choice of local identities.
//!
//! Each uses a connection of its own, because the registration ends with it.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use tlspool_wire::{Body, Lidentry, Packet, Pinentry, Text};

use super::link::{Link, Ticket};
use super::{Cancel, Pool};
use crate::exchange::NotStarted;
use crate::{Error, Refusal};

impl Pool {
    /// Enters PINs for the pool at `self`'s path until the registration ends, which the error
    /// tells: `ask` sees which token waits and sets `pin`; an empty one is a refusal. One program
    /// at a time may do this. An answer that takes longer than `timeout_us` microseconds may
    /// find another program registered. The registration moves on to a pool that takes the place of
    /// this one.
    pub fn pin_service(
        &self,
        flags: u32,
        timeout_us: u32,
        cancel: &Cancel,
        mut ask: impl FnMut(&mut Pinentry),
    ) -> Error {
        serve(Service::pins(self, flags, timeout_us), cancel, |question| match question {
            Body::Pinentry(mut entry) => {
                *entry.pin = Text::EMPTY;
                ask(&mut entry);
                Some(Body::Pinentry(entry))
            }
            _ => None,
        })
    }

    /// Chooses local identities, for the programs of this user (root: of all users who have nobody),
    /// until the registration ends, which the error tells. `choose` is shown what the pool knows, and
    /// changes it to its choice or refuses; an empty `localid` is the choice to show nobody. With
    /// [`LidentryFlags::DBENTRY`](crate::LidentryFlags::DBENTRY) set it is merely told what could be
    /// chosen, and should not refuse. The registration moves on to a pool that takes the place of
    /// this one.
    pub fn lidentry_service(
        &self,
        registration: Lidentry,
        cancel: &Cancel,
        mut choose: impl FnMut(&mut Lidentry) -> Result<(), Refusal>,
    ) -> Error {
        serve(Service::choices(self, registration), cancel, |question| match question {
            Body::LidentryCallback(mut entry) => Some(match choose(&mut entry) {
                Ok(()) => Body::LidentryCallback(entry),
                Err(refusal) => refusal.into_body(),
            }),
            _ => None,
        })
    }
}

/// How often in a row a registration is made anew with nothing asked in between.
const ATTEMPTS: usize = 4;

/// A registration with the pool, for those who wait by themselves; it ends when this is dropped. Others have
/// [`Pool::pin_service`] and [`Pool::lidentry_service`].
#[derive(Debug)]
pub struct Service {
    pool: Pool,
    register: Body,
    ticket: Ticket,
    attempts: usize,
    /// The callback that waits for an answer.
    cbid: u16,
    unsent: Option<Error>,
}

impl Service {
    /// Registers to enter PINs; see [`Pool::pin_service`].
    pub fn pins(pool: &Pool, flags: u32, timeout_us: u32) -> Result<Self, Error> {
        Self::new(pool, Body::Pinentry(Pinentry { flags, timeout_us, ..Pinentry::default() }))
    }

    /// Registers to choose local identities; see [`Pool::lidentry_service`].
    pub fn choices(pool: &Pool, registration: Lidentry) -> Result<Self, Error> {
        Self::new(pool, Body::LidentryRegister(registration))
    }

    fn new(pool: &Pool, register: Body) -> Result<Self, Error> {
        let ticket = enlist(pool, register.clone())?;
        Ok(Self { pool: pool.clone(), register, ticket, attempts: 1, cbid: 0, unsent: None })
    }

    /// The next question, if it is there; to be answered before the one after it is asked for. If there is none, more
    /// may be there when [`Self::socket`] is readable. An error is the end of the registration.
    pub fn question(&mut self) -> Result<Option<Body>, Error> {
        while let Some(received) = self.ticket.poll() {
            if let Some(question) = self.judge(received)? {
                return Ok(Some(question));
            }
        }
        Ok(None)
    }

    /// What to poll; another one after each question, or after there was none.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.ticket.link().socket()
    }

    /// Answers the last question, with its own body filled in, or with [`crate::raw::refusal`].
    pub fn answer(&mut self, body: Body) {
        if let Err(error) = self.ticket.answer(self.cbid, body, None) {
            // While the answer was found, nobody waited for it any more; where to go is to be read yet.
            self.unsent = Some(error);
        }
    }

    /// What a record means: a question, the end, or (none) that the registration has moved on.
    fn judge(&mut self, received: Result<Packet, Error>) -> Result<Option<Body>, Error> {
        let packet = received.map_err(|error| self.unsent.take().unwrap_or(error))?;
        let Body::Error(reply) = &packet.body else {
            self.attempts = 1;
            self.cbid = packet.cbid;
            return Ok(Some(packet.body));
        };
        self.ticket.finish();
        let error = Error::from_reply(reply);
        if !error.is_draining() || self.attempts >= ATTEMPTS {
            return Err(error);
        }
        // Its successor listens at the same place.
        self.attempts += 1;
        self.unsent = None;
        self.ticket = enlist(&self.pool, self.register.clone())?;
        Ok(None)
    }
}

/// Answers callbacks until the pool ends the registration.
fn serve(
    registered: Result<Service, Error>,
    cancel: &Cancel,
    mut answer: impl FnMut(Body) -> Option<Body>,
) -> Error {
    let mut service = match registered {
        Ok(service) => service,
        Err(error) => return error,
    };
    cancel.watch(&service.ticket);
    loop {
        let received = service.ticket.wait();
        match service.judge(received) {
            Err(error) => return error,
            Ok(None) => cancel.watch(&service.ticket),
            Ok(Some(question)) => match answer(question) {
                Some(body) => service.answer(body),
                None => return Error::Protocol("not a callback of this service"),
            },
        }
    }
}

fn enlist(pool: &Pool, register: Body) -> Result<Ticket, Error> {
    let link = Arc::new(Link::new(pool.open_raw()?)?);
    link.start(register, [None, None]).map_err(NotStarted::into_lost)
}

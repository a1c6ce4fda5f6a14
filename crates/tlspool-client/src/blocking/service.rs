//! Programs that serve the pool: PIN entry, and the choice of local identities.
//!
//! Each uses a connection of its own, because the registration ends with it.

use std::sync::Arc;

use tlspool_wire::{Body, Lidentry, Pinentry, Text};

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
        let register = Body::Pinentry(Pinentry { flags, timeout_us, ..Pinentry::default() });
        serve(self, &register, cancel, |body| match body {
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
        serve(self, &Body::LidentryRegister(registration), cancel, |body| match body {
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

/// Registers, then answers callbacks until the pool ends it.
fn serve(
    pool: &Pool,
    register: &Body,
    cancel: &Cancel,
    mut answer: impl FnMut(Body) -> Option<Body>,
) -> Error {
    let mut ticket = match enlist(pool, register.clone()) {
        Ok(ticket) => ticket,
        Err(error) => return error,
    };
    cancel.watch(&ticket);
    let mut attempts = 1;
    let mut unsent = None;
    loop {
        let packet = match ticket.wait() {
            Ok(packet) => packet,
            Err(error) => return unsent.unwrap_or(error),
        };
        if let Body::Error(reply) = &packet.body {
            ticket.finish();
            let error = Error::from_reply(reply);
            if !error.is_draining() || attempts >= ATTEMPTS {
                return error;
            }
            // Its successor listens at the same place.
            attempts += 1;
            unsent = None;
            ticket = match enlist(pool, register.clone()) {
                Ok(ticket) => ticket,
                Err(error) => return error,
            };
            cancel.watch(&ticket);
            continue;
        }
        attempts = 1;
        let Some(body) = answer(packet.body) else {
            return Error::Protocol("not a callback of this service");
        };
        if let Err(error) = ticket.answer(packet.cbid, body, None) {
            // While the answer was found, nobody waited for it any more; where to go is to be read yet.
            unsent = Some(error);
        }
    }
}

fn enlist(pool: &Pool, register: Body) -> Result<Ticket, Error> {
    let link = Arc::new(Link::new(pool.open_raw()?)?);
    link.start(register, [None, None]).map_err(NotStarted::into_lost)
}

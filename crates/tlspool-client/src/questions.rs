//! The requests that are one question and one answer: how to ask, and how to read the answer.
//! Both clients send them; neither knows more than this about their contents.

use tlspool_wire::packet::{INFO_BUFFER, INFO_QUERY};
use tlspool_wire::{
    Body, ControlRequest, CtlKey, Facilities, Info, Packet, Ping, Prng, Starttls, StarttlsFlags,
    Text,
};

use crate::error::NameField;
use crate::{Error, StarttlsRequest};

/// The body of a final answer, errors apart.
pub(crate) fn answer(packet: Packet) -> Result<Body, Error> {
    match packet.body {
        Body::Error(reply) => Err(Error::from_reply(&reply)),
        body => Ok(body),
    }
}

pub(crate) fn done(body: &Body) -> Result<(), Error> {
    match body {
        Body::Success => Ok(()),
        _ => Err(Error::Protocol("not SUCCESS")),
    }
}

pub(crate) fn ping(identity: &str, facilities: Facilities) -> Result<Body, Error> {
    let identity = Text::new(identity).named("identity")?;
    Ok(Body::Ping(Ping { identity, facilities: facilities.0 }))
}

pub(crate) fn ping_answer(body: Body) -> Result<Ping, Error> {
    match body {
        Body::Ping(ping) => Ok(ping),
        _ => Err(Error::Protocol("not an answer to PING")),
    }
}

pub(crate) fn detach(ctlkey: CtlKey) -> Body {
    Body::ControlDetach(ControlRequest { ctlkey, ..ControlRequest::default() })
}

pub(crate) fn reattach(ctlkey: CtlKey) -> Body {
    Body::ControlReattach(ControlRequest { ctlkey, ..ControlRequest::default() })
}

pub(crate) fn renegotiate(request: StarttlsRequest) -> Body {
    let mut fields = Starttls::from(request);
    fields.flags = fields.flags.without(StarttlsFlags::LOCALID_CHECK) | StarttlsFlags::RENEGOTIATE;
    Body::Starttls(fields)
}

pub(crate) fn renegotiate_answer(body: Body) -> Result<Starttls, Error> {
    match body {
        Body::Starttls(names) => Ok(names),
        _ => Err(Error::Protocol("not an answer to STARTTLS")),
    }
}

pub(crate) fn prng(
    ctlkey: CtlKey,
    label: &str,
    context: Option<&[u8]>,
    wanted: usize,
) -> Result<Body, Error> {
    let question = Prng::question(ctlkey, label.as_bytes(), context, wanted);
    Ok(Body::Prng(question.ok_or(Error::TooLong("label, context or keying material"))?))
}

pub(crate) fn prng_answer(body: &Body, out: &mut [u8]) -> Result<(), Error> {
    match body {
        Body::Prng(answer) if usize::try_from(answer.prng_len) == Ok(out.len()) => {
            out.copy_from_slice(&answer.buffer[..out.len()]);
            Ok(())
        }
        _ => Err(Error::Protocol("not the keying material that was asked for")),
    }
}

/// A query, or with a `value` a check.
pub(crate) fn info(ctlkey: CtlKey, kind: u32, value: Option<&[u8]>) -> Result<Body, Error> {
    let mut buffer = [0; INFO_BUFFER];
    let mut len = INFO_QUERY;
    if let Some(value) = value {
        buffer.get_mut(..value.len()).ok_or(Error::TooLong("value"))?.copy_from_slice(value);
        len = value.len() as u16;
    }
    Ok(Body::Info(Info { ctlkey, kind, len, buffer }))
}

pub(crate) fn info_answer(body: &Body) -> Result<Vec<u8>, Error> {
    let Body::Info(answer) = body else {
        return Err(Error::Protocol("not an answer to INFO"));
    };
    match answer.buffer.get(..usize::from(answer.len)) {
        Some(value) => Ok(value.to_vec()),
        None => Err(Error::Protocol("information longer than its buffer")),
    }
}

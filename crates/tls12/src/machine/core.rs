//! What outlives a handshake, and what every handshake does with it.

use super::{Core, NextKeys, Output};
use crate::codec::kind;
use crate::crypto::{RecordKey, Transcript};
use crate::error::Error;
use crate::keys::{Exporter, Role, Secrets, VERIFY_DATA, check_finished};
use crate::record::{MAX_IDLE, Message};

impl Core {
    /// Sends a handshake message.
    pub(super) fn say(&mut self, transcript: &mut Transcript, kind: u8, body: &[u8]) {
        #[cfg(test)]
        if let Some(liar) = &mut self.liar {
            for (kind, body) in liar(kind, body) {
                let raw = self.transport.queue(kind, &body);
                transcript.add(&raw);
            }
            return;
        }
        let raw = self.transport.queue(kind, body);
        transcript.add(&raw);
    }

    /// Sends our Finished, as `sender`, for all that is in the transcript. Returns its verify_data.
    pub(super) fn say_finished(
        &mut self,
        transcript: &mut Transcript,
        secrets: &Secrets,
        sender: Role,
    ) -> Result<[u8; VERIFY_DATA], Error> {
        let digest = transcript.digest(secrets.suite.hash);
        let data = secrets.verify_data(sender, digest.as_ref())?;
        self.say(transcript, kind::FINISHED, &data);
        Ok(data)
    }

    /// Takes the Finished of the peer, which is `sender`: it is about all that is in the transcript. Returns its
    /// verify_data.
    pub(super) fn hear_finished(
        &mut self,
        transcript: &mut Transcript,
        secrets: &Secrets,
        sender: Role,
        message: &Message,
    ) -> Result<[u8; VERIFY_DATA], Error> {
        let digest = transcript.digest(secrets.suite.hash);
        let expected = secrets.verify_data(sender, digest.as_ref())?;
        check_finished(&expected, message.body())?;
        self.transport.confirm_rx();
        transcript.add(&message.raw);
        Ok(expected)
    }

    /// The keys are known; the peer will change to `key`.
    pub(super) fn prepare_rx(&mut self, key: RecordKey, secrets: &Secrets) -> Result<(), Error> {
        if self.transport.is_sctp() {
            let exporter = Exporter::new(secrets, [0; VERIFY_DATA]);
            self.next_keys = Some(NextKeys { exporter, told: false, changed: false, done: false });
        }
        self.transport.prepare_rx(key)
    }

    pub(super) fn ask(&mut self, question: Output) {
        // A signature is wanted for a flight of ours that has begun; all else follows one of the peer's.
        if !matches!(question, Output::Sign(_)) {
            self.transport.flight_answered();
        }
        self.events.push_back(question);
    }

    /// Something came that changes nothing.
    pub(super) fn nothing(&mut self) -> Result<(), Error> {
        self.idle += 1;
        if self.idle > MAX_IDLE { Err(Error::Flood) } else { Ok(()) }
    }
}

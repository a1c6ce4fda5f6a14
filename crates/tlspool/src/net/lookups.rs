//! A worker's way to the look-up process.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tlspool_lookup::process::{Counters, LookupClient};
use tlspool_validate::sources::{Looking, Options, Query, Sources};

/// How long the look-up process may take to tell what it does.
const STATUS_TIME: Duration = Duration::from_secs(1);

/// Looks up what validation asks for; fails if look-ups are not configured. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lookups {
    client: LookupClient,
}

impl Lookups {
    /// Without a process yet; `expected` if one will be there soon.
    pub(crate) fn new(expected: bool) -> Self {
        let client = LookupClient::off();
        if expected {
            client.expect();
        }
        Self { client }
    }

    /// The look-up process was started; without a channel: there is none any more.
    pub(crate) fn restarted(&self, channel: Option<OwnedFd>) {
        match channel.map(|channel| self.client.connect(channel)) {
            None => self.client.disconnect(),
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!("the new look-up process cannot be reached: {error}");
            }
        }
    }

    /// What the look-up process has done so far, for all workers.
    pub(crate) async fn counters(&self) -> Option<Counters> {
        self.client.status(STATUS_TIME).await.ok()
    }
}

impl Sources for Lookups {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        self.client.look_up(query, options)
    }
}

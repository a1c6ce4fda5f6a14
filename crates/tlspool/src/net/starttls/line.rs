//! The one line that a handshake leaves in the log.

use std::time::Instant;

use tlspool_engine::Summary;
use tlspool_store::Role;

use super::Failure;
use crate::net::client::Client;

/// The one line that a handshake leaves in the log.
pub(super) struct Line<'a> {
    pub(super) client: &'a Client,
    pub(super) role: Role,
    pub(super) local: String,
    pub(super) remote: String,
    pub(super) begun: Instant,
}

impl Line<'_> {
    pub(super) fn stands(&self, summary: &Summary) {
        tracing::info!(
            client = %self.client.peer,
            role = %self.role,
            local = self.local,
            remote = self.remote,
            protocol = summary.protocol,
            suite = summary.suite,
            group = summary.group,
            resumed = summary.resumed,
            ms = self.begun.elapsed().as_millis() as u64,
            "handshake done"
        );
    }

    pub(super) fn failed(&self, failure: &Failure) {
        tracing::warn!(
            client = %self.client.peer,
            role = %self.role,
            local = self.local,
            remote = self.remote,
            error = %failure.error,
            ms = self.begun.elapsed().as_millis() as u64,
            "handshake failed: {}", failure.text
        );
    }
}

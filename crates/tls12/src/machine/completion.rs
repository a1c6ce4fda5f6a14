//! The end of a handshake: what it has brought, and what the connection becomes by it.

use std::sync::Arc;

use super::{Agreed, Config, Core, Output, Phase, Renegotiated, Session, Step, Summary, client};
use crate::codec::PeerCertificate;
use crate::config::{Anonymous, Credential};
use crate::crypto::Group;
use crate::error::Error;
use crate::keys::{Exporter, Secrets, VERIFY_DATA};
use crate::ticket::ClientSession;

/// A handshake that is about to be, or is, complete.
pub(super) struct Completion {
    pub(super) secrets: Secrets,
    pub(super) group: Option<Group>,
    pub(super) peer: Option<PeerCertificate>,
    pub(super) peer_key: Vec<u8>,
    pub(super) shown: Option<Arc<Credential>>,
    pub(super) server_name: Option<String>,
    pub(super) alpn: Option<Vec<u8>>,
    pub(super) resumed: bool,
    pub(super) client_session: Option<ClientSession>,
    pub(super) renegotiation: bool,
    pub(super) requested: bool,
    pub(super) client_verify: [u8; VERIFY_DATA],
    pub(super) server_verify: [u8; VERIFY_DATA],
    pub(super) tls_unique: [u8; VERIFY_DATA],
}

impl Completion {
    pub(super) fn new(
        secrets: Secrets,
        agreed: &Agreed,
        server_name: Option<String>,
        renegotiation: bool,
        requested: bool,
    ) -> Self {
        Self {
            secrets,
            group: None,
            peer: None,
            peer_key: Vec::new(),
            shown: None,
            server_name,
            alpn: agreed.alpn.clone(),
            resumed: false,
            client_session: None,
            renegotiation,
            requested,
            client_verify: [0; VERIFY_DATA],
            server_verify: [0; VERIFY_DATA],
            tls_unique: [0; VERIFY_DATA],
        }
    }
}

impl Core {
    /// A handshake is finished on both sides.
    pub(super) fn complete(&mut self, completion: Completion) -> Result<Step, Error> {
        self.transport.handshake_completed();
        if let Some(keys) = &mut self.next_keys {
            keys.done = true;
        }
        let anonymous = completion.secrets.suite.is_anonymous();
        let before = self.session.take();
        let private = self.phase == Phase::Anonymous
            || before.as_ref().is_some_and(|before| before.summary.private);
        let peer_changed = before.as_ref().is_none_or(|b| b.summary.peer != completion.peer);
        let shown_changed = before.as_ref().is_none_or(|b| b.summary.shown != completion.shown);
        self.session = Some(Session {
            exporter: Exporter::new(&completion.secrets, completion.tls_unique),
            summary: Summary {
                suite: completion.secrets.suite,
                group: completion.group,
                peer: completion.peer,
                peer_key: completion.peer_key,
                shown: completion.shown,
                server_name: completion.server_name,
                alpn: completion.alpn,
                resumed: completion.resumed,
                private,
            },
            client_verify: completion.client_verify,
            server_verify: completion.server_verify,
        });
        if let Some(session) = completion.client_session {
            self.events.push_back(Output::Session(Box::new(session)));
        }
        if self.phase == Phase::Open {
            let requested = completion.requested;
            self.events.push_back(Output::Renegotiated(Renegotiated {
                requested,
                peer_changed,
                shown_changed,
            }));
            return Ok(Step::Done);
        }
        debug_assert_eq!(completion.renegotiation, self.phase == Phase::Anonymous);
        if anonymous && self.config.common().anonymous != Anonymous::Final {
            self.phase = Phase::Anonymous;
            return match &self.config {
                Config::Client(config) => {
                    let config = config.clone();
                    client::Handshake::start(self, &config, true)
                        .map(|handshake| Step::Client(Box::new(handshake)))
                }
                Config::Server(_) => Ok(Step::Done),
            };
        }
        self.phase = Phase::Open;
        self.opened = true;
        self.events.push_back(Output::Established);
        Ok(Step::Done)
    }
}

//! Judges our own credentials as a stranger would who knows nothing of us: by the default policy, with the system's
//! trust anchors and no tables, and by what is published. For `tlspool identity check`; nothing of the daemon
//! calls it.

use std::sync::Arc;
use std::time::Instant;

use rustls_pki_types::UnixTime;
use tlspool_identity::DoNai;
use tlspool_validate::{
    Credential, Endpoint, Inquiry, LdapMatch, Legacy, Negotiated, NoTables, Peer, PolicySettings,
    PolicyValidator, Refused, SystemAnchors, TrustAnchors, Validated,
};

use crate::config::Config;
use crate::lookups;

/// What is shown to the stranger, and where.
pub(crate) struct Showing<'a> {
    /// The credential.
    pub(crate) credential: Credential<'a>,
    /// Who is wanted.
    pub(crate) name: &'a DoNai,
    /// Our side.
    pub(crate) peer: Peer,
    /// Where a server is; none for clients.
    pub(crate) endpoint: Option<Endpoint>,
    /// The service; empty if there is none in particular.
    pub(crate) service: &'a str,
}

/// What the stranger makes of each, with a trace. Asks the DNS and directories anew. An error means that
/// nothing can be asked.
pub(crate) fn judge(
    config: &Config,
    showings: &[Showing<'_>],
) -> Result<Vec<Result<Validated, Refused>>, String> {
    let system = SystemAnchors { native: true, paths: Vec::new() };
    let anchors = TrustAnchors::load(&system, []).map_err(|error| error.to_string())?.anchors;
    let settings = PolicySettings {
        ldap_match: LdapMatch::Certificate,
        ocsp_responder: None,
        ..config.validation.policy_settings(true)
    };
    let validator = PolicyValidator::new(Arc::new(anchors), Legacy::Refuse, settings);
    lookups::block_on(async {
        if config.dns.is_none() {
            return Err("look-ups are not configured: there is no [dns] section".to_owned());
        }
        let sources = lookups::sources(config)?;
        let mut results = Vec::new();
        for showing in showings {
            let inquiry = Inquiry {
                credential: showing.credential,
                peer: showing.peer,
                wanted: Some(showing.name),
                local: None,
                domain_represents_user: false,
                service: showing.service,
                endpoint: showing.endpoint,
                ignore_caches: true,
                // There is no handshake; the default policy does not ask about it.
                negotiated: Negotiated::default(),
                stapled_ocsp: &[],
                now: UnixTime::now(),
                deadline: Instant::now() + config.limits.handshake_timeout,
                trace: true,
            };
            results.push(validator.validate(&inquiry, &NoTables, &sources).await);
        }
        Ok(results)
    })
}

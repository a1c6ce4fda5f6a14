//! Whether a peer is believed: the validator of the policy, made anew when the configuration or the
//! trust table changes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest;
use parking_lot::Mutex;
use tlspool_store::{Kind, StoreError, TrustAnchorRow};
use tlspool_validate::{Legacy, OpenPgpTrust, PolicyValidator, TableAnchor, TrustAnchors};

use super::identities::Identities;
use super::settings::Settings;

/// Identifies a set of anchors.
pub(crate) type TrustDigest = [u8; 32];

/// The anchors that all workers share while nothing changes.
#[derive(Default)]
pub(crate) struct SharedAnchors(Mutex<Option<(TrustDigest, Arc<TrustAnchors>)>>);

/// A worker's validator.
pub(crate) struct Trust {
    validator: RefCell<Rc<PolicyValidator>>,
    digest: Cell<TrustDigest>,
    /// Change counter of the tables, and generation of the settings, that were last looked at.
    seen: Cell<Option<(u64, u64)>>,
}

impl Trust {
    pub(crate) fn new() -> Self {
        let nobody = PolicyValidator::new(Arc::default(), Legacy::Refuse, <_>::default());
        Self {
            validator: RefCell::new(Rc::new(nobody)),
            digest: Cell::new([0; 32]),
            seen: Cell::new(None),
        }
    }

    /// Identifies the anchors in force: sessions are resumed only while they stay.
    pub(crate) fn digest(
        &self,
        settings: &Settings,
        identities: &RefCell<Identities>,
        shared: &SharedAnchors,
    ) -> TrustDigest {
        self.renew(settings, identities, shared);
        self.digest.get()
    }

    /// By what was in force at the latest [`Self::digest`].
    pub(crate) fn validator(&self) -> Rc<PolicyValidator> {
        self.validator.borrow().clone()
    }

    /// Takes other anchors if files or table have changed.
    fn renew(&self, settings: &Settings, identities: &RefCell<Identities>, shared: &SharedAnchors) {
        let mut identities = identities.borrow_mut();
        let changes = identities.changes().unwrap_or(0);
        let now = (changes, settings.generation);
        if self.seen.get() == Some(now) {
            return;
        }
        let rows = match identities.trust_anchors() {
            Ok(rows) => rows,
            // That was told when it was noticed.
            Err(StoreError::Gone { .. }) => return,
            Err(error) => {
                // Fewer rows could mean more trust, where a service had anchors of its own.
                tracing::error!("the trust table cannot be read, trust stays as it was: {error}");
                return;
            }
        };
        drop(identities);
        let digest = digest_of(settings, &rows);
        let (rows, openpgp): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| row.kind == Kind::X509);
        if self.seen.get().is_none() || digest != self.digest.get() {
            let mut shared = shared.0.lock();
            let anchors = match &*shared {
                Some((known, anchors)) if *known == digest => anchors.clone(),
                _ => {
                    let anchors = load(settings, &rows);
                    *shared = Some((digest, anchors.clone()));
                    anchors
                }
            };
            drop(shared);
            let lists = settings.revocation_lists.clone();
            let validator = PolicyValidator::new(anchors, Legacy::Refuse, settings.policy.clone())
                .with_revocation_lists(lists)
                .with_openpgp_trust(openpgp_trust(&openpgp));
            self.validator.replace(Rc::new(validator));
            self.digest.set(digest);
        }
        self.seen.set(Some(now));
    }
}

fn load(settings: &Settings, rows: &[TrustAnchorRow]) -> Arc<TrustAnchors> {
    let table = rows
        .iter()
        .map(|row| TableAnchor { service: row.service.as_deref(), certificate: &row.certificate });
    match TrustAnchors::load(&settings.system_anchors, table) {
        Ok(loaded) => {
            for warning in loaded.warnings {
                tracing::warn!("{warning}");
            }
            tracing::info!(anchors = loaded.anchors.len(), "trust anchors loaded");
            Arc::new(loaded.anchors)
        }
        Err(error) => {
            tracing::error!("no peer can be validated: {error}");
            Arc::default()
        }
    }
}

/// The trusted OpenPGP keys. They are few, and each worker reads them for itself.
fn openpgp_trust(rows: &[TrustAnchorRow]) -> Arc<OpenPgpTrust> {
    let rows = rows.iter().map(|row| (row.service.as_deref(), row.certificate.as_slice()));
    let (trust, warnings) = OpenPgpTrust::load(rows);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Arc::new(trust)
}

fn digest_of(settings: &Settings, rows: &[TrustAnchorRow]) -> TrustDigest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&settings.generation.to_ne_bytes());
    for row in rows {
        let service = row.service.as_deref().unwrap_or_default();
        context.update(&(service.len() as u64).to_ne_bytes());
        context.update(service.as_bytes());
        context.update(digest::digest(&digest::SHA256, &row.certificate).as_ref());
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.finish().as_ref());
    out
}

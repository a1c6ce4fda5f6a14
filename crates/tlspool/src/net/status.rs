//! What `tlspool status` shows of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::shared::Shared;

/// Counters since the start, and what is in use now.
pub(crate) fn status(shared: &Arc<Shared>) -> Value {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let totals = &shared.totals;
    json!({
        "uptime_seconds": shared.started.elapsed().as_secs(),
        "draining": shared.drain.is_requested(),
        "clients": shared.clients.in_use(),
        "sessions": shared.sessions.in_use(),
        "workers": shared.workers.iter().map(|worker| worker.load()).collect::<Vec<_>>(),
        "pin_program": shared.pins.is_attended(),
        "tokens_waiting_for_pin": *shared.waiting_tokens.lock(),
        "totals": {
            "clients": get(&totals.clients),
            "requests": get(&totals.requests),
            "handshakes": get(&totals.handshakes),
            "resumed": get(&totals.resumed),
            "failed": get(&totals.failed),
            "refused": get(&totals.refused),
            "bytes_received": get(&totals.bytes_received),
            "bytes_sent": get(&totals.bytes_sent),
        },
    })
}

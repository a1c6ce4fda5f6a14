//! What `tlspool status` shows of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use tlspool_keys::TokenStatus;
use tlspool_lookup::process::Counters;
use tokio::sync::oneshot;

use super::shared::Shared;
use super::worker::Task;

/// Counters since the start, and what is in use now.
pub(crate) async fn status(shared: &Arc<Shared>) -> Value {
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let totals = &shared.totals;
    let (answer, answered) = oneshot::channel();
    let tokens = match shared.workers.first().map(|worker| worker.give(Task::Tokens(answer))) {
        Some(true) => answered.await.unwrap_or_default(),
        _ => Vec::new(),
    };
    let (answer, answered) = oneshot::channel();
    let look_ups = match shared.workers.first().map(|worker| worker.give(Task::LookUps(answer))) {
        Some(true) => answered.await.unwrap_or_default(),
        _ => None,
    };
    let waiting: Vec<_> =
        shared.waiting_tokens.lock().iter().map(|(_, label)| label.clone()).collect();
    let remembered = shared.settings().remembered.counts();
    let now = shared.started.elapsed().as_secs();
    json!({
        "uptime_seconds": now,
        "draining": shared.drain.is_requested(),
        "clients": shared.clients.in_use(),
        "sessions": shared.sessions.in_use(),
        "workers": shared.workers.iter().map(|worker| worker.to_do().sessions).collect::<Vec<_>>(),
        "pin_program": shared.pins.is_attended(),
        "chooser": shared.choosers.is_attended(),
        "tokens_waiting_for_pin": waiting,
        "tokens": tokens.iter().map(token).collect::<Vec<_>>(),
        "look_ups": look_ups.as_ref().map(|look_ups| counters(look_ups, remembered)),
        "per_second": {
            "handshakes": shared.handshake_rate.rate(now),
            "failed": shared.failure_rate.rate(now),
        },
        "errors": shared.failures.lines(),
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

fn token(token: &TokenStatus) -> Value {
    json!({
        "uri": token.uri,
        "logged_in": token.logged_in,
        "sessions": token.sessions,
        "waiting": token.waiting,
        "signatures": token.signatures,
        "failures": token.failures,
        "last_error": token.last_error,
    })
}

fn counters(counters: &Counters, (remembered, from_memory): (usize, u64)) -> Value {
    json!({
        "under_way": counters.under_way,
        "queries": counters.queries,
        "present": counters.present,
        "absent": counters.absent,
        "failed": counters.failed,
        "remembered": remembered,
        "from_memory": from_memory,
        "from_memcached": counters.from_memcached,
        "cancelled": counters.cancelled,
        "refused": counters.refused,
    })
}

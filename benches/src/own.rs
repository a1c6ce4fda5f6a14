//! What is compared with the pool itself: keys on tokens, and many identities.

use crate::figures::Series;

/// Results of these comparisons.
#[derive(Debug, Default)]
pub(crate) struct Own {
    /// Slow token: its rate while relaying over its own rate.
    pub(crate) slow_rate: Series,
}

impl Own {
    /// What to reach: words, whether at least (or at most), limit, found.
    pub(crate) fn goals(&self) -> Vec<(&'static str, bool, f64, Option<f64>)> {
        vec![(
            "Slow token: rate while relaying, × its own rate",
            true,
            0.97,
            self.slow_rate.median(),
        )]
    }

    /// Its part of the report.
    pub(crate) fn show(&self) -> String {
        String::new()
    }
}

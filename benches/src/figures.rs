//! Figures over rounds: what was measured, for whom, and what stands in the middle.

use std::collections::HashMap;

use crate::candidates::{Candidate, Key};
use crate::load::{Figures, Work};

/// A kind of work as it is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    /// Heading in the report.
    pub(crate) title: &'static str,
    /// For the command line.
    pub(crate) id: &'static str,
    /// The work.
    pub(crate) work: Work,
    /// Connections at a time.
    pub(crate) connections: usize,
    /// Certificate.
    pub(crate) key: Key,
}

/// All of a round, in order.
pub(crate) const SCENARIOS: [Scenario; 8] = [
    scenario("full-p256", "Full handshakes, P-256", Work::Full, 16, Key::P256),
    scenario("full-rsa", "Full handshakes, RSA-2048", Work::Full, 16, Key::Rsa),
    scenario("resumed", "Resumed handshakes, P-256", Work::Resumed, 16, Key::P256),
    scenario("up-1", "Bulk to the backend, 1 connection", Work::Up, 1, Key::P256),
    scenario("up-16", "Bulk to the backend, 16 connections", Work::Up, 16, Key::P256),
    scenario("down-1", "Bulk from the backend, 1 connection", Work::Down, 1, Key::P256),
    scenario("down-16", "Bulk from the backend, 16 connections", Work::Down, 16, Key::P256),
    scenario("round-trip", "Round trips of 1 KiB, 64 connections", Work::RoundTrip, 64, Key::P256),
];

const fn scenario(
    id: &'static str,
    title: &'static str,
    work: Work,
    connections: usize,
    key: Key,
) -> Scenario {
    Scenario { title, id, work, connections, key }
}

/// One quantity over the rounds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    /// Of these values.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// One more round.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The middle; of an even count, the mean of the two in the middle.
    pub(crate) fn median(&self) -> Option<f64> {
        let (low, high) = (self.0.len().checked_sub(1)? / 2, self.0.len() / 2);
        Some(f64::midpoint(self.0[low], self.0[high]))
    }

    /// `median (least–most)`, with as many digits as make sense.
    pub(crate) fn show(&self) -> String {
        match (self.median(), self.0.first(), self.0.last()) {
            (Some(median), Some(least), Some(most)) => {
                format!("{} ({}–{})", digits(median), digits(*least), digits(*most))
            }
            _ => "–".into(),
        }
    }
}

/// The value below which this share of `values` is; 0 if there are none.
pub(crate) fn percentile(mut values: Vec<u32>, share: f64) -> f64 {
    values.sort_unstable();
    values.get((values.len() as f64 * share) as usize).map_or(0.0, |value| f64::from(*value))
}

/// Three significant digits or so.
pub(crate) fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Everything measured so far.
#[derive(Debug, Default)]
pub(crate) struct Results {
    rounds: HashMap<(&'static str, Candidate), Vec<Figures>>,
    idle: HashMap<Candidate, Series>,
}

impl Results {
    /// One more round of `scenario`.
    pub(crate) fn add(&mut self, scenario: &Scenario, candidate: Candidate, figures: Figures) {
        self.rounds.entry((scenario.id, candidate)).or_default().push(figures);
    }

    /// KiB per idle session in one more round.
    pub(crate) fn add_idle(&mut self, candidate: Candidate, kib: f64) {
        self.idle.entry(candidate).or_default().push(kib);
    }

    /// Whether a candidate did this.
    pub(crate) fn has(&self, id: &'static str, candidate: Candidate) -> bool {
        self.rounds.contains_key(&(id, candidate))
    }

    /// One quantity of one candidate.
    pub(crate) fn series(
        &self,
        id: &'static str,
        candidate: Candidate,
        quantity: impl Fn(&Figures) -> f64,
    ) -> Series {
        let rounds = self.rounds.get(&(id, candidate)).map_or(&[][..], Vec::as_slice);
        Series::of(rounds.iter().map(quantity))
    }

    /// Names of the processes of a candidate that used CPU time.
    pub(crate) fn processes(&self, id: &'static str, candidate: Candidate) -> Vec<String> {
        let rounds = self.rounds.get(&(id, candidate)).map_or(&[][..], Vec::as_slice);
        let mut names: Vec<String> =
            rounds.iter().flat_map(|figures| figures.cpu_us_of.keys().cloned()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// KiB per idle session.
    pub(crate) fn idle(&self, candidate: Candidate) -> Series {
        self.idle.get(&candidate).cloned().unwrap_or_default()
    }

    /// Ours over the best median among the others; the best is the least, or the most.
    pub(crate) fn ratio(
        &self,
        id: &'static str,
        quantity: fn(&Figures) -> f64,
        best: fn(f64, f64) -> f64,
    ) -> Option<f64> {
        let ours = self.series(id, Candidate::Tlspool, quantity).median()?;
        let others = Candidate::ALL.into_iter().filter(|c| *c != Candidate::Tlspool);
        let theirs = others.filter_map(|c| self.series(id, c, quantity).median()).reduce(best)?;
        Some(ours / theirs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Series::default().median(), None);
        assert_eq!(Series::of([3.0, 1.0, 2.0].into_iter()).median(), Some(2.0));
        assert_eq!(Series::of([4.0, 1.0].into_iter()).median(), Some(2.5));
        assert_eq!(Series::of([4.0, 1.0, 220.0].into_iter()).show(), "4.00 (1.00–220)");
    }

    #[test]
    fn ratio_is_against_the_best_of_the_others() {
        let mut results = Results::default();
        let scenario = &SCENARIOS[0];
        let mut add = |candidate, cpu_us| {
            results.add(scenario, candidate, Figures { cpu_us, ..Figures::default() });
        };
        add(Candidate::Nginx, 400.0);
        add(Candidate::Stunnel, 800.0);
        add(Candidate::Tlspool, 200.0);
        assert_eq!(results.ratio(scenario.id, |f| f.cpu_us, f64::min), Some(0.5));
        assert_eq!(results.ratio("resumed", |f| f.cpu_us, f64::min), None);
    }
}

//! What a scenario found: figures, latencies, errors, faults, ratios; as text and as JSON.
#![expect(
    clippy::print_stdout,
    reason = "printing the report is the job of this program"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::error::LoadError;
use crate::latency::{Latencies, Percentiles};

/// Errors of single requests, by status and problem code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct ErrorCounts(BTreeMap<String, u64>);

impl ErrorCounts {
    /// Kinds of error kept apart; more are counted together, so that odd answers can't fill the memory.
    const KINDS: usize = 100;

    /// Counts one error.
    pub(crate) fn count(&mut self, name: String) {
        self.add(name, 1);
    }

    /// Adds all errors of another count.
    pub(crate) fn merge(&mut self, other: Self) {
        for (name, count) in other.0 {
            self.add(name, count);
        }
    }

    /// How many in all.
    pub(crate) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    fn add(&mut self, name: String, count: u64) {
        let known = self.0.contains_key(&name) || self.0.len() < Self::KINDS;
        let name = if known { name } else { "others".to_owned() };
        *self.0.entry(name).or_default() += count;
    }
}

/// One number with its unit.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
}

/// Percentiles of one kind of latency.
#[derive(Debug, Clone, Serialize)]
struct LatencyRow {
    name: String,
    #[serde(flatten)]
    percentiles: Percentiles,
}

/// Which side of the aim is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    /// The ratio shall be this or more.
    AtLeast(f64),
    /// The ratio shall be this or less.
    AtMost(f64),
    /// The figure itself shall be this or less; the yardstick stands beside it for comparison.
    FigureAtMost(f64),
}

/// A figure beside its yardstick.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Ratio {
    name: String,
    figure: f64,
    yardstick: f64,
    unit: &'static str,
    ratio: f64,
    aim: Aim,
    reached: bool,
}

impl Ratio {
    /// Compares a figure with its yardstick.
    pub(crate) fn new(
        name: &str,
        unit: &'static str,
        figure: f64,
        yardstick: f64,
        aim: Aim,
    ) -> Self {
        let ratio = figure / yardstick;
        let reached = match aim {
            Aim::AtLeast(bound) => ratio >= bound,
            Aim::AtMost(bound) => ratio <= bound,
            Aim::FigureAtMost(bound) => figure <= bound,
        };
        Self {
            name: name.to_owned(),
            figure,
            yardstick,
            unit,
            ratio,
            aim,
            reached,
        }
    }
}

/// All that a scenario found.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    scenario: String,
    figures: Vec<Figure>,
    latencies: Vec<LatencyRow>,
    errors: ErrorCounts,
    faults: Vec<String>,
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ratios: Vec<Ratio>,
}

impl Report {
    /// An empty report.
    pub(crate) fn new(scenario: &str) -> Self {
        Self {
            scenario: scenario.to_owned(),
            ..Self::default()
        }
    }

    /// Adds a number.
    pub(crate) fn figure(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.figures.push(Figure {
            name: name.into(),
            value,
            unit,
        });
    }

    /// Adds percentiles.
    pub(crate) fn latency(&mut self, name: impl Into<String>, latencies: &Latencies) {
        self.latencies.push(LatencyRow {
            name: name.into(),
            percentiles: latencies.percentiles(),
        });
    }

    /// Adds counted errors.
    pub(crate) fn errors(&mut self, errors: ErrorCounts) {
        self.errors.merge(errors);
    }

    /// Adds a fault: with one, the program ends with a failure.
    pub(crate) fn fault(&mut self, text: impl Into<String>) {
        self.faults.push(text.into());
    }

    /// Adds a fault where something was counted that should not be.
    pub(crate) fn fault_if(&mut self, count: u64, what: &str) {
        if count > 0 {
            self.fault(format!("{count} {what}"));
        }
    }

    /// Takes what a part of a scenario found; where it failed, that is a fault and the other parts go on.
    pub(crate) fn part<T>(&mut self, name: &str, found: Result<T, LoadError>) -> Option<T> {
        found
            .map_err(|error| self.fault(format!("{name}: {}", error.chain())))
            .ok()
    }

    /// Adds a remark for the reader.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Adds a comparison.
    pub(crate) fn ratio(&mut self, ratio: Ratio) {
        self.ratios.push(ratio);
    }

    /// Whether nothing is wrong.
    pub(crate) fn clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// Prints the report for people.
    pub(crate) fn print(&self) {
        println!("# {}", self.scenario);
        for figure in &self.figures {
            println!(
                "{:68} {:>12} {}",
                figure.name,
                number(figure.value),
                figure.unit
            );
        }
        if !self.latencies.is_empty() {
            println!(
                "\n{:40} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
                "latency, ms", "count", "p50", "p90", "p99", "p99.9", "max"
            );
        }
        for row in &self.latencies {
            let p = row.percentiles;
            println!(
                "{:40} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
                row.name,
                p.count,
                milliseconds(p.p50_us),
                milliseconds(p.p90_us),
                milliseconds(p.p99_us),
                milliseconds(p.p99_9_us),
                milliseconds(p.max_us)
            );
        }
        self.print_ratios();
        println!("\nerrors: {}", self.errors.total());
        for (name, count) in &self.errors.0 {
            println!("  {count:>9} × {name}");
        }
        for note in &self.notes {
            println!("note: {note}");
        }
        for fault in &self.faults {
            println!("FAULT: {fault}");
        }
    }

    fn print_ratios(&self) {
        if self.ratios.is_empty() {
            return;
        }
        println!(
            "\n{:48} {:>12} {:>12} {:>8}  aim",
            "ratio", "figure", "yardstick", "ratio"
        );
        for row in &self.ratios {
            let aim = match row.aim {
                Aim::AtLeast(bound) => format!("≥ {bound} ×"),
                Aim::AtMost(bound) => format!("≤ {bound} ×"),
                Aim::FigureAtMost(bound) => format!("≤ {} {}", number(bound), row.unit),
            };
            println!(
                "{:48} {:>12} {:>12} {:>8.3}  {aim} {}",
                format!("{}, {}", row.name, row.unit),
                number(row.figure),
                number(row.yardstick),
                row.ratio,
                if row.reached { "reached" } else { "MISSED" }
            );
        }
    }

    /// Writes the report as JSON.
    pub(crate) fn write_json(&self, path: &Path) -> Result<(), LoadError> {
        let doing = || format!("writing the report to {}", path.display());
        let file = File::create(path).map_err(LoadError::io(doing()))?;
        serde_json::to_writer_pretty(BufWriter::new(file), self)
            .map_err(|source| LoadError::io(doing())(source.into()))
    }
}

/// A count as a float. Counts of a load test stay far below 2^53.
#[expect(
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "there is no other way, and the counts stay below 2^53"
)]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

/// A count over a time, per second; 0 where no time passed.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    float(count) / time.as_secs_f64()
}

fn milliseconds(microseconds: u64) -> String {
    format!("{:.3}", float(microseconds) / 1_000.0)
}

fn number(value: f64) -> String {
    if value.abs() >= 1_000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_knows_its_good_side() {
        let reached = |aim| Ratio::new("x", "y", 40.0, 100.0, aim).reached;
        assert!(reached(Aim::AtLeast(0.35)));
        assert!(!reached(Aim::AtLeast(0.5)));
        assert!(reached(Aim::AtMost(0.5)));
        assert!(!reached(Aim::AtMost(0.35)));
        assert!(reached(Aim::FigureAtMost(40.0)));
        assert!(!reached(Aim::FigureAtMost(39.0)));
    }

    #[test]
    fn a_ratio_without_a_yardstick_reaches_nothing() {
        assert!(!Ratio::new("x", "y", 0.0, 0.0, Aim::AtLeast(0.1)).reached);
    }

    #[test]
    fn kinds_of_error_are_bounded_and_none_is_dropped() {
        let mut errors = ErrorCounts::default();
        for kind in 0..1_000 {
            errors.count(format!("kind {kind}"));
        }
        assert_eq!(errors.total(), 1_000);
        assert!(errors.0.len() <= ErrorCounts::KINDS + 1);
    }

    #[test]
    fn only_a_counted_fault_makes_a_report_unclean() {
        let mut report = Report::new("x");
        report.fault_if(0, "lost");
        assert!(report.clean());
        report.fault_if(2, "lost");
        assert!(!report.clean());
        assert_eq!(report.faults, ["2 lost"]);
    }
}

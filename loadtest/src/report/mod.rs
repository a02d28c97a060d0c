//! What a scenario found: figures, latencies, series, errors, faults, ratios; as text, JSON, Markdown and HTML.

mod chart;
mod markdown;
mod number;
mod page;
mod print;
pub(crate) mod surroundings;
pub(crate) mod threshold;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) use self::markdown::{aims, markdown};
pub(crate) use self::number::{float, per_second};
use self::surroundings::Surroundings;
use self::threshold::Threshold;
use crate::error::LoadError;
use crate::latency::{Latencies, Percentiles};

/// Errors of single requests, by status and problem code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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

    /// Counts the same error several times.
    pub(crate) fn add(&mut self, name: String, count: u64) {
        let known = self.0.contains_key(&name) || self.0.len() < Self::KINDS;
        let name = if known { name } else { "others".to_owned() };
        *self.0.entry(name).or_default() += count;
    }
}

/// One number with its unit.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Figure {
    name: String,
    value: f64,
    unit: Cow<'static, str>,
}

/// Percentiles of one kind of latency.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LatencyRow {
    name: String,
    #[serde(flatten)]
    percentiles: Percentiles,
    /// Share of the latencies (0–1) and the time below which they lie, in microseconds: the plot's points.
    #[serde(default)]
    curve: Vec<(f64, u64)>,
}

/// Numbers over time, or over another axis.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Series {
    /// The plot that it is drawn in, with its unit.
    pub(crate) plot: String,
    /// What it is.
    pub(crate) name: String,
    /// The axis: what the first number of a point is.
    pub(crate) axis: Cow<'static, str>,
    /// The points.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Which side of the aim is the good one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Aim {
    /// The ratio shall be this or more.
    AtLeast(f64),
    /// The ratio shall be this or less.
    AtMost(f64),
    /// The figure itself shall be this or less; the yardstick stands beside it for comparison.
    FigureAtMost(f64),
    /// There is none: the yardstick stands beside the figure for comparison.
    None,
}

impl Aim {
    fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {bound} ×"),
            Self::AtMost(bound) => format!("≤ {bound} ×"),
            Self::FigureAtMost(bound) => format!("≤ {bound} {unit}"),
            Self::None => "-".to_owned(),
        }
    }
}

/// A figure beside its yardstick.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ratio {
    name: String,
    figure: f64,
    yardstick: f64,
    unit: Cow<'static, str>,
    /// `None` where the yardstick gave nothing.
    ratio: Option<f64>,
    aim: Aim,
    reached: bool,
}

impl Ratio {
    /// Whether the aim is reached, in a word.
    fn verdict(&self) -> &'static str {
        match (self.aim, self.reached) {
            (Aim::None, _) => "",
            (_, true) => "reached",
            (_, false) => "missed",
        }
    }

    /// Compares a figure with its yardstick.
    pub(crate) fn new(
        name: &str,
        unit: &'static str,
        figure: f64,
        yardstick: f64,
        aim: Aim,
    ) -> Self {
        let ratio = Some(figure / yardstick).filter(|ratio| ratio.is_finite());
        let reached = match aim {
            Aim::AtLeast(bound) => ratio.is_some_and(|ratio| ratio >= bound),
            Aim::AtMost(bound) => ratio.is_some_and(|ratio| ratio <= bound),
            Aim::FigureAtMost(bound) => figure <= bound,
            Aim::None => true,
        };
        Self {
            name: name.to_owned(),
            figure,
            yardstick,
            unit: unit.into(),
            ratio,
            aim,
            reached,
        }
    }
}

/// All that a scenario found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    scenario: String,
    #[serde(default)]
    surroundings: Surroundings,
    figures: Vec<Figure>,
    latencies: Vec<LatencyRow>,
    #[serde(default)]
    series: Vec<Series>,
    errors: ErrorCounts,
    /// What is wrong whatever the machine: loss, repeats, disorder, a part that could not be run.
    faults: Vec<String>,
    /// Thresholds that were asked for and not kept.
    #[serde(default)]
    missed: Vec<String>,
    notes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
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
            unit: unit.into(),
        });
    }

    /// Adds percentiles that an earlier run found.
    pub(crate) fn percentiles(&mut self, name: impl Into<String>, percentiles: Percentiles) {
        self.latencies.push(LatencyRow {
            name: name.into(),
            percentiles,
            curve: Vec::new(),
        });
    }

    /// Adds percentiles.
    pub(crate) fn latency(&mut self, name: impl Into<String>, latencies: &Latencies) {
        self.latencies.push(LatencyRow {
            name: name.into(),
            percentiles: latencies.percentiles(),
            curve: latencies.curve(),
        });
    }

    /// Adds numbers over time; an empty series is left out.
    pub(crate) fn series(&mut self, series: Series) {
        if !series.points.is_empty() {
            self.series.push(series);
        }
    }

    /// Says where and how the report came to be.
    pub(crate) fn surrounded(&mut self, surroundings: Surroundings) {
        self.surroundings = surroundings;
    }

    /// Counts of a book-keeping that must be zero: each is a figure, and a fault where it is not.
    pub(crate) fn must_be_zero(&mut self, name: &str, unit: &'static str, counts: &[(&str, u64)]) {
        for (what, count) in counts {
            let name = format!("{name}: {what}");
            self.figure(name.clone(), float(*count), unit);
            self.fault_if(*count, &format!("{unit} {what} ({name})"));
        }
    }

    /// Holds the report against thresholds.
    pub(crate) fn judge(&mut self, thresholds: &[Threshold]) {
        for threshold in thresholds {
            self.missed.extend(threshold.missed(self));
        }
    }

    /// Makes a threshold of each ratio's aim.
    pub(crate) fn judge_aims(&mut self) {
        let missed = self.ratios.iter().filter(|row| !row.reached);
        let missed = missed.map(|row| format!("{}: the aim is missed", row.name));
        self.missed.extend(missed.collect::<Vec<_>>());
    }

    /// Adds a threshold that was not kept.
    pub(crate) fn missed(&mut self, text: impl Into<String>) {
        self.missed.push(text.into());
    }

    /// A figure by its name, or a latency by its name and percentile (`p50 p90 p99 p99.9 max`) in milliseconds.
    fn find(&self, name: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.name == name);
        figure.map(|figure| figure.value).or_else(|| {
            let (name, percentile) = name.rsplit_once(' ')?;
            let row = self.latencies.iter().find(|row| row.name == name)?;
            row.percentiles.named(percentile)
        })
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

    /// Whether nothing is wrong: no loss, no repeat, no disorder, every part was run.
    pub(crate) fn clean(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether every threshold was kept.
    pub(crate) fn kept(&self) -> bool {
        self.missed.is_empty()
    }

    /// Reads a report that was written as JSON.
    pub(crate) fn read_json(path: &Path) -> Result<Self, LoadError> {
        let doing = format!("reading {}", path.display());
        let bytes = std::fs::read(path).map_err(LoadError::io(doing.clone()))?;
        serde_json::from_slice(&bytes).map_err(|source| LoadError::Body {
            call: doing,
            source,
        })
    }

    /// Writes the report as a page with plots, all in one file.
    pub(crate) fn write_html(&self, path: &Path) -> Result<(), LoadError> {
        std::fs::write(path, page::page(self)).map_err(LoadError::io(format!(
            "writing the report to {}",
            path.display()
        )))
    }

    /// Writes the report as JSON.
    pub(crate) fn write_json(&self, path: &Path) -> Result<(), LoadError> {
        let doing = || format!("writing the report to {}", path.display());
        let file = File::create(path).map_err(LoadError::io(doing()))?;
        serde_json::to_writer_pretty(BufWriter::new(file), self)
            .map_err(|source| LoadError::io(doing())(source.into()))
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
    fn thresholds_look_at_figures_and_percentiles_and_unknown_names_are_missed() {
        let mut report = Report::new("x");
        report.figure("lost", 0.0, "messages");
        let mut latencies = Latencies::new();
        latencies.record(std::time::Duration::from_millis(20));
        report.latency("due → event", &latencies);
        let judge = |report: &Report, text: &str| {
            let mut report = report.clone();
            report.judge(&[text.parse().unwrap()]);
            report.kept()
        };
        for kept in ["lost<=0", "due → event p99 <= 25", "due → event max>=19"] {
            assert!(judge(&report, kept), "{kept}");
        }
        for missed in ["due → event p99 <= 19", "lost>=1", "lots<=0"] {
            assert!(!judge(&report, missed), "{missed}");
        }
        assert!("lost".parse::<Threshold>().is_err());
        assert!("lost<=many".parse::<Threshold>().is_err());
    }

    #[test]
    fn a_report_survives_its_json_and_makes_a_page_and_a_table() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::new("x <y>");
        report.figure("rate", 1_234.5, "/s");
        let mut latencies = Latencies::new();
        (1..2_000).for_each(|n| latencies.record(std::time::Duration::from_micros(n * 10)));
        report.latency("a → b", &latencies);
        report.series(Series {
            plot: "memory, MiB".to_owned(),
            name: "server".to_owned(),
            axis: "s".into(),
            points: vec![(0.0, 10.0), (1.0, 12.0)],
        });
        report.ratio(Ratio::new("r", "/s", 1.0, 0.0, Aim::AtLeast(0.5)));
        let file = folder.path().join("x.json");
        report.write_json(&file).unwrap();
        let again = Report::read_json(&file).unwrap();
        assert_eq!(again.find("a → b p50"), report.find("a → b p50"));
        let html = page::page(&again);
        assert!(
            html.matches("<svg").count() >= 2 && !html.contains("<y>"),
            "{html}"
        );
        assert!(!html.contains("http://") || html.contains("www.w3.org"));
        assert!(markdown(&again).contains("| rate | 1234 |") || markdown(&again).contains("1235"));
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

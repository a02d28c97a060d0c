//! The report on the terminal.
#![expect(
    clippy::print_stdout,
    reason = "printing the report is the job of this program"
)]

use super::number::{milliseconds, number};
use super::{Ratio, Report};

impl Report {
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
        print_ratios(&self.ratios);
        println!("\nerrors: {}", self.errors.total());
        for (name, count) in &self.errors.0 {
            println!("  {count:>9} × {name}");
        }
        for note in &self.notes {
            println!("note: {note}");
        }
        for missed in &self.missed {
            println!("MISSED: {missed}");
        }
        for fault in &self.faults {
            println!("FAULT: {fault}");
        }
    }
}

fn print_ratios(ratios: &[Ratio]) {
    if ratios.is_empty() {
        return;
    }
    println!(
        "\n{:48} {:>12} {:>12} {:>8}  aim",
        "ratio", "figure", "yardstick", "ratio"
    );
    for row in ratios {
        println!(
            "{:48} {:>12} {:>12} {:>8}  {} {}",
            format!("{}, {}", row.name, row.unit),
            number(row.figure),
            number(row.yardstick),
            row.ratio.map_or_else(|| "-".to_owned(), number),
            row.aim.text(&row.unit),
            row.verdict()
        );
    }
}

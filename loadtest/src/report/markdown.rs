//! The report as a section of a Markdown page.

use std::fmt::Write as _;

use super::number::{milliseconds, number};
use super::{Ratio, Report};

/// The section of one report.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    // Writing into a text can't fail.
    write(&mut text, report).ok();
    text
}

/// The aims of all reports in one table.
pub(crate) fn aims(reports: &[Report]) -> String {
    let mut text = "## All aims\n\n".to_owned();
    let ratios = reports.iter().flat_map(|report| &report.ratios);
    // Writing into a text can't fail.
    write_ratios(&mut text, ratios).ok();
    text
}

fn write_ratios<'a>(
    text: &mut String,
    ratios: impl Iterator<Item = &'a Ratio>,
) -> std::fmt::Result {
    writeln!(
        text,
        "| beside its yardstick | figure | yardstick | ratio | aim | |\n|---|---:|---:|---:|---|---|"
    )?;
    for row in ratios {
        writeln!(
            text,
            "| {}, {} | {} | {} | {} | {} | {} |",
            row.name,
            row.unit,
            number(row.figure),
            number(row.yardstick),
            row.ratio.map_or_else(|| "-".to_owned(), number),
            row.aim.text(&row.unit),
            match row.verdict() {
                "missed" => "**missed**",
                verdict => verdict,
            }
        )?;
    }
    writeln!(text)
}

fn write(text: &mut String, report: &Report) -> std::fmt::Result {
    let around = &report.surroundings;
    writeln!(text, "## {}\n", report.scenario)?;
    if !around.command.is_empty() {
        writeln!(text, "```sh\n{}\n```\n", around.command)?;
        let others = around.others_busy.map_or_else(
            || "what else ran is not known".to_owned(),
            |cores| format!("{cores:.2} processors were busy with something else"),
        );
        writeln!(
            text,
            "{}, {:.0} s, {}, {:.0} MiB, {}, {}; {others}.\n",
            around.began,
            around.seconds,
            around.processor,
            around.memory_mib,
            around.system,
            around.server
        )?;
    }
    for fault in &report.faults {
        writeln!(text, "**Fault: {fault}**\n")?;
    }
    for missed in &report.missed {
        writeln!(text, "**Missed: {missed}**\n")?;
    }
    if !report.figures.is_empty() {
        writeln!(text, "| figure | value | unit |\n|---|---:|---|")?;
        for figure in &report.figures {
            let value = number(figure.value);
            writeln!(text, "| {} | {value} | {} |", figure.name, figure.unit)?;
        }
        writeln!(text)?;
    }
    if !report.ratios.is_empty() {
        write_ratios(text, report.ratios.iter())?;
    }
    if !report.latencies.is_empty() {
        writeln!(
            text,
            "| latency, ms | count | p50 | p90 | p99 | p99.9 | max |\n|---|---:|---:|---:|---:|---:|---:|"
        )?;
        for row in &report.latencies {
            let p = row.percentiles;
            let times = [p.p50_us, p.p90_us, p.p99_us, p.p99_9_us, p.max_us].map(milliseconds);
            let times = times.join(" | ");
            writeln!(text, "| {} | {} | {times} |", row.name, p.count)?;
        }
        writeln!(text)?;
    }
    for (name, count) in &report.errors.0 {
        writeln!(text, "- {count} × {name}")?;
    }
    for note in &report.notes {
        writeln!(text, "- {note}")?;
    }
    writeln!(text)
}

//! The report as one HTML file with its plots inside: nothing is fetched.

use std::fmt::Write as _;

use super::chart::{Line, Look, Scale, draw, short};
use super::number::{milliseconds, number};
use super::{Report, Series};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:960px;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0;width:100%}td,th{padding:.2em .6em;border-bottom:1px solid #ddd;text-align:right}\
td:first-child,th:first-child{text-align:left}code{background:#f4f4f4;padding:.1em .3em;overflow-wrap:anywhere}\
.bad{color:#b00020;font-weight:600}.good{color:#176117;font-weight:600}svg{max-width:100%;height:auto}";
/// Lines of one plot; further ones get a plot of their own.
const LINES: usize = 8;

/// The page.
pub(super) fn page(report: &Report) -> String {
    let mut html = String::new();
    // Writing into a text can't fail.
    write(&mut html, report).ok();
    html
}

fn write(html: &mut String, report: &Report) -> std::fmt::Result {
    let title = escape(&report.scenario);
    write!(
        html,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
    )?;
    verdict(html, report)?;
    surroundings(html, report)?;
    figures(html, report)?;
    ratios(html, report)?;
    latencies(html, report)?;
    series(html, report)?;
    if report.errors.total() > 0 {
        write!(html, "<h2>Errors of single requests</h2>")?;
        let rows = report.errors.0.iter();
        table(
            html,
            &["error", "count"],
            rows.map(|(name, count)| vec![name.clone(), count.to_string()]),
        )?;
    }
    for note in &report.notes {
        write!(html, "<p>Note: {}</p>", escape(note))?;
    }
    write!(html, "</html>")
}

fn verdict(html: &mut String, report: &Report) -> std::fmt::Result {
    if report.clean() && report.kept() {
        write!(
            html,
            "<p class=\"good\">Nothing lost, doubled or disordered; all thresholds kept.</p>"
        )?;
    }
    for fault in &report.faults {
        write!(html, "<p class=\"bad\">Fault: {}</p>", escape(fault))?;
    }
    for missed in &report.missed {
        write!(html, "<p class=\"bad\">Missed: {}</p>", escape(missed))?;
    }
    Ok(())
}

fn surroundings(html: &mut String, report: &Report) -> std::fmt::Result {
    let around = &report.surroundings;
    let others = around.others_busy.map_or_else(
        || "not known".to_owned(),
        |cores| format!("{cores:.2} processors"),
    );
    write!(
        html,
        "<p><code>{}</code></p><p>{} · {:.0} s · {} · {:.0} MiB · {} · {} · busy with something else: {others}</p>",
        escape(&around.command),
        escape(&around.began),
        around.seconds,
        escape(&around.processor),
        around.memory_mib,
        escape(&around.system),
        escape(&around.server),
    )
}

fn figures(html: &mut String, report: &Report) -> std::fmt::Result {
    write!(html, "<h2>Figures</h2>")?;
    let rows = report.figures.iter();
    table(
        html,
        &["figure", "value", "unit"],
        rows.map(|figure| {
            vec![
                figure.name.clone(),
                number(figure.value),
                figure.unit.to_string(),
            ]
        }),
    )
}

fn ratios(html: &mut String, report: &Report) -> std::fmt::Result {
    if report.ratios.is_empty() {
        return Ok(());
    }
    write!(html, "<h2>Beside the yardsticks</h2>")?;
    let rows = report.ratios.iter().map(|row| {
        let reached = row.verdict();
        vec![
            format!("{}, {}", row.name, row.unit),
            number(row.figure),
            number(row.yardstick),
            row.ratio.map_or_else(|| "-".to_owned(), number),
            format!("{} {reached}", row.aim.text(&row.unit)),
        ]
    });
    table(html, &["what", "figure", "yardstick", "ratio", "aim"], rows)
}

fn latencies(html: &mut String, report: &Report) -> std::fmt::Result {
    if report.latencies.is_empty() {
        return Ok(());
    }
    write!(html, "<h2>Latencies, ms</h2>")?;
    let rows = report.latencies.iter().map(|row| {
        let p = row.percentiles;
        let times = [p.p50_us, p.p90_us, p.p99_us, p.p99_9_us, p.max_us];
        let mut cells = vec![row.name.clone(), p.count.to_string()];
        cells.extend(times.map(milliseconds));
        cells
    });
    table(
        html,
        &["what", "count", "p50", "p90", "p99", "p99.9", "max"],
        rows,
    )?;
    for rows in report.latencies.chunks(LINES) {
        let lines: Vec<_> = rows
            .iter()
            .map(|row| Line {
                name: &row.name,
                points: row
                    .curve
                    .iter()
                    .map(|(quantile, us)| (1.0 / (1.0 - quantile), super::float(*us) / 1_000.0))
                    .collect(),
            })
            .filter(|line: &Line<'_>| !line.points.is_empty())
            .collect();
        if !lines.is_empty() {
            let look = Look {
                across: "percentile",
                up: "ms",
                across_scale: Scale::Log,
                up_scale: Scale::Log,
                across_text: |value| {
                    format!("{:.5}", 100.0 - 100.0 / value)
                        .trim_end_matches('0')
                        .trim_end_matches('.')
                        .to_owned()
                },
            };
            html.push_str(&draw(&lines, look));
        }
    }
    Ok(())
}

fn series(html: &mut String, report: &Report) -> std::fmt::Result {
    let mut plots: Vec<&str> = Vec::new();
    for series in &report.series {
        if !plots.contains(&series.plot.as_str()) {
            plots.push(&series.plot);
        }
    }
    for plot in plots {
        write!(html, "<h2>{}</h2>", escape(plot))?;
        let all: Vec<&Series> = report.series.iter().filter(|it| it.plot == plot).collect();
        for some in all.chunks(LINES) {
            let axis = some.first().map_or("", |series| series.axis.as_ref());
            let lines: Vec<_> = some
                .iter()
                .map(|series| Line {
                    name: &series.name,
                    points: series.points.clone(),
                })
                .collect();
            let look = Look {
                across: axis,
                up: plot,
                across_scale: if axis == "s" {
                    Scale::Linear
                } else {
                    Scale::Log
                },
                up_scale: Scale::Linear,
                across_text: short,
            };
            html.push_str(&draw(&lines, look));
        }
    }
    Ok(())
}

fn table(
    html: &mut String,
    heads: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> std::fmt::Result {
    write!(html, "<table><tr>")?;
    for head in heads {
        write!(html, "<th>{head}</th>")?;
    }
    write!(html, "</tr>")?;
    for row in rows {
        write!(html, "<tr>")?;
        for cell in row {
            write!(html, "<td>{}</td>", escape(&cell))?;
        }
        write!(html, "</tr>")?;
    }
    write!(html, "</table>")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

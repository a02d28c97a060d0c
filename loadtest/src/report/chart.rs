//! Plots as SVG text.

use std::error::Error;

use plotters::chart::ChartBuilder;
use plotters::coord::combinators::IntoLogRange as _;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged};
use plotters::drawing::IntoDrawingArea as _;
use plotters::element::PathElement;
use plotters::prelude::{SVGBackend, SeriesLabelPosition};
use plotters::series::LineSeries;
use plotters::style::{BLACK, Color as _, Palette as _, Palette99, WHITE};

/// Size of a plot in pixels.
const SIZE: (u32, u32) = (900, 340);

/// A line of a plot.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// Its name in the legend.
    pub(super) name: &'a str,
    /// Its points.
    pub(super) points: Vec<(f64, f64)>,
}

/// The scale of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// Even steps, from 0.
    Linear,
    /// Each decade as wide as the next.
    Log,
}

/// What a plot looks like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look<'a> {
    /// Name of the horizontal axis.
    pub(super) across: &'a str,
    /// Name of the vertical axis.
    pub(super) up: &'a str,
    /// Scale of the horizontal axis.
    pub(super) across_scale: Scale,
    /// Scale of the vertical axis.
    pub(super) up_scale: Scale,
    /// How numbers of the horizontal axis are written.
    pub(super) across_text: fn(f64) -> String,
}

/// Draws lines; answers the SVG element, or why it could not be drawn.
pub(super) fn draw(lines: &[Line<'_>], look: Look<'_>) -> String {
    let mut svg = String::new();
    match draw_into(&mut svg, lines, look) {
        Ok(()) => svg,
        Err(error) => format!("<p>This plot could not be drawn: {error}</p>"),
    }
}

fn draw_into(svg: &mut String, lines: &[Line<'_>], look: Look<'_>) -> Result<(), Box<dyn Error>> {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let (left, right) = ends(points().map(|(x, _)| x), look.across_scale);
    let (low, high) = ends(points().map(|(_, y)| y), look.up_scale);
    match (look.across_scale, look.up_scale) {
        (Scale::Linear, Scale::Linear) => paint(svg, lines, look, left..right, low..high),
        (Scale::Linear, Scale::Log) => {
            paint(svg, lines, look, left..right, (low..high).log_scale())
        }
        (Scale::Log, Scale::Linear) => {
            paint(svg, lines, look, (left..right).log_scale(), low..high)
        }
        (Scale::Log, Scale::Log) => {
            let (across, up) = ((left..right).log_scale(), (low..high).log_scale());
            paint(svg, lines, look, across, up)
        }
    }
}

/// Both ends of an axis, never the same.
fn ends(values: impl Iterator<Item = f64>, scale: Scale) -> (f64, f64) {
    let finite = values.filter(|value| value.is_finite());
    let (low, high) = finite.fold((f64::MAX, f64::MIN), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    match scale {
        Scale::Linear => (low.min(0.0), (high * 1.05).max(low.min(0.0) + 1e-3)),
        Scale::Log => {
            // Whole decades, so that there are marks.
            let floor = 10_f64.powf(low.clamp(1e-3, 1e12).log10().floor());
            let ceiling = 10_f64.powf(high.clamp(1e-3, 1e12).log10().ceil());
            (floor, ceiling.max(floor * 10.0))
        }
    }
}

fn paint<X, Y>(
    svg: &mut String,
    lines: &[Line<'_>],
    look: Look<'_>,
    across: X,
    up: Y,
) -> Result<(), Box<dyn Error>>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: AsRangedCoord<Value = f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let floor = |value: f64, scale| match scale {
        Scale::Linear => value,
        Scale::Log => value.max(1e-6),
    };
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .x_label_area_size(38)
        .y_label_area_size(64)
        .build_cartesian_2d(across, up)?;
    chart
        .configure_mesh()
        .x_desc(look.across)
        .y_desc(look.up)
        .x_label_formatter(&|value| (look.across_text)(*value))
        .y_label_formatter(&|value| short(*value))
        .light_line_style(WHITE)
        .draw()?;
    for (index, line) in lines.iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        let points = line.points.iter();
        let points = points.map(|(x, y)| (floor(*x, look.across_scale), floor(*y, look.up_scale)));
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.2))
        .draw()?;
    area.present()?;
    Ok(())
}

/// A number with few digits.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if size >= 1e6 {
        format!("{:.1} M", value / 1e6)
    } else if size >= 1e4 {
        format!("{:.0} k", value / 1e3)
    } else if size >= 100.0 || size == 0.0 {
        format!("{value:.0}")
    } else if size >= 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

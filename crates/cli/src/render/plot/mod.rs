//! Draws the plots of a report as SVG with plotters, and defines what each plot shows.
//!
//! No fonts are loaded; the reader's own fonts draw the text.

mod axis;
mod legend;
mod look;

pub use look::STYLE;

use super::units;
use axis::{Axis, AxisSpread, Scale};
use callgate_suite::BoxError;
use callgate_suite::report::Series;
use legend::Legend;
use look::CurveStyle;
use plotters::backend::SVGBackend;
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::{DrawingArea, IntoDrawingArea};
use plotters::series::LineSeries;
use plotters::style::Color;

type Drawing<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<AxisSpread, AxisSpread>>;

/// What one plot of a report shows.
pub struct PlotKind {
    /// The name in `Series::plot`, and of the plot's file.
    pub plot: &'static str,
    pub title: &'static str,
    pub caption: &'static str,
    /// The group of measurements that the plot shows.
    pub group: &'static str,
    x: Axis,
    y: Axis,
}

/// The plots, in their order in a report.
pub const KINDS: [PlotKind; 6] = [
    PlotKind {
        plot: "distribution-latency",
        title: "How latency is distributed",
        caption: "Latency of a round trip at each percentile; the axis stretches the tail.",
        group: "latency",
        x: PERCENTILES,
        y: LATENCY,
    },
    PlotKind {
        plot: "payload",
        title: "Latency against payload",
        caption: "Median round trip of a payload that is sent and comes back.",
        group: "payload",
        x: Axis { title: "payload", scale: Scale::Log2, write: units::bytes },
        y: Axis { title: "latency, p50", scale: Scale::Log10, write: units::nanoseconds },
    },
    PlotKind {
        plot: "threads",
        title: "Throughput against threads",
        caption: "Calls per second of all calling threads together.",
        group: "throughput",
        x: Axis { title: "calling threads", scale: Scale::Whole, write: |threads| format!("{threads}") },
        y: Axis { title: "calls per second", scale: Scale::Linear, write: units::per_second },
    },
    PlotKind {
        plot: "gap",
        title: "CPU per call against idle gap",
        caption: "CPU time that both processes spend on one call, when calls come with a pause between them.",
        group: "waiting",
        x: Axis { title: "idle gap between calls", scale: Scale::Log10, write: units::nanoseconds },
        y: Axis { title: "CPU per call", scale: Scale::Log10, write: units::nanoseconds },
    },
    PlotKind {
        plot: "distribution-start",
        title: "How starting is distributed",
        caption: "Time from nothing to the first reply, at each percentile.",
        group: "start",
        x: PERCENTILES,
        y: LATENCY,
    },
    PlotKind {
        plot: "distribution-compare",
        title: "Other ways across",
        caption: "Latency of `add` through other means, at each percentile.",
        group: "compare",
        x: PERCENTILES,
        y: LATENCY,
    },
];

const PERCENTILES: Axis = Axis { title: "percentile", scale: Scale::Percentile, write: |percent| format!("{percent}") };
const LATENCY: Axis = Axis { title: "latency", scale: Scale::Log10, write: units::nanoseconds };

/// Draws the curves of `series` that belong to `kind`, `width` pixels wide, as an element `<svg class="plot">` that relies on
/// [`STYLE`]. `None` if no point can be drawn.
pub fn element(kind: &PlotKind, series: &[Series], width: u32) -> Result<Option<String>, BoxError> {
    let name = format!("<svg class=\"plot\" role=\"img\" aria-label=\"{}\" ", kind.title);
    // Within HTML the element needs no namespace.
    let inline = |svg: String| svg.replacen(NAMESPACE, "", 1).replacen("<svg ", &name, 1);
    Ok(draw(kind, series, width)?.map(inline))
}

/// Draws the same as a separate file, which contains its style.
pub fn file(kind: &PlotKind, series: &[Series], width: u32) -> Result<Option<String>, BoxError> {
    let with_style = |svg: String| {
        svg.replacen("<svg ", "<svg class=\"plot\" ", 1).replacen('>', &format!("><style>{STYLE}</style>"), 1)
    };
    Ok(draw(kind, series, width)?.map(with_style))
}

const NAMESPACE: &str = " xmlns=\"http://www.w3.org/2000/svg\"";
const MARGIN: u32 = 12;

fn draw(kind: &PlotKind, series: &[Series], width: u32) -> Result<Option<String>, BoxError> {
    let drawn = series.iter().filter(|one| one.plot == kind.plot);
    let curves = drawn.map(|one| (one.name.as_str(), points(kind, one))).filter(|(_, points)| !points.is_empty());
    let curves: Vec<_> =
        curves.enumerate().map(|(index, (name, points))| Curve { name, look: CurveStyle::of(index), points }).collect();
    if curves.is_empty() {
        return Ok(None);
    }
    let legend = Legend::of(curves.iter().map(|curve| (curve.name, curve.look)), width);
    let height = (width / 2).clamp(270, 380);
    let mut svg = String::new();
    {
        let drawing = SVGBackend::with_string(&mut svg, (width, legend.height + height)).into_drawing_area();
        drawing.fill(&look::SURFACE)?;
        legend.draw(&drawing)?;
        chart(kind, &curves, &drawing, legend.height)?;
        drawing.present()?;
    }
    Ok(Some(svg))
}

struct Curve<'a> {
    name: &'a str,
    look: CurveStyle,
    points: Vec<(f64, f64)>,
}

/// The points of a series that can be placed on the axes, in order.
fn points(kind: &PlotKind, series: &Series) -> Vec<(f64, f64)> {
    let can_stand = |&(x, y): &(f64, f64)| kind.x.scale.takes(x) && kind.y.scale.takes(y);
    let mut points: Vec<_> = series.points.iter().copied().filter(can_stand).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// Draws axes and curves below the first `top` pixels.
fn chart(kind: &PlotKind, curves: &[Curve<'_>], drawing: &Drawing<'_>, top: u32) -> Result<(), BoxError> {
    let area = drawing.split_vertically(top).1;
    let (width, height) = area.dim_in_pixel();
    let points = || curves.iter().flat_map(|curve| curve.points.iter());
    let x = AxisSpread::of(&kind.x, points().map(|point| point.0), (width / 64) as usize);
    let y = AxisSpread::of(&kind.y, points().map(|point| point.1), (height / 30) as usize);
    let mut chart = ChartBuilder::on(&area)
        .margin(MARGIN)
        .margin_right(2 * MARGIN)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(x, y)?;
    mesh(kind, &mut chart)?;
    for Curve { look, points, .. } in curves {
        chart.draw_series(LineSeries::new(points.iter().copied(), look.color.stroke_width(2)))?;
        let places: Vec<_> = points.iter().map(|point| chart.backend_coord(point)).collect();
        let distance = if places.len() > 16 { width as i32 / 14 } else { 0 };
        for place in spaced(&places, distance) {
            look.mark(drawing, place)?;
        }
    }
    Ok(())
}

/// Chooses some of `places`, at least `distance` apart from left to right. On a long curve a few marks are enough to tell it from others.
fn spaced(places: &[(i32, i32)], distance: i32) -> Vec<(i32, i32)> {
    let mut kept: Vec<(i32, i32)> = Vec::new();
    for place in places {
        if kept.last().is_none_or(|last| place.0 - last.0 >= distance) {
            kept.push(*place);
        }
    }
    kept
}

fn mesh(kind: &PlotKind, chart: &mut Chart<'_, '_>) -> Result<(), BoxError> {
    chart
        .configure_mesh()
        .bold_line_style(look::GRID)
        .light_line_style(look::GRID.mix(0.0))
        .axis_style(look::FRAME)
        .label_style(look::text(12).color(&look::MUTED))
        .axis_desc_style(look::text(12).color(&look::INK))
        .x_desc(kind.x.title)
        .y_desc(kind.y.title)
        .draw()?;
    Ok(())
}

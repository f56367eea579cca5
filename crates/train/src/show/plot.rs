//! Plots as SVG: panels side by side on white, each with lines of means, their spread as a band, and a legend.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Width and height of a panel in pixels.
const PANEL: (u32, u32) = (540, 420);
/// Height of the title and the legend above the axes.
const HEAD: i32 = 68;
/// Room left and right of the axes, for numbers and the vertical title; and beyond these on each side.
const LEFT: i32 = 72;
const RIGHT: i32 = 16;
const MARGIN: i32 = 10;
/// Height of the numbers and the title below the horizontal axis.
const BELOW: i32 = 52;
/// Blue, vermilion, bluish green and reddish purple: told apart with any colour vision (Okabe and Ito, 2008).
const COLORS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];
pub const INK: RGBColor = RGBColor(45, 45, 45);
const GRID: RGBColor = RGBColor(228, 228, 228);

/// A point of a line, and the spread of the values that it is the mean of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub mean: f64,
    /// Half the height of the band: a standard deviation.
    pub spread: f64,
}

/// A line of the legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub label: String,
    /// By increasing `x`. Those that are not finite are left out.
    pub points: Vec<Point>,
}

/// One pair of axes. The vertical one begins at 0: what hardly changes looks flat, however little that is.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    pub title: String,
    pub x_axis: String,
    pub y_axis: String,
    pub lines: Vec<Line>,
}

impl Panel {
    fn points(&self) -> impl Iterator<Item = &Point> {
        self.lines.iter().flat_map(Line::finite)
    }

    /// Ends of the horizontal axis.
    fn x_range(&self) -> (f64, f64) {
        let (low, high) = self
            .points()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), point| (low.min(point.x), high.max(point.x)));
        if low < high { (low, high) } else { (0.0, 1.0) }
    }

    /// Upper end of the vertical axis: a little above all bands.
    fn top(&self) -> f64 {
        let highest = self.points().map(|point| point.mean + point.spread).fold(0.0, f64::max);
        if highest > 0.0 { 1.05 * highest } else { 1.0 }
    }
}

impl Line {
    fn finite(&self) -> impl DoubleEndedIterator<Item = &Point> {
        self.points.iter().filter(|point| point.mean.is_finite() && point.spread.is_finite())
    }
}

/// Text of this size in pixels.
pub fn text<'a>(size: f64, horizontal: HPos) -> TextStyle<'a> {
    // The backend divides by this factor, and so returns to the size that is asked for.
    const BACKEND: f64 = 1.24;
    ("sans-serif", size * BACKEND).into_font().color(&INK).pos(Pos::new(horizontal, VPos::Center))
}

/// The panels as one SVG document.
///
/// # Errors
/// When the numbers leave the range that can be drawn.
pub fn svg(panels: &[Panel]) -> Result<String> {
    let mut document = String::new();
    {
        let root = SVGBackend::with_string(&mut document, (PANEL.0 * panels.len() as u32, PANEL.1)).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, panel) in root.split_evenly((1, panels.len())).iter().zip(panels) {
            draw(area, panel)?;
        }
        root.present()?;
    }
    Ok(document)
}

fn draw(area: &DrawingArea<SVGBackend<'_>, Shift>, panel: &Panel) -> Result<()> {
    let (head, body) = area.split_vertically(HEAD);
    draw_head(&head, panel)?;
    let (first, last) = panel.x_range();
    let mut chart = ChartBuilder::on(&body)
        .margin_left(MARGIN)
        .margin_right(MARGIN + RIGHT)
        .margin_bottom(MARGIN)
        .x_label_area_size(BELOW)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(first..last, 0.0..panel.top())?;
    chart
        .configure_mesh()
        .x_desc(&panel.x_axis)
        .y_desc(&panel.y_axis)
        .x_labels(6)
        .y_labels(6)
        .max_light_lines(1)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(text(14.0, HPos::Center))
        .axis_desc_style(text(15.0, HPos::Center))
        .draw()?;
    for (line, color) in panel.lines.iter().zip(COLORS.iter().cycle()) {
        let upper = line.finite().map(|point| (point.x, point.mean + point.spread));
        let lower = line.finite().rev().map(|point| (point.x, (point.mean - point.spread).max(0.0)));
        chart.draw_series([Polygon::new(upper.chain(lower).collect::<Vec<_>>(), color.mix(0.2))])?;
    }
    // Lines come above all bands.
    for (line, color) in panel.lines.iter().zip(COLORS.iter().cycle()) {
        chart.draw_series(LineSeries::new(line.finite().map(|point| (point.x, point.mean)), color.stroke_width(2)))?;
        chart.draw_series(line.finite().map(|point| Circle::new((point.x, point.mean), 3, color.filled())))?;
    }
    Ok(())
}

/// The title, and below it the legend: beside the lines, it could not cover one.
fn draw_head(head: &DrawingArea<SVGBackend<'_>, Shift>, panel: &Panel) -> Result<()> {
    let (left, width) = (MARGIN + LEFT, PANEL.0 as i32 - 2 * MARGIN - LEFT - RIGHT);
    head.draw(&Text::new(panel.title.as_str(), (left + width / 2, 20), text(18.0, HPos::Center)))?;
    let slot = width / panel.lines.len().max(1) as i32;
    for (i, (line, color)) in panel.lines.iter().zip(COLORS.iter().cycle()).enumerate() {
        let (x, y) = (left + i as i32 * slot, 48);
        head.draw(&PathElement::new([(x, y), (x + 28, y)], color.stroke_width(2)))?;
        head.draw(&Circle::new((x + 14, y), 3, color.filled()))?;
        head.draw(&Text::new(line.label.as_str(), (x + 36, y), text(14.0, HPos::Left)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Line, Panel, Point, svg};

    fn panel(values: &[f64]) -> Panel {
        let points = (0..).zip(values).map(|(i, &mean)| Point { x: f64::from(i), mean, spread: 0.1 });
        let lines = vec![Line { label: "test & more".to_owned(), points: points.collect() }];
        let text = |text: &str| text.to_owned();
        Panel { title: text("Error"), x_axis: text("distance"), y_axis: text("per cent"), lines }
    }

    #[test]
    fn a_plot_has_its_texts_lines_and_bands_once_per_panel() {
        let document = svg(&[panel(&[1.0, 2.0, 4.0]), panel(&[0.0, 0.0, 0.0])]).expect("drawn");
        assert!(document.starts_with("<svg") && document.trim_end().ends_with("</svg>"), "{document}");
        for text in ["Error", "distance", "per cent", "test &amp; more"] {
            assert_eq!(document.matches(text).count(), 2, "{text} in {document}");
        }
        assert_eq!(document.matches("<polygon").count(), 2, "{document}");
        // Three points and one in the legend.
        assert_eq!(document.matches("<circle").count(), 2 * 4, "{document}");
    }

    #[test]
    fn what_is_not_finite_is_left_out() {
        for values in [&[1.0, f64::NAN, 3.0, f64::INFINITY][..], &[f64::NAN], &[]] {
            let document = svg(&[panel(values)]).expect("drawn");
            assert!(!document.contains("NaN") && !document.contains("inf"), "{document}");
            let finite = values.iter().filter(|value| value.is_finite()).count();
            assert_eq!(document.matches("<circle").count(), finite + 1);
        }
    }
}

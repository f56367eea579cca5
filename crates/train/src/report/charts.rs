//! The page's charts, as SVG without a background, in colours that its style sheet replaces where it is dark.

use anyhow::Result;
use one::Bin;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::show::plot::{INK, Line, text};

/// Width and height of a chart.
const SIZE: (u32, u32) = (520, 310);
/// Told apart with any colour vision; the style sheet knows them by these very values.
pub const COLORS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 135, 95),
    RGBColor(181, 80, 140),
    RGBColor(138, 109, 0),
    RGBColor(91, 79, 196),
    RGBColor(107, 107, 107),
    RGBColor(160, 48, 48),
];
const GRID: RGBColor = RGBColor(228, 228, 228);
/// Density of a cell of the fullest colour: text on it must stay readable.
const DENSEST: f64 = 0.62;
/// Classes of which each cell of a confusion matrix has its number, and of which names stand beside it.
const WITH_NUMBERS: usize = 12;
const WITH_NAMES: usize = 30;
/// Points of a line that are marked one by one.
const MARKED: usize = 12;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws on an SVG of this size.
fn svg(size: (u32, u32), draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut document = String::new();
    {
        let root = SVGBackend::with_string(&mut document, size).into_drawing_area();
        draw(&root)?;
        root.present()?;
    }
    Ok(document)
}

/// Lines over epochs, each the mean over seeds with its spread as a band. The vertical axis begins at 0 where
/// `from_zero`.
///
/// # Errors
/// When the numbers leave the range that can be drawn.
pub fn lines(lines: &[Line], y_axis: &str, from_zero: bool) -> Result<String> {
    let finite = |line: &Line| -> Vec<(f64, f64, f64)> {
        let points = line.points.iter().filter(|point| point.mean.is_finite() && point.spread.is_finite());
        points.map(|point| (point.x, point.mean, point.spread)).collect()
    };
    let lines: Vec<Vec<(f64, f64, f64)>> = lines.iter().map(finite).collect();
    let all = || lines.iter().flatten();
    let (first, last) = range(all().map(|point| point.0));
    let (low, high) = range(all().flat_map(|&(_, mean, spread)| [mean - spread, mean + spread]));
    let room = 0.05 * (high - low);
    let bottom = if from_zero { 0.0 } else { low - room };
    let digits = digits(high - bottom);
    svg(SIZE, |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(8)
            .margin_right(14)
            .x_label_area_size(42)
            .y_label_area_size(58)
            .build_cartesian_2d(first..last, bottom..high + room)?;
        chart
            .configure_mesh()
            .x_desc("epoch")
            .y_desc(y_axis)
            .x_labels(6)
            .y_labels(6)
            .max_light_lines(1)
            .x_label_formatter(&|x| if x.fract().abs() < 1e-6 { format!("{x:.0}") } else { String::new() })
            .y_label_formatter(&|y| format!("{y:.digits$}"))
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(text(13.0, HPos::Center))
            .axis_desc_style(text(13.0, HPos::Center))
            .draw()?;
        for (points, color) in lines.iter().zip(COLORS.iter().cycle()) {
            if points.iter().any(|point| point.2 > 0.0) {
                let upper = points.iter().map(|&(x, mean, spread)| (x, mean + spread));
                let lower = points.iter().rev().map(|&(x, mean, spread)| (x, (mean - spread).max(bottom)));
                chart.draw_series([Polygon::new(upper.chain(lower).collect::<Vec<_>>(), color.mix(0.18))])?;
            }
        }
        for (points, color) in lines.iter().zip(COLORS.iter().cycle()) {
            let means = || points.iter().map(|&(x, mean, _)| (x, mean));
            chart.draw_series(LineSeries::new(means(), color.stroke_width(2)))?;
            if points.len() <= MARKED {
                chart.draw_series(means().map(|point| Circle::new(point, 3, color.filled())))?;
            }
        }
        Ok(())
    })
}

/// Digits behind the point that labels of an axis of this extent need.
fn digits(extent: f64) -> usize {
    (0..8).find(|&digits| extent * 10f64.powi(digits) >= 5.0).unwrap_or(8) as usize
}

/// Ends of an axis; some unit around a single value.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), value| (l.min(value), h.max(value)));
    match (low < high, low.is_finite()) {
        (true, _) => (low, high),
        (false, true) => (low - 0.5, low + 0.5),
        (false, false) => (0.0, 1.0),
    }
}

/// A reliability diagram: how often the predictions of each bin are right, against how sure the network is of them.
///
/// # Errors
/// As [`lines`].
pub fn reliability(bins: &[Bin]) -> Result<String> {
    let width = 100.0 / bins.len() as f64;
    svg((320, 300), |root| {
        let mut chart = ChartBuilder::on(root)
            .margin(8)
            .margin_right(14)
            .x_label_area_size(42)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..100.0, 0.0..100.0)?;
        chart
            .configure_mesh()
            .x_desc("confidence, %")
            .y_desc("right, %")
            .x_labels(6)
            .y_labels(6)
            .max_light_lines(1)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .bold_line_style(GRID)
            .axis_style(INK)
            .label_style(text(13.0, HPos::Center))
            .axis_desc_style(text(13.0, HPos::Center))
            .draw()?;
        let filled = bins.iter().enumerate().filter(|(_, bin)| bin.images > 0);
        chart.draw_series(filled.clone().map(|(i, bin)| {
            let left = i as f64 * width;
            Rectangle::new([(left + 0.3, 0.0), (left + width - 0.3, 100.0 * bin.accuracy)], COLORS[0].mix(0.7).filled())
        }))?;
        chart.draw_series(DashedLineSeries::new([(0.0, 0.0), (100.0, 100.0)], 5, 4, INK.stroke_width(1)))?;
        let points = filled.map(|(_, bin)| (100.0 * bin.confidence, 100.0 * bin.accuracy));
        chart.draw_series(points.map(|point| Circle::new(point, 3, COLORS[1].filled())))?;
        Ok(())
    })
}

/// Pixels that a text takes.
fn extent(label: &str) -> i32 {
    7 * label.chars().count() as i32
}

/// A confusion matrix, a row for each true class and a column for each predicted one; colours are shares of the row.
///
/// # Errors
/// As [`lines`].
pub fn confusion(matrix: &[Vec<usize>], names: &[String]) -> Result<String> {
    let classes = matrix.len();
    let named = classes <= WITH_NAMES;
    let longest = names.iter().map(|name| extent(name)).max().unwrap_or(0).min(150);
    let side = (560 / classes.max(1) as i32).clamp(2, 38);
    let margin = if named { longest + 26 } else { 30 };
    let edge = margin + side * classes as i32;
    svg(((edge + 10) as u32, (edge + 10) as u32), |root| {
        root.draw(&Text::new("predicted", (margin + side * classes as i32 / 2, 10), text(13.0, HPos::Center)))?;
        let turned = text(13.0, HPos::Center).transform(FontTransform::Rotate270);
        root.draw(&Text::new("true", (10, margin + side * classes as i32 / 2), turned))?;
        for (row, counts) in matrix.iter().enumerate() {
            let (top, all) = (margin + side * row as i32, counts.iter().sum::<usize>().max(1));
            if named {
                root.draw(&Text::new(names[row].as_str(), (margin - 6, top + side / 2), text(12.0, HPos::Right)))?;
                let style = text(12.0, HPos::Left).transform(FontTransform::Rotate270);
                let style = style.pos(Pos::new(HPos::Left, VPos::Center));
                root.draw(&Text::new(names[row].as_str(), (top + side / 2, margin - 6), style))?;
            }
            for (column, &count) in counts.iter().enumerate() {
                let left = margin + side * column as i32;
                let gap = i32::from(side > 8);
                let corners = [(left, top), (left + side - gap, top + side - gap)];
                // The root lifts what is rare, which is what is looked for.
                let share = (count as f64 / all as f64).sqrt();
                let color = if row == column { COLORS[0] } else { COLORS[1] };
                root.draw(&Rectangle::new(corners, GRID.mix(0.45).filled()))?;
                if count > 0 {
                    root.draw(&Rectangle::new(corners, color.mix(DENSEST * share).filled()))?;
                }
                if classes <= WITH_NUMBERS && count > 0 {
                    let at = (left + side / 2, top + side / 2);
                    root.draw(&Text::new(count.to_string(), at, text(12.0, HPos::Center)))?;
                }
            }
        }
        Ok(())
    })
}

/// A bar per row, made of shares that sum to 1, with the row's name beside it.
///
/// # Errors
/// As [`lines`].
pub fn stacked(rows: &[(String, Vec<f64>)]) -> Result<String> {
    let names = rows.iter().map(|(name, _)| extent(name)).max().unwrap_or(0).min(180) + 14;
    let (width, height, bar) = (SIZE.0 as i32 - names - 12, 24, 18);
    svg((SIZE.0, (height * rows.len() as i32 + 8) as u32), |root| {
        for (i, (name, shares)) in rows.iter().enumerate() {
            let top = 4 + height * i as i32;
            root.draw(&Text::new(name.as_str(), (names - 8, top + bar / 2), text(13.0, HPos::Right)))?;
            let mut from = 0.0;
            for (share, color) in shares.iter().zip(COLORS.iter().cycle()) {
                let x = |at: f64| names + (at * f64::from(width)).round() as i32;
                let corners = [(x(from), top), (x(from + share) - 1, top + bar)];
                root.draw(&Rectangle::new(corners, color.mix(0.75).filled()))?;
                if *share > 0.12 {
                    let at = (x(from + share / 2.0), top + bar / 2);
                    root.draw(&Text::new(format!("{:.0}", 100.0 * share), at, text(12.0, HPos::Center)))?;
                }
                from += share;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::plot::Point;

    #[test]
    fn labels_have_the_digits_that_tell_them_apart() {
        assert_eq!([600.0, 5.0, 4.9, 0.4, 0.05].map(digits), [0, 0, 1, 2, 2]);
    }

    #[test]
    fn charts_have_their_marks_and_no_number_that_is_none() {
        let points = [1.0, f64::NAN, 3.0].map(|mean| Point { x: mean, mean, spread: 0.5 });
        let line = Line { label: String::new(), points: points.to_vec() };
        let document = lines(&[line.clone(), line], "error", true).expect("drawn");
        assert_eq!((document.matches("<circle").count(), document.matches("<polygon").count()), (4, 2), "{document}");
        assert!(document.starts_with("<svg") && !document.contains("NaN"), "{document}");
        lines(&[], "error", false).expect("nothing to draw");

        let bins = [Bin { images: 3, confidence: 0.4, accuracy: 0.5 }, Bin::default()];
        assert_eq!(reliability(&bins).expect("drawn").matches("<circle").count(), 1);

        let names = ["cat & dog", "b"].map(str::to_owned);
        let document = confusion(&[vec![3, 0], vec![1, 17]], &names).expect("drawn");
        assert_eq!(document.matches("cat &amp; dog").count(), 2, "{document}");
        assert!(document.contains("17") && document.matches("<rect").count() == 4 + 3, "{document}");
        let document = stacked(&[("ship".to_owned(), vec![0.7, 0.3])]).expect("drawn");
        assert!(document.contains("ship") && document.contains("70") && document.matches("<rect").count() == 2);
    }
}

//! Drawing of the dashboard.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, LegendPosition, Paragraph, Sparkline};

use super::view::View;
use crate::show::words::{byte_size, duration};

/// Colours of the branches; the ensemble and training have others.
const COLORS: [Color; 8] = [
    Color::LightBlue,
    Color::LightRed,
    Color::LightGreen,
    Color::LightMagenta,
    Color::LightYellow,
    Color::LightCyan,
    Color::Blue,
    Color::Red,
];
const ENSEMBLE: Color = Color::White;
const TRAINING: Color = Color::DarkGray;
/// Width of the column of numbers.
const NUMBERS: u16 = 34;
/// Width of what stands beside the title.
const BESIDE: u16 = 26;
/// Cells of a bar of the gate.
const BAR: usize = 16;
/// A terminal that is smaller shows the progress alone.
const LEAST: (u16, u16) = (72, 18);

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let [progress, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
        draw_progress(frame, progress, view);
        frame.render_widget(Paragraph::new(format!("a terminal of {} x {} shows more", LEAST.0, LEAST.1)).dim(), rest);
        return;
    }
    let messages = view.messages.len() as u16;
    let rows = [
        Constraint::Length(4),
        Constraint::Length(1),
        Constraint::Min(8),
        Constraint::Length(messages),
        Constraint::Length(1),
    ];
    let [title, progress, middle, said, keys] = Layout::vertical(rows).areas(area);
    draw_title(frame, title, view);
    draw_progress(frame, progress, view);
    let [curves, numbers] = Layout::horizontal([Constraint::Min(30), Constraint::Length(NUMBERS)]).areas(middle);
    draw_curves(frame, curves, view);
    draw_numbers(frame, numbers, view);
    let lines: Vec<Line<'_>> = view.messages.iter().map(|text| Line::from(text.as_str())).collect();
    frame.render_widget(Paragraph::new(lines).yellow(), said);
    let key = |key: &'static str, what: &'static str| [Span::from(key).bold(), Span::from(what).dim()];
    let help =
        [key(" s", " save now   "), key("e", " stop after this epoch   "), key("q", " stop now, saved")].concat();
    frame.render_widget(Line::from(help), keys);
}

fn draw_title(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let [left, beside] = Layout::horizontal([Constraint::Min(20), Constraint::Length(BESIDE)]).areas(area);
    let names = ["network", "data", "device", "run"];
    let line = |(name, text): (&str, &String)| {
        Line::from(vec![Span::from(format!(" {name:<9}")).dim(), Span::from(text.clone())])
    };
    let lines: Vec<Line<'_>> = names.into_iter().zip(&view.title).map(line).collect();
    frame.render_widget(Paragraph::new(lines), left);
    let best = view.best.map_or_else(String::new, |(error, epoch)| format!("best {error:.2} % (epoch {epoch}) "));
    let right = [best, format!("{} ", duration(view.started.elapsed())), format!("{} ", byte_size(view.memory))];
    let lines: Vec<Line<'_>> = right.into_iter().map(Line::from).collect();
    frame.render_widget(Paragraph::new(lines).alignment(Alignment::Right), beside);
}

fn draw_progress(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let done =
        (view.epoch.saturating_sub(1) as f64 + view.step as f64 / view.steps.max(1) as f64) / view.epochs.max(1) as f64;
    let what = match view.evaluating {
        Some((step, steps)) => format!("evaluating, {step}/{steps}"),
        None => format!("step {}/{}", view.step, view.steps),
    };
    let left = view
        .left
        .map_or_else(String::new, |(epoch, run)| format!(", {} left ({} of the run)", duration(epoch), duration(run)));
    let label = format!("epoch {}/{}, {what}{left}", view.epoch, view.epochs);
    let style = Style::default().fg(Color::Blue).bg(Color::Black).add_modifier(Modifier::BOLD);
    frame.render_widget(Gauge::default().ratio(done.clamp(0.0, 1.0)).label(label).gauge_style(style), area);
}

/// Ends of an axis that shows these values.
fn range(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    if low > high { [0.0, 100.0] } else { [(low - 1.0).max(0.0).floor(), (high + 1.0).ceil()] }
}

fn draw_curves(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let block = Block::bordered().title(" error, % ");
    if view.training.is_empty() {
        let text =
            Paragraph::new("the curves begin with the first epoch's evaluation").dim().alignment(Alignment::Center);
        frame.render_widget(text.block(block), area);
        return;
    }
    let names: Vec<String> = (0..view.branches.len()).map(|i| format!("test {i}")).collect();
    let curve = |name: &str, points, color: Color| {
        Dataset::default()
            .name(name.to_owned())
            .marker(Marker::Braille)
            .graph_type(GraphType::Line)
            .style(Style::default().fg(color))
            .data(points)
    };
    let mut curves = vec![curve("training 0", view.training.as_slice(), TRAINING)];
    let branches = view.branches.iter().zip(&names).zip(COLORS.iter().cycle());
    curves.extend(branches.map(|((points, name), &color)| curve(name, points.as_slice(), color)));
    if !view.ensemble.is_empty() {
        curves.push(curve("ensemble", view.ensemble.as_slice(), ENSEMBLE));
    }
    let all = view.branches.iter().chain([&view.training, &view.ensemble]).flatten();
    let bounds = range(all.map(|point| point.1));
    // A curve of one epoch needs an axis, too.
    let epochs = [1.0, (view.training.last().map_or(1.0, |point| point.0)).max(2.0)];
    let labels = |[low, high]: [f64; 2]| [low, f64::midpoint(low, high), high].map(|value| format!("{value:.0}"));
    let chart = Chart::new(curves)
        .block(block)
        .legend_position(Some(LegendPosition::TopRight))
        .hidden_legend_constraints((Constraint::Ratio(1, 2), Constraint::Ratio(1, 1)))
        .x_axis(
            Axis::default()
                .title("epoch")
                .bounds(epochs)
                .labels([format!("{:.0}", epochs[0]), format!("{:.0}", epochs[1])]),
        )
        .y_axis(Axis::default().bounds(bounds).labels(labels(bounds)));
    frame.render_widget(chart, area);
}

fn draw_numbers(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let heights = [view.terms.len() as u16 + 3, view.gate.len() as u16 + 2];
    let shown = [heights[0], if view.gate.is_empty() { 0 } else { heights[1] }];
    let rows = [Constraint::Length(shown[0]), Constraint::Length(shown[1]), Constraint::Min(3)];
    let [losses, gate, speed] = Layout::vertical(rows).areas(area);
    let row = |name: &str, value: String| Line::from(format!(" {name:<17} {value:>12}"));
    let mut lines: Vec<Line<'_>> = view.terms.iter().map(|(name, value)| row(name, format!("{value:.4}"))).collect();
    lines.push(row("learning rate", format!("{:.6}", view.learning_rate)));
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" this epoch, training ")), losses);
    let bars = view.gate.iter().zip(COLORS.iter().cycle()).enumerate().map(|(i, (share, &color))| {
        let filled = ((share * BAR as f64).round() as usize).min(BAR);
        let bar = Span::from("█".repeat(filled)).fg(color);
        Line::from(vec![Span::from(format!(" branch {i} ")), bar, Span::from(format!(" {:.1} %", 100.0 * share))])
    });
    frame.render_widget(
        Paragraph::new(bars.collect::<Vec<_>>()).block(Block::bordered().title(" gate, test split ")),
        gate,
    );
    let title = format!(" {} images/s ", view.speeds.back().copied().unwrap_or(0));
    let speeds: Vec<u64> =
        view.speeds.iter().rev().take(usize::from(speed.width.saturating_sub(2))).rev().copied().collect();
    frame.render_widget(Sparkline::default().data(speeds).fg(Color::Blue).block(Block::bordered().title(title)), speed);
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, view)).expect("drawn");
        let buffer = terminal.backend().buffer().clone();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
        (0..height).map(row).collect::<Vec<_>>().join("\n")
    }

    fn view() -> View {
        let title = ["resnet20, one", "cifar10", "cpu", "runs/x"].map(str::to_owned);
        let mut view = View::new(title, 10, 300 << 20);
        (view.epoch, view.step, view.steps, view.learning_rate) = (3, 5, 20, 0.05);
        view.terms = vec![("loss".to_owned(), 6.25), ("teacher".to_owned(), 1.5)];
        view.training = vec![(1.0, 80.0), (2.0, 70.0)];
        view.branches = vec![vec![(1.0, 75.0), (2.0, 60.0)], vec![(1.0, 74.0), (2.0, 62.0)]];
        view.ensemble = vec![(1.0, 73.0), (2.0, 59.0)];
        view.gate = vec![0.25, 0.75];
        view.best = Some((60.0, 2));
        view.speed(432.0);
        view.say("saved after step 45");
        view
    }

    #[test]
    fn everything_is_on_the_screen() {
        let screen = screen(&view(), 110, 30);
        for part in [
            "resnet20, one",
            "epoch 3/10, step 5/20",
            "best 60.00 % (epoch 2)",
            "300 MiB",
            "6.2500",
            "teacher",
            "0.050000",
            "branch 1 ████████████ 75.0 %",
            "432 images/s",
            "ensemble",
            "test 1",
            "saved after step 45",
            "stop after this epoch",
        ] {
            assert!(screen.contains(part), "{part} in\n{screen}");
        }
    }

    #[test]
    fn any_size_of_terminal_and_any_moment_can_be_drawn() {
        let early = View::new([const { String::new() }; 4], 1, 0);
        for (width, height) in [(1, 1), (20, 3), (72, 18), (80, 24), (300, 90)] {
            screen(&view(), width, height);
            screen(&early, width, height);
        }
        assert!(screen(&early, 80, 24).contains("the curves begin with"));
        assert!(screen(&view(), 60, 10).contains("epoch 3/10"));
    }
}

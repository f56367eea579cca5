//! Markdown: tables, numbers and paragraphs.

use std::fmt::Write;

/// Most columns of a line of prose.
const WIDTH: usize = 116;
/// Most characters of a cell of words.
const CELL: usize = 160;

/// A Markdown table.
#[derive(Debug)]
pub struct Table {
    text: String,
    rows: usize,
}

impl Table {
    /// A table with these heads; a column is right-aligned if its head begins with `>`.
    pub fn new(heads: &[&str]) -> Self {
        let mut text = String::new();
        let names: Vec<&str> = heads.iter().map(|head| head.trim_start_matches('>')).collect();
        push(&mut text, &names);
        let rules: Vec<&str> = heads.iter().map(|head| if head.starts_with('>') { "---:" } else { "---" }).collect();
        push(&mut text, &rules);
        Self { text, rows: 0 }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[String]) {
        push(&mut self.text, cells);
        self.rows += 1;
    }

    /// Tells whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The table, followed by an empty line.
    pub fn text(self) -> String {
        self.text + "\n"
    }
}

fn push(text: &mut String, cells: &[impl AsRef<str>]) {
    for cell in cells {
        let _ = write!(text, "| {} ", cell.as_ref());
    }
    text.push_str("|\n");
}

/// Words from a file in a form fit for a cell: one line, no table markup, not too long.
pub fn cell(words: &str) -> String {
    let mut text: String = words.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() > CELL {
        text = text.chars().take(CELL).collect::<String>() + " …";
    }
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// A paragraph, broken into lines and followed by an empty line.
pub fn paragraph(words: &str) -> String {
    let mut text = String::new();
    let mut width = 0;
    for word in words.split_whitespace() {
        let length = word.chars().count();
        if width > 0 {
            let fits = width + 1 + length <= WIDTH;
            text.push(if fits { ' ' } else { '\n' });
            width = if fits { width + 1 } else { 0 };
        }
        text.push_str(word);
        width += length;
    }
    text + "\n\n"
}

/// A rate or another large number: at least three significant digits, with thousands separated.
pub fn large(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Converts seconds to milliseconds.
pub fn milliseconds(seconds: f64) -> String {
    format!("{:.3}", 1e3 * seconds)
}

/// A share in per cent.
pub fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1} %", 100.0 * share) } else { "–".to_owned() }
}

/// A speed ratio.
pub fn ratio(value: f64) -> String {
    if value.is_finite() { format!("{value:.2}") } else { "–".to_owned() }
}

/// A readable time: seconds, minutes or hours.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.1} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Formats an optional number; a dash if there is none.
pub fn or_dash(value: Option<f64>, form: impl Fn(f64) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(["1,234,568", "12.3", "999", "23,040"], [1_234_567.8, 12.34, 999.4, 23_040.0].map(large).map(leak));
        assert_eq!(large(f64::NAN), "–");
        assert_eq!([9.95, 61.0, 600.0, 9000.0].map(duration).map(leak), ["9.9 s", "61 s", "10.0 min", "2.5 h"]);
    }

    fn leak(text: String) -> &'static str {
        text.leak()
    }

    #[test]
    fn paragraphs_are_broken_and_cells_are_not() {
        let text = paragraph(&"word ".repeat(60));
        assert!(text.lines().all(|line| line.len() <= WIDTH) && text.lines().count() == 4, "{text}");
        assert_eq!(cell("a | b\nc <d"), "a \\| b c &lt;d");
        assert_eq!(cell(&"x".repeat(500)).chars().count(), CELL + 2);
    }

    #[test]
    fn columns_of_numbers_are_flush_right() {
        let mut table = Table::new(&["net", ">images/s"]);
        table.row(&["resnet32".to_owned(), "12".to_owned()]);
        assert!(!table.is_empty());
        assert_eq!(table.text(), "| net | images/s |\n| --- | ---: |\n| resnet32 | 12 |\n\n");
    }
}

//! Pieces of the page: text that cannot be taken for markup, tables, figures.

use std::fmt::Write;

use crate::report::charts::COLORS;

/// Text as it stands in a page.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Other control characters are not allowed in HTML.
            c if c.is_control() && c != '\n' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A table that scrolls by itself where it is too wide; the first column holds names, the others numbers.
pub fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut html = String::from("<div class=\"wide\"><table><thead><tr>");
    for head in heads {
        // Writing to a string cannot fail.
        let _ = write!(html, "<th>{}</th>", escape(head));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let tag = if i == 0 { "th" } else { "td" };
            let _ = write!(html, "<{tag}>{}</{tag}>", escape(cell));
        }
        html.push_str("</tr>");
    }
    html + "</tbody></table></div>"
}

/// A chart with its title and a legend for its colours.
pub fn figure(title: &str, legend: &[&str], svg: &str) -> String {
    let mut html = format!("<figure><figcaption><b>{}</b>", escape(title));
    if !legend.is_empty() {
        html.push_str("<span class=\"legend\">");
        for (i, label) in legend.iter().enumerate() {
            let _ = write!(html, "<span><i class=\"c{}\"></i>{}</span>", i % COLORS.len(), escape(label));
        }
        html.push_str("</span>");
    }
    // A drawing tells nothing to who cannot see it beyond its title.
    let svg = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", escape(title)), 1);
    html + "</figcaption>" + &svg + "</figure>"
}

/// Figures side by side, as many as there is room for.
pub fn figures(figures: &[String]) -> String {
    format!("<div class=\"figures\">{}</div>", figures.concat())
}

/// A remark on what is left out, and why.
pub fn remark(sentence: &str) -> String {
    format!("<p class=\"remark\">{}</p>", escape(sentence))
}

/// The whole page.
pub fn page(title: &str, body: &str) -> String {
    let style = include_str!("style.css");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light dark\">\n\
         <link rel=\"icon\" \
         href=\"data:,\">\n<title>{}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n\
         </main>\n</body>\n</html>\n",
        escape(title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(escape("<b> & \"it's\"\u{7}"), "&lt;b&gt; &amp; &quot;it&#39;s&quot; ");
        let html = table(&["a<b"], &[vec!["<script>".to_owned(), "1 & 2".to_owned()]]);
        assert!(
            html.contains("<th>a&lt;b</th>") && html.contains("<th>&lt;script&gt;</th><td>1 &amp; 2</td>"),
            "{html}"
        );
        assert!(page("<x>", "").contains("<title>&lt;x&gt;</title>"));
        assert!(
            figure("a \"b\"", &["<l>"], "<svg width=\"1\"></svg>").contains("aria-label=\"a &quot;b&quot;\" width")
        );
    }

    #[test]
    fn the_style_sheet_knows_the_charts_colours() {
        let style = include_str!("style.css");
        for (i, color) in COLORS.iter().enumerate() {
            let hex = format!("#{:02X}{:02X}{:02X}", color.0, color.1, color.2);
            for attribute in ["fill", "stroke"] {
                let rule = format!("svg [{attribute}=\"{hex}\"] {{ {attribute}: var(--c{i}); }}");
                assert!(style.contains(&rule), "{rule}");
            }
        }
    }
}

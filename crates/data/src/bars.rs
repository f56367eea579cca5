//! The style of progress bars.

use indicatif::ProgressStyle;

/// A style from a template of `indicatif`.
pub(crate) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates here are well-formed")
}

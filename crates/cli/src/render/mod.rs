//! Renders a report in the forms that people read: text, HTML, Markdown. Measures nothing.

pub mod html;
pub mod markdown;
pub mod parts;
pub mod plot;
pub mod text;
pub mod units;

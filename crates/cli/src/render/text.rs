//! Renders a report as plain text for the terminal.

use super::parts::{self, TablePart};
use callgate_suite::BenchReport;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::fmt::Write;

/// Renders the report as tables that are as wide as they need.
pub fn report(report: &BenchReport) -> String {
    let mut text = String::new();
    section(
        &mut text,
        "Machine",
        &columns(report.machine.iter().map(|(label, value)| [label.as_str(), value.as_str()])),
    );
    for part in parts::parts(report) {
        section(&mut text, part.title, &figures(&part));
        if let Some(note) = part.note {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n{note}");
        }
    }
    if !report.targets.is_empty() {
        let verdicts = report.targets.iter().map(|target| {
            [parts::verdict(target), target.what.as_str(), target.target.as_str(), target.reached.as_str()]
        });
        let title = parts::score(&report.targets).map_or("Targets".to_owned(), |score| format!("Targets: {score}"));
        section(&mut text, &title, &columns(verdicts));
    }
    if !report.skipped.is_empty() {
        section(&mut text, "Left out", &columns(report.skipped.iter().map(|sentence| [sentence.as_str()])));
    }
    text
}

/// Makes text from another process safe to print: one line, without characters that control a terminal.
pub fn plainly(said: &str) -> String {
    let is_obeyed = |char: char| {
        // The listed characters change the direction in which the text after them is shown.
        char.is_control() || matches!(char, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut plain = String::with_capacity(said.len());
    for char in said.chars() {
        if is_obeyed(char) { plain.extend(char.escape_default()) } else { plain.push(char) }
    }
    plain
}

fn section(text: &mut String, title: &str, table: &Table) {
    if table.row_count() > 0 {
        let space = if text.is_empty() { "" } else { "\n" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{space}{title}\n\n{}", table.trim_fmt());
    }
}

/// A part as a table, with what was measured aligned left and its figures aligned right.
fn figures(part: &TablePart<'_>) -> Table {
    let mut table = plain();
    table.set_header(part.headings.clone()).add_rows(part.lines.clone());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A table of words.
pub fn columns<'a, const N: usize>(lines: impl Iterator<Item = [&'a str; N]>) -> Table {
    let mut table = plain();
    table.add_rows(lines);
    table
}

/// A table without lines, as wide as it needs to be.
pub fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_in_it() {
        let text = report(&parts::sample());
        for words in [
            "Latency of a call",
            "callgate add <&str>",
            "× floor",
            "39.1 µs",
            "Targets: 1 of 2 met",
            "missed",
            "1.14 (1.09 to 1.21 over 7 repeats)",
            "compare <script>: not asked for",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        assert_eq!(report(&BenchReport::default()), "");
    }
}

//! Renders a report as Markdown, with its plots as SVG files beside it.

use super::parts::{self, TablePart};
use super::plot;
use callgate_suite::BenchReport;
use std::error::Error;
use std::fmt::Write;

/// The width of a plot in pixels: about the width of a page of text.
const WIDTH: u32 = 760;

/// The page and the plots that it shows.
pub struct Page {
    pub text: String,
    /// Name and contents of each file. They belong in the folder for which the page was rendered.
    pub plots: Vec<(String, String)>,
}

/// Renders the report as a page that finds its plots in `folder`.
pub fn report(report: &BenchReport, folder: &str) -> Result<Page, Box<dyn Error + Send + Sync>> {
    let mut plots = Vec::new();
    for kind in &plot::KINDS {
        if let Some(svg) = plot::file(kind, &report.series, WIDTH)? {
            plots.push((format!("{}.svg", kind.plot), svg));
        }
    }
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = page(&mut text, report, folder, &plots);
    Ok(Page { text, plots })
}

fn page(text: &mut String, report: &BenchReport, folder: &str, plots: &[(String, String)]) -> std::fmt::Result {
    writeln!(text, "# Benchmarks\n")?;
    writeln!(text, "What a call costs. Written by the command itself; to measure everything on your machine:\n")?;
    writeln!(
        text,
        "```sh\ncargo run --release -p callgate-cli -- bench --compare --markdown docs/BENCHMARKS.md\n```\n"
    )?;
    targets(text, report)?;
    for part in parts::parts(report) {
        figures(text, &part)?;
        for kind in plot::KINDS.iter().filter(|kind| kind.group == part.group) {
            picture(text, kind, folder, plots)?;
        }
    }
    let groups: Vec<_> = parts::parts(report).iter().map(|part| part.group).collect();
    for kind in plot::KINDS.iter().filter(|kind| !groups.contains(&kind.group)) {
        picture(text, kind, folder, plots)?;
    }
    skipped(text, report)?;
    machine(text, report)
}

fn targets(text: &mut String, report: &BenchReport) -> std::fmt::Result {
    if report.targets.is_empty() {
        return Ok(());
    }
    writeln!(text, "## Targets\n")?;
    if let Some(score) = parts::score(&report.targets) {
        writeln!(text, "{score}.\n")?;
    }
    row(text, ["what", "target", "reached", ""])?;
    row(text, ["---", "---", "---", "---"])?;
    for target in &report.targets {
        let verdict = format!("**{}**", parts::verdict(target));
        row(text, [&*escaped(&target.what), &escaped(&target.target), &escaped(&target.reached), &verdict])?;
    }
    writeln!(text)
}

fn figures(text: &mut String, part: &TablePart<'_>) -> std::fmt::Result {
    writeln!(text, "## {}\n", escaped(part.title))?;
    writeln!(text, "```sh\n{}\n```\n", parts::command(part.group))?;
    if let Some(note) = part.note {
        writeln!(text, "{}\n", escaped(note))?;
    }
    row(text, &part.headings)?;
    row(text, (0..part.headings.len()).map(|column| if column == 0 { "---" } else { "---:" }))?;
    for line in &part.lines {
        row(text, line.iter().map(|cell| escaped(cell)))?;
    }
    writeln!(text)
}

fn picture(text: &mut String, kind: &plot::PlotKind, folder: &str, plots: &[(String, String)]) -> std::fmt::Result {
    let file = format!("{}.svg", kind.plot);
    if plots.iter().any(|(name, _)| *name == file) {
        writeln!(text, "### {}\n\n{}\n\n![{}]({folder}/{file})\n", kind.title, kind.caption, kind.title)?;
    }
    Ok(())
}

fn skipped(text: &mut String, report: &BenchReport) -> std::fmt::Result {
    if report.skipped.is_empty() {
        return Ok(());
    }
    writeln!(text, "## Left out\n")?;
    for sentence in &report.skipped {
        writeln!(text, "- {}", escaped(sentence))?;
    }
    writeln!(text)
}

fn machine(text: &mut String, report: &BenchReport) -> std::fmt::Result {
    writeln!(text, "## How to read it\n\n{}", parts::LEGEND)?;
    if report.machine.is_empty() {
        return Ok(());
    }
    writeln!(text, "\n## The machine\n")?;
    row(text, ["", ""])?;
    row(text, ["---", "---"])?;
    for (label, value) in &report.machine {
        row(text, [escaped(label), escaped(value)])?;
    }
    Ok(())
}

fn row<T: AsRef<str>>(text: &mut String, cells: impl IntoIterator<Item = T>) -> std::fmt::Result {
    for cell in cells {
        write!(text, "| {} ", cell.as_ref())?;
    }
    writeln!(text, "|")
}

/// Escapes `text` so that Markdown shows it literally, on one line.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '<' | '>' | '&' | '#' | '~' => escaped.extend(['\\', char]),
            '\n' | '\r' => escaped.push(' '),
            _ => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_plots_targets_and_how_to_repeat_it() {
        let page = report(&parts::sample(), "benchmarks").expect("a page");
        for line in [
            "| callgate add \\<\\&str\\> | 434 ns | 477 ns | 868 ns | 1.74 µs | 39.1 µs | 1.14 | 70,000 |",
            "| add / ping-pong | at most 1.2 | 1.14 (1.09 to 1.21 over 7 repeats) | **met** |",
            "cargo run --release -p callgate-cli -- bench --only latency",
            "![Latency against payload](benchmarks/payload.svg)",
            "- compare \\<script\\>: not asked for",
            "| CPU | a \\<fast\\> one \\& \"more\" |",
        ] {
            assert!(page.text.lines().any(|other| other == line), "{line} is not in\n{}", page.text);
        }
        // The bar in a name must not end a table cell.
        assert!(page.text.contains("gap 1 ms \\| adaptive"));
        assert_eq!(
            page.plots.iter().map(|plot| &*plot.0).collect::<Vec<_>>(),
            ["distribution-latency.svg", "payload.svg"]
        );
        for (name, svg) in &page.plots {
            assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{name}");
            assert!(svg.contains("xmlns=\"http://www.w3.org/2000/svg\"") && svg.contains("<style>"), "{name}");
            assert!(!svg.contains("<b>"), "{name}");
        }
    }
}

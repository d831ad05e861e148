//! Renders a report as one self-contained HTML page: no script, no font, no picture from elsewhere.
//!
//! `maud` escapes every text of the report; the plots come from plotters, which escapes too.

use super::parts::{self, TablePart};
use super::{plot, units};
use callgate_suite::BenchReport;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use std::error::Error;

/// Each plot is drawn twice, and the page shows the one that fits. Letters that scale with the plot would become too small to read.
const WIDE: u32 = 640;
const NARROW: u32 = 350;

/// Renders the report.
pub fn report(report: &BenchReport) -> Result<String, Box<dyn Error + Send + Sync>> {
    let figures: Vec<_> = plot::KINDS.iter().map(|kind| figure(kind, report)).collect::<Result<_, _>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "callgate: what a call costs" }
                style { (PreEscaped(include_str!("html.css"))) (PreEscaped(plot::STYLE)) }
            }
            body { main { (body(report, &figures)) } }
        }
    };
    Ok(page.into_string())
}

fn body(report: &BenchReport, figures: &[Option<Markup>]) -> Markup {
    html! {
        h1 { "callgate" }
        p.muted { "What a call into another process costs on this machine" }
        (tiles(report))
        @if figures.iter().any(Option::is_some) {
            h2 { "Plots" }
            div.plots { @for figure in figures.iter().flatten() { (figure) } }
        }
        (targets(report))
        @for part in parts::parts(report) { (table(&part)) }
        @if !report.rows.is_empty() { p.muted style="margin-top:16px" { (parts::LEGEND) } }
        (skipped(report))
        (machine(report))
    }
}

/// The figures that readers look for first: the targets, and the first calls with their ratios to the floor.
fn tiles(report: &BenchReport) -> Markup {
    let calls = report.rows.iter().filter(|row| row.group == "latency" && row.ratio.is_some()).take(4);
    html! {
        div.tiles {
            @if let Some(score) = parts::score(&report.targets) { div.tile { b { (score) } span { "targets" } } }
            @for row in calls {
                div.tile {
                    b { (units::nanoseconds(row.p50)) }
                    span { (row.name) }
                    @if let Some(ratio) = row.ratio { span { (units::ratio(ratio)) " × floor" } }
                }
            }
        }
    }
}

fn figure(kind: &plot::PlotKind, report: &BenchReport) -> Result<Option<Markup>, Box<dyn Error + Send + Sync>> {
    let wide = plot::element(kind, &report.series, WIDE)?;
    let narrow = plot::element(kind, &report.series, NARROW)?;
    Ok(wide.zip(narrow).map(|(wide, narrow)| {
        html! {
            figure.card {
                figcaption { b { (kind.title) } span { (kind.caption) } }
                div.wide { (PreEscaped(wide)) }
                div.narrow { (PreEscaped(narrow)) }
            }
        }
    }))
}

fn targets(report: &BenchReport) -> Markup {
    html! {
        @if !report.targets.is_empty() {
            h2 { "Targets" }
            div."card scroll" {
                table.words {
                    thead { tr { th { "" } th { "what" } th { "target" } th { "reached" } } }
                    tbody {
                        @for target in &report.targets {
                            @let verdict = parts::verdict(target);
                            tr {
                                td { span class={ "badge " (verdict) } { (verdict) } }
                                th { (target.what) }
                                td { (target.target) }
                                td { (target.reached) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn table(part: &TablePart<'_>) -> Markup {
    html! {
        h2 { (part.title) }
        p.command { code { (parts::command(part.group)) } }
        @if let Some(note) = part.note { p.muted { (note) } }
        div."card scroll" {
            table.figures {
                thead { tr { @for heading in &part.headings { th { (heading) } } } }
                tbody {
                    @for line in &part.lines {
                        tr {
                            th { (line[0]) }
                            @for (cell, heading) in line.iter().zip(&part.headings).skip(1) {
                                td class=[heading.contains("floor").then_some("beside")] { (cell) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn skipped(report: &BenchReport) -> Markup {
    html! {
        @if !report.skipped.is_empty() {
            h2 { "Left out" }
            ul.card { @for sentence in &report.skipped { li { (sentence) } } }
        }
    }
}

fn machine(report: &BenchReport) -> Markup {
    html! {
        @if !report.machine.is_empty() {
            h2 { "The machine" }
            div."card scroll" {
                table.words { tbody {
                    @for (label, value) in &report.machine { tr { th { (label) } td { (value) } } }
                } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text_and_never_markup() {
        let page = report(&parts::sample()).expect("a page");
        for escaped in ["callgate add &lt;&amp;str&gt;", "a &lt;fast&gt; one &amp; &quot;more&quot;", "add &lt;b&gt;"] {
            assert!(page.contains(escaped), "{escaped} is not in\n{page}");
        }
        for markup in ["<b>\n", "add <b>", "<fast>", "<&str>", "compare <script>", "<script"] {
            assert!(!page.contains(markup), "{markup} is in\n{page}");
        }
    }

    #[test]
    fn it_needs_nothing_else() {
        let page = report(&parts::sample()).expect("a page");
        for outside in ["http://", "https://", "src=", "url(", "@import", "href"] {
            assert!(!page.contains(outside), "{outside} is in\n{page}");
        }
        // Two plots have points, and each is drawn wide and narrow.
        assert_eq!(page.matches("<svg ").count(), 4);
        assert!(report(&BenchReport::default()).expect("a page").contains("</html>"));
    }
}

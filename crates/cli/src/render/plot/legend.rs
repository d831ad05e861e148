//! The legend above the plot, which says which curve is which.

use super::look::{self, CurveStyle};
use super::{Drawing, MARGIN};
use callgate_suite::BoxError;
use plotters::element::{PathElement, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, IntoTextStyle};

const ROW: u32 = 20;
const SWATCH: u32 = 30;
const SPACE: u32 = 18;

/// Entries in rows, with as many in each row as fit into the drawing's width.
pub struct Legend {
    entries: Vec<LegendEntry>,
    pub height: u32,
}

struct LegendEntry {
    name: String,
    look: CurveStyle,
    /// The left end and the vertical middle, in pixels.
    at: (u32, u32),
}

impl Legend {
    pub fn of<'a>(curves: impl Iterator<Item = (&'a str, CurveStyle)>, width: u32) -> Self {
        let right = width - MARGIN;
        let (mut entries, mut left, mut middle) = (Vec::new(), MARGIN, MARGIN + ROW / 2);
        for (name, look) in curves {
            let name = shortened(name, right - MARGIN - SWATCH);
            let end = left + SWATCH + text_width(&name);
            if end > right && left > MARGIN {
                (left, middle) = (MARGIN, middle + ROW);
            }
            let at = (left, middle);
            left += SWATCH + text_width(&name) + SPACE;
            entries.push(LegendEntry { name, look, at });
        }
        Self { entries, height: middle + ROW / 2 }
    }

    pub fn draw(&self, drawing: &Drawing<'_>) -> Result<(), BoxError> {
        let style = look::text(12).into_text_style(drawing).color(&look::INK).pos(Pos::new(HPos::Left, VPos::Center));
        for LegendEntry { name, look, at } in &self.entries {
            let (x, y) = (at.0 as i32, at.1 as i32);
            drawing.draw(&PathElement::new([(x, y), (x + 22, y)], look.color.stroke_width(2)))?;
            look.mark(drawing, (x + 11, y))?;
            drawing.draw(&Text::new(name.as_str(), (x + SWATCH as i32, y), style.clone()))?;
        }
        Ok(())
    }
}

/// Estimates the width of the text in pixels, since the reader's font is unknown.
fn text_width(text: &str) -> u32 {
    text.chars().count() as u32 * 13 / 2
}

fn shortened(name: &str, width: u32) -> String {
    if text_width(name) <= width {
        return name.to_owned();
    }
    let kept = (width * 2 / 13) as usize - 1;
    name.chars().take(kept).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_within_the_width() {
        let look = CurveStyle::of(0);
        let long = "a name that is longer than a narrow plot is wide, which happens";
        let legend = Legend::of(["a", "b", long, "c"].map(|name| (name, look)).into_iter(), 200);
        for entry in &legend.entries {
            assert!(entry.at.0 + SWATCH + text_width(&entry.name) <= 200 - MARGIN, "{}", entry.name);
            assert!(entry.at.1 < legend.height);
        }
        assert_eq!(legend.entries[0].at.1, legend.entries[1].at.1);
        assert!(legend.entries[2].name.ends_with('…') && legend.entries[2].at.1 > legend.entries[1].at.1);
    }
}

//! Colours, marks and letters of the plots.
//!
//! The drawing has its colours as attributes, so it is complete without a style sheet. [`STYLE`] replaces them for readers who
//! prefer dark.

use super::Drawing;
use callgate_suite::BoxError;
use plotters::element::{Circle, Cross, TriangleMarker};
use plotters::style::{Color, FontDesc, FontFamily, FontStyle, RGBColor};

/// The style of the plots, for the document that contains them. Its rules take precedence over attributes.
pub const STYLE: &str = "
.plot text { font-family: system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; }
.plot polyline { stroke-linejoin: round; stroke-linecap: round; }
@media (prefers-color-scheme: dark) {
.plot [fill='#FFFFFF'] { fill: #161B22; }
.plot [fill='#24292F'] { fill: #E6EDF3; }
.plot [fill='#57606A'] { fill: #9DA7B3; }
.plot [stroke='#E4E8EC'] { stroke: #2A313A; }
.plot [stroke='#AFB8C1'] { stroke: #57606A; }
.plot [fill='#2563EB'] { fill: #60A5FA; } .plot [stroke='#2563EB'] { stroke: #60A5FA; }
.plot [fill='#D9480F'] { fill: #FF922B; } .plot [stroke='#D9480F'] { stroke: #FF922B; }
.plot [fill='#0F8A5F'] { fill: #34D399; } .plot [stroke='#0F8A5F'] { stroke: #34D399; }
.plot [fill='#A21CAF'] { fill: #E879F9; } .plot [stroke='#A21CAF'] { stroke: #E879F9; }
.plot [fill='#A16207'] { fill: #FACC15; } .plot [stroke='#A16207'] { stroke: #FACC15; }
.plot [fill='#0E7490'] { fill: #22D3EE; } .plot [stroke='#0E7490'] { stroke: #22D3EE; }
.plot [fill='#BE123C'] { fill: #FB7185; } .plot [stroke='#BE123C'] { stroke: #FB7185; }
.plot [fill='#6B7280'] { fill: #B0B8C4; } .plot [stroke='#6B7280'] { stroke: #B0B8C4; }
}
";

pub const SURFACE: RGBColor = RGBColor(0xFF, 0xFF, 0xFF);
pub const INK: RGBColor = RGBColor(0x24, 0x29, 0x2F);
pub const MUTED: RGBColor = RGBColor(0x57, 0x60, 0x6A);
pub const GRID: RGBColor = RGBColor(0xE4, 0xE8, 0xEC);
pub const FRAME: RGBColor = RGBColor(0xAF, 0xB8, 0xC1);

const COLORS: [RGBColor; 8] = [
    RGBColor(0x25, 0x63, 0xEB),
    RGBColor(0xD9, 0x48, 0x0F),
    RGBColor(0x0F, 0x8A, 0x5F),
    RGBColor(0xA2, 0x1C, 0xAF),
    RGBColor(0xA1, 0x62, 0x07),
    RGBColor(0x0E, 0x74, 0x90),
    RGBColor(0xBE, 0x12, 0x3C),
    RGBColor(0x6B, 0x72, 0x80),
];

/// Letters `size` pixels high.
pub fn text(size: u32) -> FontDesc<'static> {
    // The backend divides the size by 1.24.
    FontDesc::new(FontFamily::SansSerif, f64::from(size) * 1.24, FontStyle::Normal)
}

/// How a curve is drawn. Two curves of one colour differ by their marks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CurveStyle {
    pub color: RGBColor,
    shape: usize,
}

impl CurveStyle {
    /// The style of a plot's curve number `index`, counted from 0.
    pub fn of(index: usize) -> Self {
        Self { color: COLORS[index % COLORS.len()], shape: index / COLORS.len() }
    }

    /// Draws the mark of a point.
    pub fn mark(self, drawing: &Drawing<'_>, at: (i32, i32)) -> Result<(), BoxError> {
        match self.shape {
            0 => drawing.draw(&Circle::new(at, 3, self.color.filled()))?,
            1 => drawing.draw(&TriangleMarker::new(at, 5, self.color.filled()))?,
            2 => drawing.draw(&Circle::new(at, 4, self.color.stroke_width(2)))?,
            _ => drawing.draw(&Cross::new(at, 4, self.color.stroke_width(2)))?,
        }
        Ok(())
    }
}

//! Blocks of a picture: rectangles with lines of text or with blocks in them.

use maud::{Markup, html};

/// Between neighbours.
pub const GAP: f64 = 6.0;
/// Within a frame.
pub const PADDING: f64 = 8.0;
/// Height of a line of text.
const LINE: f64 = 15.0;

/// A line of text.
#[derive(Clone, Debug)]
pub struct Line {
    text: String,
    class: String,
    /// Class of a coloured bar behind the text.
    bar: Option<String>,
}

impl Line {
    /// A plain line.
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            class: String::new(),
            bar: None,
        }
    }

    /// In bold type.
    pub fn bold(self) -> Self {
        Self {
            class: "bold".to_owned(),
            ..self
        }
    }

    /// In a quieter colour.
    pub fn quiet(self) -> Self {
        Self {
            class: "quiet".to_owned(),
            ..self
        }
    }

    /// On a bar with the colour of a class.
    pub fn on(self, class: String) -> Self {
        Self {
            bar: Some(class),
            ..self
        }
    }
}

/// How the blocks in a block are arranged.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Flow {
    /// Side by side, and in a new row where there is no room.
    Rows,
    /// Side by side without gaps.
    Tight,
    /// One below the other.
    Column,
}

/// A rectangle.
#[derive(Clone, Debug)]
pub struct Block {
    lines: Vec<Line>,
    inner: Vec<Block>,
    flow: Flow,
    /// Class of the frame; none if there is no frame.
    frame: Option<String>,
    /// What is wrong here.
    marks: Vec<String>,
    /// For who points at it.
    tip: String,
    x: f64,
    y: f64,
    /// Width, given or laid out.
    pub width: f64,
    /// Height, laid out.
    pub height: f64,
}

impl Block {
    fn of(flow: Flow, inner: Vec<Self>) -> Self {
        Self {
            lines: Vec::new(),
            inner,
            flow,
            frame: None,
            marks: Vec::new(),
            tip: String::new(),
            x: 0.0,
            y: 0.0,
            width: 0.0,
            height: 0.0,
        }
    }

    /// Blocks in rows.
    pub fn row(inner: Vec<Self>) -> Self {
        Self::of(Flow::Rows, inner)
    }

    /// Blocks without gaps.
    pub fn tight(inner: Vec<Self>) -> Self {
        Self::of(Flow::Tight, inner)
    }

    /// Blocks below each other.
    pub fn column(inner: Vec<Self>) -> Self {
        Self::of(Flow::Column, inner)
    }

    /// A frame with a title and blocks in rows.
    pub fn titled(title: &str, inner: Vec<Self>) -> Self {
        Self {
            lines: vec![Line::new(title).bold()],
            frame: Some("frame".to_owned()),
            ..Self::row(inner)
        }
    }

    /// Only as wide as what is in it.
    pub fn narrow(self) -> Self {
        Self {
            frame: Some("cache".to_owned()),
            ..self
        }
    }

    /// A rectangle with lines.
    pub fn cell(width: f64, lines: Vec<Line>, class: impl Into<String>) -> Self {
        let frame = Some(format!("cell {}", class.into()));
        Self {
            lines,
            frame,
            width,
            ..Self::row(Vec::new())
        }
    }

    /// A coloured rectangle.
    pub fn bar(width: f64, height: f64, class: String) -> Self {
        Self {
            width,
            height,
            frame: Some(class),
            ..Self::row(Vec::new())
        }
    }

    /// Lines beside a small coloured square.
    pub fn labelled(width: f64, lines: Vec<Line>, class: String) -> Self {
        let swatch = Self {
            x: 1.0,
            y: 3.0,
            ..Self::bar(11.0, 11.0, class)
        };
        let text = Self {
            lines,
            width: width - 12.0,
            ..Self::row(Vec::new())
        };
        Self {
            width,
            ..Self::tight(vec![swatch, text])
        }
    }

    /// With what is wrong there.
    pub fn marked(self, marks: Vec<String>) -> Self {
        Self { marks, ..self }
    }

    /// With a text for who points at it.
    pub fn tipped(self, tip: impl Into<String>) -> Self {
        Self {
            tip: tip.into(),
            ..self
        }
    }

    /// Decides where everything is, in at most that width.
    pub fn laid_out(mut self, width: f64) -> Self {
        if self.inner.is_empty() {
            if !self.lines.is_empty() {
                self.height = self.lines.len() as f64 * LINE + 6.0;
            }
            return self;
        }
        let (edge, top) = match self.frame {
            Some(_) => (PADDING, self.lines.len() as f64 * LINE + PADDING + 2.0),
            None => (0.0, 0.0),
        };
        let inner = std::mem::take(&mut self.inner);
        let gap = if self.flow == Flow::Tight { 0.0 } else { GAP };
        let (mut x, mut y, mut row, mut widest) = (edge, top, 0.0_f64, 0.0_f64);
        for block in inner {
            let mut block = block.laid_out(width - 2.0 * edge);
            let is_full = match self.flow {
                Flow::Rows => x > edge && x + block.width > width - edge + 0.5,
                Flow::Tight => false,
                Flow::Column => x > edge,
            };
            if is_full {
                (x, y, row) = (edge, y + row + gap, 0.0);
            }
            (block.x, block.y) = (block.x + x, block.y + y);
            x += block.width + gap;
            row = row.max(block.height);
            widest = widest.max(x - gap);
            self.inner.push(block);
        }
        self.height = y + row + edge;
        self.width = if self.is_wide() { width } else { widest + edge };
        self
    }

    /// Sections of the picture are as wide as it is.
    fn is_wide(&self) -> bool {
        self.frame.as_deref() == Some("frame") || self.flow == Flow::Column
    }

    /// As SVG.
    pub fn drawn(&self) -> Markup {
        let conflict = (!self.marks.is_empty()).then_some("conflict");
        html! {
            g class=[conflict] transform=[self.shifted()] {
                @if !self.tip.is_empty() || conflict.is_some() {
                    title { (self.tip) @for mark in &self.marks { "\n" (mark) } }
                }
                @if let Some(class) = &self.frame {
                    rect class=(class) width=(round(self.width)) height=(round(self.height)) rx=[self.corner()] {}
                }
                @for (number, line) in self.lines.iter().enumerate() {
                    (self.line(number, line))
                }
                @if conflict.is_some() && !self.lines.is_empty() {
                    text.mark x=(round(self.width - 6.0)) y="14" text-anchor="end" { "⚠" }
                }
                @for block in &self.inner { (block.drawn()) }
            }
        }
    }

    fn line(&self, number: usize, line: &Line) -> Markup {
        let top = number as f64 * LINE;
        let left = 6.0;
        let room = self.width - left - 4.0;
        html! {
            @if let Some(class) = &line.bar {
                rect class=(class) x="3" y=(round(top + 3.5)) width=(round(self.width - 6.0)) height="14" rx="2" {}
            }
            text class=(line.class) x=(left) y=(round(top + 14.0)) data-room=(round(room)) { (line.text) }
        }
    }

    fn shifted(&self) -> Option<String> {
        let moved = self.x != 0.0 || self.y != 0.0;
        moved.then(|| format!("translate({} {})", round(self.x), round(self.y)))
    }

    fn corner(&self) -> Option<&'static str> {
        (self.height > 20.0).then_some("4")
    }
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

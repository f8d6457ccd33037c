//! The pictures: SVG drawn for two widths, so that writing is readable on a phone and a wide window is used. Which one is seen, the page's style
//! decides. Sizes are in the picture's own units, one of which is one CSS pixel at the width that it is drawn for.

mod graph;
mod timeline;
mod tree;

pub(crate) use graph::graph;
use model::Share;
pub(crate) use timeline::{milestones, timeline};
pub(crate) use tree::processes;

use crate::html::Page;

/// Widths for which pictures are drawn.
const WIDE: i64 = 1000;
const NARROW: i64 = 340;
/// About the width of a character.
const CHARACTER: i64 = 7;

/// Draws in both widths. `draw` gives what is inside and the height.
fn both(title: &'static str, draw: impl Fn(i64) -> (Page, i64)) -> Page {
    let mut page = Page::default();
    for (class, width) in [
        ("<svg class=\"wide\" role=\"img\" viewBox=\"0 0 ", WIDE),
        ("<svg class=\"narrow\" role=\"img\" viewBox=\"0 0 ", NARROW),
    ] {
        let (inside, height) = draw(width);
        page.tag(class).number(width).tag(" ").number(height).tag("\">");
        page.put("<title>", title, "</title>").append(inside).tag("</svg>");
    }
    page
}

/// Columns of writing in so much room.
fn columns(room: i64) -> usize {
    usize::try_from(room / CHARACTER).unwrap_or(0).max(4)
}

/// A text at a place.
fn write(page: &mut Page, class: &'static str, (x, y): (i64, i64), text: &str, room: i64) {
    page.tag("<text class=\"").tag(class).tag("\" x=\"").number(x).tag("\" y=\"").number(y).tag("\">");
    page.text(&crate::text::fit(text, columns(room))).tag("</text>");
}

/// A box.
fn frame(page: &mut Page, class: &'static str, (x, y): (i64, i64), (width, height): (i64, i64)) {
    page.tag("<rect class=\"").tag(class).tag("\" rx=\"6\" x=\"").number(x).tag("\" y=\"").number(y);
    page.tag("\" width=\"").number(width.max(1)).tag("\" height=\"").number(height).tag("\"/>");
}

/// What was found, and the mark of what is needed, as a bar.
pub(crate) fn share(found: Option<Share>, needed: Option<Share>) -> Page {
    let mut page = Page::default();
    page.tag("<svg role=\"img\" preserveAspectRatio=\"none\" viewBox=\"0 0 1000 12\">");
    frame(&mut page, "empty", (0, 2), (1000, 8));
    if let Some(found) = found {
        let enough = needed.is_none_or(|needed| found >= needed);
        frame(&mut page, if enough { "full" } else { "low" }, (0, 2), (i64::from(found.0) / 10, 8));
    }
    if let Some(needed) = needed {
        let at = i64::from(needed.0) / 10;
        page.tag("<line class=\"mark\" y1=\"0\" y2=\"12\" x1=\"")
            .number(at)
            .tag("\" x2=\"")
            .number(at)
            .tag("\"/>");
    }
    page.tag("</svg>");
    page
}

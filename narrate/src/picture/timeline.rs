//! When things happened: a strip with the moments that are measured, and every moment in its lane.

use super::{both, columns, frame, write};
use crate::{
    document::{Document, Lane},
    html::Page,
    text::{lines, span},
};

const ROW: i64 = 24;
const LINE: i64 = 15;
/// Room of the time before each moment.
const TIME: i64 = 74;
const LANE: i64 = 16;

/// From the first event to the end, on a scale that grows tenfold with each step: milliseconds and hours fit the same strip.
pub(crate) fn milestones(told: &Document) -> Page {
    both("Measured moments", |width| {
        let mut page = Page::default();
        let (left, right) = (10, width - 10);
        let place = |us: u64| {
            let last = told.milestones.last().map_or(1, |one| one.after_us).max(10_000);
            let scale = |us: u64| (1.0 + f64_of(us) / 100.0).ln();
            left + i64_of((scale(us) / scale(last)) * f64_of_i(right - left))
        };
        page.tag("<line class=\"wire\" y1=\"14\" y2=\"14\" x1=\"")
            .number(left)
            .tag("\" x2=\"")
            .number(right)
            .tag("\"/>");
        // Each name gets the first line on which it does not run into another.
        let mut ends: Vec<i64> = Vec::new();
        for one in &told.milestones {
            let x = place(one.after_us);
            let label = format!("{} +{}", one.name, span(one.after_us));
            let length = i64::try_from(label.chars().count()).unwrap_or(0) * 7;
            let start = (x - 4).min(right - length).max(0);
            let line = ends.iter().position(|end| *end < start).unwrap_or(ends.len());
            if line == ends.len() {
                ends.push(0);
            }
            ends[line] = start + length + 8;
            page.tag("<circle class=\"done\" r=\"5\" cy=\"14\" cx=\"").number(x).tag("\"/>");
            let y = 38 + i64::try_from(line).unwrap_or(0) * 18;
            page.tag("<line class=\"gap\" y1=\"20\" x1=\"")
                .number(x)
                .tag("\" x2=\"")
                .number(x)
                .tag("\" y2=\"")
                .number(y - 10)
                .tag("\"/>");
            write(&mut page, "", (start, y), &label, length + 14);
        }
        (page, 44 + i64::try_from(ends.len()).unwrap_or(0) * 18)
    })
}

/// Every moment, one under the other, in the lane of who made it happen.
pub(crate) fn timeline(told: &Document) -> Page {
    both("Timeline", |width| {
        let mut page = Page::default();
        let lanes = [
            (Lane::Seen, "seen"),
            (Lane::Decided, "decided"),
            (Lane::Done, "done"),
            (Lane::Person, "person"),
        ];
        let mut x = 8;
        for (lane, name) in lanes {
            page.tag("<circle r=\"5\" cy=\"12\" class=\"")
                .tag(class(lane))
                .tag("\" cx=\"")
                .number(x)
                .tag("\"/>");
            write(&mut page, "soft", (x + 9, 16), name, 60);
            x += 78;
        }
        let top = 30;
        let text_x = TIME + 4 * LANE + 6;
        let mut y = top;
        let mut last: Option<u64> = None;
        for moment in &told.timeline {
            // A pause that is long beside all that came before is drawn as one.
            if last.is_some_and(|last| {
                moment.after_us.saturating_sub(last) > last.saturating_mul(4).max(2_000_000)
            }) {
                page.tag("<line class=\"gap\" x1=\"")
                    .number(TIME)
                    .tag("\" x2=\"")
                    .number(width)
                    .tag("\" y1=\"")
                    .number(y + 4)
                    .tag("\" y2=\"")
                    .number(y + 4)
                    .tag("\"/>");
                y += 10;
            }
            last = Some(moment.after_us);
            let time = format!("+{}", span(moment.after_us));
            page.tag("<text class=\"mono soft\" text-anchor=\"end\" x=\"")
                .number(TIME - 8)
                .tag("\" y=\"")
                .number(y + 16)
                .tag("\">")
                .text(&time)
                .tag("</text>");
            let lane = lanes.iter().position(|(lane, _)| *lane == moment.lane).unwrap_or(0);
            let cx = TIME + i64::try_from(lane).unwrap_or(0) * LANE + 6;
            page.tag("<circle r=\"5\" class=\"")
                .tag(class(moment.lane))
                .tag("\" cx=\"")
                .number(cx)
                .tag("\" cy=\"")
                .number(y + 12)
                .tag("\"/>");
            let strong = if moment.lane == Lane::Seen { "strong" } else { "" };
            let whole =
                if width > 600 { format!("{}: {}", moment.actor, moment.what) } else { moment.what.clone() };
            let most = if width > 600 { 2 } else { 4 };
            let told = lines(&whole, columns(width - text_x), most);
            for (number, line) in told.iter().enumerate() {
                let below = i64::try_from(number).unwrap_or(0) * LINE;
                write(&mut page, strong, (text_x, y + 16 + below), line, width - text_x);
            }
            y += LINE * (i64::try_from(told.len()).unwrap_or(1) - 1);
            y += ROW;
        }
        let mut back = Page::default();
        for lane in 0..4 {
            let x = TIME + lane * LANE + 6;
            back.tag("<line class=\"wire\" x1=\"")
                .number(x)
                .tag("\" x2=\"")
                .number(x)
                .tag("\" y1=\"")
                .number(top)
                .tag("\" y2=\"")
                .number(y)
                .tag("\"/>");
        }
        if told.timeline.is_empty() {
            frame(&mut page, "band", (0, top), (width, 10));
        }
        back.append(page);
        (back, y + 10)
    })
}

fn class(lane: Lane) -> &'static str {
    match lane {
        Lane::Seen => "seen",
        Lane::Decided => "decided",
        Lane::Done => "done",
        Lane::Person => "person",
    }
}

#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
fn f64_of(us: u64) -> f64 {
    us as f64
}

#[expect(clippy::cast_precision_loss, reason = "a place in a picture")]
fn f64_of_i(length: i64) -> f64 {
    length as f64
}

#[expect(clippy::cast_possible_truncation, reason = "a place in a picture")]
fn i64_of(place: f64) -> i64 {
    place as i64
}

//! The entity graph: things in bands from the outside in, what joins them as curves between them.

use super::{both, frame, write};
use crate::{
    document::{Document, EntityKind},
    html::Page,
};

const HEIGHT: i64 = 40;
const GAP: i64 = 14;
/// Between two bands there is room for the curves.
const BETWEEN: i64 = 46;
const TITLE: i64 = 20;
const GUTTER: i64 = 56;

const BANDS: [(&str, &[EntityKind]); 4] = [
    ("who and from where", &[EntityKind::Account, EntityKind::Origin]),
    ("where", &[EntityKind::Place]),
    ("processes", &[EntityKind::Process]),
    ("what was touched", &[EntityKind::File, EntityKind::Peer, EntityKind::Object]),
];

/// Everything and what joins it.
pub(crate) fn graph(told: &Document) -> Page {
    both("Entity graph", |width| {
        let graph = &told.graph;
        let across = if width > 600 { 4 } else { 1 };
        // In one column the curves stand beside the boxes, not behind them.
        let gutter = if across == 1 { GUTTER } else { 0 };
        let wide = (width - gutter - GAP * (across + 1)) / across;
        let mut places: Vec<Option<(i64, i64)>> = vec![None; graph.entities.len()];
        let mut back = Page::default();
        let mut y = 0;
        for (name, kinds) in BANDS {
            let in_band: Vec<usize> = graph
                .entities
                .iter()
                .enumerate()
                .filter(|(_, entity)| kinds.contains(&entity.kind))
                .map(|(at, _)| at)
                .collect();
            if in_band.is_empty() {
                continue;
            }
            let count = i64::try_from(in_band.len()).unwrap_or(0);
            let rows = (count + across - 1) / across;
            let tall = TITLE + rows * (HEIGHT + GAP);
            frame(&mut back, "band", (0, y), (width, tall));
            write(&mut back, "soft", (GAP, y + 15), name, width);
            for (position, at) in in_band.into_iter().enumerate() {
                let position = i64::try_from(position).unwrap_or(0);
                let (row, column) = (position / across, position % across);
                let in_row = (count - row * across).min(across);
                // A row that is not full stands in the middle.
                let start = gutter + (width - gutter - in_row * (wide + GAP) + GAP) / 2;
                places[at] = Some((start + column * (wide + GAP), y + TITLE + row * (HEIGHT + GAP)));
            }
            y += tall + BETWEEN;
        }
        let mut page = Page::default();
        let at = |index: u32| places.get(index as usize).copied().flatten();
        for link in &graph.links {
            let (Some(from), Some(to)) = (at(link.from), at(link.to)) else { continue };
            if across == 1 {
                bow(&mut page, from, to);
            } else {
                curve(&mut page, from, to, wide);
            }
        }
        for (entity, place) in graph.entities.iter().zip(&places) {
            let Some((x, y)) = *place else { continue };
            let class = match (entity.known_bad, entity.held) {
                (true, true) => "box hot held",
                (true, false) => "box hot",
                (false, true) => "box held",
                (false, false) => "box",
            };
            frame(&mut page, class, (x, y), (wide, HEIGHT));
            write(&mut page, "strong", (x + 8, y + 17), &entity.label, wide - 12);
            let mut notes = vec![kind(entity.kind)];
            notes.extend(entity.held.then_some("held"));
            notes.extend(entity.known_bad.then_some("known bad"));
            write(&mut page, "soft", (x + 8, y + 33), &notes.join(" · "), wide - 12);
        }
        // What a curve means stands in the middle of it, over everything else.
        let mut told_at: Vec<(i64, i64)> = Vec::new();
        for link in graph.links.iter().filter(|_| across > 1) {
            let (Some(from), Some(to)) = (at(link.from), at(link.to)) else { continue };
            let place = middle(from, to, wide);
            let close = |one: &&(i64, i64)| (one.0 - place.0).abs() < 90 && (one.1 - place.1).abs() < 13;
            let on_box = places.iter().flatten().any(|(x, y)| {
                place.0 + 60 > *x && place.0 < x + wide && place.1 > *y && place.1 - 12 < y + HEIGHT
            });
            if !told_at.iter().any(|one| close(&one)) && !on_box {
                told_at.push(place);
                write(&mut page, "soft", place, &link.what, 110);
            }
        }
        back.append(page);
        (back, (y - BETWEEN).max(HEIGHT))
    })
}

/// From the lower edge of the upper to the upper edge of the lower; beside each other, from side to side.
fn curve(page: &mut Page, from: (i64, i64), to: (i64, i64), wide: i64) {
    let (upper, lower) = if from.1 <= to.1 { (from, to) } else { (to, from) };
    let (x1, x2) = (upper.0 + wide / 2, lower.0 + wide / 2);
    if upper.1 == lower.1 {
        let y = upper.1 + HEIGHT;
        page.tag("<path class=\"edge\" d=\"M")
            .number(x1)
            .tag(" ")
            .number(y)
            .tag("C")
            .number(x1)
            .tag(" ")
            .number(y + GAP);
        page.tag(" ").number(x2).tag(" ").number(y + GAP).tag(" ").number(x2).tag(" ").number(y).tag("\"/>");
        return;
    }
    let (y1, y2) = (upper.1 + HEIGHT, lower.1);
    let bend = ((y2 - y1) / 2).max(GAP);
    page.tag("<path class=\"edge\" d=\"M")
        .number(x1)
        .tag(" ")
        .number(y1)
        .tag("C")
        .number(x1)
        .tag(" ")
        .number(y1 + bend);
    page.tag(" ").number(x2).tag(" ").number(y2 - bend).tag(" ").number(x2).tag(" ").number(y2).tag("\"/>");
}

/// From the left edge of one to that of the other; the farther apart, the farther out.
fn bow(page: &mut Page, from: (i64, i64), to: (i64, i64)) {
    let (y1, y2) = (from.1 + HEIGHT / 2, to.1 + HEIGHT / 2);
    let out = (from.0 - 10 - (y2 - y1).abs() / 9).max(2);
    page.tag("<path class=\"edge\" d=\"M")
        .number(from.0)
        .tag(" ")
        .number(y1)
        .tag("C")
        .number(out)
        .tag(" ")
        .number(y1);
    page.tag(" ").number(out).tag(" ").number(y2).tag(" ").number(to.0).tag(" ").number(y2).tag("\"/>");
}

fn middle(from: (i64, i64), to: (i64, i64), wide: i64) -> (i64, i64) {
    let (upper, lower) = if from.1 <= to.1 { (from, to) } else { (to, from) };
    let x = (upper.0 + lower.0 + wide) / 2 + 6;
    // Just above the lower one, where curves of the same upper one have parted.
    (x, (upper.1 + HEIGHT + lower.1) / 2 + 4)
}

fn kind(kind: EntityKind) -> &'static str {
    match kind {
        EntityKind::Account => "account",
        EntityKind::Origin => "address",
        EntityKind::Place => "place",
        EntityKind::Process => "process",
        EntityKind::File => "file",
        EntityKind::Peer => "peer",
        EntityKind::Object => "object",
    }
}

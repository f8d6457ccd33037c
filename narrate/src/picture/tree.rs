//! The process tree.

use super::{CHARACTER, both, frame, write};
use crate::{
    document::{Document, ProcessNode},
    html::Page,
};

const HEIGHT: i64 = 58;
const GAP: i64 = 10;

/// Every process, its children below and to the right of it.
pub(crate) fn processes(told: &Document) -> Page {
    both("Process tree", |width| {
        let mut page = Page::default();
        let step = if width > 600 { 30 } else { 10 };
        // Deep trees keep room for writing.
        let deepest = told.processes.iter().map(|process| i64::from(process.depth)).max().unwrap_or(0);
        let step = if deepest * step > width / 2 { (width / 2 / deepest.max(1)).max(1) } else { step };
        let place = |index: usize, process: &ProcessNode| {
            (i64::from(process.depth) * step + 2, i64::try_from(index).unwrap_or(0) * (HEIGHT + GAP) + 2)
        };
        for (index, process) in told.processes.iter().enumerate() {
            let (x, y) = place(index, process);
            if let Some((above, parent)) =
                process.parent.and_then(|at| Some((at as usize, told.processes.get(at as usize)?)))
            {
                let (px, py) = place(above, parent);
                let stem = px + step / 2;
                page.tag("<path class=\"wire\" d=\"M").number(stem).tag(" ").number(py + HEIGHT);
                page.tag("V").number(y + HEIGHT / 2).tag("H").number(x).tag("\"/>");
            }
        }
        for (index, process) in told.processes.iter().enumerate() {
            let (x, y) = place(index, process);
            let room = width - x - 4;
            frame(&mut page, frame_of(process), (x, y), (room, HEIGHT));
            let name = process.exe.rsplit('/').next().unwrap_or(&process.exe);
            let head = format!("{name}  {}", process.pid);
            write(&mut page, "strong", (x + 10, y + 19), &head, room / 2 - 10);
            let right = x + room / 2;
            write(
                &mut page,
                "soft",
                (right, y + 19),
                &format!("{} · {}", process.user, process.node),
                room / 2 - 8,
            );
            // The typewriter's letters are as wide as the others' mean.
            write(&mut page, "mono", (x + 10, y + 36), &process.command_line, room - 20);
            let mut last: Vec<String> = process.found_by.clone();
            last.extend(process.held.iter().map(|held| format!("held by {held}")));
            last.extend(process.marks.iter().cloned());
            let class = if process.found_by.is_empty() { "soft" } else { "badtext" };
            write(&mut page, class, (x + 10, y + 52), &last.join(" · "), room - 20 - CHARACTER);
        }
        (page, i64::try_from(told.processes.len()).unwrap_or(0) * (HEIGHT + GAP) + 4)
    })
}

fn frame_of(process: &ProcessNode) -> &'static str {
    match (process.found_by.is_empty(), process.held.is_some()) {
        (true, false) => "box",
        (true, true) => "box held",
        (false, false) => "box hot",
        (false, true) => "box hot held",
    }
}

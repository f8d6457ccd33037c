//! A finding must fit a frame on the wire.

use std::sync::Arc;

use model::{Activity, Event, Finding, Process, Truncated};

use crate::tree::floor_char_boundary;

/// Largest report, as JSON: far below [`wire::link::MAX_FRAME`], so that its envelope never matters.
pub const MAX_REPORT: usize = 512 << 10;

/// Longest text of an ancestor or of an event of the context once a finding is too large.
const SHORT: usize = 512;

/// Cuts what matters least until the finding is at most [`MAX_REPORT`] bytes: first texts of context and ancestors, then the context
/// itself, then texts of the event's own process.
pub fn fit(finding: &mut Finding) {
    if size(finding) <= MAX_REPORT {
        return;
    }
    for process in &mut finding.ancestors {
        shorten(process, SHORT);
    }
    for event in &mut finding.context {
        shorten_event(event);
    }
    if size(finding) <= MAX_REPORT {
        return;
    }
    finding.context.clear();
    shorten(&mut finding.event.process, 8 * SHORT);
    if let Some(parent) = &mut finding.event.parent {
        shorten(parent, SHORT);
    }
    for value in finding.matched.values_mut() {
        cut(value, 2 * SHORT);
    }
    if size(finding) > MAX_REPORT {
        finding.ancestors.clear();
        finding.matched.clear();
        shorten(&mut finding.event.process, SHORT);
    }
}

fn size(finding: &Finding) -> usize {
    let mut counter = Counter(0);
    // Counting cannot fail; plain data can always be written.
    if serde_json::to_writer(&mut counter, finding).is_err() {
        return usize::MAX;
    }
    counter.0
}

struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn shorten_event(event: &mut Event) {
    shorten(&mut event.process, SHORT);
    if let Activity::Exec { requested } = &mut event.activity {
        cut(requested, SHORT);
    }
}

fn shorten(process: &mut Arc<Process>, to: usize) {
    if process.command_line.len() <= to {
        return;
    }
    let process = Arc::make_mut(process);
    cut(&mut process.command_line, to);
    let mut room = to;
    process.args.retain_mut(|arg| {
        cut(arg, room);
        room = room.saturating_sub(arg.len() + 1);
        room > 0
    });
    process.args_truncated = Truncated::Yes;
}

fn cut(text: &mut String, to: usize) {
    text.truncate(floor_char_boundary(text, to));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::{event, finding, process, process_key};

    #[test]
    fn a_huge_finding_is_cut_to_a_frame_and_says_so() {
        let mut long = process("/bin/x");
        // Control characters are six bytes each in JSON.
        long.args = vec!["\u{1}".repeat(8000)];
        long.command_line = long.args.join(" ");
        let long = Arc::new(long);
        let mut finding = finding("r");
        finding.ancestors = vec![long.clone(); 16];
        finding.context = (0..16)
            .map(|n| {
                let mut event = event(process_key(1), n, Activity::Exec { requested: "\u{1}".repeat(4000) });
                event.process = long.clone();
                event
            })
            .collect();
        assert!(size(&finding) > MAX_REPORT);
        fit(&mut finding);
        assert!(size(&finding) <= MAX_REPORT);
        assert_eq!(finding.ancestors.len(), 16);
        assert_eq!(finding.ancestors[0].args_truncated, Truncated::Yes);
    }
}

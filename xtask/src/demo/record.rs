//! The story as an animated picture for the README: lines appear when they appeared.

use super::stage::{Line, Mood};

const LINE_HEIGHT: usize = 18;
/// Above a title.
const TITLE_GAP: usize = 8;
const WIDTH: usize = 980;
/// The picture's pace: pauses longer than this are shortened to it.
const LONGEST_PAUSE_S: f64 = 0.9;
/// The finished picture stands still this long before it starts again.
const REST_S: f64 = 12.0;

pub(crate) fn svg(lines: &[Line]) -> String {
    let times = paced(lines);
    let total = times.last().copied().unwrap_or(0.0) + REST_S;
    let titles = lines.iter().filter(|line| line.mood == Mood::Title).count();
    let height = (lines.len() + 3) * LINE_HEIGHT + titles * TITLE_GAP;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"ui-monospace,Menlo,Consolas,monospace\" font-size=\"12.5\">\n\
         <title>cargo xtask demo</title>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#10141a\"/>\n\
         <style>text{{white-space:pre}}</style>\n\
         <text x=\"16\" y=\"26\" fill=\"#8b98a9\">$ cargo xtask demo</text>\n"
    );
    let mut y = LINE_HEIGHT + 20;
    for (line, at) in lines.iter().zip(&times) {
        y += if line.mood == Mood::Title { LINE_HEIGHT + TITLE_GAP } else { LINE_HEIGHT };
        let (sign, colour, weight) = match line.mood {
            Mood::Title => ("", "#ffffff", "bold"),
            Mood::Attack => ("⚔ ", "#ff7b72", "normal"),
            Mood::Defence => ("✚ ", "#79c0ff", "normal"),
            Mood::Proof => ("✔ ", "#7ee787", "normal"),
            Mood::Failed => ("✘ ", "#ff3b30", "bold"),
        };
        let share = at / total;
        out.push_str(&format!(
            "<text xml:space=\"preserve\" x=\"16\" y=\"{y}\" fill=\"{colour}\" font-weight=\"{weight}\">{sign}{}<animate attributeName=\"opacity\" values=\"0;0;1;1\" keyTimes=\"0;{share:.4};{share:.4};1\" dur=\"{total:.1}s\" repeatCount=\"indefinite\"/></text>\n",
            escape(&line.text.chars().take(118).collect::<String>())
        ));
    }
    out.push_str("</svg>\n");
    out
}

/// Times of the lines with long pauses shortened.
fn paced(lines: &[Line]) -> Vec<f64> {
    let mut shown = 0.3;
    let mut last = lines.first().map_or(0.0, |line| line.at_s);
    lines
        .iter()
        .map(|line| {
            shown += (line.at_s - last).clamp(0.05, LONGEST_PAUSE_S);
            last = line.at_s;
            shown
        })
        .collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

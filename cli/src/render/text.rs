//! Small texts: ages, spans, and foreign text made safe for a terminal.

use std::time::Duration;

use model::Timestamp;

/// How long ago, as kubectl says it: `42s`, `7m`, `3h`, `5d`.
pub(crate) fn age(of: Timestamp, now: Timestamp) -> String {
    let seconds = now.since(of).as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A length of time with three digits at most: `0.4ms`, `38ms`, `1.8s`, `4m`.
pub(crate) fn span(length: Duration) -> String {
    let millis = length.as_secs_f64() * 1000.0;
    if millis < 10.0 {
        format!("{millis:.1}ms")
    } else if millis < 1000.0 {
        format!("{millis:.0}ms")
    } else if millis < 100_000.0 {
        format!("{:.1}s", millis / 1000.0)
    } else {
        format!("{}m", length.as_secs() / 60)
    }
}

/// Foreign text on one line: control characters (a terminal would obey them) and bidirectional overrides are shown, not sent, and what
/// is longer than `limit` characters ends in `…`.
pub(crate) fn one_line(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit * 4));
    for (count, character) in text.chars().enumerate() {
        if count + 1 >= limit && text.chars().nth(limit).is_some() {
            out.push('…');
            break;
        }
        match character {
            '\n' | '\r' | '\t' => out.push(' '),
            hidden if hidden.is_control() || is_direction_mark(hidden) => out.extend(hidden.escape_unicode()),
            shown => out.push(shown),
        }
    }
    out
}

/// Foreign text on as many lines as it takes, none wider than `width` columns; those after the first begin with `indent` blanks.
pub(crate) fn wrapped(text: &str, width: usize, indent: usize) -> String {
    use unicode_width::UnicodeWidthStr as _;
    let text = one_line(text, LONGEST_TEXT);
    let width = width.max(20);
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let mut word = word.to_owned();
        if column > 0 && column + 1 + word.width() > width {
            out.push_str(&format!("\n{:indent$}", ""));
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        // One that fits no line is broken where it must be.
        while word.width() > width - column {
            let room = width - column;
            let mut at = 0;
            for (start, character) in word.char_indices() {
                let end = start + character.len_utf8();
                if word[..end].width() > room {
                    break;
                }
                at = end;
            }
            let at = if at == 0 { word.chars().next().map_or(0, char::len_utf8) } else { at };
            let rest = word.split_off(at);
            out.push_str(&word);
            out.push_str(&format!("\n{:indent$}", ""));
            (word, column) = (rest, 0);
        }
        column += word.width();
        out.push_str(&word);
    }
    out
}

/// Characters of a text that is told whole.
const LONGEST_TEXT: usize = 8000;

/// `1 file`, `2 files`.
pub(crate) fn counted(count: impl TryInto<u64>, one: &str) -> String {
    let count = count.try_into().unwrap_or(u64::MAX);
    let many = match one.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ => format!("{one}s"),
    };
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// Unicode's bidirectional controls and invisible joiners, which can make a name look like another.
fn is_direction_mark(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_speak_to_the_terminal() {
        assert_eq!(one_line("a\u{1b}[2Jb\nc", 80), "a\\u{1b}[2Jb c");
        assert_eq!(one_line("abc\u{202e}txt.exe", 80), "abc\\u{202e}txt.exe");
        assert_eq!(one_line("abcdef", 4), "abc…");
        assert_eq!(one_line("abcd", 4), "abcd");
    }

    #[test]
    fn texts_are_told_whole_within_the_window() {
        use unicode_width::UnicodeWidthStr as _;
        let text = format!("a reason with a long path /{} and two more words, ääää", "x".repeat(70));
        for width in [20, 21, 40, 79] {
            let told = wrapped(&text, width, 4);
            assert!(told.lines().all(|line| line.trim_start().width() <= width), "{told}");
            let whole: String = told.lines().map(str::trim).collect();
            assert_eq!(whole.replace(' ', ""), text.replace(' ', ""));
        }
        assert_eq!(wrapped("short", 80, 4), "short");
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!(counted(1_u64, "file"), "1 file");
        assert_eq!(counted(0_u64, "policy"), "0 policies");
        assert_eq!(counted(2_u64, "key"), "2 keys");
    }

    #[test]
    fn spans_have_three_digits() {
        assert_eq!(span(Duration::from_micros(412)), "0.4ms");
        assert_eq!(span(Duration::from_millis(38)), "38ms");
        assert_eq!(span(Duration::from_millis(1830)), "1.8s");
        assert_eq!(span(Duration::from_secs(250)), "4m");
    }
}

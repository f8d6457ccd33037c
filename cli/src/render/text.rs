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
    fn spans_have_three_digits() {
        assert_eq!(span(Duration::from_micros(412)), "0.4ms");
        assert_eq!(span(Duration::from_millis(38)), "38ms");
        assert_eq!(span(Duration::from_millis(1830)), "1.8s");
        assert_eq!(span(Duration::from_secs(250)), "4m");
    }
}

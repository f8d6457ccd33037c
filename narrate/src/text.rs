//! Foreign text made visible and short, before any form adds its own escaping.

use std::time::Duration;

use unicode_width::UnicodeWidthChar as _;

/// Characters of one text in a document (I11).
pub(crate) const LONGEST: usize = 600;

/// A foreign text on one line: what a terminal would obey, what turns or hides writing, and what is no character at all is shown as its
/// number; longer than `limit` characters ends in `…`.
#[must_use]
pub fn shown(text: &str, limit: usize) -> String {
    let mut out = String::new();
    for (count, character) in text.chars().enumerate() {
        if count + 1 >= limit && text.chars().nth(limit).is_some() {
            out.push('…');
            break;
        }
        match character {
            '\n' | '\r' | '\t' | '\u{2028}' | '\u{2029}' => out.push(' '),
            hidden if is_hidden(hidden) => out.extend(hidden.escape_unicode()),
            plain => out.push(plain),
        }
    }
    out
}

/// Control characters, bidirectional controls, invisible joiners and fillers, tags, variation selectors, private use and noncharacters.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}' | '\u{f0000}'..='\u{10ffff}')
        || (u32::from(character) & 0xfffe) == 0xfffe
}

/// Cut to so many columns of a picture; wide characters take two.
pub(crate) fn fit(text: &str, columns: usize) -> String {
    let width = |c: char| c.width().unwrap_or(0).max(1);
    if text.chars().map(width).sum::<usize>() <= columns {
        return text.to_owned();
    }
    let (mut out, mut used) = (String::new(), 1);
    for character in text.chars() {
        used += width(character);
        if used > columns {
            break;
        }
        out.push(character);
    }
    out.push('…');
    out
}

/// On lines of so many columns, at most `most`; what does not fit ends in `…`.
pub(crate) fn lines(text: &str, columns: usize, most: usize) -> Vec<String> {
    let width = |c: char| c.width().unwrap_or(0).max(1);
    let mut out = vec![String::new()];
    let mut used = 0;
    for word in text.split_inclusive(' ') {
        let wide: usize = word.trim_end().chars().map(width).sum();
        if used > 0 && used + wide > columns {
            out.push(String::new());
            used = 0;
        }
        for character in word.chars() {
            if used + width(character) > columns && character != ' ' {
                out.push(String::new());
                used = 0;
            }
            used += width(character);
            if let Some(line) = out.last_mut() {
                line.push(character);
            }
        }
    }
    if out.len() > most {
        out.truncate(most);
        if let Some(last) = out.last_mut() {
            *last = fit(&format!("{}……", last.trim_end()), columns.max(2)).replace("……", "…");
        }
    }
    out.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// A length of time with three digits at most: `0.4 ms`, `38 ms`, `1.8 s`, `4 min`, `7 h`, `3 d`.
pub(crate) fn span(us: u64) -> String {
    let seconds = Duration::from_micros(us).as_secs_f64();
    match seconds {
        s if s < 0.01 => format!("{:.1} ms", s * 1e3),
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86_400.0),
    }
}

/// A word of a shell, whatever is in it (POSIX 2.2.2).
pub(crate) fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(plain) {
        return text.to_owned();
    }
    let harmless: String = text.chars().filter(|c| !c.is_control()).collect();
    format!("'{}'", harmless.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_is_shown_and_what_is_long_is_cut() {
        assert_eq!(shown("a\u{1b}[2J\nb\u{202e}c\u{200b}", 80), "a\\u{1b}[2J b\\u{202e}c\\u{200b}");
        assert_eq!(shown("abcdef", 4), "abc…");
        assert_eq!(fit("日本語テキスト", 7), "日本語…");
        assert_eq!(fit("short", 7), "short");
    }

    #[test]
    fn a_word_of_a_shell_stays_one() {
        assert_eq!(shell_word("inc-7f3a"), "inc-7f3a");
        assert_eq!(shell_word("a; rm -rf ~ '$(x)'"), "'a; rm -rf ~ '\\''$(x)'\\'''");
        assert_eq!(shell_word("--all"), "'--all'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn lines_are_filled_and_the_last_one_says_that_there_is_more() {
        assert_eq!(lines("one two three", 7, 3), ["one two", "three"]);
        assert_eq!(lines("abcdefghij", 4, 3), ["abcd", "efgh", "ij"]);
        assert_eq!(lines("one two three four", 7, 2), ["one two", "three…"]);
        assert_eq!(lines("", 7, 2), [""]);
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(
            [400, 38_000, 1_830_000, 250_000_000, 90_000_000_000].map(span),
            ["0.4 ms", "38 ms", "1.8 s", "4 min", "25 h"]
        );
    }
}

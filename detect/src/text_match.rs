//! Whether a text is a pattern: the definition, plain and slow.

use crate::{
    ast::{Case, Part, Pattern},
    text::fold_char,
};

/// Whether the whole of `text` is `pattern`.
pub(crate) fn pattern(pattern: &Pattern, case: Case, text: &str) -> bool {
    let fold = |c: char| if case == Case::Insensitive { fold_char(c) } else { c };
    let text: Vec<char> = text.chars().map(fold).collect();
    // Wildcards and characters one by one; `None` is `*`, `Some(None)` is `?`.
    let mut wanted: Vec<Option<Option<char>>> = vec![];
    for part in &pattern.parts {
        match part {
            Part::AnyMany => wanted.push(None),
            Part::AnyOne => wanted.push(Some(None)),
            Part::Literal(literal) => wanted.extend(literal.chars().map(|c| Some(Some(fold(c))))),
        }
    }
    // The usual walk with one point to come back to: the last `*`. At worst it takes text × pattern steps.
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while at < text.len() {
        match wanted.get(from) {
            Some(None) => {
                star = Some((from, at));
                from += 1;
            }
            Some(Some(one)) if one.is_none_or(|c| c == text[at]) => {
                at += 1;
                from += 1;
            }
            _ => match &mut star {
                Some((star_from, star_at)) => {
                    *star_at += 1;
                    (from, at) = (*star_from + 1, *star_at);
                }
                None => return false,
            },
        }
    }
    wanted[from..].iter().all(Option::is_none)
}

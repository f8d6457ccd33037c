//! How texts are compared: one definition for the interpreter and the compiled matcher.

/// Folds one character's case: its lower-case form where that is a single character, otherwise the character itself.
///
/// A character outside ASCII stays outside it (the Kelvin sign does not become `k`), so that for an ASCII literal the
/// kernel's ASCII folding decides the same (I1).
///
/// So folding never changes the number of characters (`?` stands for one), and no locale or context matters. Sigma
/// says only "case-insensitive"; ASCII folds as everybody expects.
#[must_use]
pub fn fold_char(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) if !one.is_ascii() => one,
        _ => c,
    }
}

/// [`fold_char`] over a text.
#[must_use]
pub fn fold(text: &str) -> String {
    text.chars().map(fold_char).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_keeps_the_number_of_characters() {
        for text in ["/usr/BIN/Curl", "ÄÖÜẞ", "İstanbul", "ΑΣ", "日本"] {
            assert_eq!(fold(text).chars().count(), text.chars().count());
        }
        assert_eq!(fold("ÄSCII"), "äscii");
    }
}

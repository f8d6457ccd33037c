//! Folding whole texts into a buffer, by [`crate::text::fold_char`].

use crate::text::fold_char;

/// Appends the folded `text`. Nearly every text is ASCII, and the loop for it has no branch, so that the compiler
/// vectorises it.
pub(crate) fn fold_into(text: &str, into: &mut Vec<u8>) {
    if !text.is_ascii() {
        let mut bytes = [0; 4];
        for c in text.chars() {
            into.extend_from_slice(fold_char(c).encode_utf8(&mut bytes).as_bytes());
        }
        return;
    }
    let start = into.len();
    into.extend_from_slice(text.as_bytes());
    if let Some(fresh) = into.get_mut(start..) {
        for byte in fresh {
            *byte |= u8::from(byte.is_ascii_uppercase()) << 5;
        }
    }
}

/// The longest beginning of `text` that has at most `limit` bytes and ends between two characters.
pub(crate) fn cut(text: &str, limit: usize) -> &str {
    if text.len() <= limit {
        return text;
    }
    text.get(..text.floor_char_boundary(limit)).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::fold;

    proptest! {
        #[test]
        fn folding_is_the_one_definition(text in any::<String>(), ascii in "[ -~]{0,80}") {
            for text in [text, ascii] {
                let mut into = b"kept".to_vec();
                fold_into(&text, &mut into);
                let expected = fold(&text);
                prop_assert_eq!(&into[4..], expected.as_bytes());
            }
        }

        #[test]
        fn a_cut_text_is_a_beginning(text in any::<String>(), limit in 0_usize..40) {
            let beginning = cut(&text, limit);
            prop_assert!(text.starts_with(beginning) && beginning.len() <= limit);
            prop_assert!(text.len() <= limit || limit - beginning.len() < 4);
        }
    }
}

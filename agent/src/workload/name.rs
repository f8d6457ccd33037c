//! Paths of cgroups as text, whatever their names hold.
//!
//! A cgroup may be called any bytes but a slash and a line's end, and the journal and the wire carry text. A byte that is no text stands as one of
//! 256 private-use characters, and a name that truly has one of those stands byte by byte: so each path has one text, and each text gives
//! back its path.

use std::borrow::Cow;

/// Stands for byte 0; the next ones for the other bytes.
const FIRST: u32 = 0x10_FE00;

/// The text of a path.
pub(crate) fn text(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for piece in path.utf8_chunks() {
        for letter in piece.valid().chars() {
            match byte_of(letter) {
                None => text.push(letter),
                Some(_) => text.extend(letter.encode_utf8(&mut [0; 4]).bytes().filter_map(letter_of)),
            }
        }
        text.extend(piece.invalid().iter().copied().filter_map(letter_of));
    }
    text
}

/// The path of a text.
pub(crate) fn bytes(text: &str) -> Cow<'_, [u8]> {
    if text.is_ascii() || !text.chars().any(|letter| byte_of(letter).is_some()) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut path = Vec::with_capacity(text.len());
    for letter in text.chars() {
        match byte_of(letter) {
            Some(byte) => path.push(byte),
            None => path.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(path)
}

fn letter_of(byte: u8) -> Option<char> {
    char::from_u32(FIRST + u32::from(byte))
}

fn byte_of(letter: char) -> Option<u8> {
    u32::from(letter).checked_sub(FIRST).and_then(|offset| u8::try_from(offset).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_stays_as_it_is() {
        for plain in ["/system.slice/a\\x2db.service", "/ü/\u{f780}", "/"] {
            assert_eq!(text(plain.as_bytes()), plain);
            assert_eq!(&*bytes(plain), plain.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_path_comes_back(
            path in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..6),
                    any::<char>().prop_map(|letter| letter.to_string().into_bytes()),
                    any::<u8>().prop_filter_map("a letter", |byte| Some(letter_of(byte)?.to_string().into_bytes())),
                ],
                0..12,
            ),
        ) {
            let path = path.concat();
            let text = text(&path);
            prop_assert_eq!(&*bytes(&text), &path[..]);
        }
    }
}

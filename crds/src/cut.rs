//! Texts for tables.

/// `text` in at most `width` characters. What is left out is in the middle: the end of a pod's name is what tells it apart.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    let all: Vec<char> = text.chars().collect();
    if all.len() <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let end = kept / 3;
    let (head, tail) = (&all[..kept - end], &all[all.len() - end..]);
    head.iter().chain(&['…'][..width.min(1)]).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_its_beginning_and_its_end() {
        assert_eq!(cut("pay/api-x2k", 22), "pay/api-x2k");
        assert_eq!(cut("payments/api-gateway-6c9f7d8b-x2kq4", 22), "payments/api-g…b-x2kq4");
        for width in 0..40 {
            assert_eq!(cut(&"ü".repeat(30), width).chars().count(), width.min(30));
        }
    }
}

//! What was probably meant.

/// The candidate nearest to `wrong`, if one is near enough to be what was meant: at most a third of it differs.
#[must_use]
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wrong.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            (strsim::damerau_levenshtein(&wrong.to_lowercase(), &candidate.to_lowercase()), candidate)
        })
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_the_near_and_not_the_far() {
        assert_eq!(nearest("node.freez", ["node.kill", "node.freeze"]), Some("node.freeze"));
        assert_eq!(nearest("neds", ["needs", "name"]), Some("needs"));
        assert_eq!(nearest("quarantine-everything", ["node.kill"]), None);
    }
}

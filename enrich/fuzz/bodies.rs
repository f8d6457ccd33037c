//! What every fuzz target does with its bytes: shared by the cargo-fuzz targets beside this file and by the test that drives them
//! without it (`tests/fuzz`).

use hemostat_enrich::{
    FeedSpec, Format, Intelligence, Limits,
    observe::{Observed, Seen},
    read::{conditions, read},
};
use model::Timestamp;

/// What a target does with its bytes.
pub(crate) type Body = fn(&[u8]);

/// By name.
pub(crate) const TARGETS: [(&str, Body); 5] =
    [("plain", plain), ("csv", csv), ("misp", misp), ("stix", stix), ("pattern", pattern)];

const NOW: Timestamp = Timestamp(1_790_000_000_000_000_000);

pub(crate) fn plain(bytes: &[u8]) {
    feed(bytes, Format::Plain);
}

pub(crate) fn csv(bytes: &[u8]) {
    feed(bytes, Format::Csv);
}

pub(crate) fn misp(bytes: &[u8]) {
    feed(bytes, Format::Misp);
}

pub(crate) fn stix(bytes: &[u8]) {
    feed(bytes, Format::Stix);
}

/// Any text as a pattern: never a panic, and what it looks for stands in it.
pub(crate) fn pattern(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for one in conditions(&text).into_iter().flatten() {
        assert!(text.contains(&one.path));
        assert!(one.value.chars().all(|c| text.contains(c)));
    }
}

/// Any bytes as a feed: never a panic, the limits hold, everything that was read is accounted for, and nothing that is in force fits
/// everything.
fn feed(bytes: &[u8], format: Format) {
    let limits = Limits { indicators: 64, ..Limits::default() };
    let Ok(feed) = read(bytes, FeedSpec::new("f", format), &limits, NOW, NOW) else { return };
    let report = &feed.report;
    assert!(report.kept <= 64 && report.kept == feed.len() as u64);
    assert_eq!(report.kept + report.duplicates + report.left_out(), report.read);
    assert!(report.examples.iter().all(|one| !one.what.contains(char::is_control)));
    let all = Intelligence::default();
    assert!(all.put(feed).is_ok());
    let unlikely: [&str; 4] = ["192.0.2.251", "127.0.0.1", "10.9.8.7", "2001:db8:dead:beef::1"];
    for addr in unlikely.iter().filter_map(|text| text.parse().ok()) {
        let seen = Seen { what: Observed::Address(addr), place: String::new() };
        for (_, hit) in all.snapshot().look_up(&seen, NOW) {
            assert!(!hit.indicator.ends_with("/0"), "{hit:?}");
            assert!(
                !matches!(unlikely.iter().position(|text| *text == addr.to_string()), Some(1 | 2)),
                "{hit:?}"
            );
        }
    }
}

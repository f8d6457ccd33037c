//! The index against a search through all indicators, by other means than the index's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enrich::{
    FeedSpec, Format, Intelligence, Limits, Value,
    indicator::Private,
    observe::{Observed, Seen},
    read::read,
};
use hemostat_enrich as enrich;
use model::Timestamp;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_790_000_000_000_000_000);

/// Few different ones, so that they meet.
fn v4() -> impl Strategy<Value = IpAddr> {
    (0..4_u8, 0..4_u8, any::<u8>()).prop_map(|(b, c, d)| IpAddr::V4(Ipv4Addr::new(198, 48 + b, c, d)))
}

fn v6() -> impl Strategy<Value = IpAddr> {
    (0..3_u16, 0..3_u16, 0..40_u16)
        .prop_map(|(b, c, d)| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8 + b, c, 0, 0, 0, 0, d)))
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "evil", "x-1", "com", "example"]), 2..6)
        .prop_map(|labels| labels.join("."))
}

fn indicator() -> impl Strategy<Value = String> {
    prop_oneof![
        v4().prop_map(|addr| addr.to_string()),
        (v4(), 8..=32_u8).prop_map(|(addr, len)| format!("{addr}/{len}")),
        v6().prop_map(|addr| addr.to_string()),
        (v6(), 20..=128_u8).prop_map(|(addr, len)| format!("{addr}/{len}")),
        (v4(), 104..=128_u8).prop_map(|(addr, len)| format!("::ffff:{addr}/{len}")),
        name(),
        (0..20_u8).prop_map(|n| format!("{n:064x}")),
        (name(), 0..4_u8).prop_map(|(name, n)| format!("https://{name}/p{n}")),
    ]
}

fn observed() -> impl Strategy<Value = Observed> {
    prop_oneof![
        v4().prop_map(Observed::Address),
        v6().prop_map(Observed::Address),
        name().prop_map(Observed::Domain),
        (0..20_u8).prop_map(|n| Observed::Hash([vec![0; 31], vec![n]].concat())),
        (name(), 0..4_u8).prop_map(|(name, n)| Observed::Url(format!("{name}/p{n}"))),
    ]
}

/// Whether an indicator fits, straight from its meaning.
fn fits(indicator: &Value, what: &Observed) -> bool {
    let below = |name: &str, domain: &str| name == domain || name.ends_with(&format!(".{domain}"));
    match (indicator, what) {
        (Value::Network(net), Observed::Address(addr)) => net.contains(addr),
        (Value::Domain(domain), Observed::Domain(name)) => below(name, domain),
        (Value::Domain(domain), Observed::Url(url)) => below(url.split('/').next().unwrap_or(""), domain),
        (Value::Hash(one), Observed::Hash(two)) => one == two,
        (Value::Url(one), Observed::Url(two)) => one == two,
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_index_finds_what_a_search_through_all_finds(
        list in prop::collection::vec(indicator(), 0..60),
        asked in prop::collection::vec(observed(), 1..40),
    ) {
        let text = list.join("\n");
        let feed = read(text.as_bytes(), FeedSpec::new("f", Format::Plain), &Limits::default(), NOW, NOW).expect("a feed");
        prop_assert_eq!(feed.report.left_out(), 0, "{:?}", feed.report);
        let mut values: Vec<Value> =
            list.iter().map(|text| Value::parse(text, Private::Refused).expect("an indicator")).collect();
        values.sort();
        values.dedup();
        prop_assert_eq!(feed.len(), values.len());
        let all = Intelligence::default();
        all.put(feed).expect("room");
        let snapshot = all.snapshot();
        for what in asked {
            let expected = values.iter().filter(|value| fits(value, &what)).count();
            let seen = Seen { what, place: String::new() };
            let found = snapshot.look_up(&seen, NOW).len();
            // Of very many that fit the first are told.
            prop_assert_eq!(found, expected.min(8), "{:?}", seen.what);
        }
    }
}

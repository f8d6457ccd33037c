use model::Timestamp;

use super::*;
use crate::{
    Intelligence, Relation,
    observe::{Observed, Seen},
};

const NOW: i64 = 1_790_000_000;

fn spec(format: Format) -> FeedSpec {
    FeedSpec::new("f", format)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000_000)
}

fn read_as(format: Format, text: &str) -> Result<Feed, FeedError> {
    read(text.as_bytes(), spec(format), &Limits::default(), at(NOW - 60), at(NOW))
}

/// Indicators that fit, with how and how much they are believed.
fn hits(feed: Feed, what: Observed) -> Vec<(String, Relation, u8, String)> {
    let all = Intelligence::default();
    all.put(feed).unwrap();
    let snapshot = all.snapshot();
    let seen = Seen { what, place: "here".into() };
    let found = snapshot.look_up(&seen, at(NOW));
    found
        .into_iter()
        .map(|(_, hit)| (hit.indicator, hit.relation, hit.confidence, hit.note.to_owned()))
        .collect()
}

fn address(text: &str) -> Observed {
    Observed::Address(text.parse().unwrap())
}

#[test]
fn a_plain_list_and_a_hosts_file() {
    let text = "# a feed\r\n198.51.100.7 # miner\n198.51.100.0/24;\n\n0.0.0.0 pool.evil.example tracker.example\n127.0.0.1 localhost\n";
    let feed = read_as(Format::Plain, text).unwrap();
    assert_eq!((feed.len(), feed.report.left_out()), (4, 0), "{:?}", feed.report);
    let found = hits(feed, address("198.51.100.7"));
    let shown: Vec<_> = found.iter().map(|one| (one.0.as_str(), one.1, one.3.as_str())).collect();
    assert_eq!(shown, [("198.51.100.7", Relation::Same, "miner"), ("198.51.100.0/24", Relation::Within, "")]);
    let feed = read_as(Format::Plain, text).unwrap();
    assert_eq!(hits(feed, Observed::Domain("a.b.pool.evil.example".into()))[0].1, Relation::Below);
}

#[test]
fn a_csv_by_its_heading_by_a_heading_in_a_comment_and_by_content() {
    let named = "type,indicator,confidence,valid_until,description\nip,198.51.100.7,0.9,2030-01-01T00:00:00Z,\"a, \"\"b\"\"\"\nip,198.51.100.8,,2001-01-01,old\n";
    let feed = read_as(Format::Csv, named).unwrap();
    assert_eq!((feed.len(), feed.report.refused.get(&Refusal::Expired)), (1, Some(&1)));
    let found = hits(feed, address("198.51.100.7"));
    assert_eq!((found[0].2, found[0].3.as_str()), (90, "a, \"b\""));
    let abuse = "# \"first_seen_utc\",\"ioc_value\",\"confidence_level\"\n# end of heading\n\"2026-09-01 00:00:00\", \"198.51.100.7:4444\", \"75\"\n";
    let found = hits(read_as(Format::Csv, abuse).unwrap(), address("198.51.100.7"));
    assert_eq!(found[0].2, 75);
    let bare = "7,evil.example,x\n8,bad.example,y\nbroken,\"\n";
    let feed = read_as(Format::Csv, bare).unwrap();
    assert_eq!((feed.len(), feed.report.refused.get(&Refusal::Malformed)), (2, Some(&1)));
}

#[test]
fn misp_events_attributes_and_objects() {
    let text = r#"{"response":[{"Event":{"info":"campaign","Attribute":[
        {"type":"ip-dst|port","value":"198.51.100.7|443","to_ids":true,"timestamp":"1789999000"},
        {"type":"ip-dst","value":"198.51.100.8","to_ids":false},
        {"type":"domain","value":"gone.example","deleted":true},
        {"type":["odd"],"value":{"deep":[1,{}]}},
        {"type":"domain|ip","value":"evil.example|198.51.100.9","comment":"c2"}],
      "Object":[{"name":"file","Attribute":[{"type":"filename|md5","value":"x|d41d8cd98f00b204e9800998ecf8427e"}]}]}}]}"#;
    let feed = read_as(Format::Misp, text).unwrap();
    assert_eq!(feed.len(), 4, "{:?}", feed.report);
    assert_eq!(feed.report.refused.get(&Refusal::NotForDetection), Some(&1));
    assert_eq!(hits(feed, address("198.51.100.7"))[0].3, "campaign");
    let feed = read_as(Format::Misp, text).unwrap();
    assert_eq!(hits(feed, Observed::Domain("evil.example".into()))[0].3, "c2");
}

#[test]
fn stix_indicators_and_what_cannot_be_looked_up() {
    let indicator = |pattern: &str, more: &str| {
        format!(
            r#"{{"type":"indicator","pattern_type":"stix","pattern":"{pattern}","name":"n","confidence":80{more}}}"#
        )
    };
    let objects = [
        indicator("[ipv4-addr:value = '198.51.100.7' OR ipv4-addr:value ISSUBSET '203.0.113.0/24']", ""),
        indicator(
            "[domain-name:value IN ('evil.example', 'bad.example')] OR [url:value = 'http://evil.example/a']",
            "",
        ),
        indicator(
            "[file:hashes.'SHA-256' = 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855']",
            "",
        ),
        indicator("[ipv4-addr:value = '198.51.100.1' AND domain-name:value = 'x.example']", ""),
        indicator("[ipv4-addr:value = '198.51.100.2'] FOLLOWEDBY [url:value = 'http://a.example/']", ""),
        indicator("[domain-name:value LIKE '%.example']", ""),
        indicator("[ipv4-addr:value != '198.51.100.3']", ""),
        indicator("[ipv4-addr:value = '198.51.100.4']", r#","revoked":true"#),
        indicator("[ipv4-addr:value = '198.51.100.5']", r#","valid_until":"2020-01-01T00:00:00Z""#),
        indicator("[ipv4-addr:value = ", ""),
        r#"{"type":"malware","name":"x"}"#.to_owned(),
        r#"{"type":{"no":1}}"#.to_owned(),
        "7".to_owned(),
    ];
    let text = format!(r#"{{"type":"bundle","objects":[{}]}}"#, objects.join(","));
    let feed = read_as(Format::Stix, &text).unwrap();
    assert_eq!(feed.len(), 6, "{:?}", feed.report);
    let refused = feed.report.refused.clone();
    assert_eq!(refused.get(&Refusal::Pattern), Some(&4), "{refused:?}");
    assert_eq!((refused.get(&Refusal::Revoked), refused.get(&Refusal::Expired)), (Some(&1), Some(&1)));
    assert_eq!(refused.get(&Refusal::Malformed), Some(&1));
    let found = hits(feed, Observed::Url("evil.example/a".into()));
    assert_eq!(found.iter().map(|one| one.1).collect::<Vec<_>>(), [Relation::Same, Relation::Host]);
}

#[test]
fn a_broken_document_takes_nothing_out_of_force() {
    assert!(matches!(
        read_as(Format::Stix, "{\"objects\":[{\"type\":\"indicator\""),
        Err(FeedError::Malformed { .. })
    ));
    assert!(matches!(read_as(Format::Misp, "<html>"), Err(FeedError::Malformed { .. })));
    assert!(matches!(read_as(Format::Misp, "{\"a\":1}"), Err(FeedError::Malformed { .. })));
    assert!(matches!(read_as(Format::Plain, "<html>\n<body> not found\n"), Err(FeedError::Nothing { .. })));
    assert_eq!(read_as(Format::Plain, "").unwrap().len(), 0);
    let short = Limits { bytes: 3, ..Limits::default() };
    let long = read(b"1234", spec(Format::Plain), &short, at(NOW), at(NOW));
    assert!(matches!(long, Err(FeedError::TooLong { .. })));
}

#[test]
fn i11_junk_is_counted_by_reason_and_told_by_a_few_examples() {
    let mut text =
        "0.0.0.0/0\n::/0\n10.1.1.1\n127.0.0.1\n::/0,9\nhttp://127.0.0.1/x\n198.51.100.7\n198.51.100.7\n"
            .to_owned();
    text.push_str(&"junk junk\n".repeat(1000));
    text.push_str(&"x".repeat(20_000));
    let feed = read_as(Format::Plain, &text).unwrap();
    assert_eq!((feed.len(), feed.report.duplicates), (1, 1));
    let refused = &feed.report.refused;
    assert_eq!(
        refused.get(&Refusal::TooWide),
        Some(&1002),
        "a word without a dot is as wide as a top level domain"
    );
    assert_eq!((refused.get(&Refusal::Private), refused.get(&Refusal::Special)), (Some(&1), Some(&3)));
    assert_eq!(
        (refused.get(&Refusal::TooLong), feed.report.examples.len()),
        (Some(&1), FeedReport::MAX_EXAMPLES)
    );
    let limits = Limits { indicators: 10, ..Limits::default() };
    let many: String = (0..50).map(|n| format!("198.51.100.{n}\n")).collect();
    let feed = read(many.as_bytes(), spec(Format::Plain), &limits, at(NOW), at(NOW)).unwrap();
    assert_eq!((feed.len(), feed.report.refused.get(&Refusal::TooMany)), (10, Some(&40)));
    let binary =
        read(b"\xff\xfe\x001\n198.51.100.7\n", spec(Format::Plain), &limits, at(NOW), at(NOW)).unwrap();
    assert_eq!(binary.report.refused.get(&Refusal::NotText), Some(&1));
}

#[test]
fn an_indicator_ends_when_it_says_or_when_its_feed_is_old() {
    let old =
        read(b"198.51.100.7\n", spec(Format::Plain), &Limits::default(), at(1_000_000_000), at(NOW)).unwrap();
    assert_eq!(
        (old.len(), old.report.refused.get(&Refusal::Expired)),
        (0, Some(&1)),
        "nothing in force, and no error"
    );
    let feed = read_as(Format::Plain, "198.51.100.7\n").unwrap();
    let all = Intelligence::default();
    all.put(feed).unwrap();
    let seen = Seen { what: address("198.51.100.7"), place: String::new() };
    assert_eq!(all.snapshot().look_up(&seen, at(NOW)).len(), 1);
    assert_eq!(all.snapshot().look_up(&seen, at(NOW + 91 * 86_400)).len(), 0);
    // A source that claims to have seen it in the future does not keep it alive.
    let ahead = read_as(Format::Csv, "ip,last_seen\n198.51.100.7,2099-01-01\n").unwrap();
    let found = Intelligence::default();
    found.put(ahead).unwrap();
    assert_eq!(found.snapshot().look_up(&seen, at(NOW + 91 * 86_400)).len(), 0);
}

#[test]
fn times_as_feeds_write_them() {
    for (text, seconds) in [
        ("1970-01-02", Some(86_400)),
        ("2026-11-22T12:00:00Z", Some(1_795_348_800)),
        ("2026-11-22 12:00:00", Some(1_795_348_800)),
        ("2026-11-22T14:00:00.123+02:00", Some(1_795_348_800)),
        ("1795348800", Some(1_795_348_800)),
        ("12", None),
        ("yesterday", None),
        ("2026-13-01", None),
        ("9999-12-31T99:99:99", Some(253_402_214_400 + 99 * 3600 + 99 * 60 + 99)),
        ("ä026-11-22", None),
    ] {
        assert_eq!(time(text), seconds, "{text}");
    }
}

#[test]
fn a_feed_is_exchanged_and_who_looks_keeps_what_there_was() {
    let all = Intelligence::default();
    all.put(read_as(Format::Plain, "198.51.100.7\n").unwrap()).unwrap();
    let before = all.snapshot();
    all.put(read_as(Format::Plain, "198.51.100.8\n").unwrap()).unwrap();
    let seen = Seen { what: address("198.51.100.7"), place: String::new() };
    assert_eq!((before.look_up(&seen, at(NOW)).len(), all.snapshot().look_up(&seen, at(NOW)).len()), (1, 0));
    all.remove("f");
    assert_eq!(all.snapshot().feeds().count(), 0);
}

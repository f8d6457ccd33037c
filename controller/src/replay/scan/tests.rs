use super::*;
use crate::{
    ingest::read::{Format, Zone},
    replay::{Setup, prepare},
};

const RULES: &str = "title: A Login
id: login
logsource: {product: linux, service: sshd}
detection: {s: {AuthAction: login}, condition: s}
level: low
---
title: A Flow
id: flow
logsource: {product: cilium, service: hubble}
detection: {s: {FlowVerdict: forwarded}, condition: s}
level: low
";

/// Lines of which the log gives no identity, and the same again elsewhere; and some that have their own.
fn log(format: Format) -> String {
    match format {
        Format::Auth => {
            let line = |user| {
                format!(
                    "2026-06-01T10:00:00+00:00 web sshd[9]: Accepted publickey for {user} from 192.0.2.1 port 1 ssh2\n"
                )
            };
            [
                line("ada"),
                "  \n".into(),
                line("bob"),
                line("ada"),
                "2026-06-01T10:00:00+00:00 web sshd[9]: Connection closed\n".into(),
            ]
            .concat()
        }
        _ => {
            let line = |uuid| {
                format!(
                    r#"{{"flow":{{"time":"2026-06-01T10:00:00Z",{uuid}"verdict":"FORWARDED","IP":{{"source":"10.0.0.1","destination":"10.0.0.2"}}}}}}"#
                )
            };
            let list = format!("[{},{}]", line(""), line(""));
            [line(r#""uuid":"b1","#), list, line("")].join("\n")
        }
    }
}

/// Where the log is followed, every record is named at once; here only what matched is.
#[test]
fn i3_what_matched_is_the_same_event_as_where_its_log_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yml");
    std::fs::write(&rules, RULES).unwrap();
    let ready = prepare(&Setup { name: "one".into(), rules: vec![rules], ..Setup::default() }).unwrap();
    for (format, found) in [(Format::Auth, 3), (Format::Hubble, 4)] {
        let (text, name, now) = (log(format), NodeId::new("source"), Timestamp(0));
        let (mut reader, mut told) = (Reader::new(format, Zone::UTC), Vec::new());
        for (from, line) in lines(text.as_bytes()) {
            reader.read(line, Place { offset: from as u64, now }, &mut told).unwrap();
        }
        let followed: Vec<Event> =
            told.into_iter().map(|one| one.record.into_event(&name, one.time)).collect();
        let texts = std::iter::once(text.into_bytes());
        let recording = Recording::lines(format, name, now, texts);
        let mut played = Vec::new();
        let around = Surroundings { threads: 1, ..Surroundings::default() };
        run(vec![recording], &[Arc::clone(&ready.rules)], &around, &mut |batch| {
            let batch = Arc::try_unwrap(batch).unwrap();
            played.extend(batch.into_iter().filter_map(|one| match one.what {
                What::Matched(matched) => Some(matched.event),
                _ => None,
            }));
            true
        })
        .unwrap();
        assert_eq!(played.len(), found);
        played.iter().for_each(|event| assert!(followed.contains(event), "{event:?}"));
        let mut ids: Vec<_> = played.into_iter().map(|event| event.id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), found, "no two are one");
    }
}

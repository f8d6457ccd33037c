use std::fs;

use model::{Actor, AuditKind, Timestamp};

use super::*;
use crate::audit::{AuditKey, Draft, verify};

fn key() -> AuditKey {
    AuditKey::from_bytes([3; 32])
}

fn sealed(n: u64) -> (Vec<AuditEntry>, ChainHead) {
    let mut head = ChainHead::default();
    let entries = (0..n)
        .map(|i| {
            let draft = Draft {
                at: Timestamp(i64::try_from(i).unwrap()),
                actor: Actor::new("system:controller"),
                kind: AuditKind::System,
                incident: None,
                run: None,
                action: None,
                what: format!("fact {i}"),
            };
            head.seal(&key(), draft)
        })
        .collect();
    (entries, head)
}

fn whole(path: &Path) -> bool {
    verify(&fs::read(path).unwrap()[..], &key(), None).unwrap().is_whole()
}

/// A crash at every byte of the last write is repaired from the journal.
#[test]
fn i7_a_write_torn_at_any_byte_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (entries, head) = sealed(4);
    let (mut log, found) = AuditLog::open(&path, &ChainHead::default(), &[]).unwrap();
    assert_eq!(found, Recovered::Whole);
    log.append(&entries[..2]).unwrap();
    let before = fs::metadata(&path).unwrap().len();
    log.append(&entries[2..]).unwrap();
    let full = fs::read(&path).unwrap();
    for cut in before..=full.len() as u64 {
        fs::write(&path, &full[..usize::try_from(cut).unwrap()]).unwrap();
        let (_, found) = AuditLog::open(&path, &head, &entries[1..]).unwrap();
        assert!(!matches!(found, Recovered::Tampered { .. }), "cut at {cut}: {found:?}");
        assert_eq!(fs::read(&path).unwrap(), full, "cut at {cut}");
    }
}

#[test]
fn i10_a_log_that_no_crash_explains_is_named_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (entries, head) = sealed(6);
    let bytes = |entries: &[AuditEntry]| -> Vec<u8> {
        entries.iter().flat_map(|e| [line(e), b"\n".to_vec()].concat()).collect()
    };
    let tampered = [
        bytes(&entries[..3]),
        Vec::new(),
        [bytes(&entries), b"{\"seq\":7".to_vec()].concat(),
        [bytes(&entries), bytes(&sealed(1).0)].concat(),
    ];
    for content in tampered {
        fs::write(&path, &content).unwrap();
        let (mut log, found) = AuditLog::open(&path, &head, &entries[5..]).unwrap();
        assert!(matches!(found, Recovered::Tampered { .. }), "{found:?}");
        let mut next = head.clone();
        let draft = Draft { what: "later".into(), ..draft_of(&entries[0]) };
        log.append(&[next.seal(&key(), draft)]).unwrap();
        assert!(!whole(&path), "the break stays visible");
        assert!(fs::read(&path).unwrap().starts_with(&content), "nothing is taken away");
    }
}

fn draft_of(entry: &AuditEntry) -> Draft {
    Draft {
        at: entry.at,
        actor: entry.actor.clone(),
        kind: entry.kind,
        incident: None,
        run: None,
        action: None,
        what: entry.what.clone(),
    }
}

#[test]
fn a_page_is_read_from_where_it_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (entries, _) = sealed(6);
    let (mut log, _) = AuditLog::open(&path, &ChainHead::default(), &[]).unwrap();
    log.append(&entries).unwrap();
    assert_eq!(AuditLog::read(&path, 2, 3).unwrap(), entries[2..5]);
}

#[test]
fn i11_a_line_without_end_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (entries, _) = sealed(3);
    let mut bytes = Vec::new();
    for (n, entry) in entries.iter().enumerate() {
        bytes.extend(line(entry));
        bytes.push(b'\n');
        // At, below and above the limit, and far above.
        for length in [MAX_LINE - 1, MAX_LINE, MAX_LINE + 1, MAX_LINE * 5 + n as u64] {
            bytes.extend(std::iter::repeat_n(b'x', usize::try_from(length).unwrap()));
            bytes.push(b'\n');
        }
    }
    bytes.extend(std::iter::repeat_n(b'x', usize::try_from(MAX_LINE * 3).unwrap()));
    fs::write(&path, bytes).unwrap();
    assert_eq!(AuditLog::read(&path, 0, 10).unwrap(), entries);
    assert_eq!(AuditLog::read(&path, 1, 1).unwrap(), entries[1..2]);
    let mut line = Vec::new();
    let mut endless = io::BufReader::new(io::repeat(b'x').take(MAX_LINE * 10));
    assert_eq!(next_line(&mut endless, &mut line).unwrap(), More::Yes);
    assert!(line.len() as u64 == MAX_LINE && line.capacity() as u64 <= MAX_LINE * 2, "{}", line.capacity());
    assert_eq!(next_line(&mut endless, &mut line).unwrap(), More::No);
}

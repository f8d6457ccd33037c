use std::fs;

use model::{Actor, AuditKind, Timestamp};

use super::*;
use crate::audit::{AuditKey, Draft, verify, verify_log};

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

fn read(path: &Path, after: u64, limit: usize) -> Vec<AuditEntry> {
    AuditLog::read(path, &Query::after(after, limit)).unwrap().entries
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
    let (mut log, found) = AuditLog::open(&path, SEGMENT_BYTES, &ChainHead::default(), &[]).unwrap();
    assert_eq!(found, Recovered::Whole);
    log.append(&entries[..2]).unwrap();
    let before = fs::metadata(&path).unwrap().len();
    log.append(&entries[2..]).unwrap();
    let full = fs::read(&path).unwrap();
    for cut in before..=full.len() as u64 {
        fs::write(&path, &full[..usize::try_from(cut).unwrap()]).unwrap();
        let (_, found) = AuditLog::open(&path, SEGMENT_BYTES, &head, &entries[1..]).unwrap();
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
        let (mut log, found) = AuditLog::open(&path, SEGMENT_BYTES, &head, &entries[5..]).unwrap();
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
    let (mut log, _) = AuditLog::open(&path, SEGMENT_BYTES, &ChainHead::default(), &[]).unwrap();
    log.append(&entries).unwrap();
    assert_eq!(read(&path, 2, 3), entries[2..5]);
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
    assert_eq!(read(&path, 0, 10), entries);
    assert_eq!(read(&path, 1, 1), entries[1..2]);
    let mut line = Vec::new();
    let mut endless = io::BufReader::new(io::repeat(b'x').take(MAX_LINE * 10));
    assert_eq!(next_line(&mut endless, &mut line).unwrap(), Some(MAX_LINE * 10));
    assert!(line.len() as u64 == MAX_LINE && line.capacity() as u64 <= MAX_LINE * 2, "{}", line.capacity());
    assert_eq!(next_line(&mut endless, &mut line).unwrap(), None);
}

/// A log of so many entries, 40 an incident and one a second, in files of 64 KiB.
fn long_log(dir: &Path, n: u64) -> (std::path::PathBuf, Vec<AuditEntry>, ChainHead) {
    let path = dir.join("audit.jsonl");
    let mut head = ChainHead::default();
    let (mut log, _) = AuditLog::open(&path, 64 * 1024, &head, &[]).unwrap();
    let entries: Vec<AuditEntry> = (0..n)
        .map(|i| {
            let draft = Draft {
                at: Timestamp(i64::try_from(i).unwrap() * 1_000_000_000),
                incident: Some(model::IncidentId::new(format!("inc-{:04x}", i / 40))),
                ..draft_of(&sealed(1).0[0])
            };
            head.seal(&key(), draft)
        })
        .collect();
    for some in entries.chunks(7) {
        log.append(some).unwrap();
    }
    (path, entries, head)
}

#[test]
fn i11_a_full_file_is_closed_and_the_chain_goes_on_in_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let (path, entries, head) = long_log(dir.path(), 2000);
    let full = segments::sealed(&path, None).unwrap();
    assert!(full.len() > 5, "{full:?}");
    let longest = full.iter().map(|one| fs::metadata(&one.path).unwrap().len()).max().unwrap();
    assert!(longest < 70 * 1024, "{longest}");
    let report = verify_log(&path, &key(), None).unwrap();
    assert_eq!((report.lines, report.head, report.problems), (2000, head.clone(), vec![]));
    assert_eq!(read(&path, 0, 5000), entries);
    // It is opened again, also where nothing stands in the last one yet.
    let (_, found) = AuditLog::open(&path, 64 * 1024, &head, &entries[1999..]).unwrap();
    assert_eq!(found, Recovered::Whole);
}

#[test]
fn i7_killed_while_one_file_follows_another() {
    let dir = tempfile::tempdir().unwrap();
    let (path, entries, head) = long_log(dir.path(), 1000);
    let last = &entries[999..];
    // The old file has its final name, and no new one is begun.
    fs::rename(&path, segments::sealed_name(&path, first_in(&path))).unwrap();
    let (mut log, found) = AuditLog::open(&path, 64 * 1024, &head, last).unwrap();
    assert_eq!(found, Recovered::Whole);
    let mut next = head.clone();
    log.append(&[next.seal(&key(), draft_of(&entries[0]))]).unwrap();
    assert!(verify_log(&path, &key(), None).unwrap().is_whole());
    // The new one is there, and the first write into it was torn at any byte.
    let full = fs::read(&path).unwrap();
    let all: Vec<AuditEntry> = read(&path, 999, 10);
    for cut in 0..full.len() {
        fs::write(&path, &full[..cut]).unwrap();
        let (_, found) = AuditLog::open(&path, 64 * 1024, &next, &all[1..]).unwrap();
        assert_eq!(found, Recovered::Completed { entries: 1 }, "cut at {cut}");
        assert_eq!(fs::read(&path).unwrap(), full);
    }
    // Without the new one, the loss is seen at the start.
    fs::remove_file(&path).unwrap();
    let (_, found) = AuditLog::open(&path, 64 * 1024, &next, &[]).unwrap();
    assert!(matches!(found, Recovered::Tampered { .. }), "{found:?}");
}

fn first_in(path: &Path) -> u64 {
    Index::of(fs::File::open(path).unwrap()).unwrap().first.unwrap()
}

#[test]
fn a_question_reads_little_of_a_long_log() {
    let dir = tempfile::tempdir().unwrap();
    let (path, entries, _) = long_log(dir.path(), 20_000);
    let whole: u64 =
        segments::sealed(&path, None).unwrap().iter().map(|one| fs::metadata(&one.path).unwrap().len()).sum();
    let ask = |query: &Query| AuditLog::read(&path, query).unwrap();
    let of_incident = Query { incident: Some("0010".into()), limit: 1000, ..Query::default() };
    let found = ask(&of_incident);
    assert_eq!(found.entries, entries[640..680]);
    assert!(found.bytes_read * 10 < whole, "{} of {whole}", found.bytes_read);
    let since = Timestamp(19_900 * 1_000_000_000);
    let found = ask(&Query { since: Some(since), limit: 1000, ..Query::default() });
    assert_eq!(found.entries, entries[19_900..]);
    assert!(found.bytes_read * 10 < whole, "{} of {whole}", found.bytes_read);
    let found = ask(&Query::after(15_000, 3));
    assert_eq!(found.entries, entries[15_000..15_003]);
    assert!(found.bytes_read * 10 < whole, "{} of {whole}", found.bytes_read);
    // Without its index, with a foreign one, and after a change of the file the answer is the same.
    for segment in segments::sealed(&path, None).unwrap() {
        let index = segments::index_of(&segment.path);
        match segment.first % 3 {
            0 => fs::remove_file(index).unwrap(),
            1 => fs::write(index, "{}").unwrap(),
            _ => fs::write(index, "\u{0}").unwrap(),
        }
    }
    assert_eq!(ask(&of_incident).entries, entries[640..680]);
    assert!(ask(&of_incident).bytes_read * 10 < whole, "the indexes were made again");
}

#[test]
fn a_file_that_somebody_put_there_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let squatter = dir.path().join(format!("audit-{:020}.jsonl", 1));
    fs::write(&squatter, "mine\n").unwrap();
    long_log(dir.path(), 400);
    assert_eq!(fs::read_to_string(&squatter).unwrap(), "mine\n");
    let report = verify_log(&path, &key(), None).unwrap();
    assert_eq!(report.problems[0].file, squatter.file_name().unwrap().to_str().unwrap());
}

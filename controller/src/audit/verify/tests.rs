use model::{Actor, AuditKind, IncidentId, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::audit::Draft;

fn key() -> AuditKey {
    AuditKey::from_bytes([1; 32])
}

fn draft(n: usize) -> Draft {
    let what =
        if n == 0 { format!("{FIRST_WORDS}{}", key().fingerprint()) } else { format!("fact {n} \"ü\"\n") };
    Draft {
        at: Timestamp(n as i64),
        actor: Actor::new("system:controller"),
        kind: AuditKind::Decision,
        incident: Some(IncidentId::new(format!("inc-{n}"))),
        run: None,
        action: None,
        what,
    }
}

fn chain_with(key: &AuditKey, n: usize) -> (Vec<Vec<u8>>, Anchor) {
    let mut head = ChainHead::default();
    let lines = (0..n).map(|i| line(&head.seal(key, draft(i)))).collect();
    (lines, Anchor::new(key, &head))
}

fn chain(n: usize) -> (Vec<Vec<u8>>, Anchor) {
    chain_with(&key(), n)
}

fn check_lines(lines: &[Vec<u8>], anchor: &Anchor) -> Vec<Problem> {
    let bytes: Vec<u8> = lines.iter().flat_map(|l| l.iter().copied().chain([b'\n'])).collect();
    verify(&bytes[..], &key(), Some(anchor)).unwrap().problems
}

#[test]
fn i10_a_whole_log_passes() {
    let (lines, anchor) = chain(20);
    assert_eq!(check_lines(&lines, &anchor), []);
}

#[test]
fn i10_a_longer_log_than_the_anchor_passes() {
    let (lines, _) = chain(20);
    let (_, earlier) = chain(12);
    assert_eq!(check_lines(&lines, &earlier), []);
}

#[test]
fn i10_removal_is_found_at_its_place() {
    let (mut lines, anchor) = chain(20);
    lines.remove(7);
    assert_eq!(
        check_lines(&lines, &anchor),
        [Problem {
            file: String::new(),
            line: 8,
            kind: ProblemKind::OutOfSequence { expected: 8, found: 9 }
        }]
    );
}

#[test]
fn i10_removal_of_the_beginning_is_found() {
    let (mut lines, anchor) = chain(20);
    lines.drain(..3);
    assert_eq!(
        check_lines(&lines, &anchor),
        [Problem {
            file: String::new(),
            line: 1,
            kind: ProblemKind::OutOfSequence { expected: 1, found: 4 }
        }]
    );
}

#[test]
fn i10_a_change_is_found_at_its_place() {
    let (mut lines, anchor) = chain(20);
    lines[4] = String::from_utf8(lines[4].clone()).unwrap().replace("fact 4", "fact 5").into_bytes();
    assert_eq!(
        check_lines(&lines, &anchor),
        [Problem { file: String::new(), line: 5, kind: ProblemKind::Changed { seq: 5 } }]
    );
}

/// Sealed with our key, with the right number, and of another story: a log that was begun anew, or a copy that went on by itself.
#[test]
fn i10_genuine_entries_of_another_chain_are_found() {
    let (mut lines, anchor) = chain(20);
    let mut head = ChainHead::default();
    let other: Vec<Vec<u8>> =
        (0..20).map(|i| line(&head.seal(&key(), draft(if i == 3 { 99 } else { i })))).collect();
    let unlinked = |seq: u64| Problem { file: String::new(), line: seq, kind: ProblemKind::Unlinked { seq } };
    lines[10] = other[10].clone();
    assert_eq!(check_lines(&lines, &anchor), [unlinked(11), unlinked(12)]);
    lines[10..].clone_from_slice(&other[10..]);
    let replaced = Problem { file: String::new(), line: 20, kind: ProblemKind::AnchorMismatch { seq: 20 } };
    assert_eq!(check_lines(&lines, &anchor), [unlinked(11), replaced]);
}

#[test]
fn i10_a_change_of_form_alone_is_found() {
    let (mut lines, anchor) = chain(5);
    lines[2].insert(1, b' ');
    assert_eq!(
        check_lines(&lines, &anchor),
        [Problem { file: String::new(), line: 3, kind: ProblemKind::NotCanonical { seq: 3 } }]
    );
}

#[test]
fn i10_reordering_is_found() {
    let (mut lines, anchor) = chain(20);
    lines.swap(4, 5);
    let found = check_lines(&lines, &anchor);
    assert_eq!(
        found[0],
        Problem { file: String::new(), line: 5, kind: ProblemKind::OutOfSequence { expected: 5, found: 6 } }
    );
    assert!(found.iter().all(|p| (5..=7).contains(&p.line)), "{found:?}");
}

#[test]
fn i10_truncation_is_found_by_the_anchor() {
    let (mut lines, anchor) = chain(20);
    lines.truncate(17);
    assert_eq!(
        check_lines(&lines, &anchor),
        [Problem { file: String::new(), line: 18, kind: ProblemKind::Truncated { expected: 20, found: 17 } }]
    );
    assert_eq!(
        check_lines(&[], &anchor),
        [Problem { file: String::new(), line: 1, kind: ProblemKind::Truncated { expected: 20, found: 0 } }]
    );
}

#[test]
fn i10_a_torn_end_is_found() {
    let (lines, anchor) = chain(3);
    let mut bytes: Vec<u8> = lines.iter().flat_map(|l| l.iter().copied().chain([b'\n'])).collect();
    bytes.truncate(bytes.len() - 10);
    let kinds: Vec<_> = verify(&bytes[..], &key(), Some(&anchor)).unwrap().problems;
    assert_eq!(
        kinds,
        [
            Problem { file: String::new(), line: 3, kind: ProblemKind::Torn },
            Problem { file: String::new(), line: 4, kind: ProblemKind::Truncated { expected: 3, found: 2 } }
        ]
    );
}

#[test]
fn i10_broken_json_is_found_and_the_rest_is_still_checked() {
    let (mut lines, anchor) = chain(20);
    lines[9] = b"{\"seq\":10,".to_vec();
    lines[14] = vec![b'x'; 70_000];
    let found = check_lines(&lines, &anchor);
    assert!(matches!(&found[0], Problem { line: 10, kind: ProblemKind::Broken { .. }, .. }), "{found:?}");
    assert!(matches!(&found[1], Problem { line: 15, kind: ProblemKind::Broken { .. }, .. }), "{found:?}");
    assert!(found.iter().all(|p| [10, 15, 16].contains(&p.line)), "{found:?}");
}

#[test]
fn i10_a_foreign_key_is_found() {
    let other = AuditKey::from_bytes([2; 32]);
    let (mut lines, anchor) = chain(4);
    // The whole log replaced by one that another key made.
    let (mut foreign, _) = chain_with(&other, 4);
    let mut head = ChainHead::default();
    let first = Draft { what: format!("{FIRST_WORDS}{}", other.fingerprint()), ..draft(0) };
    foreign[0] = line(&head.seal(&other, first));
    let found = check_lines(&foreign, &anchor);
    assert!(matches!(&found[0], Problem { line: 1, kind: ProblemKind::ForeignKey { .. }, .. }), "{found:?}");
    // One entry appended with another key.
    let mut head = anchor.head.clone();
    lines.push(line(&head.seal(&other, draft(9))));
    assert_eq!(
        check_lines(&lines, &anchor),
        [Problem { file: String::new(), line: 5, kind: ProblemKind::Changed { seq: 5 } }]
    );
}

#[test]
fn i10_a_forged_anchor_is_found() {
    let (lines, mut anchor) = chain(4);
    anchor.head.count = 3;
    let found = check_lines(&lines, &anchor);
    assert_eq!(found[0], Problem { file: String::new(), line: 0, kind: ProblemKind::AnchorForged });
}

#[test]
fn i10_a_rewritten_chain_is_found_even_with_the_key() {
    // Whoever holds the key can write a chain that follows from itself; the anchor outside still tells.
    let (_, anchor) = chain(4);
    let mut head = ChainHead::default();
    let lines: Vec<_> = (0..4)
        .map(|i| line(&head.seal(&key(), Draft { actor: Actor::new("user:mallory"), ..draft(i) })))
        .collect();
    assert_eq!(
        check_lines(&lines, &anchor),
        [Problem { file: String::new(), line: 4, kind: ProblemKind::AnchorMismatch { seq: 4 } }]
    );
}

proptest! {
    /// Any removal, swap, duplicate, flipped byte or cut of any chain is found; the untouched chain passes.
    #[test]
    fn i10_any_tampering_is_found(n in 2usize..24, at in any::<prop::sample::Index>(),
                                  other in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(),
                                  bit in 0u8..8, kind in 0u8..5) {
        let (mut lines, anchor) = chain(n);
        prop_assert_eq!(check_lines(&lines, &anchor), []);
        let before = lines.clone();
        let (at, other) = (at.index(n), other.index(n));
        match kind {
            0 => { lines.remove(at); }
            1 => lines.swap(at, other),
            2 => { let line = lines[at].clone(); lines.insert(other, line); }
            3 => lines.truncate(at),
            _ => { let length = lines[at].len(); lines[at][byte.index(length)] ^= 1 << bit; }
        }
        if lines != before {
            prop_assert!(!check_lines(&lines, &anchor).is_empty());
        }
    }
}

/// Files of a log in a folder: the full ones by their first entries, and the one that is written.
fn files(dir: &Path, lines: &[Vec<u8>], starts: &[usize]) -> std::path::PathBuf {
    let path = dir.join("audit.jsonl");
    for (n, from) in starts.iter().enumerate() {
        let to = starts.get(n + 1).copied().unwrap_or(lines.len());
        let bytes: Vec<u8> = lines[*from..to].iter().flat_map(|l| l.iter().copied().chain([b'\n'])).collect();
        let name = match n + 1 == starts.len() {
            true => path.clone(),
            false => dir.join(format!("audit-{:020}.jsonl", from + 1)),
        };
        std::fs::write(name, bytes).unwrap();
    }
    path
}

fn segment(dir: &Path, first: u64) -> std::path::PathBuf {
    dir.join(format!("audit-{first:020}.jsonl"))
}

#[test]
fn i10_the_chain_goes_on_through_all_files() {
    let dir = tempfile::tempdir().unwrap();
    let (lines, anchor) = chain(20);
    let path = files(dir.path(), &lines, &[0, 7, 12]);
    let report = verify_log(&path, &key(), Some(&anchor)).unwrap();
    assert_eq!((report.files, report.lines, report.problems), (3, 20, vec![]));
    // Just begun.
    let dir = tempfile::tempdir().unwrap();
    let path = files(dir.path(), &lines, &[0, 12, 20]);
    assert_eq!(verify_log(&path, &key(), Some(&anchor)).unwrap().problems, []);
}

#[test]
fn i10_a_missing_file_is_found_wherever_it_was() {
    let (lines, anchor) = chain(20);
    let found = |gone: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = files(dir.path(), &lines, &[0, 7, 12]);
        std::fs::remove_file(dir.path().join(gone)).unwrap();
        let report = verify_log(&path, &key(), Some(&anchor)).unwrap();
        report.problems.into_iter().map(|p| (p.file, p.line, p.kind)).collect::<Vec<_>>()
    };
    let name = |first: u64| format!("audit-{first:020}.jsonl");
    let missing = |expected, found| ProblemKind::FileMissing { expected, found };
    assert_eq!(found(&name(1)), [(name(8), 1, missing(1, 8))]);
    assert_eq!(found(&name(8)), [("audit.jsonl".to_owned(), 1, missing(8, 13))]);
    assert_eq!(found("audit.jsonl"), [(name(8), 6, ProblemKind::Truncated { expected: 20, found: 12 })]);
}

#[test]
fn i10_swapped_renamed_and_replaced_files_are_found() {
    let (lines, anchor) = chain(20);
    let problems = |harm: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        let path = files(dir.path(), &lines, &[0, 7, 12]);
        harm(dir.path());
        verify_log(&path, &key(), Some(&anchor)).unwrap().problems
    };
    let swapped = problems(&|dir| {
        std::fs::rename(segment(dir, 1), dir.join("x")).unwrap();
        std::fs::rename(segment(dir, 8), segment(dir, 1)).unwrap();
        std::fs::rename(dir.join("x"), segment(dir, 8)).unwrap();
    });
    assert!(matches!(swapped[0].kind, ProblemKind::Misnamed { named: 1, found: 8 }), "{swapped:?}");
    let renamed = problems(&|dir| std::fs::rename(segment(dir, 8), segment(dir, 9)).unwrap());
    assert!(
        matches!(renamed[..], [Problem { kind: ProblemKind::Misnamed { named: 9, found: 8 }, .. }]),
        "{renamed:?}"
    );
    let copied = problems(&|dir| {
        std::fs::copy(segment(dir, 1), segment(dir, 13)).unwrap();
    });
    assert!(!copied.is_empty());
    let emptied = problems(&|dir| std::fs::write(segment(dir, 8), "").unwrap());
    assert!(
        matches!(emptied[..], [Problem { kind: ProblemKind::FileMissing { expected: 8, found: 13 }, .. }]),
        "{emptied:?}"
    );
    // A file with entries of its own, sealed with another key.
    let foreign = problems(&|dir| {
        let (other, _) = chain_with(&AuditKey::from_bytes([2; 32]), 20);
        let bytes: Vec<u8> = other[7..12].iter().flat_map(|l| l.iter().copied().chain([b'\n'])).collect();
        std::fs::write(segment(dir, 8), bytes).unwrap();
    });
    assert!(foreign.iter().any(|p| matches!(p.kind, ProblemKind::Changed { seq: 8 })), "{foreign:?}");
}

use std::{
    fs::{OpenOptions, rename, write},
    io::Write as _,
};

use proptest::prelude::*;

use super::{super::read::MAX_RECORD, *};

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// Reads until nothing new comes for long enough that a rotation is noticed.
fn drain(tail: &mut Tail) -> Vec<String> {
    let mut all = vec![];
    for _ in 0..30 {
        let mut lines = vec![];
        drop(tail.next(3, &mut lines));
        all.extend(lines.into_iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()));
    }
    all
}

/// One that leaves a rotated file at once.
fn impatient(path: &Path) -> Tail {
    Tail { linger: Duration::ZERO, ..Tail::new(path, None, Start::Beginning) }
}

#[test]
fn begins_now_or_at_the_beginning_and_waits_for_the_end_of_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    write(&path, "one\ntwo\nthr").unwrap();
    let mut now = Tail::new(&path, None, Start::Now);
    let mut whole = Tail::new(&path, None, Start::Beginning);
    assert_eq!(drain(&mut now), [""; 0]);
    assert_eq!(drain(&mut whole), ["one", "two"]);
    append(&path, "ee\nfour\n");
    assert_eq!(drain(&mut now), ["three", "four"], "a line that is being written is taken whole");
    assert_eq!(drain(&mut whole), ["three", "four"]);
}

#[test]
fn rotation_by_renaming_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let old = folder.path().join("a.log.1");
    write(&path, "one\n").unwrap();
    let mut tail = Tail::new(&path, None, Start::Beginning);
    assert_eq!(drain(&mut tail), ["one"]);
    rename(&path, &old).unwrap();
    // The writer still has the old file, and there is no new one yet.
    append(&old, "two\n");
    assert_eq!(drain(&mut tail), ["two"]);
    append(&old, "three");
    write(&path, "four\n").unwrap();
    assert_eq!(drain(&mut tail), ["four"], "the next is read at once");
    // However late the writer is told to change.
    append(&old, "\nfive\nsix");
    append(&path, "seven\n");
    let mut late = drain(&mut tail);
    late.sort();
    assert_eq!(late, ["five", "seven", "three"]);
    tail.linger = Duration::ZERO;
    assert_eq!(drain(&mut tail), ["six"], "nobody ends a line of a file that is left for good");
    assert!(tail.before.is_empty());
    assert_eq!(tail.gaps(), []);
}

#[test]
fn a_restart_still_looks_at_a_file_that_was_rotated_just_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let old = folder.path().join("a.log.1");
    write(&path, "one\n").unwrap();
    let mut tail = Tail::new(&path, None, Start::Beginning);
    drain(&mut tail);
    rename(&path, &old).unwrap();
    write(&path, "two\n").unwrap();
    assert_eq!(drain(&mut tail), ["two"]);
    let kept = tail.position();
    append(&old, "late\n");
    append(&path, "three\n");
    let mut all = drain(&mut Tail::new(&path, Some(kept), Start::Now));
    all.sort();
    assert_eq!(all, ["late", "three"]);
}

#[test]
fn more_rotations_than_files_may_be_open_are_all_read_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    write(&path, "line 00\n").unwrap();
    let mut tail = impatient(&path);
    let mut read = drain(&mut tail);
    for number in 1..80 {
        rename(&path, folder.path().join(format!("a.log-202611{number:02}"))).unwrap();
        write(&path, format!("line {number:02}\n")).unwrap();
    }
    for _ in 0..20 {
        read.extend(drain(&mut tail));
    }
    assert_eq!(read, (0..80).map(|number| format!("line {number:02}")).collect::<Vec<_>>());
    assert_eq!(tail.gaps(), []);
}

#[test]
fn files_that_were_packed_unread_are_a_gap_that_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    write(&path, "one\n").unwrap();
    let mut tail = impatient(&path);
    drain(&mut tail);
    rename(&path, folder.path().join("a.log.3")).unwrap();
    write(folder.path().join("a.log.2.gz"), "packed").unwrap();
    write(folder.path().join("a-webhook.log"), "another log\n").unwrap();
    write(folder.path().join("a.log.1"), "three\n").unwrap();
    write(&path, "four\n").unwrap();
    assert_eq!(drain(&mut tail), ["three", "four"]);
    assert_eq!(tail.gaps(), [Gap::Packed(1)]);
}

#[test]
fn a_log_that_comes_after_it_was_first_looked_for_is_read_whole_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let mut tail = Tail::new(&path, None, Start::Now);
    assert!(tail.begin().is_err());
    let kept = tail.position();
    write(&path, "one\n").unwrap();
    assert_eq!(drain(&mut tail), ["one"]);
    let mut tail = Tail::new(&path, Some(kept), Start::Now);
    assert_eq!(drain(&mut tail), ["one"]);
    assert_eq!(tail.gaps(), []);
}

#[test]
fn rotation_by_truncating_is_noticed_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    write(&path, "one\ntwo\n").unwrap();
    let mut tail = Tail::new(&path, None, Start::Beginning);
    assert_eq!(drain(&mut tail), ["one", "two"]);
    write(&path, "x\n").unwrap();
    assert_eq!(drain(&mut tail), ["x"]);
    assert_eq!(tail.gaps(), [Gap::Truncated]);
    // Cut and grown beyond where it was read: only its beginning tells.
    write(&path, "another beginning\nand more\n").unwrap();
    assert_eq!(drain(&mut tail), ["another beginning", "and more"]);
    assert_eq!(tail.gaps(), [Gap::Truncated]);
}

#[test]
fn a_restart_goes_on_where_it_was_over_several_rotations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    write(folder.path().join("a.log.3.gz"), "packed").unwrap();
    write(&path, "one\ntwo\n").unwrap();
    let mut tail = Tail::new(&path, None, Start::Beginning);
    let mut lines = vec![];
    tail.next(1, &mut lines).unwrap();
    let kept = tail.position();
    drop(tail);
    rename(&path, folder.path().join("a.log.2")).unwrap();
    write(folder.path().join("a.log.1"), "three\n").unwrap();
    write(&path, "four\n").unwrap();
    let mut tail = Tail::new(&path, Some(kept), Start::Now);
    let first = lines.iter().map(|line| String::from_utf8_lossy(&line.text).into_owned());
    let all: Vec<String> = first.chain(drain(&mut tail)).collect();
    assert_eq!(all, ["one", "two", "three", "four"]);
    assert_eq!(tail.gaps(), []);
}

#[test]
fn a_file_that_is_gone_is_a_gap_that_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    write(&path, "one\n").unwrap();
    let mut tail = Tail::new(&path, None, Start::Beginning);
    drain(&mut tail);
    let kept = tail.position();
    // As long as it was there, no other file can have its inode.
    let held = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    write(folder.path().join("a.log.1"), "two\n").unwrap();
    write(&path, "three\n").unwrap();
    drop(held);
    let mut tail = Tail::new(&path, Some(kept), Start::Now);
    assert_eq!(drain(&mut tail), ["two", "three"], "what took its place is read whole");
    assert_eq!(tail.gaps(), [Gap::Vanished]);
}

#[test]
fn a_log_that_is_not_there_is_an_error_until_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let mut tail = Tail::new(&path, None, Start::Beginning);
    assert!(tail.next(1, &mut vec![]).is_err());
    write(&path, "one\n").unwrap();
    assert_eq!(drain(&mut tail), ["one"]);
}

#[test]
fn i11_a_line_without_end_takes_no_memory_and_the_next_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.log");
    let long = 3 * MAX_RECORD + 17;
    write(&path, format!("a\n{}\nb\n", "x".repeat(long))).unwrap();
    let mut tail = Tail::new(&path, None, Start::Beginning);
    let mut lines = vec![];
    while lines.len() < 3 {
        let mut more = vec![];
        tail.next(8, &mut more).unwrap();
        lines.extend(more);
        assert!(tail.open.as_ref().unwrap().held() <= MAX_RECORD);
    }
    assert_eq!(lines[1].bytes, long as u64);
    assert!(lines[1].text.len() <= MAX_RECORD);
    assert_eq!((lines[2].text.as_slice(), lines[2].offset), (&b"b"[..], 2 + long as u64 + 1));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever is written in whatever pieces, rotated by renaming whenever, with restarts anywhere: every line comes once, in order.
    #[test]
    fn i3_every_line_comes_once(steps in prop::collection::vec((0..6_u8, "[a-z]{0,3}\n?"), 1..40)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        write(&path, "").unwrap();
        let mut tail = impatient(&path);
        let (mut written, mut read, mut number, mut clean) = (String::new(), vec![], 0, true);
        let take = |tail: &mut Tail, read: &mut Vec<String>, most: usize| {
            let mut lines = vec![];
            tail.next(most, &mut lines).unwrap();
            read.extend(lines.into_iter().map(|line| String::from_utf8_lossy(&line.text).into_owned()));
        };
        take(&mut tail, &mut read, 1);
        for (what, text) in steps {
            match what {
                0..=2 => {
                    append(&path, &text);
                    if !text.is_empty() {
                        clean = text.ends_with('\n');
                    }
                    written.push_str(&text);
                }
                3 => take(&mut tail, &mut read, 2),
                4 if clean && !written.is_empty() => {
                    number += 1;
                    // Newest names sort last by time; the modification times of quick steps may be the same.
                    rename(&path, folder.path().join(format!("a.log.{number:04}"))).unwrap();
                    write(&path, format!("rotation {number}\n")).unwrap();
                    written.push_str(&format!("rotation {number}\n"));
                }
                _ if tail.open.is_some() => {
                    let kept = tail.position();
                    tail = Tail::new(&path, Some(kept), Start::Now);
                }
                _ => {}
            }
        }
        append(&path, if clean { "" } else { "\n" });
        if !clean {
            written.push('\n');
        }
        for _ in 0..200 {
            take(&mut tail, &mut read, 50);
        }
        let expected: Vec<&str> = written.lines().collect();
        prop_assert_eq!(read, expected);
        prop_assert_eq!(tail.gaps(), []);
    }
}

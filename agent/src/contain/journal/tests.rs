use model::{NodeAction, Target};

use super::*;

fn slot(id: &str) -> Slot {
    Slot {
        record: ActionRecord {
            id: ActionId::new(id),
            incident: None,
            run: None,
            step: None,
            action: NodeAction::DestroySockets,
            target: Target::File { path: "/x".into(), inode: 1, device: 2 },
            state: ActionState::Prepared,
            rollback: Some(RollbackState::Nothing),
            planned: Timestamp(1),
            applied: None,
            detail: String::new(),
        },
        order: 0,
        boot: "b".into(),
        paused: Vec::new(),
        work: None,
        outputs: Outputs::new(),
        outcomes: Vec::new(),
    }
}

/// A child that another test has forked and that has not come to its exec yet has our lock's descriptor, too: that passes.
fn opened(dir: &Path) -> Journal {
    loop {
        match Journal::open(dir) {
            Err(JournalError::Busy { .. }) => std::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

fn state(id: &str, state: ActionState) -> Line {
    Line::State { id: ActionId::new(id), state, detail: "d".into() }
}

#[test]
fn i7_a_journal_cut_at_any_byte_opens_to_one_of_the_states_it_passed_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let mut states = vec![BTreeMap::new()];
    {
        let mut journal = opened(dir.path());
        for line in [
            Line::Put(Box::new(slot("a"))),
            state("a", ActionState::Applying),
            Line::Put(Box::new(slot("b"))),
            state("a", ActionState::Applied),
            state("b", ActionState::Failed),
        ] {
            journal.append(line, Durability::Agent).unwrap();
            states.push(journal.slots.clone());
        }
    }
    let whole = fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let journal = opened(dir.path());
        assert!(states.contains(&journal.slots), "cut at byte {cut}");
        assert!(!dir.path().join("journal.damaged").exists());
    }
}

#[test]
fn what_is_done_is_remembered_while_the_disk_takes_nothing_and_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let on_disk = || read(&path).unwrap().slots.remove(&ActionId::new("a")).unwrap().record.state;
    let mut journal = opened(dir.path());
    journal.append(Line::Put(Box::new(slot("a"))), Durability::Agent).unwrap();
    journal.append(state("a", ActionState::Applying), Durability::Agent).unwrap();
    let takes = std::mem::replace(&mut journal.file, File::open(&path).unwrap());
    let done = Line::applied(ActionId::new("a"), Timestamp(2), Outputs::new());
    journal.append_done(done, Durability::Agent).unwrap();
    assert_eq!(journal.slot(&ActionId::new("a")).unwrap().record.state, ActionState::Applied);
    assert!(journal.append(state("a", ActionState::Reverting), Durability::Agent).is_err(), "no new effect");
    assert!(journal.settle().is_err());
    assert_eq!(on_disk(), ActionState::Applying, "a recovery would bring it to its end");
    journal.file = takes;
    journal.settle().unwrap();
    assert_eq!(on_disk(), ActionState::Applied);
    assert!(journal.owed.is_empty());
}

#[test]
fn damage_inside_is_left_out_and_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    {
        let mut journal = opened(dir.path());
        for id in ["a", "b", "c"] {
            journal.append(Line::Put(Box::new(slot(id))), Durability::Disk).unwrap();
        }
    }
    let mut bytes = fs::read(&path).unwrap();
    let second = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 20;
    bytes[second] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let journal = opened(dir.path());
    let ids: Vec<&str> = journal.slots().map(|slot| slot.record.id.as_str()).collect();
    assert_eq!(ids, ["a", "c"]);
    assert!(dir.path().join("journal.damaged").exists());
}

#[test]
fn i11_the_journal_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = opened(dir.path());
    for n in 0..20_000 {
        let id = format!("act-{n}");
        let mut slot = slot(&id);
        slot.order = journal.next_order();
        journal.append(Line::Put(Box::new(slot)), Durability::Agent).unwrap();
        journal.append(state(&id, ActionState::Reverted), Durability::Agent).unwrap();
    }
    assert!(journal.length <= COMPACT_ABOVE + 4096);
    assert!(journal.slot(&ActionId::new("act-19999")).is_some(), "the newest are kept");
    assert!(fs::metadata(dir.path().join("journal")).unwrap().len() <= COMPACT_ABOVE + 4096);
}

#[test]
fn i11_a_journal_of_much_that_stands_is_not_rewritten_at_every_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = opened(dir.path());
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(dir.path().join("journal")).unwrap());
    let mut rewritten = 0;
    let mut before = inode();
    for n in 0..12_000 {
        let mut slot = slot(&format!("act-{n}"));
        slot.record.action = NodeAction::Freeze(model::FreezeScope::Subtree);
        slot.record.state = ActionState::Applied;
        slot.record.detail = "x".repeat(1000);
        journal.append(Line::Put(Box::new(slot)), Durability::Agent).unwrap();
        let now = inode();
        rewritten += usize::from(now != before);
        before = now;
    }
    assert!((1..=3).contains(&rewritten), "{rewritten} times for 16 MB");
    assert_eq!(journal.standing().count(), 12_000);
    journal.append(state("act-7", ActionState::Reverted), Durability::Agent).unwrap();
    assert_eq!(journal.standing().count(), 11_999);
    drop(journal);
    assert_eq!(opened(dir.path()).standing().count(), 11_999, "the same after a start");
}

#[test]
fn a_second_agent_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _first = opened(dir.path());
    assert!(matches!(Journal::open(dir.path()), Err(JournalError::Busy { .. })));
}

#[test]
fn i11_room_is_kept_ahead_however_much_is_written() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let probe = File::create(dir.path().join("probe")).unwrap();
    if let Err(error) = rustix::fs::fallocate(&probe, FallocateFlags::KEEP_SIZE, 0, 4096) {
        println!("SKIPPED: room ahead: this file system allocates none: {error}");
        return;
    }
    let mut journal = opened(dir.path());
    for n in 0..3_000 {
        let mut slot = slot(&format!("act-{n}"));
        slot.record.detail = "x".repeat(1000);
        journal.append(Line::Put(Box::new(slot)), Durability::Agent).unwrap();
        if n % 100 == 0 {
            let meta = fs::metadata(&path).unwrap();
            let ahead = (meta.blocks() * 512).saturating_sub(meta.len());
            assert!(ahead >= RESERVE / 2, "{ahead} bytes ahead at {}", meta.len());
        }
    }
}

#[test]
fn who_is_stopped_is_added_line_by_line_and_taken_back_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = opened(dir.path());
    let mut freeze = slot("f");
    freeze.record.rollback = Some(RollbackState::Freeze {
        jail: None,
        members: Vec::new(),
        was_frozen: model::Frozen::No,
        in_place: None,
        in_place_id: None,
        stopped: Vec::new(),
    });
    journal.append(Line::Put(Box::new(freeze)), Durability::Agent).unwrap();
    let stopped = |journal: &Journal| match &journal.slot(&ActionId::new("f")).unwrap().record.rollback {
        Some(RollbackState::Freeze { stopped, .. }) => stopped.len(),
        other => panic!("{other:?}"),
    };
    let begun = journal.length;
    let line = |pid: u32| Line::Stopped {
        id: ActionId::new("f"),
        stopped: vec![StoppedProcess {
            process: model::ProcessKey { pid: model::Pid(pid), start: model::BootNs(1) },
            was_stopped: model::Frozen::No,
        }],
    };
    for pid in 1..=1000 {
        journal.append(line(pid), Durability::Agent).unwrap();
    }
    // told twice, as after a crash
    journal.append(line(7), Durability::Agent).unwrap();
    assert_eq!(stopped(&journal), 1000);
    assert!(journal.length - begun < 200 * 1001, "as long as there are processes, not as their square");
    drop(journal);
    let mut journal = opened(dir.path());
    assert_eq!(stopped(&journal), 1000);
    journal.append(Line::Stopped { id: ActionId::new("f"), stopped: Vec::new() }, Durability::Agent).unwrap();
    assert_eq!(stopped(&journal), 0);
}

#[test]
fn a_journal_that_cannot_be_rewritten_goes_on_after_its_last_whole_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    {
        let mut journal = opened(dir.path());
        journal.append(Line::Put(Box::new(slot("a"))), Durability::Agent).unwrap();
    }
    // a torn tail, as a crash leaves it, and no way to write a new file
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"0123 torn").unwrap();
    fs::create_dir(dir.path().join("journal.new")).unwrap();
    {
        let mut journal = opened(dir.path());
        assert!(journal.slot(&ActionId::new("a")).is_some());
        journal.append(state("a", ActionState::Applying), Durability::Agent).unwrap();
    }
    fs::remove_dir(dir.path().join("journal.new")).unwrap();
    let journal = opened(dir.path());
    assert_eq!(journal.slot(&ActionId::new("a")).unwrap().record.state, ActionState::Applying);
}

#[test]
fn a_look_tells_of_what_a_crash_left_in_force_and_takes_nothing() {
    use crate::contain::told_in_force;
    let dir = tempfile::tempdir().unwrap();
    assert!(told_in_force(&dir.path().join("none")).unwrap().is_empty());
    let mut journal = opened(dir.path());
    let freeze = |id: &str| {
        let mut slot = slot(id);
        slot.record.action = NodeAction::Freeze(model::FreezeScope::Subtree);
        slot
    };
    for (id, last) in
        [("a", ActionState::Applied), ("b", ActionState::Reverted), ("c", ActionState::Prepared)]
    {
        journal.append(Line::Put(Box::new(freeze(id))), Durability::Agent).unwrap();
        journal.append(state(id, last), Durability::Agent).unwrap();
    }
    // While another has it, and after that one is gone.
    let told = || told_in_force(dir.path()).unwrap().iter().map(|one| one.id.to_string()).collect::<Vec<_>>();
    assert_eq!(told(), ["a"]);
    let before = fs::read(dir.path().join("journal")).unwrap();
    drop(journal);
    assert_eq!(told(), ["a"]);
    assert_eq!(fs::read(dir.path().join("journal")).unwrap(), before);
}

/// What was refused is not done, also after a start.
#[test]
fn i4_a_line_that_was_refused_is_not_found_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    {
        let mut journal = opened(dir.path());
        journal.append(Line::Put(Box::new(slot("a"))), Durability::Agent).unwrap();
        // it is written, and cannot be read back
        let whole = std::mem::replace(&mut journal.file, OpenOptions::new().write(true).open(&path).unwrap());
        let refused = journal.append(state("a", ActionState::Applying), Durability::Agent);
        assert!(matches!(refused, Err(ActionFailure::Io { .. })), "{refused:?}");
        assert!(journal.append(Line::Put(Box::new(slot("b"))), Durability::Disk).is_err());
        assert_eq!(journal.slot(&ActionId::new("a")).unwrap().record.state, ActionState::Prepared);
        journal.file = whole;
    }
    let mut journal = opened(dir.path());
    assert_eq!(journal.slot(&ActionId::new("a")).unwrap().record.state, ActionState::Prepared);
    assert!(journal.slot(&ActionId::new("b")).is_none());
    assert!(!dir.path().join("journal.damaged").exists());
    journal.append(state("a", ActionState::Applied), Durability::Agent).unwrap();
    drop(journal);
    assert_eq!(opened(dir.path()).slot(&ActionId::new("a")).unwrap().record.state, ActionState::Applied);
}

#[test]
fn i11_a_line_longer_than_can_be_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = opened(dir.path());
    journal.append(Line::Put(Box::new(slot("a"))), Durability::Agent).unwrap();
    let detail = "x".repeat(usize::try_from(MAX_LINE).unwrap());
    let long = Line::State { id: ActionId::new("a"), state: ActionState::Applying, detail };
    let refused = journal.append(long, Durability::Agent);
    assert!(matches!(refused, Err(ActionFailure::Io { .. })), "{refused:?}");
    journal.append(state("a", ActionState::Applied), Durability::Agent).unwrap();
    drop(journal);
    let journal = opened(dir.path());
    assert_eq!(journal.slot(&ActionId::new("a")).unwrap().record.state, ActionState::Applied);
    assert!(!dir.path().join("journal.damaged").exists());
}

/// Of a tree as large as one may be, each from a cgroup with as long a name as one may have, nobody is forgotten when the journal is rewritten.
#[test]
fn i4_whoever_was_moved_is_known_after_the_journal_was_rewritten() {
    const MEMBERS: u32 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let mut freeze = slot("f");
    let process = |pid| model::ProcessKey { pid: model::Pid(pid), start: model::BootNs(1) };
    let from = format!("/{}", "x/".repeat(2000));
    freeze.record.rollback = Some(RollbackState::Freeze {
        jail: Some("/j".into()),
        members: (1..=MEMBERS)
            .map(|pid| MovedProcess { process: process(pid), from: from.clone() })
            .collect(),
        was_frozen: model::Frozen::No,
        in_place: None,
        in_place_id: None,
        stopped: (1..=MEMBERS)
            .map(|pid| StoppedProcess { process: process(pid), was_stopped: model::Frozen::No })
            .collect(),
    });
    let mut kill = slot("k");
    kill.work = freeze.record.rollback.clone();
    {
        let mut journal = opened(dir.path());
        for slot in [freeze.clone(), kill.clone()] {
            journal.slots.insert(slot.record.id.clone(), slot);
        }
        journal.compact();
    }
    assert!(fs::metadata(dir.path().join("journal")).unwrap().len() > 2 * MAX_LINE);
    let journal = opened(dir.path());
    assert_eq!(journal.slot(&ActionId::new("f")), Some(&freeze));
    assert_eq!(journal.slot(&ActionId::new("k")), Some(&kill));
    assert!(!dir.path().join("journal.damaged").exists());
}

/// Kills and captures of evidence hold nothing, and what was only planned may never be done.
#[test]
fn i11_what_holds_nothing_is_not_kept_for_ever() {
    use model::{CaptureEvidence, FreezeScope, KillScope, MemoryCapture};
    let dir = tempfile::tempdir().unwrap();
    let mut journal = opened(dir.path());
    let kinds = [
        (NodeAction::Kill(KillScope::Process), ActionState::Applied),
        (NodeAction::CaptureEvidence(CaptureEvidence { memory: MemoryCapture::None }), ActionState::Verified),
        (NodeAction::DestroySockets, ActionState::Unverified),
        (NodeAction::QuarantineFile, ActionState::Prepared),
    ];
    let held = NodeAction::Freeze(FreezeScope::Subtree);
    for n in 0..12_000 {
        let (action, last) = if n == 5 { (held.clone(), ActionState::Applied) } else { kinds[n % 4].clone() };
        let mut slot = slot(&format!("act-{n}"));
        slot.order = journal.next_order();
        slot.record.action = action;
        slot.record.detail = "x".repeat(1000);
        journal.append(Line::Put(Box::new(slot)), Durability::Agent).unwrap();
        journal.append(state(&format!("act-{n}"), last), Durability::Agent).unwrap();
    }
    assert!(journal.length <= COMPACT_ABOVE + 4096);
    assert!(journal.slots.len() < 6_000, "{} are kept", journal.slots.len());
    let planned = journal.slots().filter(|slot| slot.record.state == ActionState::Prepared).count();
    assert!(planned < 1_500, "{planned} of 3,000 that were only planned are kept");
    assert_eq!(journal.standing().count(), journal.slots.len());
    assert!(journal.slot(&ActionId::new("act-5")).is_some(), "what is in force is never forgotten");
    assert!(journal.slot(&ActionId::new("act-11999")).is_some(), "the newest are kept");
}

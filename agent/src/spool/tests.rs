use std::{collections::BTreeMap, process::Command, sync::Arc};

use model::{
    Activity, BootNs, CgroupId, Credentials, Event, EventId, ExeFile, Exposure, Finding, FindingId,
    LossWindow, Namespaces, NodeId, Pid, Process, ProcessKey, ProcessOrigin, Reaction, RuleRef, Stdio,
    Timestamp, Truncated, Workload,
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn repeat(number: u64) -> Report {
    Report::Repeat {
        finding: FindingId::new(format!("fnd-{number}")),
        count: number,
        last: Timestamp(0),
        moments: model::Moments::default(),
    }
}

fn finding(level: Level, title: &str) -> Report {
    let process = Arc::new(Process {
        key: ProcessKey { pid: Pid(1), start: BootNs(1) },
        parent: None,
        exe: "/bin/x".into(),
        exe_file: ExeFile::default(),
        command_line: String::new(),
        args: vec![],
        args_truncated: Truncated::No,
        cwd: String::new(),
        comm: String::new(),
        credentials: Credentials::default(),
        namespaces: Namespaces::default(),
        tty: None,
        stdio: Stdio::default(),
        cgroup: CgroupId(1),
        workload: Arc::new(Workload::Unresolved { cgroup: CgroupId(1) }),
        origin: ProcessOrigin::Exec,
        exit: None,
    });
    let event = Event {
        id: EventId { node: NodeId::new("n"), epoch: AgentEpoch(1), seq: Seq(1) },
        time: Timestamp(0),
        process,
        parent: None,
        ancestors: Arc::new([]),
        exposure: Exposure::None,
        activity: Activity::IoUringSetup { entries: 1 },
    };
    let rule = RuleRef {
        id: "r".into(),
        title: title.into(),
        level,
        techniques: vec![],
        tactics: vec![],
        reaction: Reaction::None,
    };
    Report::Finding(Finding {
        id: FindingId::new("f"),
        rule,
        event,
        matched: BTreeMap::new(),
        count: 1,
        first: Timestamp(0),
        last: Timestamp(0),
        ancestors: vec![],
        context: vec![],
        reactions: vec![],
        moments: model::Moments::default(),
        loss: LossWindow::default(),
    })
}

fn open(folder: &TempDir) -> Spool {
    Spool::open(folder.path(), MIN_LIMIT).unwrap()
}

fn all(spool: &mut Spool) -> Vec<Report> {
    spool.read(spool.acknowledged(), usize::MAX).unwrap().into_iter().map(|spooled| spooled.report).collect()
}

#[test]
fn i3_reports_come_out_in_order_until_acknowledged_over_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder);
    assert_eq!(spool.epoch(), AgentEpoch(1));
    // Over all lanes.
    let reports: Vec<Report> = (0..30)
        .map(|n| match n % 3 {
            0 => finding(Level::Low, &n.to_string()),
            1 => finding(Level::Critical, &n.to_string()),
            _ => repeat(n),
        })
        .collect();
    for report in &reports {
        spool.append(report).unwrap();
    }
    assert_eq!(all(&mut spool), [], "nothing is given out before it is durable");
    spool.sync().unwrap();
    assert_eq!(all(&mut spool), reports);
    let first = spool.read(Seq(0), 10).unwrap();
    assert_eq!(first.len(), 10);
    let next = spool.read(first[9].seq, 10).unwrap();
    assert_eq!(next[0].report, reports[10]);
    spool.acknowledge(first[9].seq).unwrap();
    drop(spool);

    let mut spool = open(&folder);
    assert_eq!(spool.epoch(), AgentEpoch(2));
    assert_eq!(all(&mut spool), reports[10..]);
    let last = spool.append(&repeat(99)).unwrap();
    spool.sync().unwrap();
    assert_eq!(all(&mut spool).len(), 21);
    spool.acknowledge(last).unwrap();
    assert_eq!((spool.bytes(), all(&mut spool).len()), (0, 0));
    drop(spool);
    let mut spool = open(&folder);
    assert!(spool.append(&repeat(1)).unwrap() > last, "positions grow also when nothing is left on disk");
}

#[test]
fn i3_what_a_crash_may_still_take_is_not_given_out_and_its_position_is_never_given_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder);
    let durable = spool.append(&repeat(1)).unwrap();
    spool.sync().unwrap();
    let lost = (2..20).map(|n| spool.append(&repeat(n)).unwrap()).last().unwrap();
    let given: Vec<Seq> = spool.read(Seq(0), usize::MAX).unwrap().iter().map(|spooled| spooled.seq).collect();
    assert_eq!(given, [durable], "the others, in the same file, are not on the disk yet");
    drop(spool);
    // The machine loses power: nothing of the file has reached the disk.
    for lane in fs::read_dir(folder.path()).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        for file in fs::read_dir(lane.path()).unwrap().flatten() {
            fs::remove_file(file.path()).unwrap();
        }
    }
    let mut spool = open(&folder);
    assert!(spool.append(&repeat(99)).unwrap() > lost);
}

#[test]
fn an_acknowledgement_beyond_what_was_sent_loses_nothing_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder);
    spool.append(&repeat(1)).unwrap();
    spool.sync().unwrap();
    spool.acknowledge(Seq(u64::MAX)).unwrap();
    spool.append(&repeat(2)).unwrap();
    spool.sync().unwrap();
    assert_eq!(all(&mut spool), [repeat(2)]);
}

#[test]
fn i11_at_the_limit_the_oldest_of_the_lowest_level_goes_and_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder);
    let long = "x".repeat(2000);
    let critical: Vec<Report> = (0..50).map(|n| finding(Level::Critical, &format!("{n} {long}"))).collect();
    for report in &critical {
        spool.append(report).unwrap();
    }
    for n in 0..2000 {
        spool.append(&finding(Level::Low, &format!("{n} {long}"))).unwrap();
    }
    spool.sync().unwrap();
    assert!(spool.bytes() <= MIN_LIMIT);
    let left = all(&mut spool);
    assert_eq!(left[..50], critical, "no critical one goes before a low one");
    let low = left.len() as u64 - 50;
    assert_eq!(spool.loss(), SpoolLoss { dropped: [2000 - low, 0, 0, 0], damaged: 0 });
    let said = format!("gave up {} low, 0 medium, 0 high and 0 critical reports", 2000 - low);
    assert!(spool.complaints().iter().any(|one| one.contains(&said) && one.contains("make room")));
    assert_eq!(left.last().unwrap(), &finding(Level::Low, &format!("1999 {long}")), "the newest stays");
    // With nothing lower left, the oldest critical ones go.
    for n in 0..2000 {
        spool.append(&finding(Level::Critical, &format!("{n} {long}"))).unwrap();
    }
    assert!(spool.bytes() <= MIN_LIMIT && spool.loss().dropped[3] > 0);
    assert_eq!(spool.lanes[0].bytes(), 0);
}

#[test]
fn a_low_report_never_pushes_a_higher_one_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder);
    let long = "x".repeat(2000);
    while spool.bytes() + 4000 < MIN_LIMIT {
        spool.append(&finding(Level::High, &long)).unwrap();
    }
    let before = spool.lanes[2].bytes();
    for _ in 0..20 {
        spool.append(&finding(Level::Low, &long)).unwrap();
    }
    assert_eq!(spool.lanes[2].bytes(), before);
}

#[test]
fn epoch_and_positions_survive_the_loss_of_either_slot_and_grow_after_the_loss_of_both() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("positions");
    drop(open(&folder));
    drop(open(&folder));
    let whole = fs::read(&path).unwrap();
    for slot in 0..2 {
        let mut damaged = whole.clone();
        damaged[slot * 36 + 3] ^= 0xff;
        fs::write(&path, &damaged).unwrap();
        let epoch = open(&folder).epoch();
        assert!(epoch >= AgentEpoch(2), "{epoch:?}");
    }
    let mut spool = open(&folder);
    let seq = spool.append(&repeat(1)).unwrap();
    spool.sync().unwrap();
    let epoch = spool.epoch();
    drop(spool);
    fs::write(&path, [7; 72]).unwrap();
    let mut spool = open(&folder);
    assert!(
        spool.epoch() > epoch && spool.notes()[0].contains("both slots are damaged"),
        "{:?}",
        spool.notes()
    );
    assert!(spool.append(&repeat(2)).unwrap() > seq);
}

#[test]
fn damage_while_running_is_skipped_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder);
    for n in 0..3 {
        spool.append(&repeat(n)).unwrap();
    }
    spool.sync().unwrap();
    let path = fs::read_dir(folder.path().join("high")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(all(&mut spool), [repeat(0), repeat(2)]);
    assert_eq!(spool.loss().damaged, 1);
    assert!(spool.notes()[0].contains("a damaged report at offset"), "{:?}", spool.notes());
    assert!(spool.complaints().iter().any(|one| one.contains("1 reports in the spool were damaged")));
}

#[test]
fn i11_what_is_no_file_of_ours_is_told_and_left_alone_and_nobody_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder);
    spool.append(&repeat(1)).unwrap();
    spool.sync().unwrap();
    drop(spool);
    let lane = folder.path().join("high");
    let pipe = lane.join("00000000000000000000.seg");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::create_dir(lane.join("a.seg")).unwrap();
    let precious = folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    std::os::unix::fs::symlink(&precious, lane.join("link.seg")).unwrap();
    let mut spool = open(&folder);
    for name in ["00000000000000000000.seg", "a.seg", "link.seg"] {
        let told = |note: &&String| note.contains(name) && note.contains("move it away");
        assert!(spool.notes().iter().any(|note| told(&note)), "{name}: {:?}", spool.notes());
    }
    assert_eq!(all(&mut spool), [repeat(1)]);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    drop(spool);
    let positions = folder.path().join("positions");
    fs::remove_file(&positions).unwrap();
    assert!(Command::new("mkfifo").arg(&positions).status().unwrap().success());
    let error = Spool::open(folder.path(), MIN_LIMIT).unwrap_err().to_string();
    assert!(error.contains("positions") && error.contains("move it away"), "{error}");
}

#[test]
fn positions_that_no_agent_gave_out_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder);
    spool.append(&repeat(1)).unwrap();
    spool.sync().unwrap();
    drop(spool);
    // Whole by their sums, and made by somebody else.
    let forged = frame::encode(Seq(u64::MAX), &repeat(2));
    fs::write(folder.path().join("high/99999999999999999999.seg"), &forged).unwrap();
    let mut slot: Vec<u8> = [u64::MAX; 4].iter().flat_map(|number| number.to_le_bytes()).collect();
    let crc = crc32fast::hash(&slot);
    slot.extend_from_slice(&crc.to_le_bytes());
    fs::write(folder.path().join("positions"), [slot.clone(), slot].concat()).unwrap();
    let mut spool = open(&folder);
    assert!(spool.notes().iter().any(|note| note.contains("both slots are damaged")), "{:?}", spool.notes());
    assert!(
        spool.notes().iter().any(|note| note.contains("99999999999999999999.seg")),
        "{:?}",
        spool.notes()
    );
    let next = spool.append(&repeat(3)).unwrap();
    assert!(next.0 < frame::MAX_POSITION && spool.epoch().0 < frame::MAX_POSITION);
    spool.sync().unwrap();
    assert_eq!(all(&mut spool), [repeat(1), repeat(3)]);
}

#[test]
fn files_under_other_names_are_read_in_the_order_of_what_is_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let lane = folder.path().join("high");
    fs::create_dir_all(&lane).unwrap();
    for (name, numbers) in [("a", 3..5), ("b", 1..3), ("c", 3..5)] {
        let frames = numbers.map(|n| frame::encode(Seq(n), &repeat(n))).collect::<Vec<_>>();
        fs::write(lane.join(format!("{name}.seg")), frames.concat()).unwrap();
    }
    let mut spool = open(&folder);
    assert_eq!(all(&mut spool), (1..5).map(repeat).collect::<Vec<_>>(), "each once");
    assert!(spool.append(&repeat(9)).unwrap() > Seq(4));
    spool.acknowledge(Seq(2)).unwrap();
    assert_eq!(all(&mut spool)[..2], [repeat(3), repeat(4)]);
}

#[test]
fn i11_the_search_for_the_next_frame_is_bounded() {
    let one = [b"HSF1".as_slice(), &(1_u32 << 20).to_le_bytes()].concat();
    let mut bytes = one.repeat(512 << 10);
    let good = bytes.len();
    bytes.extend(frame::encode(Seq(1), &repeat(1)));
    let mut search = 1 << 30;
    assert_eq!(frame::next(&bytes, 0, &mut search), None, "given up");
    assert!(search < (1 << 20) + 20);
    assert_eq!(frame::next(&bytes, good - 80, &mut { 1 << 30 }), Some(good));
}

/// A file system of 256 KiB.
struct Small(TempDir);

impl Small {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "hemostat-test"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("SKIPPED: cannot mount a small tmpfs (not root?)");
            return None;
        }
        Some(Self(folder))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_loses_nothing_that_fits_in_memory_and_goes_on_when_there_is_room() {
    let Some(small) = Small::new() else { return };
    let mut spool = open(&small.0);
    // Somebody else fills the disk.
    let ballast = small.0.path().join("ballast");
    let free = rustix::fs::statvfs(small.0.path()).unwrap();
    fs::write(&ballast, vec![0; (free.f_bavail * free.f_frsize) as usize]).unwrap();
    let reports: Vec<Report> = (0..100).map(repeat).collect();
    for report in &reports {
        spool.append(report).unwrap();
    }
    spool.sync().unwrap();
    assert!(spool.is_disk_full());
    assert!(
        spool.complaints().iter().any(|one| one.contains("the disk is full") && one.contains("make room"))
    );
    assert_eq!(spool.loss().total(), 0);
    fs::remove_file(&ballast).unwrap();
    spool.sync().unwrap();
    assert!(!spool.is_disk_full());
    assert_eq!(all(&mut spool), reports);
}

#[test]
fn on_a_full_disk_higher_levels_take_the_place_of_lower_ones() {
    let Some(small) = Small::new() else { return };
    let mut spool = open(&small.0);
    let long = "x".repeat(2000);
    for n in 0..300 {
        spool.append(&finding(Level::Low, &format!("{n} {long}"))).unwrap();
    }
    let critical: Vec<Report> = (0..20).map(|n| finding(Level::Critical, &format!("{n} {long}"))).collect();
    for report in &critical {
        spool.append(report).unwrap();
    }
    spool.sync().unwrap();
    let left = all(&mut spool);
    assert!(critical.iter().all(|report| left.contains(report)));
    assert!(spool.loss().dropped[0] > 0 && spool.loss().dropped[3] == 0, "{:?}", spool.loss());
}

/// One segment with `count` reports, as bytes, and where each frame ends.
fn written(count: u64) -> (TempDir, PathBuf, Vec<u8>, Vec<usize>) {
    let folder = tempfile::tempdir().unwrap();
    let mut spool = open(&folder);
    let mut ends = Vec::new();
    for n in 0..count {
        spool.append(&repeat(n)).unwrap();
        ends.push(usize::try_from(spool.bytes()).unwrap());
    }
    spool.sync().unwrap();
    let path = fs::read_dir(folder.path().join("high")).unwrap().next().unwrap().unwrap().path();
    let bytes = fs::read(&path).unwrap();
    (folder, path, bytes, ends)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn cut_anywhere_all_earlier_reports_survive(count in 1_u64..12, cut in any::<prop::sample::Index>()) {
        let (folder, path, bytes, ends) = written(count);
        let cut = cut.index(bytes.len() + 1);
        fs::write(&path, &bytes[..cut]).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
        let mut spool = open(&folder);
        prop_assert_eq!(all(&mut spool), (0..whole).map(repeat).collect::<Vec<_>>());
        let torn = cut > 0 && !ends.contains(&cut);
        prop_assert_eq!(spool.notes().iter().any(|note| note.contains("torn after offset")), torn);
        // And it goes on.
        spool.append(&repeat(77)).unwrap();
        spool.sync().unwrap();
        prop_assert_eq!(all(&mut spool).len() as u64, whole + 1);
    }

    #[test]
    fn a_flipped_bit_costs_one_report_and_is_counted(
        count in 1_u64..12, place in any::<prop::sample::Index>(), bit in 0_u8..8,
    ) {
        let (folder, path, mut bytes, ends) = written(count);
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        fs::write(&path, &bytes).unwrap();
        let hit = ends.iter().filter(|end| **end <= place).count() as u64;
        let mut spool = open(&folder);
        let expected: Vec<Report> = (0..count).filter(|n| *n != hit).map(repeat).collect();
        prop_assert_eq!(all(&mut spool), expected);
        prop_assert_eq!(spool.notes().len(), 1);
        // The last frame damaged looks like a torn tail.
        prop_assert_eq!(spool.loss().damaged, u64::from(hit + 1 < count));
    }

    #[test]
    fn a_file_of_anything_is_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("high")).unwrap();
        fs::write(folder.path().join("high/00000000000000000001.seg"), bytes).unwrap();
        let mut spool = open(&folder);
        prop_assert_eq!(all(&mut spool), []);
    }
}

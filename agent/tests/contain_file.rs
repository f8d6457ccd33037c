//! Quarantine of files, on one filesystem and across two.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ground::{
    Ground,
    file::{Wanted, Whole, acl, capability, make, target},
    now,
};
use hemostat_agent::contain::{Contain, Which};
use model::{ActionFailure, ActionState, NodeAction, PhaseDone, RollbackState, Target};
use proptest::prelude::*;

/// A folder on a filesystem other than the state directory's; `None`, said aloud, where there is none.
fn elsewhere(ground: &Ground) -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir_in("/dev/shm").ok()?;
    let device = |path: &Path| fs::metadata(path).unwrap().dev();
    if device(dir.path()) == device(ground.dir.path()) {
        println!("SKIPPED: across filesystems: /dev/shm is on the same one");
        return None;
    }
    Some(dir)
}

fn simple(path: &Path) {
    let wanted = Wanted {
        content: b"#!/bin/sh\n".to_vec(),
        mode: 0o755,
        owner: (0, 0),
        times: ((1, 2), (3, 4)),
        xattrs: vec![],
    };
    make(path, &wanted);
}

fn stored(contain: &Contain) -> PathBuf {
    match &contain.in_force()[0].rollback {
        Some(RollbackState::File(state)) => PathBuf::from(&state.stored),
        other => panic!("{other:?}"),
    }
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let content = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..300),
        (any::<u8>(), 0_usize..700_000).prop_map(|(byte, length)| vec![byte; length]),
    ];
    let time = (-2_000_000_000_i64..4_000_000_000, 0_i64..1_000_000_000);
    let user =
        proptest::collection::vec(("[a-z]{1,20}", proptest::collection::vec(any::<u8>(), 0..200)), 0..4);
    let special = (proptest::option::of((0_u32..70_000, 0_u16..8)), any::<bool>());
    (content, 0_u32..0o10000, (0_u32..70_000, 0_u32..70_000), (time.clone(), time), user, special).prop_map(
        |(content, mode, owner, times, user, (acl_of, cap))| {
            let mut xattrs: Vec<(String, Vec<u8>)> =
                user.into_iter().map(|(name, value)| (format!("user.{name}"), value)).collect();
            xattrs.extend(acl_of.map(|(user, perm)| ("system.posix_acl_access".to_owned(), acl(user, perm))));
            if cap {
                xattrs.push(("security.capability".to_owned(), capability()));
            }
            Wanted { content, mode, owner, times, xattrs }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn i5_a_file_comes_back_exactly(wanted in wanted(), across in any::<bool>(), flags in 0_u32..16) {
        let Some(ground) = Ground::new("file property") else { return Ok(()) };
        let other = if across { elsewhere(&ground) } else { None };
        let dir = other.as_ref().map_or(ground.dir.path(), tempfile::TempDir::path);
        let path = dir.join("sample \u{1f980} name");
        make(&path, &wanted);
        // immutable, append-only, no dump, no atime: where the filesystem has them
        let lock = rustix::fs::IFlags::from_bits_truncate(flags << 4);
        let file = fs::File::open(&path).unwrap();
        if let Ok(now) = rustix::fs::ioctl_getflags(&file) {
            let _taken = rustix::fs::ioctl_setflags(&file, now | lock);
        }
        let (before, inode) = (Whole::read(&path), fs::metadata(&path).unwrap().ino());
        let contain = ground.contain();
        let record = contain.react(NodeAction::QuarantineFile, target(&path), now());
        let unlock = || if let Ok(now) = rustix::fs::ioctl_getflags(&file) {
            let _taken = rustix::fs::ioctl_setflags(&file, now - lock);
        };
        if record.is_err() { unlock(); }
        let record = record.unwrap();
        prop_assert!(!path.exists());
        let stored = stored(&contain);
        prop_assert_eq!(fs::metadata(&stored).unwrap().permissions().mode() & 0o7777, 0o400);
        prop_assert_eq!(fs::metadata(stored.parent().unwrap()).unwrap().permissions().mode() & 0o7777, 0o700);
        prop_assert_eq!(&fs::read(&stored).unwrap(), &before.content);
        let lifted = contain.release(&Which::One(record.id));
        prop_assert!(matches!(lifted[0].result, Ok(PhaseDone::Reverted { .. })), "{:?}", lifted);
        let after = Whole::read(&path);
        if !across {
            prop_assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "the very inode");
        }
        let restored = fs::File::open(&path).unwrap();
        if let Ok(now) = rustix::fs::ioctl_getflags(&restored) {
            let _taken = rustix::fs::ioctl_setflags(&restored, now - lock);
        }
        prop_assert_eq!(after, before);
        prop_assert!(!stored.parent().unwrap().exists(), "the store is empty again");
    }
}

#[test]
fn i9_a_file_that_is_not_the_one_meant_is_left_alone() {
    let Some(ground) = Ground::new("file identity") else { return };
    let contain = ground.contain();
    let dir = ground.dir.path();
    let path = dir.join("f");
    simple(&path);
    let meant = target(&path);
    // another file under the same name
    fs::rename(&path, dir.join("moved")).unwrap();
    simple(&path);
    let refused = contain.react(NodeAction::QuarantineFile, meant, now());
    assert!(matches!(refused, Err(ActionFailure::TargetChanged { .. })), "{refused:?}");
    // a link to it, and a link on the way to it
    let link = dir.join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let through = dir.join("dir");
    std::os::unix::fs::symlink(dir, &through).unwrap();
    let Target::File { inode, device, .. } = target(&path) else { panic!() };
    for name in [link, through.join("f")] {
        let aimed = Target::File { path: name.display().to_string(), inode, device };
        let refused = contain.react(NodeAction::QuarantineFile, aimed, now());
        assert!(refused.is_err(), "{}: {refused:?}", name.display());
    }
    for odd in ["relative", "/", "/tmp/..", ""] {
        let refused = contain.react(
            NodeAction::QuarantineFile,
            Target::File { path: odd.into(), inode, device },
            now(),
        );
        assert!(refused.is_err(), "{odd:?}: {refused:?}");
    }
    let fifo = dir.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    let refused = contain.react(NodeAction::QuarantineFile, target(&fifo), now());
    assert!(matches!(refused, Err(ActionFailure::Unsupported { .. })), "{refused:?}");
    let gone = contain.react(
        NodeAction::QuarantineFile,
        Target::File { path: dir.join("none").display().to_string(), inode, device },
        now(),
    );
    assert!(matches!(gone, Err(ActionFailure::TargetGone { .. })), "{gone:?}");
    assert!(path.exists() && contain.in_force().is_empty());
    assert_eq!(fs::read_dir(dir.join("state/vault")).map_or(0, Iterator::count), 0);
}

#[test]
fn i6_the_agent_and_its_state_are_not_quarantined() {
    let Some(ground) = Ground::new("file protected") else { return };
    let contain = ground.contain();
    let own = fs::canonicalize("/proc/self/exe").unwrap();
    for path in [own, ground.dir.path().join("state/journal")] {
        let refused = contain.react(NodeAction::QuarantineFile, target(&path), now());
        assert!(matches!(refused, Err(ActionFailure::Protected { .. })), "{}: {refused:?}", path.display());
    }
}

#[test]
fn something_else_at_the_path_blocks_the_revert_and_nothing_is_lost() {
    let Some(ground) = Ground::new("file drift") else { return };
    for across in [false, true] {
        let other = if across { elsewhere(&ground) } else { None };
        let dir = other.as_ref().map_or(ground.dir.path(), tempfile::TempDir::path).join("d");
        fs::create_dir(&dir).unwrap();
        let path = dir.join("f");
        simple(&path);
        let before = Whole::read(&path);
        let contain = ground.contain();
        let record = contain.react(NodeAction::QuarantineFile, target(&path), now()).unwrap();
        fs::write(&path, "theirs").unwrap();
        let drifted = contain.release(&Which::One(record.id.clone())).remove(0);
        assert!(matches!(drifted.result, Ok(PhaseDone::Drifted { .. })), "{drifted:?}");
        assert_eq!(drifted.record.state, ActionState::RevertBlocked);
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
        assert_eq!(fs::metadata(stored(&contain)).unwrap().permissions().mode() & 0o111, 0);
        // the directory is gone
        fs::remove_dir_all(&dir).unwrap();
        let drifted = contain.release(&Which::One(record.id.clone())).remove(0);
        assert!(matches!(drifted.result, Ok(PhaseDone::Drifted { .. })), "{drifted:?}");
        // a person made room
        fs::create_dir(&dir).unwrap();
        let done = contain.release(&Which::One(record.id)).remove(0);
        assert!(matches!(done.result, Ok(PhaseDone::Reverted { .. })), "{done:?}");
        assert_eq!(Whole::read(&path), before);
    }
}

#[test]
fn other_names_keep_their_file_and_a_copy_would_not_be_exact() {
    let Some(ground) = Ground::new("hard links") else { return };
    let contain = ground.contain();
    let (path, second) = (ground.dir.path().join("f"), ground.dir.path().join("g"));
    simple(&path);
    fs::hard_link(&path, &second).unwrap();
    let before = Whole::read(&path);
    let record = contain.react(NodeAction::QuarantineFile, target(&path), now()).unwrap();
    contain.release(&Which::One(record.id));
    assert_eq!(Whole::read(&path), before);
    assert_eq!(fs::metadata(&path).unwrap().ino(), fs::metadata(&second).unwrap().ino());
    let Some(other) = elsewhere(&ground) else { return };
    let path = other.path().join("f");
    simple(&path);
    fs::hard_link(&path, other.path().join("g")).unwrap();
    let refused = contain.react(NodeAction::QuarantineFile, target(&path), now());
    assert!(matches!(refused, Err(ActionFailure::Unsupported { .. })), "{refused:?}");
    assert!(path.exists());
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 2);
}

#[test]
fn a_changed_copy_in_the_store_is_not_given_back() {
    let Some(ground) = Ground::new("tampered store") else { return };
    let Some(other) = elsewhere(&ground) else { return };
    let contain = ground.contain();
    let path = other.path().join("f");
    simple(&path);
    let record = contain.react(NodeAction::QuarantineFile, target(&path), now()).unwrap();
    let stored = stored(&contain);
    fs::write(&stored, "tampered").unwrap();
    assert!(contain.watch(now()).is_empty(), "a file is not watched");
    let drifted = contain.release(&Which::One(record.id)).remove(0);
    assert!(matches!(drifted.result, Ok(PhaseDone::Drifted { .. })), "{drifted:?}");
    assert!(!path.exists());
}

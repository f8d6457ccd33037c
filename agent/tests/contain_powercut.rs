//! Quarantine of a file across filesystems, and the power goes: at every step, and with either filesystem having lost what was not synced
//! to it. The file is whole in one place or the other, and recovery and undo give back what was (I5, I7).
//!
//! A filesystem in a file, seen through a loop device: what the kernel has not written to the device yet is not in the file, as after a
//! power cut.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use ground::{Ground, file::Whole, now};
use hemostat_agent::contain::{ContainConfig, Which};
use model::{NodeAction, NodeId, PhaseDone, Target};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Errand {
    state_dir: PathBuf,
    part: Part,
    /// Dies before this step.
    at: u32,
}

#[derive(Serialize, Deserialize, Clone)]
enum Part {
    Apply(Target),
    Release,
    Recover,
}

/// Not a test: the agent that dies.
#[test]
fn mortal_agent() {
    let Ok(errand) = std::env::var("HEMOSTAT_POWER_CUT") else { return };
    let errand: Errand = serde_json::from_str(&errand).unwrap();
    let count = Arc::new(AtomicU32::new(0));
    let mut config = ContainConfig::new(NodeId::new("test-node"), errand.state_dir);
    config.on_step = Some(Arc::new(move |_| {
        if count.fetch_add(1, Ordering::Relaxed) == errand.at {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
        }
    }));
    let contain = ground::open(&config);
    match errand.part {
        Part::Apply(target) => {
            contain.react(NodeAction::QuarantineFile, target, now()).unwrap();
        }
        Part::Release => {
            contain.release(&Which::All);
        }
        Part::Recover => {
            contain.recover(now());
        }
    }
}

/// Whether it lived to its end.
fn run(state_dir: &Path, part: Part, at: u32) -> bool {
    let errand = Errand { state_dir: state_dir.to_owned(), part, at };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "mortal_agent", "--nocapture", "--test-threads=1"]);
    let output = command.env("HEMOSTAT_POWER_CUT", serde_json::to_string(&errand).unwrap()).output().unwrap();
    match (output.status.signal(), output.status.success()) {
        (Some(9), _) => false,
        (None, true) => true,
        _ => panic!("{output:?}"),
    }
}

/// A filesystem that can lose its power.
struct Disk {
    image: PathBuf,
    at: PathBuf,
    mounted: bool,
}

impl Disk {
    /// `None`, said aloud, where this machine has no loop devices.
    fn new(image: PathBuf, at: PathBuf) -> Option<Self> {
        fs::File::create(&image).unwrap().set_len(24 << 20).unwrap();
        fs::create_dir_all(&at).unwrap();
        let made =
            Command::new("mkfs.ext4").args(["-q", "-F", "-E", "lazy_itable_init=0"]).arg(&image).output();
        if !made.as_ref().is_ok_and(|output| output.status.success()) {
            println!("SKIPPED: power cut: no ext4 can be made: {made:?}");
            return None;
        }
        let mut disk = Self { image, at, mounted: false };
        if let Err(why) = disk.mount() {
            println!("SKIPPED: power cut: no loop device: {why}");
            return None;
        }
        // its own metadata, so that what follows alone is unsynced
        rustix::fs::sync();
        Some(disk)
    }

    fn mount(&mut self) -> Result<(), String> {
        // nothing is committed by the clock alone
        let options = "loop,commit=3600,noauto_da_alloc";
        let output =
            Command::new("mount").args(["-t", "ext4", "-o", options]).arg(&self.image).arg(&self.at).output();
        match output {
            Ok(output) if output.status.success() => {
                self.mounted = true;
                Ok(())
            }
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// A child that another test's thread has forked and that has not begun its program yet holds what this process has open, files on this
    /// disk among it, and tells nobody when it lets go.
    fn unmount(&mut self) {
        if !self.mounted {
            return;
        }
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            match rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::NOFOLLOW) {
                Ok(()) => break,
                Err(rustix::io::Errno::BUSY) if std::time::Instant::now() < until => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Err(error) => panic!("{}: {error}", self.at.display()),
            }
        }
        self.mounted = false;
    }

    /// What was not written to the device by now is lost.
    fn lose_power(&mut self) {
        let kept = self.image.with_extension("kept");
        fs::copy(&self.image, &kept).unwrap();
        self.unmount();
        fs::rename(&kept, &self.image).unwrap();
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _lazily = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loser {
    /// The filesystem of the state directory.
    Store,
    /// That of the file.
    Place,
}

struct Stage {
    disk: Disk,
    _shm: tempfile::TempDir,
    state: PathBuf,
    path: PathBuf,
    before: Whole,
    _ground: Ground,
}

fn stage(loser: Loser) -> Option<Stage> {
    let ground = Ground::new("power cut")?;
    let shm = tempfile::tempdir_in("/dev/shm").ok()?;
    let at = ground.dir.path().join("disk");
    let disk = Disk::new(ground.dir.path().join("image"), at.clone())?;
    let (state, files) = match loser {
        Loser::Store => (at.join("state"), shm.path().join("files")),
        Loser::Place => (shm.path().join("state"), at.join("files")),
    };
    fs::create_dir(&files).unwrap();
    let path = files.join("tool");
    let wanted = ground::file::Wanted {
        content: (0..100_000_u32).flat_map(u32::to_le_bytes).collect(),
        mode: 0o6755,
        owner: (1234, 5678),
        times: ((10, 11), (12, 13)),
        xattrs: vec![("user.a".into(), b"b".to_vec())],
    };
    ground::file::make(&path, &wanted);
    rustix::fs::sync();
    let before = Whole::read(&path);
    Some(Stage { disk, _shm: shm, state, path, before, _ground: ground })
}

impl Stage {
    /// The next agent finds what is left, and a person lifts all of it.
    fn check(&self, context: &str) {
        let config = ContainConfig::new(NodeId::new("test-node"), self.state.clone());
        let contain = ground::open(&config);
        for recovered in contain.recover(now()) {
            assert_eq!(recovered.failure, None, "{context}: {:?}", recovered.record);
        }
        let lifted = contain.release(&Which::All);
        assert!(
            lifted.iter().all(|one| matches!(one.result, Ok(PhaseDone::Reverted { .. }))),
            "{context}: {lifted:?}"
        );
        assert!(self.path.exists(), "{context}: the file is lost");
        assert_eq!(Whole::read(&self.path), self.before, "{context}");
        let beside = fs::read_dir(self.path.parent().unwrap()).unwrap().count();
        assert_eq!(beside, 1, "{context}: nothing of ours is left beside it");
        let stored = fs::read_dir(self.state.join("vault")).map_or(0, Iterator::count);
        assert_eq!(stored, 0, "{context}: nothing is left in the store");
    }
}

fn cut_everywhere(loser: Loser, undo: bool, recovered_first: bool) {
    for at in 0..64 {
        let Some(mut stage) = stage(loser) else { return };
        let context =
            format!("{loser:?} loses power before step {at}, undo {undo}, recovered first {recovered_first}");
        let target = ground::file::target(&stage.path);
        let lived = if undo {
            assert!(run(&stage.state, Part::Apply(target), u32::MAX));
            rustix::fs::sync();
            run(&stage.state, Part::Release, at)
        } else {
            run(&stage.state, Part::Apply(target), at)
        };
        if recovered_first {
            run(&stage.state, Part::Recover, u32::MAX);
        }
        stage.disk.lose_power();
        stage.check(&context);
        if lived {
            assert!(at > 3, "every journal line and every effect is a step");
            return;
        }
    }
    panic!("it does not come to an end");
}

#[test]
fn i7_the_store_loses_power_while_a_file_is_taken() {
    cut_everywhere(Loser::Store, false, false);
}

#[test]
fn i7_the_files_place_loses_power_while_it_is_taken() {
    cut_everywhere(Loser::Place, false, false);
}

#[test]
fn i7_the_store_loses_power_while_a_file_is_given_back() {
    cut_everywhere(Loser::Store, true, false);
}

#[test]
fn i7_the_files_place_loses_power_while_it_is_given_back() {
    cut_everywhere(Loser::Place, true, false);
}

#[test]
fn i7_the_power_goes_after_a_recovery() {
    cut_everywhere(Loser::Store, false, true);
    cut_everywhere(Loser::Place, true, true);
}

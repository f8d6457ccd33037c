//! I9 at a move between cgroups: the kernel takes a number, and whoever has it when its turn comes is moved.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and what they share")]

mod ground;

use std::{
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use ground::{Ground, cgroup_of, key, lives, now, state_of, wait_for};
use hemostat_agent::contain::Which;

/// A child of ours that sleeps for ever and has this pid. `None` where this kernel gives none to choose (before 5.5), or it is taken.
#[expect(unsafe_code, reason = "clone3 with a chosen pid, and a child that only waits")]
fn child_with_pid(pid: u32) -> Option<u32> {
    let wanted = [i32::try_from(pid).unwrap()];
    // SAFETY: plain numbers may be zero.
    let mut how: libc::clone_args = unsafe { std::mem::zeroed() };
    how.exit_signal = libc::SIGCHLD as u64;
    how.set_tid = wanted.as_ptr() as u64;
    how.set_tid_size = 1;
    // SAFETY: like fork: the child has a copy of our memory and makes system calls only.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw const how, size_of::<libc::clone_args>()) } {
        0 => loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        },
        born if born > 0 => Some(u32::try_from(born).unwrap()),
        _ => None,
    }
}

/// Reaps it, so that its number is free.
#[expect(unsafe_code, reason = "waits for a child that std does not know")]
fn end(pid: u32) {
    let raw = i32::try_from(pid).unwrap();
    // SAFETY: no memory is passed; the pid is a child's of ours that nobody has waited for.
    unsafe {
        libc::kill(raw, libc::SIGKILL);
        libc::waitpid(raw, std::ptr::null_mut(), 0);
    }
}

/// Ends whoever is left.
struct Stranger(u32);

impl Drop for Stranger {
    fn drop(&mut self) {
        end(self.0);
    }
}

#[test]
fn i9_who_got_the_number_of_one_that_was_to_be_moved_is_sent_back() {
    // as the root of the tree, as a member of it, and on the way back
    for at in ["move", "move child", "move back"] {
        let Some(ground) = Ground::new("stranger") else { return };
        let victim = if at == "move child" {
            None
        } else {
            Some(ground.start(Command::new("sleep").arg("1000").stdout(Stdio::null())))
        };
        let root = victim.unwrap_or_else(|| ground.shell("sleep 1000 & wait"));
        let victim = victim.unwrap_or_else(|| {
            ground.await_members(2);
            ground.members().into_iter().find(|pid| *pid != root).unwrap()
        });
        wait_for("it to rest", || state_of(victim) == Some('S'));
        let stranger = Arc::new(Mutex::new(None));
        let ready = Arc::new(AtomicBool::new(false));
        let mut config = ground.config();
        let (seen, armed) = (Arc::clone(&stranger), Arc::clone(&ready));
        config.on_step = Some(Arc::new(move |step| {
            if step != at || !armed.swap(false, Ordering::SeqCst) {
                return;
            }
            if at == "move child" {
                // not our child: whoever kills it does not reap it, but its parent does not run; so its parent goes first
                end(root);
                let raw = rustix::process::Pid::from_raw(i32::try_from(victim).unwrap()).unwrap();
                rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
                wait_for("it to be reaped", || state_of(victim).is_none());
            } else {
                end(victim);
            }
            *seen.lock().unwrap() = child_with_pid(victim).map(Stranger);
        }));
        let contain = ground::open(&config);
        ready.store(at != "move back", Ordering::SeqCst);
        let done = contain.react_freeze(key(root), now());
        ready.store(at == "move back", Ordering::SeqCst);
        contain.release(&Which::All);
        let stranger = stranger.lock().unwrap().take();
        let Some(stranger) = stranger else {
            println!(
                "SKIPPED: a stranger at {at}: no process with a chosen pid can be made (clone3 set_tid)"
            );
            continue;
        };
        assert_eq!(stranger.0, victim);
        assert!(lives(stranger.0), "{at}: {done:?}");
        assert_eq!(
            cgroup_of(stranger.0),
            cgroup_of(std::process::id()),
            "{at}: it is where it was born: {done:?}"
        );
        assert_ne!(state_of(stranger.0), Some('T'), "{at}");
        assert_eq!(ground.snapshot().cgroups.len(), 1, "{at}: the jail is gone");
    }
}

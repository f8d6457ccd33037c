//! The kernel's own surface, and the actors that use it.
#![expect(unsafe_code, reason = "system calls that no safe wrapper gives")]

use std::{
    io::{self, Read},
    process::ExitCode,
};

use model::{Activity, EventClass, Pid};

use crate::{
    Check, Failure,
    actor::{fork, memfd, wait},
    process::Scratch,
    scene::{Scene, acts, run_actor, same},
};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "memfd: name and flags", run: memfd_create },
    Check { name: "ptrace: attach and poke, with the target's identity; peeks are no events", run: ptrace },
    Check { name: "ptrace: a target in a pid namespace of its own", run: ptrace_in_namespace },
    Check { name: "process_vm_writev: with the target's identity", run: vm_write },
    Check { name: "mount: source, target as the kernel follows it, type, flags", run: mount },
    Check { name: "bpf: command, program type, name", run: bpf },
    Check { name: "io_uring: entries", run: io_uring },
    Check { name: "module: name", run: module },
    Check { name: "calls that fail are no events", run: failed_calls },
];

const ALL: &[EventClass] = &[
    EventClass::Module,
    EventClass::Bpf,
    EventClass::Ptrace,
    EventClass::Memfd,
    EventClass::Mount,
    EventClass::ProcessVmWrite,
    EventClass::IoUring,
];

fn seen(
    scene: &mut Scene,
    class: EventClass,
    words: &[&str],
) -> Result<(Pid, Vec<agent::record::Record>), Failure> {
    scene.all_of(ALL)?;
    scene.needs(class)?;
    scene.during(|_| run_actor(words))
}

fn memfd_create(scene: &mut Scene) -> Result<(), Failure> {
    let (pid, records) = seen(scene, EventClass::Memfd, &["memfd", "a name"])?;
    same("acts", &acts(&records, pid), &vec![&Activity::MemfdCreate { name: "a name".into(), flags: 0 }])
}

fn ptrace(scene: &mut Scene) -> Result<(), Failure> {
    let (pid, records) = seen(scene, EventClass::Ptrace, &["ptrace"])?;
    let found = requests(&records, pid);
    let child = forked(&records, pid)?;
    same("requests", &found, &vec![(16, child), (4, child)])
}

fn ptrace_in_namespace(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(ALL)?;
    scene.needs(EventClass::Ptrace)?;
    let (_, records) = scene.during(|_| run_actor(&["ptrace-in-namespace"]))?;
    // The tracer and its target are children that nobody outside knows by their own numbers.
    let found: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.body {
            agent::record::Body::Act(Activity::Ptrace { request: 16, target }) => {
                Some((record.task.key, *target))
            }
            _ => None,
        })
        .collect();
    same("attaches", &found.len(), &1)?;
    let (tracer, target) = found[0];
    same("target", &target, &forked(&records, tracer.pid)?)
}

fn vm_write(scene: &mut Scene) -> Result<(), Failure> {
    let (pid, records) = seen(scene, EventClass::ProcessVmWrite, &["vm-write"])?;
    let target = forked(&records, pid)?;
    same("acts", &acts(&records, pid), &vec![&Activity::ProcessVmWrite { target }])
}

fn mount(scene: &mut Scene) -> Result<(), Failure> {
    let base = Scratch::new("mount")?;
    let path = base.0.to_str().unwrap_or_default();
    let (pid, records) = seen(scene, EventClass::Mount, &["mount", path])?;
    let found: Vec<_> = acts(&records, pid)
        .into_iter()
        .filter_map(|act| match act {
            Activity::Mount { source, target, fs_type, flags } if source == "from-here" => {
                Some((target.path.clone(), fs_type.clone(), flags & 2))
            }
            _ => None,
        })
        .collect();
    // Once by an absolute path, once by a relative one.
    let expected = (path.to_owned(), "tmpfs".to_owned(), libc::MS_NOSUID);
    same("mounts", &found, &vec![expected.clone(), expected])
}

fn bpf(scene: &mut Scene) -> Result<(), Failure> {
    let (pid, records) = seen(scene, EventClass::Bpf, &["bpf"])?;
    let expected = [
        Activity::Bpf { command: 0, program_type: 0, name: "a_map".into() },
        Activity::Bpf { command: 5, program_type: 1, name: "a_filter".into() },
    ];
    same("acts", &acts(&records, pid), &expected.iter().collect())
}

fn io_uring(scene: &mut Scene) -> Result<(), Failure> {
    // SAFETY: no parameters: the call fails, but tells whether it exists.
    let there = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null::<u8>()) } < 0
        && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT);
    if !there {
        return Err(Box::new(crate::scene::Skip(
            "this kernel has no io_uring, or it is switched off".into(),
        )));
    }
    let (pid, records) = seen(scene, EventClass::IoUring, &["io-uring"])?;
    same("acts", &acts(&records, pid), &vec![&Activity::IoUringSetup { entries: 8 }])
}

fn module(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(ALL)?;
    scene.needs(EventClass::Module)?;
    // the guest of the second kernel has one; anywhere else nobody's kernel is changed for a test
    if !crate::guest::is_init() {
        return Err(Box::new(crate::scene::Skip("a module is loaded on the second kernel only".into())));
    }
    let (pid, records) = scene.during(|_| run_actor(&["module", crate::guest::SPARE_MODULE]))?;
    same(
        "acts",
        &acts(&records, pid),
        &vec![&Activity::ModuleLoad { name: crate::guest::SPARE_MODULE_NAME.into() }],
    )
}

fn failed_calls(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(ALL)?;
    let (pid, records) = scene.during(|_| run_actor(&["failing-calls"]))?;
    same("acts", &acts(&records, pid).len(), &0)
}

fn requests(records: &[agent::record::Record], pid: Pid) -> Vec<(u64, model::ProcessKey)> {
    acts(records, pid)
        .into_iter()
        .filter_map(|act| match act {
            Activity::Ptrace { request, target } => Some((*request, *target)),
            _ => None,
        })
        .collect()
}

/// The one child of a process.
fn forked(records: &[agent::record::Record], pid: Pid) -> Result<model::ProcessKey, Failure> {
    let mut children =
        records.iter().filter(|record| record.task.key.pid == pid).filter_map(|record| match record.body {
            agent::record::Body::Fork { child, .. } => Some(child),
            _ => None,
        });
    children.next_back().ok_or_else(|| "no child".into())
}

/// The actors of this family and of credentials.
pub(crate) fn help(words: &[&str]) -> Result<ExitCode, Failure> {
    match words {
        ["set-ids", uid, gid] => set_ids(uid.parse()?, gid.parse()?)?,
        ["set-ids-after-stdin", uid, gid] => {
            io::stdin().read_to_end(&mut Vec::new())?;
            set_ids(uid.parse()?, gid.parse()?)?;
        }
        ["namespaces"] => {
            let own = std::fs::File::open("/proc/self/ns/uts")?;
            // SAFETY: this process has one thread.
            check(unsafe { libc::unshare(libc::CLONE_NEWUTS) })?;
            // SAFETY: a descriptor of ours.
            check(unsafe { libc::setns(std::os::fd::AsRawFd::as_raw_fd(&own), libc::CLONE_NEWUTS) })?;
        }
        ["memfd", name] => drop(memfd(name)?),
        ["ptrace"] => trace_child()?,
        ["ptrace-in-namespace"] => {
            // SAFETY: this process has one thread; its children are in the new namespace.
            check(unsafe { libc::unshare(libc::CLONE_NEWPID) })?;
            let status = wait(fork(|| i32::from(trace_child().is_err()))?)?;
            return Ok(ExitCode::from((status >> 8) as u8));
        }
        ["vm-write"] => {
            let mut word = 7_u64;
            let at = (&raw mut word).cast();
            let child = fork(|| {
                // SAFETY: waits for the signal that ends it.
                unsafe { libc::pause() }
            })?;
            let piece = libc::iovec { iov_base: at, iov_len: 8 };
            // SAFETY: the child's memory is a copy of ours, so the address is good in both.
            let written =
                unsafe { libc::process_vm_writev(child, &raw const piece, 1, &raw const piece, 1, 0) };
            // SAFETY: our own child.
            unsafe { libc::kill(child, libc::SIGKILL) };
            wait(child)?;
            check((written as i32) - 8)?;
        }
        ["mount", base] => {
            // SAFETY: this process has one thread.
            check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
            use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            mount("from-here", *base, "tmpfs", MountFlags::NOSUID, None)?;
            rustix::mount::unmount(*base, rustix::mount::UnmountFlags::empty())?;
            std::env::set_current_dir(base)?;
            mount("from-here", ".", "tmpfs", MountFlags::NOSUID, None)?;
        }
        ["bpf"] => bpf_calls()?,
        ["io-uring"] => {
            let mut parameters = [0_u8; 120];
            // SAFETY: struct io_uring_params has 120 bytes.
            let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr()) };
            check(fd as i32)?;
        }
        ["module", path] => {
            let file = std::fs::File::open(path)?;
            let empty = c"";
            // SAFETY: a descriptor of ours and a string that lives during the call.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_finit_module,
                    std::os::fd::AsRawFd::as_raw_fd(&file),
                    empty.as_ptr(),
                    0,
                )
            };
            check(done as i32)?;
            // As it was found: the same is loaded again by others.
            let name =
                std::ffi::CString::new(crate::guest::SPARE_MODULE_NAME).map_err(std::io::Error::other)?;
            // SAFETY: a string that lives during the call.
            check(unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), 0) } as i32)?;
        }
        // SAFETY: all of these fail without an effect.
        ["failing-calls"] => unsafe {
            libc::ptrace(libc::PTRACE_ATTACH, 999_999_999, 0, 0);
            libc::memfd_create(std::ptr::null(), 0);
            libc::mount(c"x".as_ptr(), c"/no/such/place".as_ptr(), c"tmpfs".as_ptr(), 0, std::ptr::null());
            libc::syscall(libc::SYS_bpf, 5, std::ptr::null::<u8>(), 0);
        },
        _ => return Err(format!("no actor {words:?}").into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn set_ids(uid: u32, gid: u32) -> Result<(), Failure> {
    // SAFETY: numbers only; this process has one thread.
    unsafe {
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    Ok(())
}

/// Attaches to a child of its own, reads and writes a word of it, and ends it.
fn trace_child() -> Result<(), Failure> {
    let word = 7_u64;
    let child = fork(|| {
        // SAFETY: waits for the signal that ends it.
        unsafe { libc::pause() }
    })?;
    // SAFETY: our own child, stopped; the address is good in it as in us.
    unsafe {
        let at = (&raw const word).cast::<libc::c_void>().cast_mut();
        check(libc::ptrace(libc::PTRACE_ATTACH, child, 0, 0) as i32)?;
        wait(child)?;
        libc::ptrace(libc::PTRACE_PEEKDATA, child, at, 0);
        check(libc::ptrace(libc::PTRACE_POKETEXT, child, at, 9_u64) as i32)?;
        libc::kill(child, libc::SIGKILL);
    }
    wait(child)?;
    Ok(())
}

/// A map and a socket filter that returns 0, by name.
fn bpf_calls() -> Result<(), Failure> {
    let mut map = [0_u8; 72];
    // map_type BPF_MAP_TYPE_ARRAY, key_size 4, value_size 4, max_entries 1
    for (n, word) in [2_u32, 4, 4, 1].into_iter().enumerate() {
        map[4 * n..4 * n + 4].copy_from_slice(&word.to_ne_bytes());
    }
    map[28..33].copy_from_slice(b"a_map");
    // r0 = 0; exit
    let code: [u64; 2] = [0xb7, 0x95];
    let mut program = [0_u8; 72];
    program[..4].copy_from_slice(&1_u32.to_ne_bytes());
    program[4..8].copy_from_slice(&2_u32.to_ne_bytes());
    program[8..16].copy_from_slice(&(code.as_ptr() as u64).to_ne_bytes());
    program[16..24].copy_from_slice(&(c"GPL".as_ptr() as u64).to_ne_bytes());
    program[48..56].copy_from_slice(b"a_filter");
    for (command, attr) in [(0, &map), (5, &program)] {
        // SAFETY: union bpf_attr of 72 bytes, whose pointers live during the call.
        check(unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_ptr(), attr.len()) } as i32)?;
    }
    Ok(())
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! Terminal, group and capabilities of an exec event.
#![expect(unsafe_code, reason = "system calls that no safe wrapper gives")]
#![expect(clippy::print_stdout, reason = "how the actor answers")]

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::{ExitCode, Stdio},
};

use model::Pid;

use crate::{
    Check, Failure,
    scene::{Scene, command, execs, same},
};

pub(crate) const CHECKS: &[Check] =
    &[Check { name: "exec: terminal, groups and capabilities are those of the new image", run: rights }];

const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_MODULE: u32 = 16;

fn rights(scene: &mut Scene) -> Result<(), Failure> {
    let whole = u64::from_str_radix(&crate::actor::status_field("self", "CapBnd:")?, 16)?;
    let without = whole & !(1 << CAP_NET_RAW) & !(1 << CAP_SYS_MODULE);
    // (part, uid, gid, effective gid, capabilities, whether on a terminal)
    for (part, uid, gid, egid, caps, terminal) in [
        // A user with one ambient capability, whose session has a terminal.
        ("user", 1234, 5678, 5678, 1 << CAP_NET_BIND_SERVICE, true),
        // root without two capabilities, its effective group another than its real one.
        ("root", 0, 5678, 5679, without, true),
        // Nobody's session has one.
        ("detached", 1234, 5678, 5678, 0, false),
    ] {
        let ((pid, said), records) = scene.during(|_| {
            let child = command(&["rights", part]).stdout(Stdio::piped()).spawn()?;
            let pid = Pid(child.id());
            let output = child.wait_with_output()?;
            if !output.status.success() {
                return Err(format!("the actor ended with {}", output.status).into());
            }
            Ok((pid, String::from_utf8(output.stdout)?))
        })?;
        // What the new image saw of itself.
        let said: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once(' ')).collect();
        let of_it = |name: &str| said.get(name).copied().unwrap_or_default();
        let (record, exec) = *execs(&records, pid).last().ok_or("no exec")?;
        let found = record.task.credentials;
        same(&format!("{part}: uid"), &(found.uid, found.euid), &(uid, uid))?;
        same(&format!("{part}: gid"), &(found.gid, found.egid), &(gid, egid))?;
        same(&format!("{part}: capabilities"), &found.cap_effective, &caps)?;
        same(&format!("{part}: permitted"), &found.cap_permitted, &caps)?;
        same("its own gid", &of_it("gid"), &format!("{gid} {egid}").as_str())?;
        same("its own capabilities", &u64::from_str_radix(of_it("caps"), 16)?, &caps)?;
        // Minor number of /dev/pts (major 136).
        let number: u32 = of_it("tty").parse()?;
        let expected = terminal.then(|| format!("pts{}", number & 0xff | number >> 12 & 0xf_ff00));
        same(&format!("{part}: major"), &(number >> 8 & 0xfff), &if terminal { 136 } else { 0 })?;
        same(&format!("{part}: terminal"), &exec.tty, &expected)?;
    }
    Ok(())
}

/// Becomes who the part says and executes a program that tells of itself.
pub(crate) fn help(words: &[&str]) -> Result<ExitCode, Failure> {
    let [part] = words else { return Err(format!("no such part: {words:?}").into()) };
    if *part == "tell" {
        let status = |name: &str| crate::actor::status_field("self", name);
        let gid = status("Gid:")?;
        let mut gids = gid.split_whitespace();
        println!("gid {} {}", gids.next().unwrap_or_default(), gids.next().unwrap_or_default());
        println!("caps {}", status("CapEff:")?);
        let stat = fs::read_to_string("/proc/self/stat")?;
        let (_, rest) = stat.rsplit_once(')').ok_or("no name in stat")?;
        println!("tty {}", rest.split_whitespace().nth(4).ok_or("too short a stat")?);
        return Ok(ExitCode::SUCCESS);
    }
    rustix::process::setsid()?;
    // Both ends stay open: the terminal goes with its last descriptor.
    let _terminal = if *part == "detached" { None } else { Some(terminal()?) };
    let ok = |result: i64| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    // SAFETY: plain numbers.
    unsafe {
        if *part == "root" {
            for capability in [CAP_NET_RAW, CAP_SYS_MODULE] {
                ok(libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0).into())?;
            }
            ok(libc::syscall(libc::SYS_setresgid, 5678, 5679, 5679))?;
        } else {
            ok(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0).into())?;
            ok(libc::syscall(libc::SYS_setresgid, 5678, 5678, 5678))?;
            ok(libc::syscall(libc::SYS_setresuid, 1234, 1234, 1234))?;
            if *part == "user" {
                keep_one()?;
            }
        }
    }
    crate::actor::exec("/proc/self/exe", &["actor", "rights", "tell"])
}

/// Of what this process is permitted, one capability goes on to what it executes.
fn keep_one() -> io::Result<()> {
    /// _LINUX_CAPABILITY_VERSION_3.
    const VERSION: u32 = 0x2008_0522;
    let header = [VERSION, 0];
    let bit = 1_u32 << CAP_NET_BIND_SERVICE;
    // effective, permitted, inheritable; twice, for 64 bits
    let data = [bit, bit, bit, 0, 0, 0];
    // SAFETY: structures of the version's layout, alive during the call; then plain numbers.
    unsafe {
        if libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) < 0
            || libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0) < 0
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A new terminal that is this session's: both ends.
fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    // SAFETY: descriptors that were given to us; the lock is one word.
    unsafe {
        let near = libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY);
        if near < 0 {
            return Err(io::Error::last_os_error());
        }
        let near = OwnedFd::from_raw_fd(near);
        let unlocked = 0_i32;
        let far = if libc::ioctl(near.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) < 0 {
            -1
        } else {
            libc::ioctl(near.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY)
        };
        if far < 0 {
            return Err(io::Error::last_os_error());
        }
        let far = OwnedFd::from_raw_fd(far);
        if libc::ioctl(far.as_raw_fd(), libc::TIOCSCTTY, 0) < 0 {
            return Err(io::Error::last_os_error());
        }
        // The image that follows keeps the terminal as long as an end is open in it.
        for end in [&near, &far] {
            libc::fcntl(end.as_raw_fd(), libc::F_SETFD, 0);
        }
        Ok((near, far))
    }
}

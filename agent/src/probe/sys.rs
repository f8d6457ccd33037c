//! Thin wrappers of the system calls that no library gives.
#![expect(unsafe_code, reason = "system calls")]

use std::{
    ffi::CString,
    io,
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr::{null, null_mut},
};

/// Waits until every program that was running has ended (an RCU grace period on all CPUs).
pub(super) fn wait_for_programs() {
    // SAFETY: no memory is passed. MEMBARRIER_CMD_GLOBAL = 1.
    if unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) } != 0 {
        // Not on kernels with nohz_full CPUs; no program of ours runs for as long as this.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A child that makes one event of each class that needs no second program, below `folder` and on loopback, and ends.
/// What it changes of itself (user, namespaces, mounts) goes with it.
pub(super) fn canary_child(folder: &Path) -> io::Result<()> {
    let path = |name: &str| CString::new(folder.join(name).as_os_str().as_bytes()).map_err(io::Error::other);
    let (one, two, three, here) = (path("one")?, path("two")?, path("three")?, path("")?);
    // SAFETY: the child makes system calls only, on memory that was there before, and ends without returning.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: as above. Failures are what the canary is there to show: the event then does not arrive.
            unsafe {
                sing_files(&one, &two, &three);
                sing_network();
                sing_kernel(&here);
                libc::_exit(0)
            }
        }
        pid => {
            let mut status = 0;
            // SAFETY: our own child.
            if unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        }
    }
}

/// # Safety
/// Only in a child that was forked for it.
unsafe fn sing_files(one: &CString, two: &CString, three: &CString) {
    // SAFETY: strings that live during the calls.
    unsafe {
        let fd = libc::open(one.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o600);
        libc::close(fd);
        libc::chmod(one.as_ptr(), 0o640);
        libc::chown(one.as_ptr(), 0, 0);
        libc::link(one.as_ptr(), two.as_ptr());
        libc::rename(one.as_ptr(), three.as_ptr());
        libc::unlink(two.as_ptr());
        libc::unlink(three.as_ptr());
    }
}

/// # Safety
/// Only in a child that was forked for it.
unsafe fn sing_network() {
    const LEN: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    /// RFC 1035, section 4: one question for the name `canary`, type A, class IN.
    const QUESTION: &[u8] = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x06canary\0\0\x01\0\x01";
    // SAFETY: addresses on the stack that live during the calls; plain numbers may be zero.
    unsafe {
        let mut to: libc::sockaddr_in = std::mem::zeroed();
        to.sin_family = libc::AF_INET as libc::sa_family_t;
        to.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
        let address = (&raw mut to).cast::<libc::sockaddr>();
        let listener = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        libc::bind(listener, address, LEN);
        libc::listen(listener, 1);
        let mut len = LEN;
        libc::getsockname(listener, address, &raw mut len);
        let client = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        libc::connect(client, address, LEN);
        let served = libc::accept(listener, null_mut(), null_mut());
        for fd in [client, served, listener] {
            libc::close(fd);
        }
        to.sin_port = 53_u16.to_be();
        let asker = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        libc::sendto(asker, QUESTION.as_ptr().cast(), QUESTION.len(), 0, (&raw const to).cast(), LEN);
        libc::close(asker);
    }
}

/// # Safety
/// Only in a child that was forked for it.
unsafe fn sing_kernel(here: &CString) {
    let mut word = 7_u64;
    let piece = libc::iovec { iov_base: (&raw mut word).cast(), iov_len: 8 };
    let mut rings = [0_u8; 120];
    // union bpf_attr: an array map of one word.
    let mut map = [0_u32; 18];
    map[..4].copy_from_slice(&[2, 4, 4, 1]);
    // SAFETY: structures of the sizes that the calls ask for, alive during them.
    unsafe {
        libc::memfd_create(c"canary".as_ptr(), 0);
        libc::syscall(libc::SYS_io_uring_setup, 1, rings.as_mut_ptr());
        libc::syscall(libc::SYS_bpf, 0, map.as_ptr(), size_of_val(&map));
        libc::process_vm_writev(libc::getpid(), &raw const piece, 1, &raw const piece, 1, 0);
        libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWUTS);
        libc::mount(null(), c"/".as_ptr(), null(), libc::MS_REC | libc::MS_PRIVATE, null());
        libc::mount(c"canary".as_ptr(), here.as_ptr(), c"tmpfs".as_ptr(), 0, null());
        libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
        libc::setresgid(65_534, 65_534, 65_534);
        libc::setresuid(65_534, 65_534, 65_534);
    }
}

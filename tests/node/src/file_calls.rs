//! What other processes do to files for the checks of `file.rs`, call by call.
#![expect(unsafe_code, reason = "system calls in the very form that is tested")]

use std::{ffi::CString, fs, io, os::fd::RawFd, path::Path, process::ExitCode};

use crate::Failure;

/// Carries out the script that the words name.
pub(crate) fn help(words: &[&str]) -> Result<ExitCode, Failure> {
    match words {
        ["calls", dir] => calls(dir)?,
        ["paths", dir] => paths(dir)?,
        ["deep", dir] => deep(dir)?,
        ["compat", dir] => return compat(dir),
        other => return Err(format!("no such script: {other:?}").into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn c(text: &str) -> Result<CString, Failure> {
    Ok(CString::new(text)?)
}

/// The result of a call that must succeed.
fn ok(result: i64) -> Result<RawFd, Failure> {
    if result < 0 { Err(Box::new(io::Error::last_os_error())) } else { Ok(result as RawFd) }
}

/// A call that must fail.
fn fails(result: i64) -> Result<(), Failure> {
    if result < 0 { Ok(()) } else { Err("a call succeeded that should not".into()) }
}

/// A system call by number: libc turns the old ones into new ones.
macro_rules! call {
    ($number:ident $(, $argument:expr)* $(,)?) => {
        // SAFETY: pointers are to texts that live during the call.
        unsafe { libc::syscall(libc::$number $(, $argument)*) }
    };
}

fn calls(dir: &str) -> Result<(), Failure> {
    std::env::set_current_dir(dir)?;
    fs::create_dir("sub")?;
    let (a, b, sub, cc) = (c("a")?, c("b")?, c("sub")?, c("c")?);
    let a_fd = ok(call!(SYS_open, a.as_ptr(), libc::O_CREAT | libc::O_RDWR | libc::O_EXCL, 0o600))?;
    fails(call!(SYS_open, a.as_ptr(), libc::O_CREAT | libc::O_RDWR | libc::O_EXCL, 0o600))?;
    let dotted = c("sub/../a")?;
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    ok(call!(SYS_openat, libc::AT_FDCWD, dotted.as_ptr(), flags, 0o600))?;
    ok(call!(SYS_creat, b.as_ptr(), 0o600))?;
    ok(call!(SYS_openat, libc::AT_FDCWD, a.as_ptr(), libc::O_RDONLY, 0))?;
    let how: [u64; 3] = [(libc::O_RDWR | libc::O_APPEND) as u64, 0, 0];
    ok(call!(SYS_openat2, libc::AT_FDCWD, a.as_ptr(), &raw const how, size_of_val(&how)))?;
    let missing = c("missing")?;
    fails(call!(SYS_openat, libc::AT_FDCWD, missing.as_ptr(), libc::O_WRONLY, 0))?;
    let dfd = ok(call!(SYS_openat, libc::AT_FDCWD, sub.as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY, 0))?;
    ok(call!(SYS_openat, dfd, cc.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o600))?;

    ok(call!(SYS_fchmod, a_fd, 0o640))?;
    ok(call!(SYS_chmod, dotted.as_ptr(), 0o4755))?;
    ok(call!(SYS_fchmodat, dfd, cc.as_ptr(), 0o600))?;
    fails(call!(SYS_chmod, missing.as_ptr(), 0o600))?;
    ok(call!(SYS_fchown, a_fd, 1, u32::MAX))?;
    ok(call!(SYS_lchown, a.as_ptr(), 2, 3))?;
    ok(call!(SYS_fchownat, dfd, cc.as_ptr(), 4, 5, 0))?;

    let (target, soft, hard, up) = (c("../x/y")?, c("soft")?, c("hard")?, c("../b")?);
    ok(call!(SYS_symlink, target.as_ptr(), soft.as_ptr()))?;
    ok(call!(SYS_symlinkat, a.as_ptr(), dfd, soft.as_ptr()))?;
    ok(call!(SYS_linkat, libc::AT_FDCWD, a.as_ptr(), dfd, hard.as_ptr(), 0))?;
    ok(call!(SYS_linkat, dfd, up.as_ptr(), libc::AT_FDCWD, hard.as_ptr(), 0))?;
    fails(call!(SYS_link, missing.as_ptr(), hard.as_ptr()))?;

    let (absolute, d, e) = (c(&format!("{dir}/sub/d"))?, c("d")?, c("e")?);
    ok(call!(SYS_rename, a.as_ptr(), absolute.as_ptr()))?;
    ok(call!(SYS_renameat2, dfd, d.as_ptr(), libc::AT_FDCWD, e.as_ptr(), 0))?;
    fails(call!(SYS_rename, missing.as_ptr(), e.as_ptr()))?;

    ok(call!(SYS_unlink, e.as_ptr()))?;
    ok(call!(SYS_unlinkat, dfd, hard.as_ptr(), 0))?;
    ok(call!(SYS_unlinkat, dfd, soft.as_ptr(), 0))?;
    fails(call!(SYS_rmdir, sub.as_ptr()))?;
    ok(call!(SYS_unlinkat, dfd, cc.as_ptr(), 0))?;
    ok(call!(SYS_rmdir, sub.as_ptr()))?;
    fails(call!(SYS_unlink, missing.as_ptr()))?;
    Ok(())
}

fn paths(dir: &str) -> Result<(), Failure> {
    use rustix::{
        mount::*,
        thread::{UnshareFlags, unshare_unsafe},
    };
    // SAFETY: this process has one thread and shares no file descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let at = |name: &str| Path::new(dir).join(name);
    for name in ["real", "bound", "upper", "work", "merged"] {
        fs::create_dir(at(name))?;
    }
    fs::create_dir(at("real/deeper"))?;
    let secret = at("real/secret");
    fs::write(&secret, "")?;
    std::os::unix::fs::symlink(&secret, at("alias"))?;
    std::os::unix::fs::symlink(at("real"), at("folder"))?;
    std::env::set_current_dir(at("real/deeper"))?;
    fs::File::open("../secret")?;
    fs::File::open(at("alias"))?;
    fs::File::open(at("folder/secret"))?;
    fs::File::open(format!("/proc/self/root{dir}/real/secret"))?;
    mount_bind(at("real"), at("bound"))?;
    fs::File::open(at("bound/secret"))?;
    fs::write(at("bound/gone"), "")?;
    std::env::set_current_dir(at("bound/deeper"))?;
    fs::remove_file("../gone")?;
    let layers = format!("lowerdir={dir}/real,upperdir={dir}/upper,workdir={dir}/work");
    if mount("overlay", at("merged"), "overlay", MountFlags::empty(), c(&layers)?.as_c_str()).is_ok() {
        fs::File::open(at("merged/secret"))?;
    }
    // A path below a new root is still the real one.
    rustix::process::chroot(at("real"))?;
    std::env::set_current_dir("/")?;
    fs::File::open("/secret")?;
    rustix::process::chroot(".")?;
    Ok(())
}

fn deep(dir: &str) -> Result<(), Failure> {
    std::env::set_current_dir(dir)?;
    let go = |name: String| -> io::Result<()> {
        fs::create_dir(&name)?;
        std::env::set_current_dir(name)
    };
    for n in 0..300 {
        go(format!("d{n:03}"))?;
    }
    fs::write("leaf", "")?;
    for _ in 0..20 {
        go("x".repeat(200))?;
    }
    fs::write("leaf2", "")?;
    Ok(())
}

/// Opens `compat` in the folder by int 0x80; ends by a signal where the kernel takes no 32-bit calls.
fn compat(dir: &str) -> Result<ExitCode, Failure> {
    let name = c(&format!("{dir}/compat"))?;
    let result: i64;
    // SAFETY: a page below 4 GiB, large enough for the name; int 0x80 takes 5 (open), path, flags, mode.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        let page = libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        std::ptr::copy_nonoverlapping(
            name.as_ptr().cast::<u8>(),
            page.cast::<u8>(),
            name.as_bytes_with_nul().len(),
        );
        std::arch::asm!(
            "push rbx", "mov ebx, edi", "int 0x80", "pop rbx",
            inout("rax") 5_i64 => result,
            in("rdi") page, in("rcx") i64::from(libc::O_CREAT | libc::O_WRONLY), in("rdx") 0o600_i64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if result < 0 { Ok(ExitCode::from(77)) } else { Ok(ExitCode::SUCCESS) }
}

//! Runs the node tests on a second kernel (Debian's 6.1, with LSM, fentry and kprobes) in a QEMU guest without KVM.
//!
//! The guest's whole user space is the statically linked test runner, which is its `/init`. What is known about this set-up (start
//! times, why a panic ends QEMU with status 0, which modules are missing) stands in docs/kernel.md.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::progress::{apt_install, cache, output, root, run, run_logged, say};

/// The guest writes 0x10 to the debug-exit port when every test passed; QEMU then ends with (0x10 << 1) | 1. A guest that panics or
/// powers off ends QEMU with 0, so nothing else may count as passed.
const PASSED: i32 = 33;
/// As above with 0x11: the guest ran to its end and a test failed.
const FAILED: i32 = 35;
/// Longest silence and run: emulated, the whole suite takes about a minute.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
const RUN_LIMIT: Duration = Duration::from_secs(600);

/// What came of a run in the guest.
pub(crate) struct Guest {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

/// Boots the guest and runs the node tests in it; `filter` picks tests by name.
pub(crate) fn run_node_tests(filter: Option<&str>) -> Result<Guest> {
    let kernel = kernel()?;
    let init = build_init()?;
    let archive = cache()?.join("vm/initramfs.cpio");
    write_archive(&archive, &init)?;
    for attempt in 1..=2 {
        match boot(&kernel, &archive, filter)? {
            Boot::Ran { status, guest } => {
                if status == PASSED && guest.failed == 0 {
                    return Ok(guest);
                }
                if status == FAILED {
                    return Ok(Guest { failed: guest.failed.max(1), ..guest });
                }
                bail!(
                    "the guest ended with status {status}: it panicked or powered off before the tests were done"
                );
            }
            // About one boot in 85 hangs before its first line; see docs/kernel.md.
            Boot::Hung(why) if attempt == 1 => say(format!("the guest hung ({why}); once more")),
            Boot::Hung(why) => bail!("the guest hung twice: {why}"),
        }
    }
    bail!("the guest could not be run")
}

/// An uncompressed kernel for QEMU's PVH start, which saves 3 s of emulated unpacking.
fn kernel() -> Result<PathBuf> {
    apt_install(&["qemu-system-x86", "xz-utils"], "running the second kernel")?;
    let folder = cache()?.join("vm");
    let vmlinux = folder.join("vmlinux");
    if vmlinux.exists() {
        return Ok(vmlinux);
    }
    let unpacked = folder.join("package");
    fs::create_dir_all(&unpacked).with_context(|| format!("create {}", unpacked.display()))?;
    // The package is unpacked into the cache and not installed: this machine's own kernels and boot loader stay as they are.
    let mut dependencies = output("apt-cache", &["depends", "linux-image-amd64"]).unwrap_or_default();
    if dependencies.is_empty() {
        run_logged("refresh the package lists", "apt-update.log", Command::new("apt-get").arg("update"))?;
        dependencies = output("apt-cache", &["depends", "linux-image-amd64"]).unwrap_or_default();
    }
    let package = dependencies
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .context("Debian's linux-image-amd64 is not known to apt-get here")?
        .to_owned();
    run_logged(
        &format!("download {package} (70 MB, once)"),
        "kernel-download.log",
        Command::new("apt-get").current_dir(&unpacked).args([
            "download",
            "-o",
            "APT::Sandbox::User=root",
            &package,
        ]),
    )?;
    let deb = first_with(&unpacked, |name| name.ends_with(".deb"))?;
    run("unpack the kernel package", Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    let vmlinuz = first_with(&unpacked.join("boot"), |name| name.starts_with("vmlinuz"))?;
    extract(&vmlinuz, &vmlinux)?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))?;
    Ok(vmlinux)
}

fn first_with(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(&wanted) {
            return Ok(path);
        }
    }
    bail!("nothing fitting in {}", folder.display())
}

/// The xz stream inside a bzImage is the ELF kernel.
fn extract(vmlinuz: &Path, vmlinux: &Path) -> Result<()> {
    const XZ_MAGIC: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
    let image = fs::read(vmlinuz).with_context(|| format!("read {}", vmlinuz.display()))?;
    let at = image
        .windows(XZ_MAGIC.len())
        .position(|window| window == XZ_MAGIC)
        .with_context(|| format!("{} holds no xz stream", vmlinuz.display()))?;
    let mut unpack = Command::new("xz")
        .args(["--decompress", "--stdout", "--single-stream"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start xz")?;
    let mut stdin = unpack.stdin.take().context("xz has no standard input")?;
    // A broken pipe at the stream's end is expected: what follows it is not ours to feed.
    let feeder = thread::spawn(move || stdin.write_all(image.get(at..).unwrap_or_default()).is_ok());
    let mut elf = Vec::new();
    unpack
        .stdout
        .take()
        .context("xz has no standard output")?
        .read_to_end(&mut elf)
        .context("read from xz")?;
    unpack.wait().context("wait for xz")?;
    let _fed_whole = feeder.join();
    if !elf.starts_with(b"\x7fELF") {
        bail!("{} did not unpack to an ELF kernel", vmlinuz.display());
    }
    let partial = vmlinux.with_extension("partial");
    fs::write(&partial, elf).with_context(|| format!("write {}", partial.display()))?;
    fs::rename(&partial, vmlinux).with_context(|| format!("name {}", vmlinux.display()))
}

fn build_init() -> Result<PathBuf> {
    // A target folder of its own: crt-static changes every crate, and the host's build should not be thrown away for it.
    let target = cache()?.join("vm-target");
    run(
        "build the guest's init (the node tests, static)",
        Command::new("cargo")
            .current_dir(root())
            .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
            .env("CARGO_TARGET_DIR", &target)
            .args([
                "build",
                "--profile",
                "checks",
                "--target",
                "x86_64-unknown-linux-gnu",
                "-p",
                "hemostat-node-tests",
            ]),
    )?;
    Ok(target.join("x86_64-unknown-linux-gnu/checks/hemostat-node-tests"))
}

/// An initramfs in the `newc` format (Linux Documentation/driver-api/early-userspace/buffer-format.rst) with one file, `/init`.
fn write_archive(archive: &Path, init: &Path) -> Result<()> {
    let body = fs::read(init).with_context(|| format!("read {}", init.display()))?;
    let mut out = Vec::with_capacity(body.len() + 1024);
    append_entry(&mut out, 1, "init", 0o100_755, &body);
    append_entry(&mut out, 0, "TRAILER!!!", 0, &[]);
    fs::write(archive, out).with_context(|| format!("write {}", archive.display()))
}

fn append_entry(out: &mut Vec<u8>, inode: u32, name: &str, mode: u32, body: &[u8]) {
    let pad = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(4), 0);
    out.extend_from_slice(b"070701");
    let (name_len, body_len) = (name.len() + 1, body.len());
    for field in [inode as usize, mode as usize, 0, 0, 1, 0, body_len, 0, 0, 0, 0, name_len, 0] {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(body);
    pad(out);
}

enum Boot {
    Ran { status: i32, guest: Guest },
    Hung(String),
}

/// Ends QEMU when the run is over, whichever way.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

fn boot(kernel: &Path, archive: &Path, filter: Option<&str>) -> Result<Boot> {
    let mut line = String::from("console=ttyS0 quiet panic=-1 lsm=lockdown,yama,bpf");
    if let Some(filter) = filter {
        line.push_str(&format!(" HEMOSTAT_TESTS={filter}"));
    }
    say("boot Debian's kernel 6.1 in an emulated machine");
    let child = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024", "-smp", "2"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", &line])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start qemu-system-x86_64")?;
    let mut machine = Machine(child);
    let console = machine.0.stdout.take().context("QEMU has no standard output")?;
    let (sender, lines) = mpsc::sync_channel::<String>(1024);
    let reader = thread::spawn(move || {
        let mut console = BufReader::new(console);
        let mut raw = Vec::new();
        while console.read_until(b'\n', &mut raw).is_ok_and(|read| read > 0) {
            if sender.send(String::from_utf8_lossy(&raw).trim_end().to_owned()).is_err() {
                return;
            }
            raw.clear();
        }
    });
    let mut guest = Guest { passed: 0, failed: 0, skipped: 0 };
    let begun = Instant::now();
    let mut heard = false;
    let ended = loop {
        let patience = if heard { RUN_LIMIT } else { BOOT_LIMIT };
        match lines.recv_timeout(patience.saturating_sub(begun.elapsed())) {
            Ok(text) => {
                heard = true;
                eprintln!("    [6.1] {text}");
                match text.split_whitespace().next() {
                    Some("ok") => guest.passed += 1,
                    Some("FAILED") => guest.failed += 1,
                    Some("SKIPPED") => guest.skipped += 1,
                    _ => {}
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break None,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                break Some(format!("silent or running after {:?}", begun.elapsed()));
            }
        }
    };
    if let Some(why) = ended {
        drop(machine);
        let _reader_ended = reader.join();
        return Ok(Boot::Hung(why));
    }
    let status = machine.0.wait().context("wait for QEMU")?.code().unwrap_or(-1);
    let _reader_ended = reader.join();
    Ok(Boot::Ran { status, guest })
}

//! Debian's 6.1, unpacked into the cache: the kernel itself, and the modules that the tests in the guest need. This machine's own
//! kernels and boot loader stay as they are.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};

use crate::progress::{apt_install, cache, output, run, run_logged};

/// What Debian builds as modules and the tests use, in an order in which they load: pairs of interfaces, destroying sockets, and a
/// filesystem that never answers.
const MODULES: [&str; 4] = ["veth", "inet_diag", "tcp_diag", "fuse"];

/// Those that a test loads and the guest does not at its start: one for the test of what loads a module, and what lists UDP sockets, with
/// and without which sockets are destroyed.
const SPARE: [&str; 2] = ["dummy", "udp_diag"];

/// What the guest boots.
pub(super) struct Kernel {
    /// The uncompressed image, for QEMU's PVH start, which saves 3 s of emulated unpacking.
    pub(super) image: PathBuf,
    /// The modules, in the order in which they load.
    pub(super) modules: Vec<PathBuf>,
    /// For tests to load.
    pub(super) spare: [(&'static str, PathBuf); 2],
}

pub(super) fn kernel() -> Result<Kernel> {
    apt_install(&["qemu-system-x86", "xz-utils"], "running the second kernel")?;
    let folder = cache()?.join("vm");
    let kernel = Kernel {
        image: folder.join("vmlinux"),
        modules: MODULES.iter().map(|name| folder.join(format!("{name}.ko"))).collect(),
        spare: SPARE.map(|name| (name, folder.join(format!("{name}.ko")))),
    };
    let mut modules: Vec<_> = MODULES.iter().copied().zip(&kernel.modules).collect();
    modules.extend(kernel.spare.iter().map(|(name, module)| (*name, module)));
    if kernel.image.exists() && modules.iter().all(|(_, module)| module.exists()) {
        return Ok(kernel);
    }
    let unpacked = folder.join("package");
    fs::create_dir_all(&unpacked).with_context(|| format!("create {}", unpacked.display()))?;
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
    let deb = find(&unpacked, &|name| name.ends_with(".deb"))?;
    run("unpack the kernel package", Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&unpacked))?;
    for (name, module) in modules {
        let packed = find(&unpacked.join("lib/modules"), &|file| {
            file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".ko"))
        })?;
        if packed.extension().is_some_and(|extension| extension == "xz") {
            run("unpack a module", Command::new("xz").args(["--decompress", "--keep"]).arg(&packed))?;
        }
        fs::copy(packed.with_file_name(format!("{name}.ko")), module)
            .with_context(|| format!("keep {}", module.display()))?;
    }
    // Last, since a kernel without its modules counts as not there.
    extract(&find(&unpacked.join("boot"), &|name| name.starts_with("vmlinuz"))?, &kernel.image)?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("remove {}", unpacked.display()))?;
    Ok(kernel)
}

/// The first file below `folder` with such a name.
fn find(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<PathBuf> {
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).with_context(|| format!("read {}", at.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name().to_str().is_some_and(wanted) {
                return Ok(entry.path());
            }
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

//! The toolchain of the kernel side: a Rust compiler with its library source, and bpf-linker for that compiler's LLVM.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::progress::{apt_install, apt_refresh, cache, output, run_logged, say};

/// Pinned with aya 0.14 and aya-ebpf 0.2.1: an unpinned linker has made BTF that kernels refuse.
const BPF_LINKER_VERSION: &str = "0.13.0";
/// Oldest compiler that aya-ebpf 0.2.1 and edition 2024 build with on `bpfel-unknown-none`.
const OLDEST_MINOR: u32 = 90;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only say what is there; install nothing.
    #[arg(long)]
    check: bool,
}

/// A compiler that can build `core` for the kernel.
#[derive(Debug, Clone)]
pub(crate) struct KernelToolchain {
    /// The compiler, by path.
    pub(crate) rustc: PathBuf,
    /// Major version of its LLVM: bpf-linker must be built for the same one or a later one.
    pub(crate) llvm: u32,
    /// It is a stable release, so unstable cargo flags need RUSTC_BOOTSTRAP.
    pub(crate) release: Release,
    /// Where it came from, and so where what belongs to it comes from.
    origin: Origin,
}

/// What kind of compiler it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Release {
    Stable,
    Nightly,
}

/// Who brings a compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// HEMOSTAT_EBPF_RUSTC names it: what belongs to it is the user's.
    Named,
    /// rustup, the toolchain in force here.
    Active,
    /// The distribution's packages.
    Distribution,
    /// rustup's nightly.
    Nightly,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.check {
        match find_toolchain() {
            Some(found) => {
                say(format!("kernel-side compiler: {} (LLVM {})", found.rustc.display(), found.llvm))
            }
            None => bail!("no compiler for the kernel side; run: cargo xtask setup"),
        }
        match find_toolchain().and_then(|found| find_linker(found.llvm).ok().flatten()) {
            Some(linker) => say(format!("bpf-linker: {}", linker.display())),
            None => bail!("no bpf-linker {BPF_LINKER_VERSION}; run: cargo xtask setup"),
        }
        return Ok(());
    }
    let (toolchain, linker) = ensure()?;
    say(format!("kernel-side compiler: {} (LLVM {})", toolchain.rustc.display(), toolchain.llvm));
    say(format!("bpf-linker: {}", linker.display()));
    Ok(())
}

/// Finds the kernel side's compiler and linker, and installs what is missing.
pub(crate) fn ensure() -> Result<(KernelToolchain, PathBuf)> {
    let toolchain = match find_toolchain() {
        Some(found) => found,
        None => install_toolchain()?,
    };
    let linker = match find_linker(toolchain.llvm)? {
        Some(found) => found,
        None => install_linker(toolchain.llvm)?,
    };
    Ok((toolchain, linker))
}

/// clippy's driver of the same release as the compiler: it stands beside it, or comes with its component or package. `None` where neither
/// can be had.
pub(crate) fn clippy_of(toolchain: &KernelToolchain) -> Result<Option<PathBuf>> {
    let driver = toolchain.rustc.with_file_name("clippy-driver");
    let same = || {
        let release = |program: &Path, arguments: &[&str]| {
            let version = output(program, arguments)?;
            version
                .lines()
                .find_map(|line| line.strip_prefix("release:"))
                .map(|release| release.trim().to_owned())
        };
        // With `--rustc` first it answers as the compiler that it is built from.
        driver.exists() && release(&driver, &["--rustc", "-vV"]) == release(&toolchain.rustc, &["-vV"])
    };
    if !same() {
        let installed = match toolchain.origin {
            Origin::Active => component("clippy"),
            Origin::Nightly => run_logged(
                "install nightly's clippy",
                "rustup.log",
                Command::new("rustup").args(["component", "add", "clippy", "--toolchain", "nightly"]),
            ),
            Origin::Distribution => apt_install(&["rust-web-clippy"], "linting the kernel side"),
            Origin::Named => Ok(()),
        };
        if let Err(error) = installed {
            say(format!("{error:#}"));
        }
    }
    Ok(same().then_some(driver))
}

/// The first compiler that has its library source, is new enough, and whose linker is here or can be built: what HEMOSTAT_EBPF_RUSTC
/// names, rustup's toolchain in force, the distribution's, rustup's nightly (whose LLVM is often too new for the distribution).
fn find_toolchain() -> Option<KernelToolchain> {
    let named = std::env::var_os("HEMOSTAT_EBPF_RUSTC").map(PathBuf::from);
    let active = output("rustup", &["which", "rustc"]).map(PathBuf::from);
    let nightly = output("rustup", &["which", "--toolchain", "nightly", "rustc"]).map(PathBuf::from);
    let distribution = Some(PathBuf::from("/usr/bin/rustc"));
    [
        (named, Origin::Named),
        (active, Origin::Active),
        (distribution, Origin::Distribution),
        (nightly, Origin::Nightly),
    ]
    .into_iter()
    .filter_map(|(rustc, origin)| inspect(&rustc?, origin))
    .find(|found| linkable(found.llvm))
}

/// A linker for this LLVM is here, or its library is, or the distribution has it.
fn linkable(llvm: u32) -> bool {
    find_linker(llvm).is_ok_and(|found| found.is_some())
        || llvm_prefix(llvm).join("bin/llvm-config").exists()
        || output("apt-cache", &["show", &format!("llvm-{llvm}-dev")]).is_some_and(|shown| !shown.is_empty())
}

fn inspect(rustc: &Path, origin: Origin) -> Option<KernelToolchain> {
    let sysroot = output(rustc, &["--print", "sysroot"])?;
    if !Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists() {
        return None;
    }
    let version = output(rustc, &["-vV"])?;
    let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let release = field("release:")?;
    let minor: u32 = release.split('.').nth(1)?.parse().ok()?;
    if minor < OLDEST_MINOR {
        return None;
    }
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    let release = if release.contains("nightly") { Release::Nightly } else { Release::Stable };
    Some(KernelToolchain { rustc: rustc.to_path_buf(), llvm, release, origin })
}

/// Installs the first compiler that can be had, in the order in which they are looked for.
fn install_toolchain() -> Result<KernelToolchain> {
    type Way = (&'static str, fn() -> Result<()>);
    let ways: [Way; 3] = [
        ("the library source of the toolchain in force", || component("rust-src")),
        ("the distribution's compiler", || {
            apt_install(&["rustc-web", "rust-web-src"], "building the kernel side")
        }),
        ("rustup's nightly", install_nightly),
    ];
    // Which LLVM the distribution has is asked of its lists, which a new machine may not have.
    if let Err(error) = apt_refresh() {
        say(format!("the package lists stay as they are: {error:#}"));
    }
    for (what, install) in ways {
        if let Err(error) = install() {
            say(format!("{what}: {error:#}"));
        }
        if let Some(found) = find_toolchain() {
            return Ok(found);
        }
        say(format!("{what} does not do here, or no package has its LLVM; trying the next"));
    }
    bail!(
        "no compiler for the kernel side whose LLVM can be had: install the development packages of your Rust's LLVM (`rustc -vV` names \
         it; apt.llvm.org has many), or set HEMOSTAT_EBPF_RUSTC to a rustc 1.90 or later that has rust-src and put a bpf-linker \
         {BPF_LINKER_VERSION} for its LLVM on PATH; then run again"
    )
}

/// Adds a component to rustup's toolchain in force.
fn component(name: &str) -> Result<()> {
    run_logged(
        &format!("add {name} to the Rust toolchain in force"),
        "rustup.log",
        Command::new("rustup").args(["component", "add", name]),
    )
}

fn install_nightly() -> Result<()> {
    run_logged(
        "install rustup's nightly with its library source",
        "rustup.log",
        Command::new("rustup").args([
            "toolchain",
            "install",
            "nightly",
            "--component",
            "rust-src",
            "--profile",
            "minimal",
        ]),
    )
}

fn tools() -> Result<PathBuf> {
    Ok(cache()?.join("tools"))
}

/// bpf-linker of the pinned version: from our cache, where its LLVM is in its folder's name, or from PATH.
fn find_linker(llvm: u32) -> Result<Option<PathBuf>> {
    let cached = tools()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}-llvm{llvm}/bin/bpf-linker"));
    if version_of(&cached).is_some() {
        return Ok(Some(cached));
    }
    let on_path = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .map(|folder| folder.join("bpf-linker"))
        .find(|candidate| candidate.exists());
    Ok(on_path.filter(|path| version_of(path).as_deref() == Some(BPF_LINKER_VERSION)))
}

fn version_of(linker: &Path) -> Option<String> {
    output(linker, &["--version"])?.split_whitespace().last().map(str::to_owned)
}

/// Where Debian's packages put this LLVM.
fn llvm_prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

fn install_linker(llvm: u32) -> Result<PathBuf> {
    let (dev, runtime, polly) =
        (format!("llvm-{llvm}-dev"), format!("llvm-{llvm}"), format!("libpolly-{llvm}-dev"));
    let prefix = llvm_prefix(llvm);
    if !prefix.join("bin/llvm-config").exists() || !Path::new("/usr/include/zlib.h").exists() {
        apt_install(&[&dev, &runtime, &polly, "zlib1g-dev", "libzstd-dev"], "building bpf-linker")?;
    }
    let folder = tools()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}-llvm{llvm}"));
    run_logged(
        &format!("build bpf-linker {BPF_LINKER_VERSION} for LLVM {llvm} (about a minute, once)"),
        "bpf-linker.log",
        Command::new("cargo")
            .env("LLVM_PREFIX", &prefix)
            .env_remove("CARGO_TARGET_DIR")
            .args([
                "install",
                "bpf-linker",
                "--version",
                BPF_LINKER_VERSION,
                "--no-default-features",
                "--features",
            ])
            .arg(format!("llvm-{llvm}"))
            .arg("--root")
            .arg(&folder),
    )?;
    Ok(folder.join("bin/bpf-linker"))
}

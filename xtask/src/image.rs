//! `cargo xtask image`: the images of the agent and the controller, assembled without a daemon.
//!
//! An image holds the one program, the shared libraries that it is linked with (this machine's own, copied as they are), and what it reads:
//! nothing else, no shell. The same inputs give the same bytes: order, owners and times are fixed.

mod libraries;
mod oci;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::progress::{root, run_logged, say};
use oci::{Image, Layer};

/// Where images go where nothing else is said.
const FOLDER: &str = "target/images";

/// Whom the controller runs as: the number that distroless images use for `nonroot`.
const NONROOT: u32 = 65532;

/// Certificates of the public authorities, for notifications over HTTPS.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The build profile of the program; `dev` is quick and large.
    #[arg(long, default_value = "dist")]
    profile: String,
    /// A program that is built already.
    #[arg(long, conflicts_with = "profile")]
    program: Option<PathBuf>,
    /// What follows the colon in the images' names.
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    tag: String,
    /// What the images' names begin with.
    #[arg(long, default_value = "hemostat.dev")]
    registry: String,
    /// The folder for the archives.
    #[arg(long)]
    into: Option<PathBuf>,
}

/// What was assembled.
pub(crate) struct Archives {
    pub(crate) agent: PathBuf,
    pub(crate) controller: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let program = match &options.program {
        Some(program) => program.clone(),
        None => build(&options.profile)?,
    };
    let into = options.into.clone().unwrap_or_else(|| root().join(FOLDER));
    let archives = assemble(&program, &options.registry, &options.tag, &into)?;
    println!("{}\n{}", archives.agent.display(), archives.controller.display());
    Ok(())
}

/// Builds `hemostat` in a profile, and gives its path.
pub(crate) fn build(profile: &str) -> Result<PathBuf> {
    crate::ebpf::run()?;
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).args(["build", "--package", "hemostat", "--profile", profile]);
    run_logged(&format!("build hemostat ({profile})"), "image-build.log", &mut command)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let folder = if profile == "dev" { "debug" } else { profile };
    Ok(target.join(folder).join("hemostat"))
}

/// Writes both images' archives.
pub(crate) fn assemble(program: &Path, registry: &str, tag: &str, into: &Path) -> Result<Archives> {
    fs::create_dir_all(into).with_context(|| format!("make {}", into.display()))?;
    let stripped = into.join("hemostat.stripped");
    strip(program, &stripped)?;
    let system = system_layer(&stripped)?;
    let mut own = Layer::default();
    own.add_file("/usr/bin/hemostat", 0o755, &stripped)?;
    let archives = Archives { agent: into.join("agent.tar"), controller: into.join("controller.tar") };
    let name = |part: &str| format!("{registry}/{part}:{tag}");
    Image {
        name: name("hemostat-agent"),
        title: "hemostat agent",
        user: "0".into(),
        entrypoint: vec!["/usr/bin/hemostat".into(), "agent".into()],
        layers: vec![&system, &own],
    }
    .write(&archives.agent)?;
    let mut data = Layer::default();
    for folder in ["rules", "playbooks"] {
        data.add_tree(&format!("/usr/share/hemostat/{folder}"), &root().join(folder))?;
    }
    Image {
        name: name("hemostat-controller"),
        title: "hemostat controller",
        user: NONROOT.to_string(),
        entrypoint: vec!["/usr/bin/hemostat".into(), "controller".into()],
        layers: vec![&system, &own, &data],
    }
    .write(&archives.controller)?;
    fs::remove_file(&stripped).context("remove the stripped program")?;
    for archive in [&archives.agent, &archives.controller] {
        let bytes = fs::metadata(archive).with_context(|| format!("look at {}", archive.display()))?.len();
        say(format!("{}: {} MB", archive.display(), bytes >> 20));
    }
    Ok(archives)
}

/// Users, names and the libraries that the program is linked with.
fn system_layer(program: &Path) -> Result<Layer> {
    let mut layer = Layer::default();
    for (folder, mode) in
        [("/etc", 0o755), ("/proc", 0o555), ("/sys", 0o555), ("/dev", 0o755), ("/tmp", 0o1777)]
    {
        layer.add_folder(folder, mode);
    }
    let users = format!("root:x:0:0:root:/:/\nnonroot:x:{NONROOT}:{NONROOT}:nonroot:/:/\n");
    layer.add_text("/etc/passwd", &users);
    layer.add_text("/etc/group", &format!("root:x:0:\nnonroot:x:{NONROOT}:\n"));
    layer.add_text("/etc/nsswitch.conf", "hosts: files dns\n");
    if Path::new(AUTHORITIES).exists() {
        layer.add_file(AUTHORITIES, 0o644, Path::new(AUTHORITIES))?;
    }
    for (library, from) in libraries::of(program)? {
        layer.add_file(&library, 0o755, &from)?;
    }
    Ok(layer)
}

/// Without what only a debugger reads.
fn strip(program: &Path, into: &Path) -> Result<()> {
    if !program.exists() {
        bail!("there is no program at {}", program.display());
    }
    let status = Command::new("strip").arg("--strip-debug").arg("-o").arg(into).arg(program).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        // A machine without binutils gets a larger image.
        _ => fs::copy(program, into).map(|_bytes| ()).with_context(|| format!("copy {}", program.display())),
    }
}

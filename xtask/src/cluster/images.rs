//! Container images without a registry: a docker-archive of one static program, imported into containerd.

use std::{
    fs::{self, File},
    io::BufWriter,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{binaries::Binaries, parts::Starter, tar::Tar};

/// Holds a pod's namespaces.
pub(super) const PAUSE: &str = "hemostat.dev/pause:1";
/// A shell with the usual small programs.
pub(super) const BUSYBOX: &str = "hemostat.dev/busybox:1";

/// Links to busybox that its image has, so that commands are found on PATH.
const APPLETS: &[&str] = &[
    "sh",
    "ash",
    "ls",
    "cat",
    "echo",
    "sleep",
    "true",
    "false",
    "id",
    "whoami",
    "hostname",
    "uname",
    "ps",
    "kill",
    "wget",
    "nc",
    "httpd",
    "nslookup",
    "ping",
    "ip",
    "env",
    "head",
    "tail",
    "grep",
    "sed",
    "awk",
    "find",
    "xargs",
    "touch",
    "mkdir",
    "rm",
    "cp",
    "mv",
    "ln",
    "chmod",
    "chown",
    "stat",
    "date",
    "dd",
    "df",
    "mount",
    "umount",
    "tar",
    "gzip",
    "base64",
    "sha256sum",
    "seq",
    "test",
    "wc",
    "sort",
    "tee",
    "timeout",
];

/// One image: what it is called, its files, and what it runs.
pub(super) struct Image {
    name: String,
    /// A file of this machine and its path in the image, absolute.
    files: Vec<(PathBuf, String)>,
    /// Path in the image, and where it points to.
    links: Vec<(String, String)>,
    entrypoint: Vec<String>,
}

impl Image {
    pub(super) fn pause(binaries: &Binaries) -> Self {
        Self {
            name: PAUSE.into(),
            files: vec![(binaries.path("pause"), "/pause".into())],
            links: Vec::new(),
            entrypoint: vec!["/pause".into()],
        }
    }

    pub(super) fn busybox(binaries: &Binaries) -> Self {
        Self {
            name: BUSYBOX.into(),
            files: vec![(binaries.path("busybox"), "/bin/busybox".into())],
            links: APPLETS.iter().map(|applet| (format!("/bin/{applet}"), "busybox".into())).collect(),
            entrypoint: vec!["/bin/sh".into()],
        }
    }

    /// One static program, at `/bin/NAME`, beside busybox.
    pub(super) fn of_program(binaries: &Binaries, name: &str, program: &Path) -> Result<Self> {
        let file =
            program.file_name().and_then(|file| file.to_str()).context("the program's file name is text")?;
        let at = format!("/bin/{file}");
        let mut image = Self::busybox(binaries);
        image.name = name.to_owned();
        image.links.retain(|(link, _)| *link != at);
        image.files.push((program.to_path_buf(), at.clone()));
        image.entrypoint = vec![at];
        Ok(image)
    }

    /// Writes it as `docker save` would.
    pub(super) fn write(&self, to: &Path) -> Result<()> {
        let layer = self.layer()?;
        let digest = hex(&Sha256::digest(&layer));
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Entrypoint": self.entrypoint, "Env": ["PATH=/usr/bin:/bin"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask cluster"}],
        })
        .to_string();
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let manifest = json!([{"Config": config_name, "RepoTags": [self.name], "Layers": [format!("{digest}/layer.tar")]}]);
        let file = File::create(to).with_context(|| format!("create {}", to.display()))?;
        let mut archive = Tar::new(BufWriter::new(file));
        archive.file("manifest.json", 0o644, manifest.to_string().as_bytes())?;
        archive.file(&config_name, 0o644, config.as_bytes())?;
        archive.file(&format!("{digest}/layer.tar"), 0o644, &layer)?;
        archive.finish().map(|_file| ())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = Tar::new(Vec::new());
        for (folder, mode) in [
            ("bin", 0o755),
            ("etc", 0o755),
            ("proc", 0o755),
            ("sys", 0o755),
            ("dev", 0o755),
            ("root", 0o700),
            ("tmp", 0o1777),
        ] {
            tar.folder(folder, mode)?;
        }
        tar.file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        )?;
        tar.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
        for (from, to) in &self.files {
            let body = fs::read(from).with_context(|| format!("read {}", from.display()))?;
            tar.file(to.trim_start_matches('/'), 0o755, &body)?;
        }
        for (link, to) in &self.links {
            tar.link(link.trim_start_matches('/'), to)?;
        }
        tar.finish()
    }
}

/// Imports images into the cluster.
pub(super) fn load(starter: &Starter<'_>, images: &[Image]) -> Result<()> {
    for image in images {
        let archive = starter.state.join("image.tar");
        image.write(&archive)?;
        import(starter, &archive)?;
        fs::remove_file(&archive).context("remove an archive that was loaded")?;
    }
    Ok(())
}

/// Imports a docker-archive or OCI archive.
pub(super) fn import(starter: &Starter<'_>, archive: &Path) -> Result<()> {
    let output =
        starter.ctr().args(["images", "import", "--local"]).arg(archive).output().context("run ctr")?;
    if !output.status.success() {
        bail!("import {}: {}", archive.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Whether a program needs no loader: an image of it holds nothing else. Reads the ELF program headers (elf(5)).
pub(super) fn is_static(program: &Path) -> Result<bool> {
    const INTERPRETER: u32 = 3;
    let bytes = fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let number = |at: usize, size: usize| -> Option<u64> {
        let mut eight = [0_u8; 8];
        eight.get_mut(..size)?.copy_from_slice(bytes.get(at..at + size)?);
        Some(u64::from_le_bytes(eight))
    };
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        bail!("{} is no 64-bit ELF program", program.display());
    }
    let headers = (|| {
        let (from, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        (0..count).map(|n| number(usize::try_from(from + n * size).ok()?, 4)).collect::<Option<Vec<u64>>>()
    })();
    let headers = headers.with_context(|| format!("{} is cut short", program.display()))?;
    Ok(!headers.contains(&u64::from(INTERPRETER)))
}

/// Is this file executable, and small enough to be held in memory?
pub(super) fn check_program(program: &Path) -> Result<()> {
    const MOST: u64 = 512 << 20;
    let about = fs::metadata(program).with_context(|| format!("look at {}", program.display()))?;
    if about.len() > MOST || about.permissions().mode() & 0o111 == 0 {
        bail!("{} is no program of at most 512 MB", program.display());
    }
    if !is_static(program)? {
        bail!("{} is linked dynamically; build it with -Ctarget-feature=+crt-static", program.display());
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        assert!(!is_static(&std::env::current_exe().unwrap()).unwrap());
        assert!(is_static(Path::new("/etc/passwd")).is_err());
    }
}

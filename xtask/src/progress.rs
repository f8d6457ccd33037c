//! Running other programs so that a person sees what happens, and finding the places that tasks share.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// The repository's root folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where things are kept that are dear to build and do not belong in the repository.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("HEMOSTAT_CACHE").map(PathBuf::from).or_else(|| {
        std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .map(|base| base.join("hemostat"))
    });
    let base = base.context(
        "neither HEMOSTAT_CACHE nor XDG_CACHE_HOME nor HOME is set: say where to cache with HEMOSTAT_CACHE",
    )?;
    std::fs::create_dir_all(&base).with_context(|| format!("create the cache folder {}", base.display()))?;
    Ok(base)
}

/// Says a step's name to the person who waits.
pub(crate) fn say(what: impl AsRef<str>) {
    eprintln!("==> {}", what.as_ref());
}

/// Says aloud that something was not done.
pub(crate) fn skip(what: &str, because: impl AsRef<str>) {
    eprintln!("SKIPPED: {what}: {}", because.as_ref());
}

/// Runs a program with its output shown; fails if it does.
pub(crate) fn run(what: &str, command: &mut Command) -> Result<()> {
    say(what);
    let begun = Instant::now();
    let status =
        command.status().with_context(|| format!("start {:?} for: {what}", command.get_program()))?;
    if !status.success() {
        bail!("{what}: {:?} ended with {status}", command.get_program());
    }
    eprintln!("    {what}: {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Runs a program with its output in a log file of the cache; shows the log's end if it fails.
pub(crate) fn run_logged(what: &str, log: &str, command: &mut Command) -> Result<()> {
    let path = cache()?.join("logs").join(log);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    say(format!("{what} (log: {})", path.display()));
    let begun = Instant::now();
    let file = File::create(&path).with_context(|| format!("create the log {}", path.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share the log file")?)
        .stderr(file)
        .status()
        .with_context(|| format!("start {:?} for: {what}", command.get_program()))?;
    if !status.success() {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(15).collect();
        for line in tail.iter().rev() {
            eprintln!("    | {line}");
        }
        bail!("{what}: {:?} ended with {status}; whole log: {}", command.get_program(), path.display());
    }
    eprintln!("    {what}: {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Standard output of a program, trimmed; `None` if it is absent or fails.
pub(crate) fn output(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    output("id", &["-u"]).as_deref() == Some("0")
}

/// Installs Debian packages that are missing, where there is apt-get and this is root.
pub(crate) fn apt_install(packages: &[&str], what_for: &str) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|package| {
            output("dpkg-query", &["-W", "-f=${db:Status-Status}", package]).as_deref() != Some("installed")
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if output("apt-get", &["--version"]).is_none() || !is_root() {
        bail!(
            "{what_for} needs {}: install them with your package manager, or run this as root on Debian or Ubuntu",
            missing.join(", ")
        );
    }
    // A list that is too old names versions that are gone: refresh it once, then install.
    apt_refresh()?;
    run_logged(
        &format!("install {} for {what_for}", missing.join(", ")),
        "apt-install.log",
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "--no-install-recommends"])
            .args(&missing),
    )
}

/// Fetches the lists of what the distribution has, where there is apt-get and this is root; else they stay as they are.
pub(crate) fn apt_refresh() -> Result<()> {
    if output("apt-get", &["--version"]).is_none() || !is_root() {
        return Ok(());
    }
    run_logged("refresh the package lists", "apt-update.log", Command::new("apt-get").arg("update"))
}

/// What a test runner's closing lines said.
#[derive(Default)]
pub(crate) struct Counted {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    pub(crate) ended_well: bool,
}

/// Runs a test runner with its output shown, and counts; see [`Counter`].
pub(crate) fn run_counted(command: &mut Command) -> Result<Counted> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {:?}", command.get_program()))?;
    let stdout = child.stdout.take().context("the test runner has no standard output")?;
    let mut counter = Counter::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("read the test runner's output")?;
        if counter.line(&line) {
            eprintln!("{line}");
        }
    }
    counter.counted.ended_well = child.wait().context("wait for the test runner")?.success();
    Ok(counter.counted)
}

/// Counts what test runners say, line by line: cargo's `test result:` lines, the node tests' `ok`/`FAILED` lines, and every `SKIPPED`
/// line of either.
#[derive(Default)]
pub(crate) struct Counter {
    pub(crate) counted: Counted,
    /// With --show-output cargo prints what passing tests printed under a heading of its own: only skips are wanted of that.
    in_successes: bool,
    /// Skips under that heading: the runner counts them as passed, since a test cannot tell it otherwise.
    skipped_inside: u64,
}

impl Counter {
    /// Takes a line in. Whether a person should see it.
    pub(crate) fn line(&mut self, line: &str) -> bool {
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            text if text.starts_with("test result:") => self.in_successes = false,
            _ => {}
        }
        if !self.in_successes || line.starts_with("SKIPPED") {
            count_line(line, &mut self.counted);
        }
        if self.in_successes && line.starts_with("SKIPPED") {
            self.skipped_inside += 1;
        }
        if line.starts_with("test result:") {
            self.counted.passed -= std::mem::take(&mut self.skipped_inside).min(self.counted.passed);
        }
        let passed_quietly = line.starts_with("test ") && line.ends_with("... ok");
        !(self.in_successes || passed_quietly || line.trim().is_empty()) || line.starts_with("SKIPPED")
    }
}

fn count_line(line: &str, counted: &mut Counted) {
    let number_before = |word: &str| -> u64 {
        line.split(word)
            .next()
            .and_then(|before| before.split_whitespace().last())
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    };
    if line.starts_with("test result:") {
        counted.passed += number_before(" passed");
        counted.failed += number_before(" failed");
        counted.skipped += number_before(" ignored");
    } else if line.starts_with("SKIPPED") {
        counted.skipped += 1;
    } else if line.starts_with("ok ") {
        counted.passed += 1;
    } else if line.starts_with("FAILED ") {
        counted.failed += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_the_closing_lines_of_both_runners() {
        let mut counter = Counter::default();
        for line in [
            "test it_needs_root ... ok",
            "successes:",
            "---- it_needs_root stdout ----",
            "SKIPPED: needs root",
            "ok inside of a test's own output",
            "test result: ok. 12 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out",
            "ok exec_full_argv",
            "FAILED connect_v6: no record",
            "SKIPPED lsm: not on this kernel",
            "ok-looking text that is not a result",
        ] {
            counter.line(line);
        }
        let counted = counter.counted;
        assert_eq!((counted.passed, counted.failed, counted.skipped), (12, 2, 4));
    }
}

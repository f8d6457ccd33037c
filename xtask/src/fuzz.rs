//! `cargo xtask fuzz`: every fuzz target for some seconds, guided by coverage, with a corpus that is kept outside the repository.
//!
//! LLVM's coverage pass is in the stable compiler, and libFuzzer needs only a C++ compiler: so this is what `cargo fuzz --sanitizer none`
//! does, without cargo-fuzz and a nightly compiler. The flags are cargo-fuzz's own (0.13, src/project.rs).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::progress::{cache, output, root, run_logged, say, skip};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long each target runs.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Only targets whose name contains this, as `detect/load`.
    #[arg(long)]
    filter: Option<String>,
}

/// Crates with a `fuzz` folder.
const CRATES: [&str; 2] = ["detect", "enrich"];

/// Coverage counters in every block, and what is compared told to the fuzzer.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
    --cfg fuzzing -Ccodegen-units=16";

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

struct Target {
    /// `detect/load`.
    name: String,
    program: PathBuf,
    seeds: PathBuf,
    /// Below the cache: corpus, crashes and the last run's output.
    place: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let outcome = fuzz(options.seconds, options.filter.as_deref())?;
    say(format!("fuzz: {} passed, {} failed, {} skipped", outcome.passed, outcome.failed, outcome.skipped));
    if outcome.failed > 0 {
        bail!("{} fuzz targets failed", outcome.failed);
    }
    Ok(())
}

/// Builds the targets and runs as many at once as there are processors.
pub(crate) fn fuzz(seconds: u32, filter: Option<&str>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let Some(triple) = triple() else {
        skip(
            "fuzzing",
            "libFuzzer is built with a C++ compiler, and neither c++ nor g++ nor clang++ is there",
        );
        outcome.skipped += 1;
        return Ok(outcome);
    };
    let mut targets = vec![];
    for krate in CRATES {
        targets.extend(build(krate, &triple)?);
    }
    targets.retain(|target| filter.is_none_or(|filter| target.name.contains(filter)));
    if targets.is_empty() {
        bail!("no fuzz target is called so");
    }
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    say(format!("fuzz {} targets for {seconds} s each, {at_once} at once", targets.len()));
    for some in targets.chunks(at_once) {
        let mut running = Running::default();
        for target in some {
            running.0.push((target, start(target, seconds)?));
        }
        for (target, child) in &mut running.0 {
            let status = child.wait().with_context(|| format!("wait for {}", target.name))?;
            let text = fs::read(target.place.join("last.log")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            if status.success() {
                outcome.passed += 1;
                say(format!("fuzz {}: {}", target.name, summary(&text)));
            } else {
                outcome.failed += 1;
                let tail: Vec<&str> = text.lines().rev().take(25).collect();
                tail.iter().rev().for_each(|line| eprintln!("    | {line}"));
                eprintln!(
                    "FAILED fuzz {} ({status}): its input is in {}",
                    target.name,
                    target.place.join("crashes").display()
                );
            }
        }
    }
    Ok(outcome)
}

/// Targets at work; ended if this task fails meanwhile.
#[derive(Default)]
struct Running<'t>(Vec<(&'t Target, Child)>);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            if matches!(child.try_wait(), Ok(None)) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// The machine's triple, if a C++ compiler is there.
fn triple() -> Option<String> {
    let compilers = std::env::var("CXX").into_iter().chain(["c++", "g++", "clang++"].map(str::to_owned));
    compilers.into_iter().find(|compiler| output(compiler, &["--version"]).is_some())?;
    let told = output("rustc", &["-vV"])?;
    told.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

/// With checks of overflow and of what is asserted, into a folder of its own: other flags would build all else anew.
fn build(krate: &str, triple: &str) -> Result<Vec<Target>> {
    let package = root().join(krate).join("fuzz");
    // The versions that the workspace has; cargo adds what only fuzzing needs.
    fs::copy(root().join("Cargo.lock"), package.join("Cargo.lock"))
        .with_context(|| format!("give {} the workspace's lock file", package.display()))?;
    let folder = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), PathBuf::from)
        .join("fuzz");
    let mut command = Command::new("cargo");
    command
        .current_dir(&package)
        .args(["build", "--release", "--target", triple, "--target-dir"])
        .arg(&folder)
        .env("RUSTFLAGS", COVERAGE)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "2")
        .env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true")
        .env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true")
        .env_remove("CARGO_ENCODED_RUSTFLAGS");
    run_logged(&format!("build the fuzz targets of {krate}"), &format!("fuzz-{krate}.log"), &mut command)?;
    let programs = folder.join(triple).join("release");
    let mut names = names(&package.join("fuzz_targets"))?;
    names.sort();
    names.iter().map(|name| target(krate, name, &programs, &package)).collect()
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut names = vec![];
    for entry in entries {
        let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
        names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    Ok(names)
}

fn target(krate: &str, name: &str, programs: &Path, package: &Path) -> Result<Target> {
    let place = cache()?.join("fuzz").join(krate).join(name);
    for folder in ["corpus", "crashes"] {
        let folder = place.join(folder);
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    }
    let seeds = package.join("seeds").join(name);
    if !seeds.is_dir() {
        bail!("{krate}/{name} has no seeds in {}", seeds.display());
    }
    Ok(Target { name: format!("{krate}/{name}"), program: programs.join(name), seeds, place })
}

fn start(target: &Target, seconds: u32) -> Result<Child> {
    let log = target.place.join("last.log");
    let file = fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
    Command::new(&target.program)
        .arg(format!("-max_total_time={seconds}"))
        .args(["-max_len=4096", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/", target.place.join("crashes").display()))
        .arg(target.place.join("corpus"))
        .arg(&target.seeds)
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share the log file")?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("start {}", target.program.display()))
}

/// The last line of libFuzzer that tells coverage and corpus, and how many texts were tried.
fn summary(text: &str) -> String {
    let after = |what: &str| {
        let at = text.rfind(what)? + what.len();
        text[at..].split_whitespace().next().map(str::to_owned)
    };
    let number = |what: &str| after(what).unwrap_or_else(|| "?".to_owned());
    format!(
        "{} texts, {} places covered, {} in the corpus",
        number("stat::number_of_executed_units:"),
        number(" cov: "),
        number(" corp: ")
    )
}

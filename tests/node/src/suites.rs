//! The agent's own test programs, which xtask puts into the guest's root folder: containment and the whole agent on its kernel.

use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

use crate::guest::files_of;

/// An emulated machine takes many times as long as the tests' authors thought: their patience is multiplied.
const SLOWNESS: &str = "5";

/// Runs each with the tests that are wanted, one after the other. Whether none failed.
pub(crate) fn run(wanted: &[String]) -> bool {
    let mut passed = true;
    for suite in files_of("/suites") {
        let name = suite.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match run_suite(&suite, &name, wanted) {
            Ok(true) => {}
            Ok(false) => passed = false,
            Err(error) => {
                println!("FAILED {name}: {error}");
                passed = false;
            }
        }
    }
    passed
}

fn run_suite(suite: &Path, name: &str, wanted: &[String]) -> io::Result<bool> {
    println!("{name}, on this kernel:");
    let mut command = Command::new(suite);
    command.args(["--test-threads=2", "--show-output"]).stdin(Stdio::null());
    command.envs([("PATH", "/bin"), ("HOME", "/root"), ("HEMOSTAT_SLOWNESS", SLOWNESS)]);
    // A suite that is named is run whole.
    if !wanted.iter().any(|word| name.contains(word.as_str())) {
        command.args(wanted);
    }
    let pid = command.spawn()?.id();
    loop {
        // Whoever lost his parent is ours, as the first process of the machine: nobody else would reap him.
        let (ended, status) = rustix::process::wait(rustix::process::WaitOptions::empty())?
            .ok_or_else(|| io::Error::other("nobody to wait for"))?;
        if u32::try_from(ended.as_raw_nonzero().get()) == Ok(pid) {
            return Ok(status.exit_status() == Some(0));
        }
    }
}

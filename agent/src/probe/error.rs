//! What can go wrong with probes, each with what to do about it.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

/// Why probes could not be loaded or driven.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Somebody told the start to give up.
    #[error("given up: Hemostat was told to end while it attached its hooks")]
    Halted,
    /// The kernel's types are not to be had.
    #[error(
        "the kernel's type information {path} cannot be read ({source}): Hemostat needs a kernel built with \
         CONFIG_DEBUG_INFO_BTF=y"
    )]
    NoBtf {
        /// Where it should be.
        path: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The kernel's types are there but broken.
    #[error("the kernel's type information is not understood at byte {at}: {what}")]
    BrokenBtf {
        /// Where.
        at: usize,
        /// What was expected.
        what: &'static str,
    },
    /// The kernel's structures lie otherwise than in all kernels that are known.
    #[error(
        "in this kernel's {structure}, {second} does not stand right behind {first}: Hemostat has to learn this kernel"
    )]
    Layout {
        /// Which structure.
        structure: &'static str,
        /// A member.
        first: &'static str,
        /// What should follow it.
        second: &'static str,
    },
    /// Not enough rights.
    #[error(
        "loading eBPF needs root (CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_ADMIN): {operation} gave {source}"
    )]
    NotPermitted {
        /// What was tried.
        operation: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// The object or one of its maps was refused.
    #[error("the eBPF object could not be loaded (if agent and object are of different builds: `cargo xtask ebpf`): {}", chain(.0))]
    Object(Box<EbpfError>),
    /// A map was refused.
    #[error("eBPF map {map}: {operation} failed: {}", chain(.source))]
    Map {
        /// Its name.
        map: &'static str,
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: MapError,
    },
    /// A map or program that this agent knows is not in the object: agent and object are of different builds.
    #[error("the eBPF object has no {0}: agent and object are of different builds, run `cargo xtask ebpf`")]
    Missing(String),
    /// A program that the process tree cannot do without.
    #[error("no form of the hook {hook} works here, and nothing can be seen without it: {because}")]
    Essential {
        /// Which hook.
        hook: &'static str,
        /// Why, form by form.
        because: String,
    },
    /// The folder for pinned maps.
    #[error(
        "{operation} on {path} failed ({source}): eBPF maps are pinned there; mount bpffs with `mount -t bpf bpf /sys/fs/bpf`"
    )]
    Pin {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A system call of the reader.
    #[error("{operation} failed: {source}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The reader was already given out.
    #[error("the rings already have a reader")]
    ReaderTaken,
}

impl ProbeError {
    pub(super) fn system(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { operation, source }
    }

    pub(super) fn map(map: &'static str, operation: &'static str) -> impl FnOnce(MapError) -> Self {
        move |source| Self::Map { map, operation, source }
    }
}

/// A program's failure in one line: the system's word and, where the verifier said anything, its last six lines.
pub(super) fn program_failure(program: &str, err: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = err {
        let log = verifier_log.to_string();
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        if lines.is_empty() {
            let hint = if io_error.kind() == io::ErrorKind::PermissionDenied {
                why_not_permitted(effective_capabilities())
            } else {
                String::new()
            };
            return format!("{program}: {io_error}{hint}");
        }
        let tail = lines[lines.len().saturating_sub(6)..].join(" | ");
        return format!("{program}: {io_error}; verifier: {tail}");
    }
    format!("{program}: {}", chain(err))
}

/// What this process is allowed to do; all, where that cannot be read.
fn effective_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(u64::MAX)
}

/// The kernel's refusal of a program may be for want of a right, which CAP_SYS_ADMIN stands in for (include/linux/capability.h,
/// `bpf_capable` and `perfmon_capable`).
fn why_not_permitted(effective: u64) -> String {
    const SYS_ADMIN: u8 = 21;
    const NEEDED: [(u8, &str); 3] = [(39, "CAP_BPF"), (38, "CAP_PERFMON"), (12, "CAP_NET_ADMIN")];
    let has = |bit: u8| effective & (1 << bit) != 0;
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(bit, _)| !has(*bit) && !has(SYS_ADMIN)).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return " (this kernel does not allow this kind of program)".into();
    }
    format!(" (this process lacks {})", missing.join(", "))
}

/// An error with all its causes in one line.
pub(super) fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        let more = err.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = err.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_not_blamed_on_the_kernel() {
        let without_perfmon = !(1 << 38 | 1 << 21);
        assert_eq!(why_not_permitted(without_perfmon), " (this process lacks CAP_PERFMON)");
        assert!(why_not_permitted(u64::MAX).contains("this kernel"));
        assert!(why_not_permitted(1 << 21).contains("this kernel"), "CAP_SYS_ADMIN stands in for them");
    }
}

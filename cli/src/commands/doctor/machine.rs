//! Kernel, rights, file systems, clock, disk.

use std::{fs, path::Path, process::Command};

use agent::contain::Protocol;

use super::{Look, Verdict};

/// Below this a spool and evidence soon have no room.
const LEAST_FREE_MB: u64 = 1024;
/// CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_KILL, CAP_SYS_ADMIN and the DAC pair (include/uapi/linux/capability.h).
const NEEDED_CAPABILITIES: &[(u8, &str)] = &[
    (39, "CAP_BPF"),
    (38, "CAP_PERFMON"),
    (12, "CAP_NET_ADMIN"),
    (19, "CAP_SYS_PTRACE"),
    (5, "CAP_KILL"),
    (21, "CAP_SYS_ADMIN"),
    (1, "CAP_DAC_OVERRIDE"),
    (2, "CAP_DAC_READ_SEARCH"),
];

pub(super) fn look(state: &Path) -> Vec<Look> {
    vec![kernel(), btf(), rights(), cgroups(), bpffs(), lsm(), sockets(), clock(), disk(state)]
}

fn kernel() -> Look {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 1) {
        return Look::new("kernel", Verdict::Good, release);
    }
    if version >= (5, 17) {
        return Look::new("kernel", Verdict::Lesser, format!("{release}: the probes are tested from 6.1 on"));
    }
    Look::new("kernel", Verdict::Bad, format!("{release} is too old"))
        .next("run Linux 6.1 or later: the probes need ring buffers, tp_btf and bpf_loop")
}

fn btf() -> Look {
    match fs::metadata("/sys/kernel/btf/vmlinux") {
        Ok(file) => Look::new("kernel types (BTF)", Verdict::Good, format!("{} KiB", file.len() / 1024)),
        Err(error) => {
            Look::new("kernel types (BTF)", Verdict::Bad, format!("/sys/kernel/btf/vmlinux: {error}"))
                .next("use a kernel built with CONFIG_DEBUG_INFO_BTF=y (every current distribution's is)")
        }
    }
}

fn rights() -> Look {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<&str> = NEEDED_CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        let who = if rustix::process::geteuid().is_root() { "root" } else { "by capabilities" };
        return Look::new("rights", Verdict::Good, who);
    }
    Look::new("rights", Verdict::Bad, format!("missing {}", missing.join(", ")))
        .next("run as root (sudo hemostat …)")
}

fn cgroups() -> Look {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_source, target, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then_some(target)
    });
    let Some(mount) = mount else {
        return Look::new("cgroup v2", Verdict::Bad, "not mounted")
            .next("mount -t cgroup2 none /sys/fs/cgroup/unified");
    };
    // The root has no freezer of its own; any other cgroup has one since Linux 5.2.
    let below = fs::read_dir(mount)
        .into_iter()
        .flatten()
        .flatten()
        .find(|entry| entry.path().join("cgroup.freeze").exists());
    match below {
        Some(_) => Look::new("cgroup v2", Verdict::Good, format!("{mount}, with a freezer")),
        None => Look::new(
            "cgroup v2",
            Verdict::Lesser,
            format!("{mount}, and no cgroup in it yet to look for a freezer"),
        )
        .next("nothing: every cgroup has one from Linux 5.2 on; Hemostat makes its own and looks when it freezes something"),
    }
}

fn bpffs() -> Look {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounted = mounts.lines().any(|line| line.split(' ').nth(2) == Some("bpf"));
    if mounted {
        return Look::new("bpffs", Verdict::Good, "mounted: a quarantine outlives a crash of the agent");
    }
    Look::new("bpffs", Verdict::Lesser, "not mounted")
        .next("nothing: the agent mounts it at its start and takes it away at uninstall")
}

fn lsm() -> Look {
    match fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(list) if list.split(',').any(|name| name.trim() == "bpf") => Look::new("BPF LSM", Verdict::Good, list.trim().to_owned()),
        Ok(list) => Look::new("BPF LSM", Verdict::Lesser, format!("not among {}", list.trim()))
            .next("nothing must be done: other hooks stand in; lsm=…,bpf on the kernel's command line gives the best ones"),
        Err(_) => Look::new("BPF LSM", Verdict::Lesser, "cannot be told: securityfs is not mounted")
            .next("nothing must be done: the hooks below say what is really attached"),
    }
}

/// What `node.destroy-sockets` stands on.
fn sockets() -> Look {
    const WHAT: &str = "socket destroy";
    let told = match agent::contain::sockets_that_can_be_destroyed() {
        Ok(told) => told,
        Err(error) => return Look::new(WHAT, Verdict::Skipped, format!("cannot ask sock_diag: {error}")),
    };
    let (good, lacking): (Vec<_>, Vec<_>) = told.into_iter().partition(|(_, can)| can.is_ok());
    let names =
        |of: &[(Protocol, _)]| of.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(", ");
    if lacking.is_empty() {
        return Look::new(WHAT, Verdict::Good, names(&good));
    }
    let because: Vec<String> = lacking
        .iter()
        .filter_map(|(name, can)| Some(format!("not {name}: {}", can.as_ref().err()?)))
        .collect();
    let so_far = if good.is_empty() { String::new() } else { format!("{}; ", names(&good)) };
    let next = if rustix::process::geteuid().is_root() {
        "load what is named (modprobe), or answer with node.net-quarantine, which needs none of it"
    } else {
        "run as root to be sure: sudo hemostat doctor"
    };
    Look::new(WHAT, Verdict::Lesser, format!("{so_far}{}", because.join("; "))).next(next)
}

fn clock() -> Look {
    let told = Command::new("timedatectl").args(["show", "-p", "NTPSynchronized", "--value"]).output();
    match told
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    {
        Some(yes) if yes == "yes" => Look::new("clock", Verdict::Good, "synchronised"),
        Some(_) => Look::new("clock", Verdict::Lesser, "not synchronised")
            .next("enable time synchronisation: times of incidents from several nodes are compared"),
        None => Look::new("clock", Verdict::Skipped, "no timedatectl here to say whether it is synchronised"),
    }
}

fn disk(state: &Path) -> Look {
    let there = state.ancestors().find(|folder| folder.exists()).unwrap_or_else(|| Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(found) => {
            let free_mb = found.f_bavail.saturating_mul(found.f_frsize) / (1 << 20);
            let text = format!("{free_mb} MB free at {}", there.display());
            if free_mb >= LEAST_FREE_MB {
                Look::new("disk", Verdict::Good, text)
            } else {
                Look::new("disk", Verdict::Bad, text)
                    .next(format!("free at least {LEAST_FREE_MB} MB: the spool and evidence need room"))
            }
        }
        Err(error) => Look::new("disk", Verdict::Bad, format!("{}: {error}", there.display())),
    }
}

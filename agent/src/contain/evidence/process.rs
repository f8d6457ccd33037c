//! What /proc knows of a process.

use std::{collections::BTreeMap, fs, io, io::Read, path::Path};

use model::ActionFailure;
use serde_json::{Value, json};

use super::{Bundle, skip_if_gone};
use crate::{
    aside::Aside,
    contain::{
        process::{self as proc, Held},
        scene::Task,
        sockets,
    },
};

/// Copied as they are; the kernel escapes what programs put into them.
const PLAIN: [&str; 9] =
    ["status", "stat", "maps", "cgroup", "mountinfo", "limits", "io", "wchan", "loginuid"];
/// Tables of the process's network namespace; only its own sockets' lines are kept.
const SOCKET_TABLES: [(&str, usize); 7] =
    [("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("raw", 9), ("raw6", 9), ("unix", 6)];
const MAX_DEPTH: usize = 64;

/// `tree.json`: the processes of the target and their ancestors.
pub(super) fn tree(
    task: &Task<'_>,
    bundle: &mut Bundle,
    aside: &mut Aside,
    processes: &[Held],
) -> Result<(), ActionFailure> {
    let mut nodes: BTreeMap<u32, Value> = BTreeMap::new();
    for held in processes {
        let mut pid = held.pid();
        for _ in 0..MAX_DEPTH {
            if pid == 0 || nodes.contains_key(&pid) {
                break;
            }
            let Ok(Some(stat)) = proc::stat(pid) else { break };
            nodes.insert(pid, describe(task, aside, pid, stat.parent, stat.key(pid).start.0));
            pid = stat.parent;
        }
    }
    let targets: Vec<u32> = processes.iter().map(Held::pid).collect();
    let list: Vec<Value> = nodes.into_values().collect();
    bundle.add_json("tree.json", &json!({ "targets": targets, "processes": list }))
}

/// Everything of one process, in a folder named by its pid.
pub(super) fn capture(
    task: &Task<'_>,
    bundle: &mut Bundle,
    aside: &mut Aside,
    held: &Held,
) -> Result<(), ActionFailure> {
    let pid = held.pid();
    let limits = task.scene.evidence;
    for name in PLAIN {
        let path = held.proc_path(name);
        // a byte more than is kept, so that a cut is seen
        let mut file = aside.read(Path::new(&path), limits.proc_file_bytes.saturating_add(1));
        bundle.add(&format!("{pid}/{name}"), &mut file, limits.proc_file_bytes)?;
    }
    let path = held.proc_path("environ");
    if let Some(bytes) =
        skip_if_gone(bundle, &path, aside.read_some(Path::new(&path), limits.proc_file_bytes))
    {
        let masked: BTreeMap<String, String> = words(&bytes)
            .iter()
            .map(|word| {
                let (name, value) = word.split_once('=').unwrap_or((word, ""));
                (name.to_owned(), task.scene.mask.environment(name, value).into_owned())
            })
            .collect();
        bundle.add_json(&format!("{pid}/environ.json"), &json!(masked))?;
    }
    let path = held.proc_path("exe");
    let binary =
        bundle.add_by_hash(&path, &mut aside.read(Path::new(&path), u64::MAX), limits.binary_bytes)?;
    let facts = json!({
        "arguments": arguments(task, aside, pid),
        "exe": link(&held.proc_path("exe")),
        "exe_sha256": binary,
        "cwd": link(&held.proc_path("cwd")),
        "root": link(&held.proc_path("root")),
        "namespaces": links(&held.proc_path("ns"), limits.descriptors),
        "descriptors": descriptors(held, limits.descriptors),
        "sockets": socket_lines(held, limits.proc_file_bytes),
    });
    bundle.add_json(&format!("{pid}/process.json"), &facts)?;
    if held.has_ended() {
        bundle.note(format!("pid {pid} ended while it was looked at"));
    }
    Ok(())
}

fn describe(task: &Task<'_>, aside: &mut Aside, pid: u32, parent: u32, start: u64) -> Value {
    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    json!({
        "pid": pid,
        "parent": parent,
        "start_ns": start,
        "name": String::from_utf8_lossy(comm.strip_suffix(b"\n").unwrap_or(&comm)),
        "exe": link(&format!("/proc/{pid}/exe")),
        "arguments": arguments(task, aside, pid),
        "cgroup": task.scene.cgroups.path_of(pid).ok().flatten(),
    })
}

fn arguments(task: &Task<'_>, aside: &mut Aside, pid: u32) -> Vec<String> {
    let path = format!("/proc/{pid}/cmdline");
    let bytes = aside.read_some(Path::new(&path), task.scene.evidence.proc_file_bytes).unwrap_or_default();
    task.scene.mask.arguments(&words(&bytes))
}

/// Texts that end in NUL.
fn words(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn link(path: &str) -> Option<String> {
    fs::read_link(path).ok().map(|target| target.to_string_lossy().into_owned())
}

fn links(folder: &str, limit: usize) -> BTreeMap<String, Option<String>> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .take(limit)
        .map(|entry| {
            (entry.file_name().to_string_lossy().into_owned(), link(&entry.path().display().to_string()))
        })
        .collect()
}

fn descriptors(held: &Held, limit: usize) -> BTreeMap<String, Value> {
    links(&held.proc_path("fd"), limit)
        .into_iter()
        .map(|(fd, target)| {
            let info = read_some(&held.proc_path(&format!("fdinfo/{fd}")), 4096).unwrap_or_default();
            let info = String::from_utf8_lossy(&info).into_owned();
            (fd, json!({ "target": target, "info": info.lines().take(4).collect::<Vec<_>>() }))
        })
        .collect()
}

fn socket_lines(held: &Held, limit: u64) -> BTreeMap<&'static str, Vec<String>> {
    let own = sockets::sockets_of(held.pid());
    let read = |name: &str| -> io::Result<String> {
        Ok(String::from_utf8_lossy(&read_some(&held.proc_path(&format!("net/{name}")), limit)?).into_owned())
    };
    let mut found = BTreeMap::new();
    for (name, column) in SOCKET_TABLES {
        let Ok(table) = read(name) else { continue };
        let lines: Vec<String> = table
            .lines()
            .skip(1)
            .filter(|line| {
                let inode =
                    line.split_ascii_whitespace().nth(column).and_then(|inode| inode.parse::<u32>().ok());
                inode.is_some_and(|inode| own.contains(&inode))
            })
            .map(|line| line.trim().to_owned())
            .collect();
        if !lines.is_empty() {
            found.insert(name, lines);
        }
    }
    found
}

/// Reads what the kernel answers from its own tables, at most `limit` bytes.
fn read_some(path: &str, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_arguments_are_kept_and_the_last_nul_ends() {
        assert_eq!(words(b"a\0\0b\0"), ["a", "", "b"]);
        assert_eq!(words(b""), Vec::<String>::new());
        assert_eq!(words(b"no end"), ["no end"]);
    }
}

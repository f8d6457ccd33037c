//! What is known of one image, from each of its sources.

use std::sync::Arc;

use model::{Backing, CgroupId, ExeFile, Process, ProcessKey, ProcessOrigin, Stdio, Truncated, Workload};

use super::{ProcessTree, procfs::ProcFacts};
use crate::record::{ExecFacts, Task};

/// Arguments kept when the tree's bytes are used up.
const SLIM_ARGS: usize = 256;

pub(super) fn from_exec(
    task: &Task,
    parent: Option<ProcessKey>,
    facts: &ExecFacts,
    workload: Arc<Workload>,
) -> Process {
    Process {
        key: task.key,
        parent,
        exe: facts.exe.clone(),
        exe_file: facts.exe_file,
        command_line: facts.args.join(" "),
        args: facts.args.clone(),
        args_truncated: facts.args_truncated,
        cwd: facts.cwd.clone(),
        comm: task.comm.clone(),
        credentials: task.credentials,
        namespaces: facts.namespaces,
        tty: facts.tty.clone(),
        stdio: facts.stdio,
        cgroup: task.cgroup,
        workload,
        origin: ProcessOrigin::Exec,
        exit: None,
    }
}

/// A child's image: its parent's, until it execs.
pub(super) fn forked(
    of: &Process,
    child: ProcessKey,
    parent: ProcessKey,
    moved: Option<(CgroupId, Arc<Workload>)>,
) -> Process {
    let mut image =
        Process { key: child, parent: Some(parent), origin: ProcessOrigin::Fork, exit: None, ..of.clone() };
    if let Some((cgroup, workload)) = moved {
        image.cgroup = cgroup;
        image.workload = workload;
    }
    image
}

/// Bytes that an image occupies, roughly: the struct, its texts and their allocations.
pub(super) fn weight(image: &Process) -> usize {
    const ALLOCATION: usize = 16;
    let texts = [&image.exe, &image.command_line, &image.cwd, &image.comm];
    size_of::<Process>()
        + texts.iter().map(|text| text.len() + ALLOCATION).sum::<usize>()
        + image.args.iter().map(|arg| arg.len() + size_of::<String>() + ALLOCATION).sum::<usize>()
}

impl ProcessTree {
    /// The image to keep: whole while there is room, else with its arguments cut.
    pub(super) fn within_budget(&self, image: &Arc<Process>) -> Arc<Process> {
        let long = image.command_line.len() > SLIM_ARGS;
        if !long || self.bytes + weight(image) <= self.limits.bytes {
            return image.clone();
        }
        let mut slim = Process::clone(image);
        slim.command_line.truncate(floor_char_boundary(&slim.command_line, SLIM_ARGS));
        slim.args = slim.command_line.split(' ').map(str::to_owned).collect();
        slim.args_truncated = Truncated::Yes;
        Arc::new(slim)
    }

    pub(super) fn image_from_proc(
        &mut self,
        key: ProcessKey,
        facts: ProcFacts,
        origin: ProcessOrigin,
    ) -> Process {
        let cgroup = facts.cgroup.unwrap_or_default();
        let workload = self.workloads.resolve(cgroup, key.pid);
        Process {
            key,
            parent: facts.parent,
            exe: facts.exe,
            exe_file: facts.exe_file,
            command_line: facts.args.join(" "),
            args: facts.args,
            args_truncated: facts.args_truncated,
            cwd: facts.cwd,
            comm: facts.comm,
            credentials: facts.credentials,
            namespaces: facts.namespaces,
            tty: facts.tty,
            stdio: Stdio::default(),
            cgroup,
            workload,
            origin,
            exit: None,
        }
    }

    /// Neither its exec nor its fork was seen, and it has left /proc: its parent's image is the best guess, and the origin says
    /// so. Without a parent, its task name in brackets stands where a kernel thread's would.
    pub(super) fn image_unknown(&mut self, task: &Task) -> Process {
        let workload = self.workloads.resolve(task.cgroup, task.key.pid);
        let base = self.entries.get(&task.parent).map(|entry| Process::clone(&entry.image));
        let name = format!("[{}]", task.comm);
        let mut image = base.unwrap_or_else(|| Process {
            key: task.key,
            parent: None,
            exe: name.clone(),
            exe_file: ExeFile { inode: 0, device: 0, backing: Backing::File },
            command_line: name,
            args: Vec::new(),
            args_truncated: Truncated::Yes,
            cwd: String::new(),
            comm: String::new(),
            credentials: task.credentials,
            namespaces: model::Namespaces::default(),
            tty: None,
            stdio: Stdio::default(),
            cgroup: task.cgroup,
            workload: workload.clone(),
            origin: ProcessOrigin::Recovered,
            exit: None,
        });
        image.key = task.key;
        image.parent = Some(task.parent).filter(|parent| *parent != task.key);
        image.comm.clone_from(&task.comm);
        image.credentials = task.credentials;
        image.cgroup = task.cgroup;
        image.workload = workload;
        image.stdio = Stdio::default();
        image.origin = ProcessOrigin::Recovered;
        image.exit = None;
        image
    }
}

pub(crate) fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

//! A cgroup in which programs are started together and with which they end together, also when this process is killed.
//!
//! Its first process, the keeper, waits on a pipe from us. When we die, whichever way, the pipe ends and the keeper kills the whole
//! cgroup, itself included. With [`Apart::NetworkAndMounts`] the keeper also holds namespaces that the others join: they, what is mounted
//! in them and the links into them vanish with the last process, without anybody having to undo them.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// How long killed processes may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(20);

/// What the programs do not share with the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Apart {
    Nothing,
    /// A network of their own, and mounts that the machine does not see. Each pair is a folder and where it is put before anything starts.
    NetworkAndMounts(Vec<(PathBuf, PathBuf)>),
}

/// The cgroup with its keeper.
pub(crate) struct Enclosure {
    cgroup: PathBuf,
    keeper: Keeper,
    apart: bool,
}

enum Keeper {
    /// Ends with us.
    Ours(Child),
    /// Goes on without us.
    Detached(u32),
}

/// The keeper puts itself into the cgroup, then into namespaces of its own, says so, and waits for the word `stay`.
const KEEPER: &str = r#"
set -e
echo $$ > "$1/cgroup.procs"
wait_for_word='
  echo ready
  read -r word || true
  [ "$word" = stay ] || { echo 1 > "$0/cgroup.kill"; exit 1; }
  exec sleep infinity >/dev/null 2>&1'
if [ "$2" = apart ]; then
  shift 2
  exec unshare --net --mount --propagation slave sh -ec '
    cgroup=$1; words=$2; shift 2
    mount --make-rshared /
    while [ $# -gt 0 ]; do mount --bind "$1" "$2"; shift 2; done
    ip link set lo up
    exec sh -c "$words" "$cgroup"' sh "$CGROUP" "$wait_for_word" "$@"
fi
exec sh -c "$wait_for_word" "$1"
"#;

impl Enclosure {
    /// Makes the cgroup `name` below the root of cgroup v2, and its keeper.
    pub(crate) fn make(name: &str, apart: &Apart) -> Result<Self> {
        let cgroup = cgroup2()?.join(name);
        fs::create_dir_all(&cgroup).with_context(|| format!("make the cgroup {}", cgroup.display()))?;
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "sh"]).arg(&cgroup).env("CGROUP", &cgroup);
        match apart {
            Apart::Nothing => {
                command.arg("shared");
            }
            Apart::NetworkAndMounts(binds) => {
                command.arg("apart");
                for (from, to) in binds {
                    command.arg(from).arg(to);
                }
            }
        }
        // A process group of its own: ^C at the terminal is for us, and we tell the keeper by dying.
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the keeper of a cgroup")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the keeper has no standard output")?;
        BufReader::new(stdout).read_line(&mut line).context("read from the keeper")?;
        let this = Self { cgroup, keeper: Keeper::Ours(child), apart: *apart != Apart::Nothing };
        if line.trim() != "ready" {
            bail!("the keeper of {} could not be set up (see above)", this.cgroup.display());
        }
        Ok(this)
    }

    /// One that was detached from its maker.
    pub(crate) fn existing(name: &str, keeper: u32, apart: bool) -> Result<Self> {
        let cgroup = cgroup2()?.join(name);
        let of = fs::read_to_string(format!("/proc/{keeper}/cgroup"))
            .with_context(|| format!("the keeper (pid {keeper}) is gone"))?;
        if !of.lines().any(|line| line.strip_prefix("0::/").is_some_and(|path| path == name)) {
            bail!("pid {keeper} is not the keeper any more");
        }
        Ok(Self { cgroup, keeper: Keeper::Detached(keeper), apart })
    }

    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    pub(crate) fn keeper(&self) -> u32 {
        match &self.keeper {
            Keeper::Ours(child) => child.id(),
            Keeper::Detached(pid) => *pid,
        }
    }

    /// A command that runs inside; arguments are added by the caller.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ > "$0/cgroup.procs" && exec "$@""#]).arg(&self.cgroup);
        if self.apart {
            let namespace = |kind: &str, file: &str| format!("--{kind}=/proc/{}/ns/{file}", self.keeper());
            command.arg("nsenter").args([namespace("net", "net"), namespace("mount", "mnt")]).arg("--");
        }
        command.arg(program).process_group(0);
        command
    }

    /// Lets everything inside outlive this process.
    pub(crate) fn detach(mut self) -> Result<()> {
        if let Keeper::Ours(child) = &mut self.keeper {
            let mut stdin = child.stdin.take().context("the keeper has no standard input")?;
            stdin.write_all(b"stay\n").context("tell the keeper to stay")?;
            let pid = child.id();
            self.keeper = Keeper::Detached(pid);
        }
        Ok(())
    }
}

impl Drop for Enclosure {
    fn drop(&mut self) {
        if let Keeper::Ours(child) = &mut self.keeper {
            let ended = end(&self.cgroup);
            let _already_gone = child.kill();
            let _reaped = child.wait();
            if let Err(error) = ended.and_then(|()| remove_tree(&self.cgroup)) {
                eprintln!("warning: {error:#}");
            }
        }
    }
}

/// Kills everything in a cgroup and below, and waits until it is gone.
pub(crate) fn end(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    let patience = Instant::now() + END_LIMIT;
    loop {
        fs::write(cgroup.join("cgroup.kill"), "1")
            .with_context(|| format!("kill what runs in {}", cgroup.display()))?;
        let events = fs::read_to_string(cgroup.join("cgroup.events"))
            .with_context(|| format!("read the state of {}", cgroup.display()))?;
        if events.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        if Instant::now() > patience {
            bail!("processes in {} do not end: {}", cgroup.display(), pids_below(cgroup).join(", "));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Removes an empty cgroup with those below it.
pub(crate) fn remove_tree(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(cgroup).with_context(|| format!("list {}", cgroup.display()))? {
        let path = entry.context("list a cgroup")?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        }
    }
    // A process that is just ending keeps its cgroup busy for some milliseconds.
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        match fs::remove_dir(cgroup) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > patience => {
                return Err(error).with_context(|| format!("remove the cgroup {}", cgroup.display()));
            }
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Process ids in a cgroup and below.
pub(crate) fn pids_below(cgroup: &Path) -> Vec<String> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<String> = own.lines().map(str::to_owned).collect();
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            pids.extend(pids_below(&entry.path()));
        }
    }
    pids
}

/// Where cgroup v2 is mounted.
pub(crate) fn cgroup2() -> Result<PathBuf> {
    mounts("cgroup2")?.into_iter().next().context("no cgroup v2 is mounted: Hemostat needs it, too")
}

/// Mount points of a kind of file system, from /proc/mounts.
pub(crate) fn mounts(kind: &str) -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    Ok(mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let at = words.next()?;
            (words.next()? == kind).then(|| PathBuf::from(at))
        })
        .collect())
}

//! Undoes what the demo made when the demo itself is ended in the middle, whichever way: ^C, a kill, a closed terminal.
//!
//! A small process of its own waits on a pipe from us. When the pipe ends without the word `done`, it ends Hemostat as a service manager would,
//! lifts what is still in force through the node's own journal, and removes cgroups and folder.

use std::{
    io::Write,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

const SCRIPT: &str = r#"
hemostat=$1 scratch=$2 cgroup=$3
read -r word && [ "$word" = done ] && exit 0
trap '' INT TERM HUP
echo "
interrupted: everything that the demo contained is set free, and what it made is removed" >&2
for program in /proc/[0-9]*; do
  [ "$(readlink "$program/exe" 2>/dev/null)" = "$hemostat" ] || continue
  tr '\0' '\n' < "$program/cmdline" 2>/dev/null | grep -qxF "$scratch/state" || continue
  pid=${program#/proc/}
  kill -TERM "$pid" 2>/dev/null
  tries=0
  while [ -d "$program" ] && [ $tries -lt 150 ]; do sleep 0.1; tries=$((tries + 1)); done
  kill -KILL "$pid" 2>/dev/null
done
[ -d "$scratch/state/node" ] && "$hemostat" release --all --state "$scratch/state" >&2
if [ -d "$cgroup" ]; then
  echo 1 > "$cgroup/cgroup.kill"
  tries=0
  while grep -q 'populated 1' "$cgroup/cgroup.events" && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
  find "$cgroup" -depth -type d -exec rmdir {} \;
fi
rm -rf "$scratch"
"#;

/// Ends quietly with the value; acts when the whole process ends without that.
pub(crate) struct Cleaner(Child);

impl Cleaner {
    pub(crate) fn start(hemostat: &Path, scratch: &Path, cgroup: &Path) -> Result<Self> {
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(hemostat)
            .arg(scratch)
            .arg(cgroup)
            // ^C at the terminal is for us: it learns by our end
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()
            .context("start the cleaner")?;
        Ok(Self(child))
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            let _it_acts_then = stdin.write_all(b"done\n");
        }
        let _reaped = self.0.wait();
    }
}

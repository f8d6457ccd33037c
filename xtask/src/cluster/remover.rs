//! Takes a cluster down that was made for one bench, demo or proof when that is ended in the middle, whichever way: ^C, a kill, a closed terminal.
//! The parts end by themselves then; their cgroups, and whoever Hemostat froze in jails below them, would stay.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

use super::place::Place;

const SCRIPT: &str = r#"
trap '' INT TERM HUP
read -r word && [ "$word" = done ] && exit 0
echo "
interrupted: the cluster is taken down" >&2
told=$("$1" cluster down --made-by "$2" 2>&1) || echo "not everything was removed; \`cargo xtask cluster down\` tries again: $told" >&2
"#;

/// Ends quietly with the value; acts when the whole process ends without that.
pub(super) struct Remover(Child);

impl Remover {
    pub(super) fn start(place: Place) -> Result<Self> {
        let program = std::env::current_exe().context("find this program")?;
        // One that was built anew since stands where this one stood.
        let text = program.to_string_lossy();
        let program = text.strip_suffix(" (deleted)").unwrap_or(&text);
        let child = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(program)
            .arg(std::process::id().to_string())
            .env(place.chosen_by().0, place.chosen_by().1)
            // ^C at the terminal is for us: it learns by our end
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()
            .context("start what removes the cluster when this is interrupted")?;
        Ok(Self(child))
    }
}

impl Drop for Remover {
    fn drop(&mut self) {
        if let Some(mut stdin) = self.0.stdin.take() {
            let _it_acts_then = stdin.write_all(b"done\n");
        }
        let _reaped = self.0.wait();
    }
}

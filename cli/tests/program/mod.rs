//! Programs that tests put somewhere and run.

#![expect(unreachable_pub, reason = "shared by several test binaries")]

use std::{path::Path, process::Command};

/// Copies a program. By another process: whatever a test beside this forks meanwhile would keep a file open that was written here, and
/// the kernel runs none that somebody can write to (ETXTBSY).
pub fn copy(from: impl AsRef<Path>, to: &Path) {
    let copied = Command::new("cp").arg(from.as_ref()).arg(to).status().unwrap();
    assert!(copied.success(), "cp {} {}", from.as_ref().display(), to.display());
}

//! The shared libraries of a program, and its loader, as the loader itself names them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// Path in the image → file here. Empty for a static program.
pub(super) fn of(program: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        if text.contains("not a dynamic executable")
            || String::from_utf8_lossy(&output.stderr).contains("not a dynamic")
        {
            return Ok(BTreeMap::new());
        }
        bail!("ldd {}: {}", program.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    parse(&text)
}

/// Lines of ldd: `name => path (address)`, or `path (address)` of the loader; the kernel's own page has no path.
fn parse(text: &str) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.contains("statically linked") {
            continue;
        }
        let path = match line.split_once(" => ") {
            Some((name, rest)) => {
                if rest.starts_with("not found") {
                    bail!("the library {name} is missing on this machine");
                }
                rest
            }
            None => line,
        };
        let path = path.split(" (").next().unwrap_or_default().trim();
        if path.starts_with('/') {
            found.insert(path.to_owned(), PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loader_names_is_taken_and_nothing_else() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<String> = parse(text).unwrap().into_keys().collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
        assert!(parse("\tlibx.so => not found\n").is_err());
        assert!(parse("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn this_test_is_linked_with_a_libc() {
        let found = of(&std::env::current_exe().unwrap()).unwrap();
        assert!(found.is_empty() || found.keys().any(|path| path.contains("libc.so")), "{found:?}");
    }
}

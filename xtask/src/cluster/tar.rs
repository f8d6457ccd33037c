//! Tar archives, as images and their layers are.

use std::io::Write;

use anyhow::{Context, Result, bail};

/// A tar archive in the ustar format (POSIX.1-2017, pax, "ustar Interchange Format"), with what a layer needs of it.
pub(crate) struct Tar<W: Write>(W);

impl<W: Write> Tar<W> {
    pub(crate) fn new(to: W) -> Self {
        Self(to)
    }

    pub(crate) fn file(&mut self, name: &str, mode: u32, body: &[u8]) -> Result<()> {
        self.entry(name, mode, b'0', "", body)
    }

    pub(crate) fn folder(&mut self, name: &str, mode: u32) -> Result<()> {
        self.entry(&format!("{name}/"), mode, b'5', "", &[])
    }

    pub(crate) fn link(&mut self, name: &str, to: &str) -> Result<()> {
        self.entry(name, 0o777, b'2', to, &[])
    }

    fn entry(&mut self, name: &str, mode: u32, kind: u8, link: &str, body: &[u8]) -> Result<()> {
        let (prefix, name) = split(name)?;
        if link.len() > 100 {
            bail!("the link's goal {link} is too long for an archive");
        }
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", body.len()).as_bytes());
        put(136, b"00000000000\0");
        // The checksum counts its own field as blanks.
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        put(345, prefix.as_bytes());
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let padding = vec![0_u8; body.len().next_multiple_of(512) - body.len()];
        for part in [&header[..], body, &padding] {
            self.0.write_all(part).context("write an archive")?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<W> {
        self.0.write_all(&[0; 1024]).and_then(|()| self.0.flush()).context("write the end of an archive")?;
        Ok(self.0)
    }
}

/// A long name is kept in two fields, parted at a slash.
fn split(name: &str) -> Result<(&str, &str)> {
    if name.len() <= 100 {
        return Ok(("", name));
    }
    let parted = name.char_indices().filter(|(_, letter)| *letter == '/').map(|(at, _)| name.split_at(at));
    parted
        .map(|(prefix, rest)| (prefix, &rest[1..]))
        .find(|(prefix, rest)| prefix.len() <= 155 && rest.len() <= 100 && !rest.is_empty())
        .with_context(|| format!("the name {name} is too long for an archive"))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn tar_itself_reads_what_is_written() {
        let mut tar = Tar::new(Vec::new());
        tar.folder("bin", 0o755).unwrap();
        tar.file("bin/program", 0o755, &[7; 700]).unwrap();
        tar.link("bin/sh", "program").unwrap();
        let long = format!("{}/file", "folder/".repeat(18).trim_end_matches('/'));
        tar.file(&long, 0o644, b"x").unwrap();
        let bytes = tar.finish().unwrap();
        let mut child = Command::new("tar")
            .args(["--list", "--verbose", "--file", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success());
        assert!(listed.contains("-rwxr-xr-x 0/0") && listed.contains(" 700 "), "{listed}");
        assert!(listed.contains("bin/sh -> program") && listed.contains(&long), "{listed}");
    }
}

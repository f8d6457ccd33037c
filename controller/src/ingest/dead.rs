//! Dead letters: records that were refused, with the place and the reason, for whoever mends the source.

use std::{
    fs::{File, OpenOptions, rename},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use model::Timestamp;
use serde_json::json;

use super::read::Rejected;

/// Bytes of one file; the one before is kept, older ones are not (I11).
const MAX_FILE: u64 = 8 << 20;

/// Bytes of a record that are kept.
const MAX_KEPT: usize = 2048;

/// The file, mode 0600: refused records may hold anything.
#[derive(Debug)]
pub(super) struct DeadLetters {
    path: PathBuf,
    file: Option<(File, u64)>,
}

impl DeadLetters {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line: when, where in the log, where in the record, why, and its beginning.
    pub(super) fn write(
        &mut self,
        at: Timestamp,
        file: &str,
        offset: u64,
        why: &Rejected,
        record: &[u8],
    ) -> io::Result<()> {
        let kept = String::from_utf8_lossy(&record[..record.len().min(MAX_KEPT)]);
        let letter = json!({
            "at": at.to_string(), "file": file, "offset": offset, "place": why.place, "reason": why.reason,
            "bytes": record.len(), "record": kept,
        });
        self.append(&letter)
    }

    /// Appends a line that tells of records that were never seen.
    pub(super) fn gap(&mut self, at: Timestamp, file: &str, what: &str) -> io::Result<()> {
        self.append(&json!({ "at": at.to_string(), "file": file, "gap": what }))
    }

    fn append(&mut self, letter: &serde_json::Value) -> io::Result<()> {
        let line = plain(&letter.to_string()) + "\n";
        let (file, size) = match &mut self.file {
            Some((_, size)) if *size >= MAX_FILE => {
                rename(&self.path, self.path.with_extension("jsonl.1"))?;
                self.open()?
            }
            Some(open) => (&mut open.0, &mut open.1),
            None => self.open()?,
        };
        file.write_all(line.as_bytes())?;
        *size += line.len() as u64;
        Ok(())
    }

    fn open(&mut self) -> io::Result<(&mut File, &mut u64)> {
        self.file = None;
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let size = file.metadata()?.len();
        let open = self.file.insert((file, size));
        Ok((&mut open.0, &mut open.1))
    }
}

/// A JSON text with nothing in it that a terminal obeys when the file is shown: JSON itself only forbids what is below a space.
fn plain(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 1);
    for one in json.chars() {
        match u32::from(one) {
            number @ (0x7f..=0x9f | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f) => {
                out.push_str(&format!("\\u{number:04x}"));
            }
            _ => out.push(one),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_cannot_speak_to_the_terminal_and_says_the_same() {
        let said = "\u{1b}[2J\u{7f}\u{9b}31m\u{202e}ö";
        let line = plain(&json!({ "record": said }).to_string());
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["record"], said);
    }

    #[test]
    fn i11_letters_are_bounded_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.dead.jsonl");
        let mut letters = DeadLetters::new(path.clone());
        let why = Rejected { place: "line".into(), reason: "no time".into() };
        for n in 0..9000 {
            letters.write(Timestamp(0), "f", n, &why, &[b'\xff'; 5000]).unwrap();
        }
        let total: u64 =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(total < 3 * MAX_FILE, "{total}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).unwrap();
        let letter: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!((letter["reason"].as_str(), letter["bytes"].as_u64()), (Some("no time"), Some(5000)));
    }
}

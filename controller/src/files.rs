//! Which files a folder of playbooks or rules holds.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use detect::{
    keep::{self, Unread},
    source::SourceFile,
};

/// Files read in all (I11); more are named as not read.
const MAX_FILES: usize = 4096;

/// Bytes of one file (I11): what the front ends of rules and playbooks take.
const MAX_BYTES: u64 = if detect::limits::FILE_BYTES > crds::source::MAX_FILE {
    detect::limits::FILE_BYTES as u64
} else {
    crds::source::MAX_FILE as u64
};

/// How deep folders are followed.
const MAX_DEPTH: usize = 8;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Sorted within each source.
    pub(crate) files: Vec<PathBuf>,
    /// What could not be looked at, or not wholly.
    pub(crate) problems: Vec<Unread>,
}

/// All `*.yaml` and `*.yml` in `sources`, which are files or folders; tests, which stand beside what they test, left out.
pub(crate) fn yaml_below(sources: &[PathBuf]) -> Found {
    let mut all = Found::default();
    for source in sources {
        let mut found = Vec::new();
        collect(source, 0, &mut found, &mut all.problems);
        found.sort();
        all.files.append(&mut found);
        if all.files.len() > MAX_FILES {
            let reason = format!("too many files: only the first {MAX_FILES} are read");
            all.problems.push(Unread { name: source.display().to_string(), reason });
            all.files.truncate(MAX_FILES);
        }
    }
    all
}

/// All rule files in `sources`, which are files or folders, read.
#[must_use]
pub fn rules_below(sources: &[PathBuf]) -> keep::Found {
    let found = yaml_below(sources);
    let names = sources.iter().map(|source| source.display().to_string()).collect();
    let mut all = keep::Found { sources: names, files: Vec::new(), unread: found.problems };
    for file in &found.files {
        let name = file.display().to_string();
        match read_file(file) {
            // A file that is not UTF-8 is still looked at: the front end says where it is broken.
            Ok(bytes) => {
                all.files.push(SourceFile { name, text: String::from_utf8_lossy(&bytes).into_owned() });
            }
            Err(error) => all.unread.push(unread(file, &error)),
        }
    }
    all
}

fn unread(path: &Path, error: &io::Error) -> Unread {
    Unread { name: path.display().to_string(), reason: format!("cannot be read: {error}") }
}

/// Reads a file of rules or playbooks: a regular one that is no longer than the front ends take. A named pipe, of which nothing may ever
/// come, and a device are refused without being read.
///
/// # Errors
/// Those of the system; [`io::ErrorKind::InvalidInput`] for what is no regular file, [`io::ErrorKind::FileTooLarge`] for one that is longer.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let no_file = || io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
    // Opening a device may do something already; the second look is at what was opened.
    if !fs::metadata(path)?.is_file() {
        return Err(no_file());
    }
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(no_file());
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("it is longer than {MAX_BYTES} bytes, which is all that is read of one file");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// What cannot be looked at is named; the rest is found all the same.
fn collect(source: &Path, depth: usize, found: &mut Vec<PathBuf>, problems: &mut Vec<Unread>) {
    let entries = match fs::metadata(source)
        .and_then(|facts| facts.is_dir().then(|| fs::read_dir(source)).transpose())
    {
        Ok(Some(entries)) => entries,
        Ok(None) => return found.push(source.into()),
        Err(error) => return problems.push(unread(source, &error)),
    };
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                problems.push(unread(source, &error));
                continue;
            }
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let yaml = name.ends_with(".yaml") || name.ends_with(".yml");
        let test =
            name.ends_with(".test.yaml") || name.ends_with(".test.yml") || name.ends_with("_test.yaml");
        if path.is_dir() && depth < MAX_DEPTH {
            collect(&path, depth + 1, found, problems);
        } else if yaml && !test && found.len() <= MAX_FILES {
            found.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_only_regular_files_of_bounded_length_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe.yml");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        for path in [pipe.as_path(), Path::new("/dev/zero"), dir.path()] {
            let error = read_file(path).unwrap_err();
            assert!(error.to_string().contains("no regular file"), "{}: {error}", path.display());
        }
        let file = dir.path().join("long.yml");
        fs::File::create(&file).unwrap().set_len(MAX_BYTES).unwrap();
        assert_eq!(read_file(&file).unwrap().len() as u64, MAX_BYTES);
        fs::File::create(&file).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read_file(&file).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn i11_files_and_folders_are_bounded_and_what_is_not_read_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..=MAX_FILES {
            fs::write(dir.path().join(format!("{n:05}.yml")), "").unwrap();
        }
        fs::write(dir.path().join("00000.test.yml"), "").unwrap();
        let found = yaml_below(&[dir.path().into()]);
        assert_eq!(found.files.len(), MAX_FILES);
        assert!(found.problems[0].reason.contains("only the first 4096"), "{:?}", found.problems);
        let mut deep = tempfile::tempdir().unwrap().keep();
        let top = deep.clone();
        for _ in 0..MAX_DEPTH + 3 {
            deep = deep.join("d");
            fs::create_dir(&deep).unwrap();
            fs::write(deep.join("p.yaml"), "").unwrap();
        }
        // A link to itself is not followed without end either.
        std::os::unix::fs::symlink(&top, top.join("loop")).unwrap();
        let found = yaml_below(std::slice::from_ref(&top));
        assert!(found.files.len() <= MAX_FILES && found.files.contains(&top.join("d/p.yaml")));
        fs::remove_dir_all(top).unwrap();
        let missing = yaml_below(&["/nonexistent/rules".into()]);
        assert_eq!(missing.problems[0].name, "/nonexistent/rules");
        assert!(missing.problems[0].reason.starts_with("cannot be read:"), "{:?}", missing.problems);
    }
}

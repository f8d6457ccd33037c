//! Whether the journal at hand is the one with which the last leader worked. Where replicas share a volume it is. Where each has its own,
//! another may have led since with another journal: what ours says of runs and actions is over then, and it is set aside, so that nothing is
//! done by it again; what is in force is taken over from the API server ([`super::orphans`]).

use std::{
    fs, io,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

use crate::{ControllerConfig, StartError};

/// The file beside the journal that names it.
const NAME: &str = "journal.id";
/// The file beside it that names the journal into which was heard again what nodes had reported.
const HEARD: &str = "journal.heard";
/// The folder for journals that were led past.
const ASIDE: &str = "superseded";

/// The journal's name, once it is clear that it may be worked with. `before` names that of the last leader, where it said.
pub(crate) fn take_up(config: &ControllerConfig, before: Option<&str>) -> Result<String, StartError> {
    let state = config.journal.parent().unwrap_or(Path::new(".")).to_owned();
    let failed = |source| StartError::Folder { path: state.clone(), source };
    let ours = name_of(&state).map_err(failed)?.filter(|_| config.journal.exists());
    match (ours, before) {
        // Nobody said with which journal they worked, or it was this one.
        (Some(ours), None) => Ok(ours),
        (Some(ours), Some(before)) if ours == before => Ok(ours),
        (Some(ours), Some(before)) => {
            let aside = set_aside(config, &state, &ours).map_err(failed)?;
            tracing::warn!(ours, before, aside = %aside.display(),
                "another controller led since with a journal of its own: this one is set aside, and what is in force is taken over from the API server");
            name(&state).map_err(failed)
        }
        // New, or of a version that gave no names: it is the one that there is.
        (None, _) => name(&state).map_err(failed),
    }
}

/// Whether what nodes had reported to earlier leaders is in this journal.
pub(crate) fn has_heard(state: &Path, journal: &str) -> bool {
    fs::read_to_string(state.join(HEARD)).is_ok_and(|text| text.trim() == journal)
}

/// It is. What cannot be noted is heard again at the next start, and known then.
pub(crate) fn note_heard(state: &Path, journal: &str) {
    if let Err(error) = fs::write(state.join(HEARD), format!("{journal}\n")) {
        tracing::warn!(%error, "that nodes' reports were heard again cannot be noted");
    }
}

fn name_of(state: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(state.join(NAME)) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives it a name that no other journal has.
fn name(state: &Path) -> io::Result<String> {
    fs::create_dir_all(state)?;
    let mut bytes = [0; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let name = hex::encode(bytes);
    let beside = state.join("journal.id.new");
    let mut file = fs::File::create(&beside)?;
    writeln!(file, "{name}")?;
    file.sync_all()?;
    fs::rename(&beside, state.join(NAME))?;
    fs::File::open(state)?.sync_all()?;
    Ok(name)
}

/// Journal, audit log and anchor, which belong together; the log stays what it was, and can still be verified.
fn set_aside(config: &ControllerConfig, state: &Path, ours: &str) -> io::Result<PathBuf> {
    let aside = state.join(ASIDE).join(ours);
    fs::create_dir_all(&aside)?;
    // The journal last: while it is there, a crash leads here again.
    let audit = config.audit_log.parent().unwrap_or(state);
    for part in [audit, config.audit_anchor.as_path(), config.journal.as_path()] {
        let Some(name) = part.file_name() else { continue };
        match fs::rename(part, aside.join(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for folder in [aside.as_path(), state] {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_another_led_past_is_set_aside_and_any_other_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap();
        let config = ControllerConfig::in_folders(folder.path(), folder.path());
        let first = take_up(&config, None).unwrap();
        // Before it has a journal it may take any name; then it keeps it.
        fs::create_dir_all(folder.path().join("audit")).unwrap();
        for file in [&config.journal, &config.audit_log, &config.audit_anchor] {
            fs::write(file, "ours").unwrap();
        }
        assert_eq!(take_up(&config, None).unwrap(), first, "nobody led before, or did not say");
        assert_eq!(take_up(&config, Some(&first)).unwrap(), first, "it was this one");
        let second = take_up(&config, Some("another")).unwrap();
        assert_ne!(second, first);
        assert!(!config.journal.exists() && !config.audit_log.exists());
        let aside = folder.path().join(ASIDE).join(&first);
        assert_eq!(fs::read_to_string(aside.join("journal.redb")).unwrap(), "ours");
        assert_eq!(fs::read_to_string(aside.join("audit/audit.jsonl")).unwrap(), "ours");
        // The key of the audit log stays: it is the controller's, not the journal's.
        fs::write(&config.journal, "new").unwrap();
        assert_eq!(take_up(&config, Some(&second)).unwrap(), second);
    }
}

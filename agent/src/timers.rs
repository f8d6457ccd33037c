//! What systemd starts by timers on this host: what such a unit does is planned work, as what cron starts is.
//!
//! Read from systemd's own folders, as they stand in the root of the host's init (a node's agent has another root). Timers that are enabled
//! count, and those made by `systemd-run --on-calendar`; drop-ins that name another unit, and users' own timers, are not looked at.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use model::NodeStatus;

/// The root of the host's init.
pub(crate) const ROOT: &str = "/proc/1/root";

/// Where units stand (systemd.unit(5)), the first that has one first.
const FOLDERS: [&str; 9] = [
    "etc/systemd/system.control",
    "run/systemd/system.control",
    TRANSIENT,
    "etc/systemd/system",
    "run/systemd/system",
    "run/systemd/generator",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// Those that are not enabled and run all the same.
const TRANSIENT: &str = "run/systemd/transient";
/// systemd runs if it is there (sd_booted(3)).
const BOOTED: &str = "run/systemd/system";

/// Entries of one folder that are looked at, and bytes of one unit (I11).
const MAX_ENTRIES: usize = 4096;
const MAX_UNIT: u64 = 64 << 10;

/// Units that timers start, sorted. None where systemd does not run, or the root is not to be read.
pub(crate) fn units(root: &Path) -> Vec<String> {
    if !root.join(BOOTED).is_dir() {
        return Vec::new();
    }
    let mut timers = entries(&root.join(TRANSIENT));
    timers.retain(|name| name.ends_with(".timer"));
    for folder in FOLDERS {
        let wants = entries(&root.join(folder));
        for wants in wants.iter().filter(|name| name.ends_with(".wants") || name.ends_with(".requires")) {
            timers.extend(
                entries(&root.join(folder).join(wants)).into_iter().filter(|name| name.ends_with(".timer")),
            );
        }
    }
    let units: BTreeSet<String> = timers.iter().filter_map(|timer| started_by(root, timer)).collect();
    units.into_iter().take(NodeStatus::MAX_TIMED).collect()
}

fn entries(folder: &Path) -> BTreeSet<String> {
    let all = fs::read_dir(folder).into_iter().flatten().take(MAX_ENTRIES);
    all.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// The unit that a timer starts; none where the timer is masked or not there.
fn started_by(root: &Path, timer: &str) -> Option<String> {
    let stem = timer.strip_suffix(".timer")?;
    let (prefix, instance) = stem.split_once('@').map_or((stem, None), |(prefix, one)| (prefix, Some(one)));
    let template = instance.map(|_| format!("{prefix}@.timer"));
    let text = std::iter::once(timer).chain(template.as_deref()).find_map(|name| {
        FOLDERS.iter().map(|folder| root.join(folder).join(name)).find_map(|path| definition(root, &path))
    })?;
    let named = text?.lines().map(str::trim).fold((false, None), |(is_ours, named), line| {
        match line.strip_prefix("Unit=") {
            Some(unit) if is_ours => (is_ours, Some(unit.trim().to_owned())),
            _ if line.starts_with('[') => (line == "[Timer]", named),
            _ => (is_ours, named),
        }
    });
    let unit = named.1.filter(|unit| !unit.is_empty()).unwrap_or_else(|| format!("{stem}.service"));
    let instance = instance.unwrap_or_default();
    Some(unit.replace("%i", instance).replace("%I", instance).replace("%p", prefix).replace("%P", prefix))
}

/// What a unit's file says: nothing where there is none, an empty word where it is masked.
fn definition(root: &Path, path: &Path) -> Option<Option<String>> {
    // A link that leads from the host's root would be followed from ours.
    let path = match fs::read_link(path) {
        Ok(target) if target == Path::new("/dev/null") => return Some(None),
        Ok(target) if target.is_absolute() => within(root, &target),
        _ => path.to_owned(),
    };
    if !fs::metadata(&path).is_ok_and(|facts| facts.is_file()) {
        return None;
    }
    let mut text = String::new();
    File::open(&path).ok()?.take(MAX_UNIT).read_to_string(&mut text).ok()?;
    // An empty file masks, too.
    Some(Some(text).filter(|text| !text.is_empty()))
}

fn within(root: &Path, target: &Path) -> PathBuf {
    root.join(target.strip_prefix(OsStr::new("/")).unwrap_or(target))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(host.at("run/systemd/system")).unwrap();
            host
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            fs::write(self.at(path), text).unwrap();
        }

        /// As `systemctl enable` does it.
        fn enable(&self, name: &str, to: &str) {
            let wants = self.at("etc/systemd/system/timers.target.wants");
            fs::create_dir_all(&wants).unwrap();
            symlink(to, wants.join(name)).unwrap();
        }

        fn units(&self) -> Vec<String> {
            units(self.0.path())
        }
    }

    const DAILY: &str =
        "[Unit]\nDescription=x\n\n[Timer]\nOnCalendar=daily\n\n[Install]\nWantedBy=timers.target\n";

    #[test]
    fn what_enabled_and_transient_timers_start_is_told() {
        let host = Host::new();
        host.write("usr/lib/systemd/system/apt-daily.timer", DAILY);
        host.write("usr/lib/systemd/system/idle.timer", DAILY);
        host.enable("apt-daily.timer", "/usr/lib/systemd/system/apt-daily.timer");
        host.write(
            "etc/systemd/system/nightly.timer",
            "[Timer]\nUnit=backup.service\nOnCalendar=daily\n[Install]\nUnit=no.service\n",
        );
        host.enable("nightly.timer", "/etc/systemd/system/nightly.timer");
        host.write(
            "lib/systemd/system/pg_dump@.timer",
            "[Timer]\nUnit=%p-all@%i.service\nOnCalendar=daily\n",
        );
        host.enable("pg_dump@main.timer", "/lib/systemd/system/pg_dump@.timer");
        host.write("run/systemd/transient/run-u7.timer", DAILY);
        assert_eq!(
            host.units(),
            ["apt-daily.service", "backup.service", "pg_dump-all@main.service", "run-u7.service"]
        );
    }

    #[test]
    fn masked_timers_and_what_is_no_file_are_left_out_and_without_systemd_there_is_none() {
        let host = Host::new();
        for name in ["a", "b", "c"] {
            host.write(&format!("usr/lib/systemd/system/{name}.timer"), DAILY);
            host.enable(&format!("{name}.timer"), "/usr/lib/systemd/system/x.timer");
        }
        fs::create_dir_all(host.at("etc/systemd/system/d.timer")).unwrap();
        host.enable("d.timer", "/etc/systemd/system/d.timer");
        symlink("/dev/null", host.at("etc/systemd/system/a.timer")).unwrap();
        host.write("etc/systemd/system/b.timer", "");
        assert_eq!(host.units(), ["c.service"]);
        fs::remove_dir_all(host.at("run/systemd/system")).unwrap();
        assert_eq!(host.units(), Vec::<String>::new());
    }

    #[test]
    fn a_link_of_the_host_is_followed_in_the_hosts_root() {
        let host = Host::new();
        host.write("opt/x/real.timer", "[Timer]\nUnit=real-one.service\n");
        fs::create_dir_all(host.at("etc/systemd/system")).unwrap();
        symlink("/opt/x/real.timer", host.at("etc/systemd/system/linked.timer")).unwrap();
        host.enable("linked.timer", "/etc/systemd/system/linked.timer");
        assert_eq!(host.units(), ["real-one.service"]);
    }

    #[test]
    fn i11_no_more_are_told_than_the_status_has_room_for() {
        let host = Host::new();
        for n in 0..NodeStatus::MAX_TIMED + 7 {
            host.write(&format!("run/systemd/transient/t{n}.timer"), DAILY);
        }
        assert_eq!(host.units().len(), NodeStatus::MAX_TIMED);
    }
}

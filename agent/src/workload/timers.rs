//! Which units of this host timers of systemd start: what such a unit does is planned work, as what cron starts is.
//!
//! Every timer that stands in a folder of the system's manager (systemd.unit(5)) and is not masked counts, enabled or not: one may be started by
//! hand, and the unit of one that never runs is asked about once too often. Users' own managers are not looked at, since anybody may give himself
//! a timer. Instances for which `Unit=` has a specifier are known where they are enabled.
//!
//! A thread of its own reads, since a folder may be of a file system that does not answer; whoever asks waits a moment.

mod read;

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use model::StartedBy;
use rustix::fs::{Mode, OFlags, open};

use read::Read;

/// The root of the host's init; a node's agent has another root.
pub(super) const HOST: &str = "/proc/1/root";

/// After so long it is read anew although no folder has changed: a file may have been written where it stands.
const AGAIN: Duration = Duration::from_secs(60);
/// How long an answer is waited for. It takes some milliseconds when everything is read.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long the first reading is waited for.
const BEGINNING: Duration = Duration::from_secs(2);
/// Questions that wait (I11).
const WAITING: usize = 1;

/// Asks the thread that reads.
#[derive(Debug)]
pub(super) struct Timers {
    ask: Option<SyncSender<Question>>,
    thread: Option<JoinHandle<()>>,
}

struct Question {
    unit: String,
    answer: SyncSender<StartedBy>,
}

impl Timers {
    /// Of the host whose root this is.
    pub(super) fn of(root: impl Into<PathBuf>) -> Self {
        let (ask, questions) = sync_channel(WAITING);
        let mut reader = Reader { root: root.into(), read: None };
        let thread =
            thread::Builder::new().name("timers".into()).spawn(move || reader.answer(&questions)).ok();
        let this = Self { ask: thread.is_some().then_some(ask), thread };
        // All services that run already are asked about next, and what is told of their processes stays.
        let _read = this.ask("", BEGINNING);
        this
    }

    /// What starts the system's unit of this name. It is unknown where it could not be read in time, and may be known a moment later.
    pub(super) fn starts(&self, unit: &str) -> StartedBy {
        self.ask(unit, PATIENCE)
    }

    fn ask(&self, unit: &str, patience: Duration) -> StartedBy {
        let (answer, answered) = sync_channel(1);
        let question = Question { unit: unit.to_owned(), answer };
        let asked = self.ask.as_ref().is_some_and(|ask| ask.try_send(question).is_ok());
        let told = asked.then(|| answered.recv_timeout(patience).ok()).flatten();
        told.unwrap_or(StartedBy::Unknown)
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.ask = None;
        let Some(thread) = self.thread.take() else { return };
        let begun = Instant::now();
        while !thread.is_finished() {
            if begun.elapsed() > PATIENCE {
                // It waits for a file system and is left to it: it holds nothing, and ends when that answers.
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        let _ended = thread.join();
    }
}

struct Reader {
    root: PathBuf,
    read: Option<Read>,
}

impl Reader {
    fn answer(&mut self, questions: &Receiver<Question>) {
        let mut told = false;
        while let Ok(question) = questions.recv() {
            let answer = self.starts(&question.unit).unwrap_or_else(|error| {
                if !std::mem::replace(&mut told, true) {
                    let root = self.root.display();
                    tracing::warn!("which units timers of systemd start cannot be read below {root}: {error}; what is found in a service is asked about");
                }
                StartedBy::Unknown
            });
            // Who has waited too long has gone.
            let _gone = question.answer.try_send(answer);
        }
    }

    fn starts(&mut self, unit: &str) -> std::io::Result<StartedBy> {
        let root: OwnedFd =
            open(&self.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let read = match self.read.take().filter(|read| read.at.elapsed() < AGAIN && read.holds(&root)) {
            Some(read) => read,
            None => Read::all(&root)?,
        };
        let told = read.timed.starts(unit);
        self.read = Some(read);
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use rustix::fs::FileType;

    use super::{
        read::{BOOTED, MAX_FILE, MAX_TIMERS},
        *,
    };

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(host.at(BOOTED)).unwrap();
            host
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            fs::write(self.at(path), text).unwrap();
        }

        fn timers(&self) -> Timers {
            Timers::of(self.0.path())
        }
    }

    fn by(timer: &str) -> StartedBy {
        StartedBy::Timer { timer: timer.into() }
    }

    const DAILY: &str =
        "[Unit]\nDescription=x\n\n[Timer]\nOnCalendar=daily\n\n[Install]\nWantedBy=timers.target\n";

    #[test]
    fn what_timers_start_is_known_however_they_name_it() {
        let host = Host::new();
        host.write("usr/lib/systemd/system/apt-daily.timer", DAILY);
        host.write(
            "etc/systemd/system/nightly.timer",
            "[Timer]\nUnit = backup.service\nOnCalendar=daily\n[Install]\nUnit=no.service\n",
        );
        host.write("etc/systemd/system/apt-daily.timer.d/own.conf", "[Timer]\nUnit=updates.service\n");
        host.write("lib/systemd/system/dump@.timer", DAILY);
        host.write("lib/systemd/system/run@.timer", "[Timer]\nUnit=%i.service\n");
        fs::create_dir_all(host.at("etc/systemd/system/timers.target.wants")).unwrap();
        symlink(
            "/lib/systemd/system/run@.timer",
            host.at("etc/systemd/system/timers.target.wants/run@tidy.timer"),
        )
        .unwrap();
        host.write("run/systemd/transient/run-u7.timer", DAILY);
        host.write("etc/systemd/system/dump-all.timer", "[Timer]\nUnit=dumps.target\n");
        host.write("etc/systemd/system/dumps.target.wants/dump-mail.service", "");
        host.write("usr/lib/systemd/system/mariadb-tidy.service", "");
        symlink(
            "/usr/lib/systemd/system/mariadb-tidy.service",
            host.at("etc/systemd/system/tidy-db.service"),
        )
        .unwrap();
        host.write("etc/systemd/system/tidy-db.timer", DAILY);
        let timers = host.timers();
        for (unit, timer) in [
            ("updates.service", "apt-daily.timer"),
            ("backup.service", "nightly.timer"),
            ("dump-mail.service", "dump-all.timer"),
            ("mariadb-tidy.service", "tidy-db.timer"),
            ("dump@main.service", "dump@.timer"),
            ("tidy.service", "run@tidy.timer"),
            ("run-u7.service", "run-u7.timer"),
        ] {
            assert_eq!(timers.starts(unit), by(timer), "{unit}");
        }
        for unit in [
            "no.service",
            "ssh.service",
            "dump@.service",
            "main.service",
            "",
            "nightly.service",
            "apt-daily.service",
        ] {
            assert_eq!(timers.starts(unit), StartedBy::Other, "{unit}");
        }
    }

    #[test]
    fn a_timer_that_comes_later_is_known_at_once_and_one_that_went_is_not() {
        let host = Host::new();
        let timers = host.timers();
        assert_eq!(timers.starts("late.service"), StartedBy::Other);
        host.write("run/systemd/transient/late.timer", DAILY);
        assert_eq!(timers.starts("late.service"), by("late.timer"));
        fs::remove_dir_all(host.at("run/systemd/transient")).unwrap();
        assert_eq!(timers.starts("late.service"), StartedBy::Other);
    }

    #[test]
    fn a_link_is_followed_in_the_hosts_root_and_nobody_is_waited_for() {
        let host = Host::new();
        host.write("opt/x/real.timer", "[Timer]\nUnit=real-one.service\n");
        fs::create_dir_all(host.at("etc/systemd/system")).unwrap();
        symlink("/opt/x/real.timer", host.at("etc/systemd/system/linked.timer")).unwrap();
        symlink("/dev/null", host.at("etc/systemd/system/masked.timer")).unwrap();
        symlink("loop.timer", host.at("etc/systemd/system/loop.timer")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            host.at("etc/systemd/system/pipe.timer"),
            FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let timers = host.timers();
        assert_eq!(timers.starts("real-one.service"), by("linked.timer"));
        for unit in ["pipe.service", "masked.service", "loop.service", "linked.service"] {
            assert_eq!(timers.starts(unit), StartedBy::Other, "{unit}");
        }
    }

    #[test]
    fn what_stands_in_the_folder_that_wins_holds() {
        let host = Host::new();
        host.write("usr/lib/systemd/system/web.timer", DAILY);
        host.write("etc/systemd/system/web.timer", "[Timer]\nUnit=web-reload.service\n");
        host.write("usr/lib/systemd/system/off.timer", DAILY);
        fs::create_dir_all(host.at("etc/systemd/system")).unwrap();
        symlink("/dev/null", host.at("etc/systemd/system/off.timer")).unwrap();
        host.write("etc/systemd/system/gone.timer.d/part.conf", "[Timer]\nUnit=left.service\n");
        let timers = host.timers();
        assert_eq!(timers.starts("web-reload.service"), by("web.timer"));
        for unit in ["web.service", "off.service", "gone.service", "left.service"] {
            assert_eq!(timers.starts(unit), StartedBy::Other, "{unit}");
        }
    }

    #[test]
    fn i9_what_cannot_be_read_is_not_taken_for_no_timer() {
        assert_eq!(Timers::of("/nonexistent").starts("x.service"), StartedBy::Unknown);
        let host = Host::new();
        host.write("etc/systemd/system/big.timer", &"#".repeat(MAX_FILE as usize + 1));
        assert_eq!(host.timers().starts("big.service"), StartedBy::Unknown);
        assert_eq!(host.timers().starts("x.service"), StartedBy::Other);
        let host = Host::new();
        for n in 0..=MAX_TIMERS {
            host.write(&format!("run/systemd/transient/t{n}.timer"), "");
        }
        assert_eq!(host.timers().starts("x.service"), StartedBy::Unknown);
        // Without systemd a name says nothing.
        let host = Host::new();
        host.write("etc/systemd/system/a.timer", DAILY);
        fs::remove_dir_all(host.at("run")).unwrap();
        assert_eq!(host.timers().starts("a.service"), StartedBy::Other);
    }
}

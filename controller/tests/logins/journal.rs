//! A real journald, and a real sudo that logs into it: what `journalctl -o json` gives, read as the source `journal` reads it. Everything
//! runs in mount, pid and network namespaces of its own, with a /run and a /dev of its own: the machine's own journal, console and audit
//! are not touched.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use super::word;
use hemostat_controller::{
    ingest::{
        Format,
        read::{Place, Reader, Told, Zone},
    },
    wall_clock,
};

/// Starts journald, has somebody log, waits until the last word is in the journal, and gives the journal.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs none /run
mkdir -p /run/dev /run/systemd/journald.conf.d
mount -t tmpfs none /run/dev
for each in null zero full random urandom; do touch /run/dev/$each; mount --bind /dev/$each /run/dev/$each; done
ln -s /run/systemd/journal/dev-log /run/dev/log
ln -s /proc/self/fd /run/dev/fd
mount --rbind /run/dev /dev
# Neither the kernel's audit nor its log.
printf '[Journal]\nStorage=volatile\nAudit=\nReadKMsg=no\nForwardToWall=no\n' >/run/systemd/journald.conf.d/test.conf
"$JOURNALD" 2>/dev/null &
waits() { tries=0; until "$@"; do tries=$((tries + 1)); [ $tries -lt 200 ] || exit 90; sleep 0.1; done; }
waits test -S /run/systemd/journal/dev-log
# stays USER TAG TEXT: says TEXT as TAG, and lives until it is in the journal: journald looks at who said it only then.
kept() { journalctl -q -o cat -t "$1" 2>/dev/null | grep -q "^stays: "; }
stays() {
    mkfifo -m 666 /run/stays
    setpriv --reuid "$1" --regid "$1" --clear-groups systemd-cat -t "$2" sh -c 'echo "$0"; echo "stays: $0"; read -r _ </run/stays' "$3" &
    waits kept "$2"
    echo >/run/stays
    wait $!
    rm /run/stays
}
eval "$LOGS"
logger -t the-end -- the-end
ended() { journalctl -q -o cat -t the-end 2>/dev/null | grep -q the-end; }
waits ended
journalctl -q -o json
"#;

/// The journal of what `logs`, a shell script, has written; `None`, said aloud, where there is no journald to be had.
pub(super) fn journal(what: &str, logs: &str) -> Option<Vec<u8>> {
    let skip = |why: &str| println!("SKIPPED: {what}: {why}");
    let folders = ["/lib/systemd/systemd-journald", "/usr/lib/systemd/systemd-journald"];
    let Some(journald) = folders.into_iter().find(|path| Path::new(path).exists()) else {
        skip("there is no systemd-journald here");
        return None;
    };
    if !rustix::process::geteuid().is_root() {
        skip("namespaces need root");
        return None;
    }
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["sh", "-c", SCRIPT])
        .env("JOURNALD", journald)
        .env("LOGS", logs)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Some(output.stdout),
        Ok(output) => {
            // Those above are the test's own.
            let failed = output.status.code().is_some_and(|code| code > 90);
            assert!(!failed, "{what}: {}", String::from_utf8_lossy(&output.stderr));
            skip(&format!("journald does not run here: {}", String::from_utf8_lossy(&output.stderr).trim()));
            None
        }
        Err(error) => {
            skip(&format!("unshare (util-linux): {error}"));
            None
        }
    }
}

pub(super) fn read(journal: &[u8]) -> Vec<Told> {
    let (mut reader, mut told) = (Reader::new(Format::Journal, Zone::UTC), vec![]);
    for line in journal.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        reader.read(line, Place { offset: 0, now: (wall_clock())() }, &mut told).unwrap();
    }
    told
}

/// What was read, a line each.
fn page(told: &[Told]) -> String {
    let facts = |one: &Told| {
        one.record.facts.iter().map(|(name, fact)| format!("{name}={fact:?} ")).collect::<String>()
    };
    told.iter().map(|one| format!("{:?} {}\n", one.record.kind, facts(one))).collect()
}

#[test]
fn what_a_real_journald_gives_is_read_and_a_name_that_the_sender_chose_is_not_believed() {
    let accepted = "Accepted password for root from 10.0.0.1 port 22 ssh2";
    // Nobody says it: through /dev/log, through the journal's own socket, with bytes that are no text, by processes that may have ended
    // before journald looks at them (then it cannot say who they were), and by one that has surely not.
    let logs = format!(
        "nobody() {{ setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"; }}\n\
         nobody logger -t sshd '{accepted}'; printf 'MESSAGE={accepted}\nSYSLOG_IDENTIFIER=sshd\n' | nobody logger --journald\n\
         printf 'Failed password for \\377 from 10.0.0.2 port 22 ssh2\n' | nobody logger -t sshd\n\
         for each in 1 2 3 4; do nobody systemd-cat -t sshd echo '{accepted}'; done\n\
         stays 65534 sshd '{accepted}'"
    );
    let Some(journal) = journal("journald", &logs) else { return };
    let told = read(&journal);
    let page = page(&told);
    assert_eq!(told.len(), 9, "eight logins that were none, and the word that the last one stays: {page}");
    for one in &told {
        assert_ne!(word(one, "AuthTrust"), "vouched", "it was no sshd: {page}");
    }
    let contradicted: Vec<&Told> =
        told.iter().filter(|one| word(one, "AuthTrust") == "contradicted").collect();
    assert!(contradicted.len() >= 2, "who stayed said two things: {page}");
    assert!(
        contradicted.iter().all(|one| word(one, "AuthOutcome").is_empty()),
        "nobody has logged in: {page}"
    );
    assert!(
        page.contains("written by /") && page.contains("of user id 65534"),
        "who said it is named: {page}"
    );
}

#[test]
fn what_a_real_sudo_logs_into_a_real_journald_is_read() {
    let Some(sudo) = ["/usr/bin/sudo", "/bin/sudo"].into_iter().find(|path| Path::new(path).exists()) else {
        println!("SKIPPED: there is no sudo here (apt-get install sudo)");
        return;
    };
    let logs = format!(
        "cd /tmp; {sudo} -n /usr/bin/id -u >/dev/null; {sudo} -n -u nobody /bin/echo 'a ; USER=root ; b' >/dev/null; \
         setpriv --reuid 65534 --regid 65534 --clear-groups sh -c 'echo wrong | {sudo} -S /usr/bin/id' 2>/dev/null || true; \
         stays 0 sudo 'mallory : TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/usr/bin/id'"
    );
    let Some(journal) = journal("sudo", &logs) else { return };
    let all = read(&journal);
    let page = page(&all);
    let of = |command: &str| {
        all.iter().filter(|one| word(one, "SudoCommand").starts_with(command)).collect::<Vec<_>>()
    };
    let ids = of("/usr/bin/id");
    let ours =
        ids.iter().find(|one| word(one, "AuthTrust") == "vouched" && word(one, "AuthOutcome") == "success");
    let ours = ours.unwrap_or_else(|| panic!("root's own: {page}"));
    assert_eq!(word(ours, "RunAsUser"), "root", "{page}");
    // What a command's words say is not taken for sudo's own.
    let echo = of("/bin/echo");
    assert_eq!(echo.len(), 1, "{page}");
    assert_eq!(word(echo[0], "RunAsUser"), "nobody", "{page}");
    let refused =
        all.iter().any(|one| word(one, "AuthOutcome") == "failure" && word(one, "AuthTrust") == "vouched");
    assert!(refused, "who may not is seen: {page}");
    let forged = all.iter().find(|one| word(one, "AuthTrust") == "contradicted");
    assert!(
        forged.is_some_and(|one| word(one, "AuthOutcome").is_empty()),
        "a forged line is told apart: {page}"
    );
}

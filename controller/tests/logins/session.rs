//! A real sshd that logs into a real journald: each login is joined with what its own session does, and with no other's. There is no network at all:
//! sshd speaks with the client over pipes, so neither the login nor what its session does has an address.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use detect::incident::{Correlator, GroupingConfig, keys_of};
use model::*;

use super::{
    journal::{journal, read},
    word,
};

/// Two sessions. Each tells the processes above it, as their kernel knows them, and stays until its login is in the journal.
const SESSIONS: &str = r#"
mkdir -m 0755 /run/sshd /run/bin
getent passwd sshd >/dev/null || {
    { cat /etc/passwd; echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin'; } >/run/passwd
    mount --bind /run/passwd /etc/passwd
}
cp "$SSHD" /run/bin/sshd
cat >/run/session <<'END'
of() { sed 's/^.*) //' "/proc/$1/stat" | cut -d' ' -f"$2"; }
pid=$$
while [ "$pid" -gt 1 ]; do
    echo "above $1 $pid $(of "$pid" 20) $(readlink "/proc/$pid/exe")"
    pid=$(of "$pid" 2)
done
tries=0
until [ "$(journalctl -q -o cat -t sshd | grep -c '^Accepted')" -ge "$1" ]; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || exit 91
    sleep 0.1
done
END
for each in 1 2; do
    ssh -F none -o BatchMode=yes -o StrictHostKeyChecking=no -o IdentitiesOnly=yes -o UserKnownHostsFile=/run/known -i "$KEYS/user" \
        -o ProxyCommand='/run/bin/sshd -i -f "$KEYS/config"' root@here sh /run/session $each </dev/null 2>/run/why || { cat /run/why >&2; exit 92; }
done
"#;

/// sshd and where its libraries are: the machine's own, or the one that the tests of a cluster have unpacked.
fn program() -> Option<(PathBuf, PathBuf)> {
    let own = ["/usr/sbin/sshd", "/usr/bin/sshd"].map(Path::new);
    if let Some(own) = own.into_iter().find(|path| path.exists()) {
        return Some((own.to_owned(), PathBuf::new()));
    }
    let cache = std::env::var_os("HEMOSTAT_CACHE")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/hemostat")))?;
    let unpacked = cache.join("sshd");
    let libraries = unpacked.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    Some((unpacked.join("usr/sbin/sshd"), libraries)).filter(|(program, _)| program.exists())
}

/// Keys and configuration; `None`, said aloud, where there is no ssh.
fn keys() -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    for name in ["host", "user"] {
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &file(name)]).status();
        if made.is_err() {
            println!("SKIPPED: there is no ssh here (apt-get install openssh-client)");
            return None;
        }
        assert!(made.unwrap().success());
    }
    let config = format!(
        "HostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nPermitRootLogin yes\n",
        file("host"),
        file("user.pub")
    );
    std::fs::write(file("config"), config).unwrap();
    Some(folder)
}

/// A process as its session told it: `above SESSION PID TICKS EXE`.
fn process(line: &str) -> Option<(u32, Arc<Process>)> {
    let mut words = line.strip_prefix("above ")?.splitn(4, ' ');
    let session = words.next()?.parse().ok()?;
    let (pid, ticks): (u32, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let key = ProcessKey { pid: Pid(pid), start: BootNs(ticks * 10_000_000) };
    Some((session, Arc::new(Process { key, exe: words.next()?.to_owned(), ..Process::nobody(None, None) })))
}

fn found(event: Event, ancestors: Vec<Arc<Process>>) -> Finding {
    Finding {
        id: FindingId::derive(&event.id, "r"),
        rule: RuleRef {
            id: "r".into(),
            title: "r".into(),
            level: Level::High,
            techniques: vec![],
            tactics: vec![],
            reaction: Reaction::None,
        },
        matched: BTreeMap::new(),
        count: 1,
        first: event.time,
        last: event.time,
        ancestors,
        event,
        context: vec![],
        reactions: vec![],
        moments: Moments::default(),
        loss: LossWindow::default(),
    }
}

#[test]
fn a_login_is_joined_with_what_its_own_session_does_and_with_no_other_without_any_address() {
    let Some((sshd, libraries)) = program() else {
        println!("SKIPPED: there is no sshd here (apt-get install openssh-server)");
        return;
    };
    let Some(folder) = keys() else { return };
    let set = format!(
        "export SSHD={} KEYS={} LD_LIBRARY_PATH={}\n",
        sshd.display(),
        folder.path().display(),
        libraries.display()
    );
    let Some(output) = journal("sessions of sshd", &format!("{set}{SESSIONS}")) else { return };
    let (above, lines): (Vec<&[u8]>, Vec<&[u8]>) =
        output.split(|byte| *byte == b'\n').partition(|line| line.starts_with(b"above "));
    let mut sessions: BTreeMap<u32, Vec<Arc<Process>>> = BTreeMap::new();
    for line in above {
        let line = String::from_utf8_lossy(line);
        let (session, process) = process(&line).unwrap_or_else(|| panic!("{line}"));
        sessions.entry(session).or_default().push(process);
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let logins: Vec<Finding> = read(&lines.join(&b'\n'))
        .into_iter()
        .filter(|one| word(one, "AuthAction") == "login" && word(one, "AuthOutcome") == "success")
        .map(|one| found(one.record.into_event(&NodeId::new("journal:x"), one.time), vec![]))
        .collect();
    let acts: Vec<Finding> = sessions
        .into_values()
        .zip(1..)
        .map(|(mut chain, seq)| {
            let mut event = logins[0].event.clone();
            event.id = EventId { node: NodeId::new(host.as_str()), epoch: AgentEpoch(1), seq: Seq(seq) };
            event.process = chain.remove(0);
            event.activity = Activity::Exec { requested: "sh".into() };
            found(event, chain)
        })
        .collect();
    assert_eq!((logins.len(), acts.len()), (2, 2), "{}", String::from_utf8_lossy(&output));
    let meet = |act: &Finding, login: &Finding| {
        let of_login = keys_of(login);
        keys_of(act).iter().any(|key| of_login.iter().any(|other| key.meets(other)))
    };
    let met: Vec<bool> = acts.iter().flat_map(|act| logins.iter().map(|login| meet(act, login))).collect();
    let told = || {
        let keys = |finding: &Finding| format!("{:?}", keys_of(finding));
        logins.iter().chain(&acts).map(keys).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(met, [true, false, false, true], "{}", told());
    let mut correlator = Correlator::new(GroupingConfig::default());
    let [act, login] =
        [&acts[0], &logins[0]].map(|finding| correlator.place(finding, finding.first).incident);
    assert_eq!(act, login);
}

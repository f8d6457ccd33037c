//! Rules written for auditd, as public ones are, on our own events: `type`, `SYSCALL`, `a0` … `a9`, `exe`, `comm`, `name`, `nametype`.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use hemostat_detect::{
    diagnostic::{Colour, render},
    load::{Loaded, load},
    matcher::{Options, RuleSet},
    plan, reference,
    schema::{
        Category::{
            self, CredentialChange, DriverLoad, FileAccess, FileDelete, FileEvent, FileLink, FileMode,
            FileRename, Memfd, NetworkConnection, ProcessCreation, Ptrace,
        },
        DraftValue, Drafted, Field, Firing,
    },
    source::SourceFile,
};

fn loaded(detection: &str) -> Loaded {
    let text = format!(
        "title: t\nid: t\nlogsource: {{product: linux, service: auditd}}\ndetection:\n  {}\n",
        detection.trim().replace('\n', "\n  ")
    );
    let files = [SourceFile { name: "rules/t.yml".into(), text }];
    let loaded = load(&files);
    assert_eq!(loaded.errors(), 0, "{}", render(&loaded.diagnostics, &files, Colour::Plain));
    loaded
}

fn exec(words: &[&str]) -> Drafted {
    let args = DraftValue::Many(words.iter().map(|word| (*word).to_owned()).collect());
    let image = DraftValue::One(format!("/usr/bin/{}", words[0].rsplit('/').next().unwrap()));
    Drafted::new(ProcessCreation, &[(Field::Args, args), (Field::Image, image)]).unwrap()
}

fn other(category: Category, fields: &[(Field, &str)]) -> Drafted {
    let fields: Vec<_> =
        fields.iter().map(|(field, text)| (*field, DraftValue::One((*text).to_owned()))).collect();
    Drafted::new(category, &fields).unwrap()
}

fn file(category: Category, path: &str) -> Drafted {
    other(category, &[(Field::TargetFilename, path), (Field::Image, "/bin/vi")])
}

fn finds(loaded: &Loaded, event: &Drafted) -> bool {
    let set = Arc::new(RuleSet::compile(&loaded.rules, Options::default()).0);
    let mut hits = vec![];
    set.matcher().evaluate_with(event.event(), event.context(), &mut hits);
    let plainly = reference::matches(&loaded.rules[0], &event.view());
    assert_eq!(!hits.is_empty(), plainly, "compiled and plain differ on {:?}", event.event());
    assert!(!plainly || plan::passes(set.plan(), event.event()), "I1: {:?}", event.event());
    plainly
}

/// Detections in the manner of the public rules for auditd; an event of ours that each must find, and one that it must not.
#[test]
fn public_kinds_of_auditd_rules_fire_on_our_events() {
    let cases: &[(&str, Drafted, Drafted)] = &[
        // Capabilities listed over the whole machine.
        (
            "s: {type: EXECVE, a0: getcap, a1: '-r', a2: /}\ncondition: s",
            exec(&["getcap", "-r", "/"]),
            exec(&["getcap", "/"]),
        ),
        // An immutable flag taken off.
        (
            "s: {type: EXECVE, a0|contains: chattr, a1|contains: '-i'}\ncondition: s",
            exec(&["/usr/bin/chattr", "-i", "/x"]),
            exec(&["chattr", "+i", "/x"]),
        ),
        // The machine is shut down.
        (
            "power: {type: EXECVE, a0: [shutdown, reboot, halt, poweroff]}\ninit: {type: EXECVE, a0: [init, telinit], a1: [0, 6]}\ncondition: 1 of them",
            exec(&["init", "6"]),
            exec(&["init", "3"]),
        ),
        // A file posted by wget: an argument that begins so.
        (
            "s: {type: EXECVE, a0: wget, a1|startswith: '--post-file='}\ncondition: s",
            exec(&["wget", "--post-file=/etc/passwd"]),
            exec(&["wget", "x", "--post-file=/etc/passwd"]),
        ),
        // The eighth argument.
        (
            "s: {type: EXECVE, a7: needle}\ncondition: s",
            exec(&["a", "b", "c", "d", "e", "f", "g", "needle"]),
            exec(&["a", "b", "c", "d", "e", "f", "needle"]),
        ),
        // Words in any of the arguments.
        (
            "words: ['netcat -', 'hping3']\ncondition: words",
            exec(&["bash", "-c", "netcat -lvp 9"]),
            exec(&["bash", "-c", "netstat -l"]),
        ),
        // The preload file named by a PATH record.
        (
            "s: {type: PATH, name: /etc/ld.so.preload}\ncondition: s",
            file(FileEvent, "/etc/ld.so.preload"),
            file(FileEvent, "/etc/ld.so.cache"),
        ),
        (
            "s: {type: PATH, name|startswith: '/etc/systemd/system/', nametype: CREATE}\ncondition: s",
            other(
                FileEvent,
                &[(Field::TargetFilename, "/etc/systemd/system/x.service"), (Field::FileOperation, "create")],
            ),
            file(FileAccess, "/etc/systemd/system/x.service"),
        ),
        (
            "s: {type: PATH, nametype: DELETE, name|endswith: /.bash_history}\ncondition: s",
            file(FileDelete, "/root/.bash_history"),
            file(FileEvent, "/root/.bash_history"),
        ),
        // The old name of a rename, and what a link leads to.
        (
            "s: {type: PATH, name: /var/log/auth.log}\ncondition: s",
            other(
                FileRename,
                &[(Field::SourceFilename, "/var/log/auth.log"), (Field::TargetFilename, "/tmp/x")],
            ),
            other(
                FileRename,
                &[(Field::SourceFilename, "/var/log/other"), (Field::TargetFilename, "/tmp/x")],
            ),
        ),
        (
            "s: {type: PATH, name: /etc/shadow}\ncondition: s",
            other(FileLink, &[(Field::SourceFilename, "/etc/shadow"), (Field::TargetFilename, "/tmp/x")]),
            other(FileLink, &[(Field::SourceFilename, "/etc/hosts"), (Field::TargetFilename, "/tmp/x")]),
        ),
        // System calls by name and by number.
        (
            "s: {type: SYSCALL, SYSCALL: memfd_create}\ncondition: s",
            other(Memfd, &[(Field::MemfdName, "x")]),
            exec(&["memfd_create"]),
        ),
        (
            "s: {type: SYSCALL, syscall: [101, ptrace]}\ncondition: s",
            other(Ptrace, &[(Field::PtraceRequest, "PTRACE_ATTACH")]),
            exec(&["ptrace"]),
        ),
        (
            "s: {type: SYSCALL, SYSCALL: [chmod, fchmod, fchmodat], exe|startswith: /tmp/}\ncondition: s",
            other(FileMode, &[(Field::TargetFilename, "/x"), (Field::Image, "/tmp/y")]),
            other(FileMode, &[(Field::TargetFilename, "/x"), (Field::Image, "/usr/y")]),
        ),
        (
            "s: {type: SYSCALL, SYSCALL: setuid}\ncondition: s",
            other(CredentialChange, &[(Field::Uid, "0")]),
            file(FileMode, "/x"),
        ),
        // Programs out of folders that anybody may write to.
        (
            "s: {type: SYSCALL, exe|startswith: [/tmp/, /dev/shm/]}\ncondition: s",
            other(NetworkConnection, &[(Field::Image, "/dev/shm/x"), (Field::DestinationIp, "10.0.0.1")]),
            other(NetworkConnection, &[(Field::Image, "/usr/bin/x"), (Field::DestinationIp, "10.0.0.1")]),
        ),
        // A module loaded by the tool for it.
        (
            "s: {type: SYSCALL, comm: insmod, exe: /usr/bin/kmod}\ncondition: s",
            other(
                DriverLoad,
                &[(Field::Comm, "insmod"), (Field::Image, "/usr/bin/kmod"), (Field::ImageLoaded, "x")],
            ),
            other(
                DriverLoad,
                &[(Field::Comm, "modprobe"), (Field::Image, "/usr/bin/kmod"), (Field::ImageLoaded, "x")],
            ),
        ),
        (
            "s: {type: SYSCALL, exe|endswith: /useradd, success: 'yes'}\ncondition: s",
            other(ProcessCreation, &[(Field::Image, "/usr/sbin/useradd")]),
            other(ProcessCreation, &[(Field::Image, "/usr/sbin/userdel")]),
        ),
    ];
    for (detection, positive, negative) in cases {
        let loaded = loaded(detection);
        assert_eq!(loaded.rules[0].firing, Firing::Can, "{detection}");
        assert!(finds(&loaded, positive), "{detection} does not find {:?}", positive.event().activity);
        assert!(!finds(&loaded, negative), "{detection} finds {:?}", negative.event().activity);
    }
}

/// What only auditd itself can know is said by name, and is a warning and no error: the rule loads and never fires.
#[test]
fn what_no_event_of_ours_has_is_named() {
    for (detection, why) in [
        ("s: {type: SERVICE_STOP, unit: firewalld}\ncondition: s", "`type` is never `SERVICE_STOP`"),
        ("s: {type: USER_LOGIN, exe: /x}\ncondition: s", "`type` is never `USER_LOGIN`"),
        ("s: {type: SYSCALL, key: network_connect_4}\ncondition: s", "`key`"),
        (
            "s: {type: [ADD_USER, CONFIG_CHANGE]}\ncondition: s",
            "`type` is never `ADD_USER` or `CONFIG_CHANGE`",
        ),
    ] {
        match &loaded(detection).rules[0].firing {
            Firing::Cannot { why: said } => assert!(said.contains(why), "{detection}: {said}"),
            Firing::Can => panic!("{detection} can fire"),
        }
    }
    // One alternative that can happen is enough.
    let either = loaded("s: {type: ADD_USER}\nt: {type: SYSCALL, exe|endswith: /useradd}\ncondition: s or t");
    assert_eq!(either.rules[0].firing, Firing::Can);
}

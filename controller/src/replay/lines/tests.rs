use model::{Exit, Runtime};
use proptest::prelude::*;

use super::*;

/// What a line is without this module.
fn serde_says(line: &[u8]) -> Option<Event> {
    let mut event: Event = serde_json::from_slice(line).ok()?;
    event.ancestors = event.parent.iter().cloned().collect();
    Some(event)
}

fn written(event: &Event) -> Vec<u8> {
    serde_json::to_vec(event).unwrap()
}

fn a_process(pid: u32, command_line: &str) -> Process {
    Process {
        key: ProcessKey { pid: Pid(pid), start: BootNs(u64::MAX) },
        parent: Some(ProcessKey { pid: Pid(1), start: BootNs(0) }),
        exe: "/usr/bin/sh".into(),
        exe_file: ExeFile { inode: 7, device: 1 << 20, backing: Backing::Deleted },
        command_line: command_line.into(),
        args: command_line.split(' ').map(str::to_owned).collect(),
        args_truncated: Truncated::Yes,
        cwd: "/".into(),
        comm: "sh".into(),
        credentials: Credentials {
            uid: u32::MAX,
            auid: Some(0),
            cap_effective: u64::MAX,
            ..Credentials::default()
        },
        namespaces: Namespaces { mount: 4_026_531_841, ..Namespaces::default() },
        tty: Some("pts3".into()),
        stdio: Stdio { stdin: FdKind::Socket, ..Stdio::default() },
        cgroup: CgroupId(9),
        workload: Arc::new(Workload::Container {
            runtime: Runtime::Containerd,
            container_id: "ab".repeat(32),
            pod_uid: Some("pod".into()),
            cgroup_path: "/kubepods.slice/cri.scope".into(),
        }),
        origin: ProcessOrigin::Fork,
        exit: Some(Exit { code: 255, signal: 0, at: BootNs(5) }),
    }
}

fn an_event(process: Process, parent: Option<Process>, activity: Activity) -> Event {
    Event {
        id: EventId { node: NodeId::new("node-1"), epoch: AgentEpoch(3), seq: Seq(u64::MAX) },
        time: Timestamp(1_780_000_000_000_000_000),
        process: Arc::new(process),
        parent: parent.map(Arc::new),
        ancestors: Arc::default(),
        exposure: Exposure::BehindListener,
        activity,
    }
}

fn activities(text: &str) -> Vec<Activity> {
    let file = FilePath { path: text.into(), truncated: Truncated::Yes };
    let end = |addr: &str, port| Endpoint { addr: addr.parse().unwrap(), port };
    vec![
        Activity::Exec { requested: text.into() },
        Activity::FileOpen { file: file.clone(), flags: 577, created: Created::Yes },
        Activity::Connect(Flow {
            protocol: Protocol::Udp,
            local: end("::1", 0),
            remote: end("10.0.0.1", 65_535),
        }),
        Activity::Connect(Flow {
            protocol: Protocol::Other(89),
            local: end("0.0.0.0", 0),
            remote: end("fe80::1", 53),
        }),
        Activity::FileLink { target: file.clone(), link: file, kind: model::LinkKind::Hard },
        Activity::DnsQuery { name: text.into(), record_type: 28, server: end("10.96.0.10", 53) },
    ]
}

#[test]
fn what_is_read_is_what_serde_reads_and_all_that_nodes_write_is() {
    let unit = Workload::unit("a.service", "/a");
    let host = Workload::Host { cgroup_path: "/".into() };
    let mut lines = Lines::default();
    for text in
        ["plain words", "", "with \"quotes\" and \\", "tab\tand\u{1}", "ünï\u{7f}code \u{1f980}", "a\nline"]
    {
        for activity in activities(text) {
            let container = a_process(1, text);
            let in_unit =
                Process { workload: Arc::new(unit.clone()), tty: None, exit: None, ..container.clone() };
            let by_timer = |started_by: StartedBy| Process {
                workload: Arc::new(Workload::Unit {
                    unit: text.into(),
                    cgroup_path: "/a".into(),
                    started_by,
                }),
                ..container.clone()
            };
            let timed = by_timer(StartedBy::Timer { timer: text.into() });
            let untold = by_timer(StartedBy::Unknown);
            let on_host = Process {
                workload: Arc::new(host.clone()),
                parent: None,
                args: vec![],
                credentials: Credentials::default(),
                ..container.clone()
            };
            let lost = Process::nobody(None, None);
            for (process, parent) in [
                (container.clone(), None),
                (in_unit, Some(container)),
                (on_host.clone(), Some(on_host)),
                (timed, Some(untold)),
                (lost, None),
            ] {
                let line = written(&an_event(process, parent, activity.clone()));
                let read = lines.event(&line);
                assert!(read.is_some(), "{}", String::from_utf8_lossy(&line));
                assert_eq!(read, serde_says(&line));
            }
        }
    }
}

#[test]
fn each_word_is_written_as_it_is_read() {
    fn agree<T: serde::Serialize + Copy>(words: &[(&str, T)]) {
        for (word, is) in words {
            assert_eq!(serde_json::to_value(is).unwrap(), *word);
        }
    }
    agree(&TRUNCATED);
    agree(&ORIGINS);
    agree(&EXPOSURES);
    agree(&BACKINGS);
    agree(&DESCRIPTORS);
    agree(&CREATED);
    agree(&PROTOCOLS);
}

#[test]
fn the_events_of_a_process_share_it_and_another_of_its_key_does_not() {
    let mut lines = Lines::default();
    let mut process_of = |process: Process, parent: Option<Process>| {
        let event = an_event(process, parent, Activity::Exec { requested: "x".into() });
        lines.event(&written(&event)).unwrap()
    };
    let first = process_of(a_process(1, "one"), Some(a_process(2, "parent")));
    let again = process_of(a_process(1, "one"), Some(a_process(2, "parent")));
    assert!(Arc::ptr_eq(&first.process, &again.process), "one process, one place");
    assert!(Arc::ptr_eq(&first.parent.unwrap(), &again.parent.unwrap()));
    // Its key is the same, and it has become another.
    let image = process_of(a_process(1, "two"), None);
    assert_eq!(image.process.command_line, "two");
    assert_eq!(process_of(a_process(1, "one"), None).process.command_line, "one");
    assert!(Arc::ptr_eq(&image.process, &process_of(a_process(1, "two"), None).process));
    // A text of any length would not be bounded (I11).
    let long = "x".repeat(LONGEST);
    let (one, two) = (process_of(a_process(3, &long), None), process_of(a_process(3, &long), None));
    assert_eq!(one.process, two.process);
    assert!(!Arc::ptr_eq(&one.process, &two.process));
}

#[test]
fn i11_many_that_are_seen_once_push_out_nobody_who_comes_again() {
    let mut lines = Lines::default();
    let mut process_of = |pid: u32| {
        let event = an_event(a_process(pid, "x"), None, Activity::Exec { requested: "x".into() });
        lines.event(&written(&event)).unwrap().process
    };
    let known = process_of(1);
    assert!(Arc::ptr_eq(&known, &process_of(1)));
    for pid in 2..20_000 {
        process_of(pid);
    }
    assert!(Arc::ptr_eq(&known, &process_of(1)));
}

/// Whatever a line is turned into: what is read of it is what serde reads, or it is left to serde.
#[test]
fn a_line_that_is_written_otherwise_is_never_read_otherwise() {
    let mut lines = Lines::default();
    let event = an_event(a_process(10, "sh -c \"x\""), Some(a_process(2, "y")), activities("/a").remove(1));
    let line = written(&event);
    assert!(lines.event(&line).is_some());
    let mut read = 0;
    for at in 0..line.len() {
        for byte in *b"\"\\}{],0-. nx\xff\x01" {
            for (kept, put) in [(at + 1, true), (at, true), (at + 1, false)] {
                let mut other = line[..at].to_vec();
                other.extend(put.then_some(byte));
                other.extend_from_slice(&line[kept..]);
                if let Some(event) = lines.event(&other) {
                    read += 1;
                    assert_eq!(Some(event), serde_says(&other), "{}", String::from_utf8_lossy(&other));
                }
            }
        }
    }
    assert!(read > 100, "{read}");
    for more in
        [&br#","id":1}"#[..], br#","activity":{"activity":"exec","requested":"x"}}"#, b"} ", b"}}", b"}\r"]
    {
        let mut other = line[..line.len() - 1].to_vec();
        other.extend_from_slice(more);
        assert_eq!(lines.event(&other), None, "{}", String::from_utf8_lossy(more));
    }
}

proptest! {
    #[test]
    fn any_text_and_number_is_read_as_serde_reads_it(
        texts in prop::collection::vec(".{0,20}", 4), numbers in any::<(u32, u64, u64)>(), kept in any::<bool>(),
    ) {
        let mut process = a_process(numbers.0, &texts[0]);
        process.exe.clone_from(&texts[1]);
        process.credentials.cap_permitted = numbers.1;
        process.cgroup = CgroupId(numbers.2);
        let mut event = an_event(process, None, Activity::Exec { requested: texts[2].clone() });
        event.id.node = NodeId::new(texts[3].clone());
        let line = written(&event);
        let mut lines = Lines::default();
        if kept {
            prop_assert!(lines.event(&line).is_some());
        }
        let read = lines.event(&line);
        prop_assert!(read.is_some());
        prop_assert_eq!(read, serde_says(&line));
    }
}

//! What rules ask of the kernel: the ones that we ship, and random ones of the classes that `matcher`'s tests leave out.
#![expect(clippy::expect_used, reason = "helpers of tests")]

#[path = "matcher/arbitrary.rs"]
#[expect(dead_code, reason = "the matcher's tests use all of it")]
mod arbitrary;

use std::{fs, path::Path};

use hemostat_detect::{
    load::load,
    matcher::{Options, RuleIndex, RuleSet},
    plan, reference,
    schema::View,
    source::SourceFile,
};
use model::{
    Activity, BootNs, ClassPlan, Created, Credentials, Event, EventClass, FilePath, KernelTest,
    NamespaceCall, Namespaces, Pid, ProcessKey, Truncated,
};
use proptest::prelude::*;

fn read(folder: &Path, into: &mut Vec<SourceFile>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .expect("a folder of rules")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.display().to_string();
        if path.is_dir() {
            read(&path, into);
        } else if name.ends_with(".yml") && !name.ends_with(".test.yml") {
            into.push(SourceFile { name, text: fs::read_to_string(&path).expect("a rule file") });
        }
    }
}

/// Classes of frequent events never pass whole, and no test lets most of a class pass: one rule of the kind would make every
/// machine pay.
#[test]
fn the_shipped_rules_leave_frequent_classes_in_the_kernel() {
    let mut files = Vec::new();
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules"), &mut files);
    let loaded = load(&files);
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    for (class, plan) in &set.plan().classes {
        match plan {
            ClassPlan::All => println!("{class:?}: all"),
            ClassPlan::AnyOf(tests) => println!("{class:?}: {} tests {tests:?}", tests.len()),
        }
    }
    for (position, rule) in loaded.rules.iter().enumerate() {
        for line in set.explain_plan(RuleIndex(position as u32)) {
            println!("{} | {line}", rule.meta.title.value);
        }
    }
    let frequent = [
        EventClass::FileOpen,
        EventClass::FileDelete,
        EventClass::FileRename,
        EventClass::Connect,
        EventClass::Accept,
        EventClass::SocketClose,
    ];
    for class in frequent {
        match set.plan().classes.get(&class) {
            Some(ClassPlan::All) => panic!("{class:?} passes whole"),
            Some(ClassPlan::AnyOf(tests)) => {
                let wide: Vec<_> = tests.iter().filter(|test| lets_most_pass(test)).collect();
                assert!(wide.is_empty(), "{class:?}: {wide:?} let nearly everything pass");
            }
            None => {}
        }
    }
}

fn lets_most_pass(test: &KernelTest) -> bool {
    match test {
        KernelTest::PathPrefix(text) => {
            ["/", "/usr/", "/proc/", "/var/", "/home/"].iter().any(|top| top.starts_with(&**text))
        }
        KernelTest::PathSuffix(text) => text.len() < 3,
        KernelTest::Net(net) => net.prefix_len() == 0,
        KernelTest::Write => true,
        KernelTest::AllOf(parts) => parts.iter().all(lets_most_pass),
        KernelTest::PathIs(_)
        | KernelTest::PathContains(_)
        | KernelTest::Port(_)
        | KernelTest::BpfCommand(_) => false,
    }
}

/// A class: its category, lines of a search, and events of it.
struct Kind {
    category: &'static str,
    items: &'static [&'static str],
    events: fn() -> Vec<Activity>,
}

fn path(path: &str) -> FilePath {
    FilePath { path: path.into(), truncated: Truncated::No }
}

const OTHER: ProcessKey = ProcessKey { pid: Pid(7), start: BootNs(1) };

const KINDS: &[Kind] = &[
    Kind {
        category: "dns_query",
        items: &[
            "QueryName|endswith: '.example'",
            "QueryName|contains: pool",
            "QueryName: a.example",
            "QueryType: TXT",
            "DestinationPort: 53",
            "DestinationIp|cidr: 10.0.0.0/8",
        ],
        events: || {
            let name = |name: &str, record_type, addr: [u8; 4]| Activity::DnsQuery {
                name: name.into(),
                record_type,
                server: model::Endpoint { addr: addr.into(), port: 53 },
            };
            vec![name("a.example", 1, [10, 0, 0, 1]), name("pool.test", 16, [8, 8, 8, 8])]
        },
    },
    Kind {
        category: "mount",
        items: &[
            "MountPoint|startswith: /host",
            "MountPoint: /proc",
            "FilesystemType: [proc, cgroup]",
            "MountSource|contains: dev",
            "MountFlags|contains: MS_BIND",
        ],
        events: || {
            let mount = |source: &str, target, fs_type: &str, flags| Activity::Mount {
                source: source.into(),
                target: path(target),
                fs_type: fs_type.into(),
                flags,
            };
            vec![mount("/dev/sda1", "/host/a", "ext4", 0), mount("x", "/proc", "proc", 4096)]
        },
    },
    Kind {
        category: "driver_load",
        items: &["ImageLoaded|endswith: kit", "ImageLoaded: rootkit", "ImageLoaded|contains: oo"],
        events: || ["rootkit", "nfnetlink"].map(|name| Activity::ModuleLoad { name: name.into() }).into(),
    },
    Kind {
        category: "memfd_create",
        items: &["MemfdName: ''", "MemfdName|contains: kern", "MemfdFlags: MFD_CLOEXEC"],
        events: || {
            [("", 1), ("[kernel]", 0), ("x", 1)]
                .map(|(name, flags)| Activity::MemfdCreate { name: name.into(), flags })
                .into()
        },
    },
    Kind {
        category: "namespace_change",
        items: &["NamespaceCall: setns", "ChangedNamespaces: mnt", "ChangedNamespaces|contains: net"],
        events: || {
            let before = Namespaces::default();
            let after = Namespaces { mount: 1, ..before };
            [NamespaceCall::Setns, NamespaceCall::Unshare]
                .map(|call| Activity::NamespaceChange { before, after, call })
                .into()
        },
    },
    Kind {
        category: "credential_change",
        items: &["PreviousUid: 0", "PreviousEuid|gt: 0", "Uid: 0", "GainedCapabilities: CAP_SYS_ADMIN"],
        events: || {
            let root = Credentials::default();
            let user = Credentials { uid: 1000, euid: 1000, ..Credentials::default() };
            vec![
                Activity::CredentialChange { before: user, after: root },
                Activity::CredentialChange { before: root, after: user },
            ]
        },
    },
    Kind {
        category: "ptrace",
        items: &[
            "PtraceRequest: PTRACE_ATTACH",
            "PtraceRequest|startswith: PTRACE_POKE",
            "PtraceRequest: 12",
        ],
        events: || [16, 4, 12].map(|request| Activity::Ptrace { request, target: OTHER }).into(),
    },
    Kind {
        category: "bpf",
        items: &[
            "BpfCommand: BPF_PROG_LOAD",
            "BpfCommand: [bpf_map_create, BPF_LINK_CREATE]",
            "BpfCommand|startswith: BPF_PROG",
            "BpfCommand|contains: LOAD",
            "BpfCommand: 99",
            "BpfCommand|cased: bpf_prog_load",
            "BpfProgramType: kprobe",
            "BpfName|contains: x",
        ],
        events: || {
            [(5, 2, "x"), (0, 0, "map"), (28, 0, ""), (99, 0, ""), (9, 0, "x"), (18, 0, "")]
                .map(|(command, program_type, name)| Activity::Bpf {
                    command,
                    program_type,
                    name: name.into(),
                })
                .into()
        },
    },
    Kind {
        category: "process_vm_write",
        items: &["Image|endswith: sh", "User: root"],
        events: || vec![Activity::ProcessVmWrite { target: OTHER }],
    },
    Kind {
        category: "io_uring_setup",
        items: &["IoUringEntries|gt: 8", "IoUringEntries: 4"],
        events: || [4, 64].map(|entries| Activity::IoUringSetup { entries }).into(),
    },
    // Opens with texts that stand anywhere, and those that only writing ones have.
    Kind {
        category: "file_event",
        items: &[
            "TargetFilename|contains: /.ssh/",
            "TargetFilename|contains: [id_rsa, Secret]",
            "TargetFilename|contains|all: [home, ssh]",
            "TargetFilename|contains: ab",
            "TargetFilename: '*/.ssh/*key*'",
            "TargetFilename|endswith: '.pem'",
            "FileOperation: write",
            "TargetFilename|contains|cased: Secret",
        ],
        events: opens,
    },
    Kind {
        category: "file_access",
        items: &["TargetFilename|contains: /.ssh/", "TargetFilename|contains: secret", "FileOperation: read"],
        events: opens,
    },
];

fn opens() -> Vec<Activity> {
    let mut all = Vec::new();
    for name in ["/home/u/.ssh/id_rsa", "/HOME/.SSH/key", "/tmp/My-Secret.pem", "/tmp/ab", "/a\u{e4}secret/x"]
    {
        for (flags, created) in
            [(0, Created::No), (1, Created::No), (0o100, Created::Yes), (0o1000, Created::No)]
        {
            all.push(Activity::FileOpen { file: path(name), flags, created });
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// I1 for every class: what the plan of a rule alone drops, the rule does not match.
    #[test]
    fn i1_what_a_plan_drops_no_rule_of_its_class_matches(
        kind in 0..KINDS.len(),
        chosen in prop::collection::vec(any::<prop::sample::Index>(), 3),
        condition in prop::sample::select(&["s0", "s0 and s1", "s0 or s1", "s0 and not s1", "not s0", "2 of them", "s0 or (s1 and s2)"][..]),
        event in arbitrary::event(),
    ) {
        let kind = &KINDS[kind];
        let searches: String = chosen
            .iter()
            .enumerate()
            .map(|(n, index)| format!("    s{n}:\n        {}\n", index.get(kind.items)))
            .collect();
        let text = format!(
            "title: Random\nlogsource:\n    product: linux\n    category: {}\ndetection:\n{searches}    condition: {condition}\n",
            kind.category
        );
        let rules = arbitrary::rules(std::slice::from_ref(&text));
        let (set, _) = RuleSet::compile(&rules, Options::default());
        for activity in (kind.events)() {
            let event = Event { activity, ..event.clone() };
            if !plan::passes(set.plan(), &event) {
                prop_assert!(!reference::matches(&rules[0], &View::new(&event)), "{text}\n{:?}\n{:?}", event.activity, set.plan());
            }
        }
    }
}

fn plan_of(category: &str, item: &str) -> model::FilterPlan {
    let text = format!(
        "title: One\nlogsource:\n    product: linux\n    category: {category}\ndetection:\n    s:\n        {item}\n    condition: s\n"
    );
    let rules = arbitrary::rules(&[text]);
    let (set, _) = RuleSet::compile(&rules, Options::default());
    set.plan().clone()
}

/// Only the commands that a rule names are told, and the kernel tells only opens that the rule's category has.
#[test]
fn a_plan_asks_for_no_more_than_the_rule() {
    let plan = plan_of("bpf", "BpfCommand: [BPF_PROG_LOAD, BPF_LINK_CREATE]");
    let commands = vec![KernelTest::BpfCommand(5), KernelTest::BpfCommand(28)];
    assert_eq!(plan.classes.get(&EventClass::Bpf), Some(&ClassPlan::AnyOf(commands)));
    // A part of a name, or a number that has none: everything.
    for item in ["BpfCommand|contains: LOAD", "BpfCommand: 99", "BpfName: x"] {
        assert_eq!(plan_of("bpf", item).classes.get(&EventClass::Bpf), Some(&ClassPlan::All), "{item}");
    }
    // A start that every path has is no test.
    let plan = plan_of("file_delete", "TargetFilename|startswith: '/ä'");
    assert_eq!(plan.classes.get(&EventClass::FileDelete), Some(&ClassPlan::All));
    let plan = plan_of("file_event", "TargetFilename|contains: /.SSH/");
    let both = KernelTest::AllOf(vec![KernelTest::Write, KernelTest::PathContains("/.ssh/".into())]);
    assert_eq!(plan.classes.get(&EventClass::FileOpen), Some(&ClassPlan::AnyOf(vec![both])));
    for category in [
        "dns_query",
        "mount",
        "driver_load",
        "memfd_create",
        "namespace_change",
        "credential_change",
        "ptrace",
    ] {
        let item = KINDS.iter().find(|kind| kind.category == category).expect("a kind").items[0];
        let plan = plan_of(category, item);
        assert!(plan.classes.values().all(|plan| *plan == ClassPlan::All), "{category}: {plan:?}");
        assert_eq!(plan.classes.len(), 1, "{category}");
    }
}

/// The kernel looks for four bytes: three are no test, and the class passes whole.
#[test]
fn i1_no_test_is_shorter_than_what_the_kernel_looks_for() {
    let plan_of = |text: &str| {
        let rule = format!(
            "title: t\nlogsource: {{product: linux, category: file_delete}}\ndetection: {{s: {{TargetFilename|contains: '{text}'}}, condition: s}}\n"
        );
        let loaded = load(&[SourceFile { name: "t.yml".into(), text: rule }]);
        let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
        set.plan().classes.get(&EventClass::FileDelete).cloned()
    };
    assert_eq!(plan_of("abc"), Some(ClassPlan::All));
    assert_eq!(plan_of("abcd"), Some(ClassPlan::AnyOf(vec![KernelTest::PathContains("abcd".into())])));
    // What is not ASCII is compared by user space alone.
    assert_eq!(plan_of("abcäde"), Some(ClassPlan::All));
    assert_eq!(plan_of("äabcde"), Some(ClassPlan::AnyOf(vec![KernelTest::PathContains("abcde".into())])));
}

/// Whom the network can reach is derived from listeners: whoever asks for it, in whatever alternative, gets both classes whole.
#[test]
fn i1_who_asks_for_exposure_gets_the_listeners_that_it_is_derived_from() {
    let plan_of = |search: &str| {
        let rule = format!(
            "title: t\nlogsource: {{product: linux, category: process_creation}}\ndetection: {{s: {search}, condition: s}}\n"
        );
        let loaded = load(&[SourceFile { name: "t.yml".into(), text: rule }]);
        assert_eq!(loaded.errors(), 0, "{:?}", loaded.diagnostics);
        RuleSet::compile(&loaded.rules, Options::default()).0.plan().classes.clone()
    };
    for search in ["{Exposure: listens}", "[{Image: /x}, {Image: /y, Exposure: listens}]"] {
        let classes = plan_of(search);
        for class in [EventClass::Listen, EventClass::Bind] {
            assert_eq!(classes.get(&class), Some(&ClassPlan::All), "{search}");
        }
    }
    assert_eq!(plan_of("{Image: /x}").get(&EventClass::Bind), None);
}

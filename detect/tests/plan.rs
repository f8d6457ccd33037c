//! What the rules that we ship ask of the kernel.
#![expect(clippy::expect_used, reason = "helpers of tests")]

use std::{fs, path::Path};

use hemostat_detect::{
    load::load,
    matcher::{Options, RuleIndex, RuleSet},
    source::SourceFile,
};
use model::{ClassPlan, EventClass, KernelTest};

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
        KernelTest::PathIs(_) | KernelTest::Port(_) => false,
    }
}

//! What the hooks cost a call, part by part: `hemostat-node-tests cost [ROUNDS]`. No check: it prints a table, in ns a call, of the
//! least and of the tenth percentile of many short batches, which other programs of the machine disturb least.
#![expect(unsafe_code, reason = "system calls as they are, without a library's share")]

use std::{
    ffi::CString,
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use agent::probe::{OwnEvents, ProbeConfig};
use detect::matcher::{Options, RuleSet};
use model::{ClassPlan, EventClass, FilterPlan, KernelTest};

use crate::{
    Failure,
    differential::rule_files,
    scene::{NO_BUDGETS, Scene},
};

/// Calls a batch; as few as the clock allows, so that most batches are not interrupted.
const CALLS: u32 = 40;

/// Prints the table.
pub(crate) fn run(rounds: usize) -> Result<(), Failure> {
    let folder = std::env::temp_dir().join(format!("hemostat-cost-{}", std::process::id()));
    fs::create_dir_all(folder.join("a/b"))?;
    let result = table(rounds, &folder);
    fs::remove_dir_all(&folder)?;
    result
}

fn table(rounds: usize, folder: &Path) -> Result<(), Failure> {
    let calls = calls(folder)?;
    let names: Vec<&str> = calls.iter().map(|(name, _)| *name).collect();
    println!("{:34} {}", "ns a call: least (10th percentile)", names.join(" | "));
    row("nothing", rounds, &calls)?;
    for (name, plan) in plans()? {
        let config = ProbeConfig {
            budgets: NO_BUDGETS,
            own_events: OwnEvents::Seen,
            pins: format!("/sys/fs/bpf/hemostat-cost-{}", std::process::id()).into(),
            ..ProbeConfig::default()
        };
        let mut scene = Scene::with(&config, true)?;
        scene.probes.apply_plan(&plan)?;
        // Whatever is told is read, and not kept.
        scene.only(Some(model::CgroupId(u64::MAX)));
        row(name, rounds, &calls)?;
        let counts = scene.probes.counts()?;
        let told: u64 = counts.values().map(|count| count.submitted).sum();
        let filtered: u64 = counts.values().map(|count| count.filtered).sum();
        println!("{:34} {told} told, {filtered} filtered", "");
    }
    Ok(())
}

/// What is in force, from nothing to all.
fn plans() -> Result<Vec<(&'static str, FilterPlan)>, Failure> {
    let rules = rule_files()?.rules;
    let loaded = detect::load::load(&rules);
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let shipped = FilterPlan { hold: vec![], ..set.plan().clone() };
    let one = |class: EventClass, test: KernelTest| FilterPlan {
        classes: [(class, ClassPlan::AnyOf(vec![test]))].into(),
        hold: vec![],
    };
    let only = |classes: &[EventClass]| FilterPlan {
        classes: shipped
            .classes
            .iter()
            .filter(|(class, _)| classes.contains(class))
            .map(|(class, plan)| (*class, plan.clone()))
            .collect(),
        hold: vec![],
    };
    let opens = |test| one(EventClass::FileOpen, test);
    let prefix = || KernelTest::PathPrefix("/nowhere/".into());
    Ok(vec![
        ("exec, fork, exit only", FilterPlan::default()),
        ("the hook at the end of calls", one(EventClass::Bpf, KernelTest::BpfCommand(120))),
        ("opens: a suffix", opens(KernelTest::PathSuffix("/nowhere".into()))),
        ("opens: a prefix", opens(prefix())),
        ("opens: a prefix, of writes", opens(KernelTest::AllOf(vec![KernelTest::Write, prefix()]))),
        ("opens: a text within", opens(KernelTest::PathContains("nowhere".into()))),
        ("the shipped rules: opens", only(&[EventClass::FileOpen])),
        ("the shipped rules: deletes", only(&[EventClass::FileDelete])),
        ("the shipped rules: connects", only(&[EventClass::Connect])),
        ("the shipped rules: listens, binds", only(&[EventClass::Listen, EventClass::Bind])),
        ("the shipped rules: DNS", only(&[EventClass::Dns])),
        ("the shipped rules", shipped.clone()),
        ("opens told", FilterPlan { classes: [(EventClass::FileOpen, ClassPlan::All)].into(), hold: vec![] }),
    ])
}

type Call = Box<dyn Fn() -> Result<(), Failure>>;

fn calls(folder: &Path) -> Result<Vec<(&'static str, Call)>, Failure> {
    let text = |path: PathBuf| CString::new(path.to_string_lossy().into_owned());
    let existing = folder.join("a/b/existing.txt");
    fs::write(&existing, "")?;
    let (read, library) = (CString::new("/etc/hostname")?, CString::new("/usr/bin/env")?);
    let (written, made) = (text(existing)?, text(folder.join("a/b/made"))?);
    let moved = text(folder.join("a/b/moved"))?;
    let opening = |path: CString, flags: i32| -> Call {
        Box::new(move || {
            // SAFETY: a string that lives during the call.
            closed(unsafe { libc::open(path.as_ptr(), flags, 0o600) })
        })
    };
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let making = made.clone();
    Ok(vec![
        (
            "getppid",
            Box::new(|| {
                // SAFETY: no memory is passed.
                unsafe { libc::syscall(libc::SYS_getppid) };
                Ok(())
            }) as Call,
        ),
        ("open+close /etc/hostname", opening(read, libc::O_RDONLY)),
        ("open+close /usr/bin/env", opening(library, libc::O_RDONLY)),
        ("the same, to write, 5 deep", opening(written, libc::O_WRONLY)),
        (
            "create+close+unlink",
            Box::new(move || {
                // SAFETY: a string that lives during the calls.
                unsafe {
                    closed(libc::open(making.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o600))?;
                    done(libc::unlink(making.as_ptr()))
                }
            }),
        ),
        (
            "create+close+rename+unlink",
            Box::new(move || {
                // SAFETY: as above.
                unsafe {
                    closed(libc::open(made.as_ptr(), libc::O_CREAT | libc::O_WRONLY, 0o600))?;
                    done(libc::rename(made.as_ptr(), moved.as_ptr()))?;
                    done(libc::unlink(moved.as_ptr()))
                }
            }),
        ),
        (
            "connect+accept+close",
            Box::new(move || {
                let client = TcpStream::connect(address)?;
                let (server, _) = listener.accept()?;
                drop(server);
                drop(client);
                Ok(())
            }),
        ),
        (
            "fork+exec+wait /bin/true",
            Box::new(|| {
                Command::new("/bin/true").status()?;
                Ok(())
            }),
        ),
    ])
}

fn closed(fd: i32) -> Result<(), Failure> {
    done(fd)?;
    // SAFETY: a descriptor of ours.
    done(unsafe { libc::close(fd) })
}

fn done(result: i32) -> Result<(), Failure> {
    if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(()) }
}

fn row(name: &str, rounds: usize, calls: &[(&str, Call)]) -> Result<(), Failure> {
    let mut cells = Vec::new();
    for (call, act) in calls {
        let batch = if call.starts_with("fork") { 1 } else { CALLS };
        let mut times = Vec::new();
        for _ in 0..rounds {
            let begun = Instant::now();
            for _ in 0..batch {
                act()?;
            }
            times.push(begun.elapsed().as_nanos() / u128::from(batch));
        }
        times.sort_unstable();
        cells.push(format!("{} ({})", times[0], times[rounds / 10]));
    }
    println!("{name:34} {}", cells.join(" | "));
    Ok(())
}

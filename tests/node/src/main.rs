//! Probe tests on the running kernel: load, trigger, expect exactly this event. A binary of its own, since the same file is
//! `/init` in the second kernel's guest. Without arguments it runs every check, else those whose name contains one of them.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a test runner speaks to its user")]

mod accounting;
mod actor;
mod acts;
mod churn;
mod container;
mod cost;
mod credentials;
mod differential;
mod fallback;
mod file;
mod file_calls;
mod flood;
mod guest;
mod hold;
mod kernel;
mod net;
mod net_calls;
mod process;
mod replay;
mod rights;
mod ring;
mod scene;
mod suites;
mod swap;
mod uring;

use std::process::ExitCode;

use agent::probe::Forms;
use scene::{Scene, Skip};

/// One named check.
pub(crate) struct Check {
    /// Its name: what holds when it passes.
    pub(crate) name: &'static str,
    /// An error that is a [`Skip`] means that this machine cannot run it.
    pub(crate) run: fn(&mut Scene) -> Result<(), Failure>,
}

/// Why a check failed.
pub(crate) type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    if let Some(part) = replay::part() {
        return replay::perform(&part);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "actor") {
        return actor::run(&arguments[1..]);
    }
    if arguments.first().is_some_and(|word| word == "--version") {
        return ExitCode::SUCCESS;
    }
    if arguments.first().is_some_and(|word| word == "cost") {
        let rounds = arguments.get(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(400);
        return match cost::run(rounds) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("cost: {why}");
                ExitCode::FAILURE
            }
        };
    }
    if !guest::is_init() {
        return if run(&arguments) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let passed = match guest::set_up() {
        Ok(()) => {
            // Whoever waits for the machine sees that it has come up.
            println!("the guest is up");
            let wanted = guest::wanted_tests().unwrap_or_default();
            let wanted: Vec<String> =
                wanted.split(',').filter(|word| !word.is_empty()).map(String::from).collect();
            // Both, whatever comes of the first.
            let probes = run(&wanted);
            suites::run(&wanted) && probes
        }
        Err(err) => {
            println!("FAILED guest: {err}");
            false
        }
    };
    guest::power_off(passed)
}

/// Runs the wanted checks and prints a line for each. Whether none failed.
fn run(arguments: &[String]) -> bool {
    let quick = arguments.iter().any(|word| word == "--quick");
    let wanted: Vec<&String> = arguments.iter().filter(|word| !word.starts_with("--")).collect();
    let all = [
        process::CHECKS,
        rights::CHECKS,
        credentials::CHECKS,
        kernel::CHECKS,
        file::CHECKS,
        net::CHECKS,
        uring::CHECKS,
        accounting::BY_CLASS,
        accounting::CHECKS,
        swap::CHECKS,
        hold::CHECKS,
        differential::CHECKS,
        churn::CHECKS,
        container::CHECKS,
        fallback::CHECKS,
    ];
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    let mut plays: Vec<(String, Forms, &Check)> =
        all.iter().copied().flatten().map(|check| (check.name.to_owned(), Forms::Best, check)).collect();
    // Once more as on a kernel that lacks the best forms.
    plays.extend(
        fallback::AGAIN
            .iter()
            .copied()
            .flatten()
            .map(|check| (format!("fallback: {}", check.name), Forms::Fallback, check)),
    );
    plays.retain(|(name, ..)| wants(name));
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut scene: Option<Scene> = None;
    // Asked once, when it is first needed.
    let mut another = None;
    for (name, forms, check) in plays {
        scene = scene.filter(|scene| scene.forms() == forms);
        let outcome = Scene::fresh(&mut scene, forms, quick).and_then(|scene| {
            if forms == Forms::Fallback {
                let another = match &another {
                    Some(another) => another,
                    None => another.insert(fallback::is_another(scene)?),
                };
                if let fallback::Another::No(why) = another {
                    return Err(Box::new(Skip((*why).into())));
                }
            }
            (check.run)(scene)
        });
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("ok {name}");
            }
            Err(why) if why.is::<Skip>() => {
                skipped += 1;
                println!("SKIPPED {name}: {why}");
            }
            Err(why) => {
                failed += 1;
                println!("FAILED {name}: {why}");
                // What is left of a failed check must not meet the next.
                scene = None;
            }
        }
    }
    drop(scene);
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    failed == 0
}

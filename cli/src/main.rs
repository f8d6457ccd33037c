//! `hemostat`: one command for the person at the machine.

mod commands;
mod exit;
mod render;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    exit::{Ended, Exit, with_causes},
    render::Format,
};

/// Sees an attack in the kernel, contains it within milliseconds, and can undo every automatic step exactly.
#[derive(Parser)]
#[command(name = "hemostat", version, arg_required_else_help = true, max_term_width = 80, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    shared: Shared,
    #[command(subcommand)]
    command: Command,
}

const AFTER_HELP: &str = "Exit codes: 0 good, 1 the answer is no, 2 usage, 3 controller unreachable, 4 not allowed, 5 unknown, \
                          6 not possible now.";

/// Options of every command.
#[derive(clap::Args)]
pub(crate) struct Shared {
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
    /// The control socket of the running Hemostat.
    #[arg(
        long,
        global = true,
        env = "HEMOSTAT_SOCKET",
        default_value = "/run/hemostat/control.sock",
        value_name = "PATH"
    )]
    pub(crate) socket: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Watch this host: agent and controller in one process, rules and playbooks from folders.
    Standalone(commands::standalone::Options),
    /// The controller of a cluster: rules and playbooks from the API server, incidents shown there.
    Controller(Box<commands::controller::Options>),
    /// One node of a cluster: watches it for a controller.
    Agent(commands::agent::Options),
    /// Triage through the API server (`kubectl hemostat`): incidents, answers, undo, as whoever the kubeconfig says.
    Kubectl(commands::kubectl::Options),
    /// What runs, what each hook is attached to, what was seen and what was lost.
    Status(commands::status::Options),
    /// Whether this machine can run Hemostat and does: kernel, rights, hooks (a live event each), clock, disk, certificates.
    Doctor(commands::doctor::Options),
    /// Incidents: list, show, watch.
    #[command(subcommand_required = false, args_conflicts_with_subcommands = true)]
    Incidents(commands::incidents::Options),
    /// Say yes to a step that waits for a person.
    Approve(commands::decide::Decision),
    /// Say no to a step that waits for a person.
    Deny(commands::decide::Decision),
    /// Undo everything done about an incident, or one action.
    Rollback(commands::decide::Rollback),
    /// Say what an incident was; a false positive is undone.
    Verdict(commands::decide::Judgement),
    /// Close an incident; what is in force stays.
    Close(commands::decide::Closing),
    /// Take findings that are another story out of an incident, into one of their own.
    Split(commands::decide::Splitting),
    /// Keep everything automatic from beginning: new runs ask, runs that go on stop before their next step, nodes only observe.
    Pause(commands::gate::Switch),
    /// Let automatic response begin again.
    Resume(commands::gate::Switch),
    /// Which policy decides what.
    #[command(subcommand)]
    Policy(commands::gate::PolicyTask),
    /// What the gate goes by.
    #[command(subcommand)]
    Trust(commands::gate::TrustTask),
    /// Lift containments on this node, also when nothing of Hemostat runs.
    Release(commands::release::Options),
    /// Play recorded events in virtual time: what would have been found and done, and how two setups differ. Nothing is done.
    Replay(commands::replay::Options),
    /// Check, test and explain detection rules.
    #[command(subcommand)]
    Rules(commands::rules::Task),
    /// List, check and draw playbooks.
    #[command(subcommand)]
    Playbook(commands::playbook::Task),
    /// Show and verify the audit log.
    #[command(subcommand)]
    Audit(commands::audit::Task),
    /// Completions for a shell, to be sourced.
    Completions { shell: clap_complete::Shell },
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(words(std::env::args_os().collect()));
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            let exit = error.downcast_ref::<Ended>().map_or(Exit::Bad, |ended| ended.exit);
            let _nowhere_left_to_say_it = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("error: {}\n", with_causes(&error)).as_bytes(),
            );
            exit.into()
        }
    }
}

/// Called as `kubectl-hemostat`, which is how kubectl finds its plugins, everything is a word of `hemostat kubectl`.
fn words(mut words: Vec<std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let called = words.first().map(std::path::Path::new).and_then(std::path::Path::file_name);
    if called.is_some_and(|name| name == "kubectl-hemostat") {
        words.insert(1, "kubectl".into());
    }
    words
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let Cli { shared, command } = cli;
    match command {
        Command::Standalone(options) => {
            agent::allocator::give_back_freed_memory();
            commands::standalone::run(&shared, options)
        }
        Command::Controller(options) => commands::controller::run(&shared, *options),
        Command::Agent(options) => {
            agent::allocator::give_back_freed_memory();
            commands::agent::run(options)
        }
        Command::Kubectl(options) => commands::asking(commands::kubectl::run(&shared, options)),
        Command::Status(options) => commands::asking(commands::status::run(&shared, &options)),
        Command::Doctor(options) => commands::doctor::run(&shared, &options),
        Command::Incidents(options) => commands::asking(commands::incidents::run(&shared, options)),
        Command::Approve(decision) => commands::asking(commands::decide::approve(&shared, decision)),
        Command::Deny(decision) => commands::asking(commands::decide::deny(&shared, decision)),
        Command::Rollback(rollback) => commands::asking(commands::decide::rollback(&shared, rollback)),
        Command::Verdict(judgement) => commands::asking(commands::decide::verdict(&shared, judgement)),
        Command::Close(closing) => commands::asking(commands::decide::close(&shared, closing)),
        Command::Split(splitting) => commands::asking(commands::decide::split(&shared, splitting)),
        Command::Pause(switch) => commands::asking(commands::gate::pause(&shared, switch)),
        Command::Resume(switch) => commands::asking(commands::gate::resume(&shared, switch)),
        Command::Policy(task) => commands::asking(commands::gate::policy(&shared, task)),
        Command::Trust(task) => commands::asking(commands::gate::trust(&shared, task)),
        Command::Release(options) => commands::release::run(&shared, &options),
        Command::Replay(options) => commands::replay::run(&shared, options),
        Command::Rules(task) => commands::rules::run(&shared, task),
        Command::Playbook(task) => commands::playbook::run(&shared, task),
        Command::Audit(task) => commands::audit::run(&shared, task),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(
                shell,
                &mut <Cli as clap::CommandFactory>::command(),
                "hemostat",
                &mut text,
            );
            render::write_out(&String::from_utf8_lossy(&text))?;
            Ok(Exit::Good)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}

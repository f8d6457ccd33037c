//! Rules, playbooks, certificates, and the controller that should be running.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use controller::api::Condition;
use crds::source::{self, Resource, Severity};
use detect::{
    load::load,
    matcher::{Options, RuleSet},
};
use respond::plan::Plan;
use wire::identity::Credentials;

use super::{Look, Verdict};
use crate::{
    Shared,
    commands::{asking, client, files_below, now, refused, rules::read_rules},
    exit::Exit,
    render::counted,
};

pub(super) fn look(rules: &[PathBuf], playbooks: &[PathBuf]) -> [Look; 2] {
    [of_rules(&or_default(rules, "rules")), of_playbooks(&or_default(playbooks, "playbooks"))]
}

fn or_default(given: &[PathBuf], default: &str) -> Vec<PathBuf> {
    let here = PathBuf::from(default);
    if given.is_empty() && here.is_dir() { vec![here] } else { given.to_vec() }
}

fn of_rules(paths: &[PathBuf]) -> Look {
    if paths.is_empty() {
        return Look::new("rules", Verdict::Skipped, "no folder named (--rules) and none called rules here");
    }
    let files = match read_rules(paths) {
        Ok(files) => files,
        Err(error) => {
            return Look::new("rules", Verdict::Bad, format!("{error:#}"))
                .next("say with --rules where the rules are; those that come with Hemostat are in the folder rules of its source");
        }
    };
    let loaded = load(&files);
    let errors = loaded.errors();
    let (set, _) = RuleSet::compile(&loaded.rules, Options::default());
    let text = format!(
        "{} from {}, {} KiB of tables",
        counted(set.len(), "rule"),
        counted(files.len(), "file"),
        set.table_bytes() / 1024
    );
    if errors == 0 {
        return Look::new("rules", Verdict::Good, text);
    }
    Look::new("rules", Verdict::Bad, format!("{text}; {}", counted(errors, "error")))
        .next("hemostat rules check says where")
}

fn of_playbooks(paths: &[PathBuf]) -> Look {
    if paths.is_empty() {
        return Look::new(
            "playbooks",
            Verdict::Skipped,
            "no folder named (--playbooks) and none called playbooks here",
        );
    }
    let files = match files_below(paths, &[".yaml", ".yml"]) {
        Ok(files) => files,
        Err(error) => {
            return Look::new("playbooks", Verdict::Bad, format!("{error:#}")).next(
                "say with --playbooks where the playbooks are; those that come with Hemostat are in the folder playbooks of its source",
            );
        }
    };
    let (mut good, mut errors) = (0_usize, 0_usize);
    for path in files {
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                return Look::new("playbooks", Verdict::Bad, format!("{}: {error}", path.display()));
            }
        };
        let reading = source::read(&path.display().to_string(), &text);
        errors += reading.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
        for resource in &reading.resources {
            if let Resource::Playbook(playbook) = resource {
                match Plan::check(playbook, &BTreeSet::new()).plan {
                    Some(_) => good += 1,
                    None => errors += 1,
                }
            }
        }
    }
    if errors == 0 {
        return Look::new("playbooks", Verdict::Good, counted(good, "playbook"));
    }
    Look::new(
        "playbooks",
        Verdict::Bad,
        format!("{}; {}", counted(good, "playbook"), counted(errors, "error")),
    )
    .next("hemostat playbook check says where")
}

/// Certificate, key and authority as one end of a link would load them.
pub(super) fn identity(certificate: Option<&Path>, key: Option<&Path>, authority: Option<&Path>) -> Look {
    let what = "certificate";
    let (Some(certificate), Some(key), Some(authority)) = (certificate, key, authority) else {
        return Look::new(
            what,
            Verdict::Skipped,
            "none named (--certificate, --key, --authority); standalone needs none",
        );
    };
    let files =
        Credentials::Files { certificate: certificate.into(), key: key.into(), authority: authority.into() };
    let checked = files.load().and_then(|identity| identity.check(now()).map(|()| identity.describe()));
    match checked {
        Ok(described) => Look::new(what, Verdict::Good, described),
        Err(error) => Look::new(what, Verdict::Bad, error.to_string())
            .next("issue a new certificate for this machine, from the authority that both ends trust"),
    }
}

pub(super) fn controller(shared: &Shared) -> Look {
    let what = "controller";
    let mut found = None;
    let asked = asking(async {
        let health = client(shared).health().await.map_err(refused)?;
        found = Some(health);
        Ok(Exit::Good)
    });
    match (asked, found) {
        (Ok(_), Some(health)) if health.condition == Condition::Good => {
            Look::new(what, Verdict::Good, format!("answers on {}", shared.socket.display()))
        }
        (Ok(_), Some(health)) => {
            let problems: Vec<String> =
                health.problems.iter().map(|problem| format!("{}: {}", problem.part, problem.what)).collect();
            Look::new(what, Verdict::Bad, problems.join("; "))
        }
        (Err(error), _) => {
            Look::new(what, Verdict::Skipped, format!("{error:#}")).next("hemostat standalone starts one")
        }
        (Ok(_), None) => Look::new(what, Verdict::Skipped, "gave no answer"),
    }
}

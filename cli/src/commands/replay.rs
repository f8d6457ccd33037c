//! `hemostat replay`: recorded events through rules, correlations, gate and playbooks in virtual time, and how two setups differ.

use std::{path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use controller::{
    attribute::listed,
    ingest::{Format as Logs, SourceSpec, Zone},
    intel::{self, FeedSource},
    replay::{
        Outcome, Recording, Setup, Surroundings,
        compare::{Difference, compare},
        page, play,
    },
};
use detect::incident::GroupingConfig;
use model::NodeId;
use serde::Serialize;

use crate::{
    Shared,
    exit::{Ended, Exit},
    render,
};

/// Largest list of objects that is read.
const MAX_OBJECTS: u64 = 2 << 30;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// What was recorded, as FORMAT=PATH[,name=NAME]: a source's format (docs/sources.md), `events` (events, findings or incidents as JSON, one
    /// a line) or `spool` (a node's spool folder). A path is a file, packed with gzip or not, or a folder of files in the order of their names.
    /// NAME is what the source is called in production (FORMAT:PATH without it). May be given several times.
    #[arg(long = "from", value_name = "FORMAT=PATH", required = true)]
    from: Vec<From>,
    /// Rule files and folders.
    #[arg(long, default_value = "rules")]
    rules: Vec<PathBuf>,
    /// Playbook and policy files and folders.
    #[arg(long, default_value = "playbooks")]
    playbooks: Vec<PathBuf>,
    /// Compare with these rules: what is in force before the change.
    #[arg(long, value_name = "PATH")]
    against_rules: Vec<PathBuf>,
    /// Compare with these playbooks and policies.
    #[arg(long, value_name = "PATH")]
    against_playbooks: Vec<PathBuf>,
    /// Pods, their owners and namespaces as they were: `kubectl get pods,replicasets,deployments,jobs,namespaces -A -o json`.
    #[arg(long, value_name = "FILE")]
    objects: Option<PathBuf>,
    /// A feed of threat intelligence, as FORMAT=PATH[,OPTIONS].
    #[arg(long = "feed", value_name = "FORMAT=PATH")]
    feeds: Vec<FeedSource>,
    /// The data classification policy, as YAML (docs/attribution.md).
    #[arg(long, value_name = "FILE")]
    classes: Option<PathBuf>,
    /// Zone of log lines that name none; UTC where nothing is said, so that a replay does not depend on where it is done.
    #[arg(long, value_name = "ZONE", default_value = "UTC")]
    zone: Zone,
    /// How far records of different recordings may lie apart and still be put in order.
    #[arg(long, value_name = "PERIOD", default_value = "2m")]
    lateness: crds::Period,
    /// Findings that share an entity are one incident within this.
    #[arg(long, value_name = "PERIOD", default_value = "15m")]
    window: crds::Period,
    /// Threads that read and judge; 0: one for each processor.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// One recording as it is written on the command line.
#[derive(Debug, Clone)]
struct From {
    kind: Kind,
    path: PathBuf,
    name: NodeId,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Log(Logs),
    Events,
    Spool,
}

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (format, rest) = text.split_once('=').ok_or("a recording is FORMAT=PATH")?;
        let (path, name) = match rest.split_once(",name=") {
            Some((path, name)) => (path, Some(super::node_name(name)?)),
            None => (rest, None),
        };
        let kind = match format {
            "events" => Kind::Events,
            "spool" => Kind::Spool,
            other => Kind::Log(Logs::from_name(other).ok_or_else(|| {
                let known: Vec<&str> = Logs::ALL.iter().map(|format| format.name()).collect();
                format!("unknown format `{other}`: one of events, spool, {}", known.join(", "))
            })?),
        };
        let path = PathBuf::from(path);
        let name = match (name, kind) {
            (Some(name), _) => NodeId::new(name),
            (None, Kind::Log(format)) => SourceSpec::log(format, &path).name(),
            (None, _) => NodeId::new(format!("{format}:{}", path.display())),
        };
        Ok(Self { kind, path, name })
    }
}

impl From {
    fn open(&self, zone: &Zone) -> Result<Recording> {
        let paths = std::slice::from_ref(&self.path);
        Ok(match self.kind {
            Kind::Log(format) => Recording::log(format, paths, self.name.clone(), zone)?,
            Kind::Events => Recording::events(paths, self.name.clone())?,
            Kind::Spool => Recording::reports(self.name.clone(), agent::spool::recorded(&self.path)?),
        })
    }
}

/// What a program reads.
#[derive(Serialize)]
struct Told<'a> {
    outcomes: &'a [Outcome],
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<&'a Difference>,
}

pub(crate) fn run(shared: &Shared, options: Options) -> Result<Exit> {
    let recordings = options.from.iter().map(|from| from.open(&options.zone)).collect::<Result<Vec<_>>>()?;
    let setups = setups(&options);
    let around = surroundings(&options)?;
    let outcomes =
        play(recordings, &setups, &around).map_err(|error| Ended::with(Exit::Bad, error.to_string()))?;
    if let Some(read) = outcomes.last().map(|outcome| &outcome.read) {
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let rate = read.events as f64 / read.seconds.max(1e-9);
        render::write_err(&format!(
            "{} events in {:.1} s ({rate:.0} events/s), {} refused\n",
            read.events, read.seconds, read.refused
        ))?;
    }
    let difference = match outcomes.as_slice() {
        [before, after] => Some(compare(before, after)),
        _ => None,
    };
    let told = Told { outcomes: &outcomes, difference: difference.as_ref() };
    render::print(shared.output, &told, |_| match (&difference, outcomes.as_slice()) {
        (Some(difference), [before, after]) => page::difference(difference, before, after),
        (_, all) => all.iter().map(page::outcome).collect(),
    })?;
    match outcomes.last().map(|outcome| &outcome.read) {
        Some(read) if read.events == 0 && read.refused > 0 => Err(Ended::with(
            Exit::Bad,
            "not one record could be read: what was compared is nothing (JSON stands one record to a line; `jq -c .` or `jq -c '.[]'` writes it so)".to_owned(),
        )),
        _ => Ok(Exit::Good),
    }
}

/// What is in force before the change first, if there is something to compare with.
fn setups(options: &Options) -> Vec<Setup> {
    let setup = |name: &str, rules: &[PathBuf], playbooks: &[PathBuf]| Setup {
        name: name.to_owned(),
        rules: rules.to_vec(),
        playbooks: playbooks.to_vec(),
        grouping: GroupingConfig { window: options.window.0, ..GroupingConfig::default() },
        people: None,
    };
    let after = setup("after", &options.rules, &options.playbooks);
    if options.against_rules.is_empty() && options.against_playbooks.is_empty() {
        return vec![Setup { name: "replay".into(), ..after }];
    }
    let or = |given: &[PathBuf], otherwise: &[PathBuf]| {
        if given.is_empty() { otherwise.to_vec() } else { given.to_vec() }
    };
    let rules = or(&options.against_rules, &options.rules);
    let playbooks = or(&options.against_playbooks, &options.playbooks);
    vec![setup("before", &rules, &playbooks), after]
}

fn surroundings(options: &Options) -> Result<Surroundings> {
    let classes = super::classes(options.classes.as_deref())?;
    let facts = match &options.objects {
        None => Vec::new(),
        Some(path) => {
            let facts = std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?;
            if facts.len() > MAX_OBJECTS {
                return Err(Ended::with(Exit::Bad, format!("{} is too long", path.display())));
            }
            let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            listed::facts(&bytes, &classes.annotations()).with_context(|| path.display().to_string())?
        }
    };
    let intelligence = Arc::default();
    intel::take_in_all(&options.feeds, &intelligence, super::now())
        .map_err(|problem| Ended::with(Exit::Bad, problem))?;
    let lateness: Duration = options.lateness.0;
    Ok(Surroundings { facts, intelligence, classes, lateness, threads: options.threads })
}

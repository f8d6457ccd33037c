//! Mistake 12 of peers.md: a container that only its execs name. What a container does is told with its id and its pod's uid, whatever the
//! family of the event, by the agent's own way from the cgroup's id to its name.

use std::collections::BTreeSet;

use agent::{
    record::Body,
    tree::{Limits, ProcessTree},
    workload::Workloads,
};
use model::{Activity, EventClass, Workload};

use crate::{
    Check, Failure,
    accounting::Cgroup,
    differential::NoProc,
    scene::{Scene, same},
};

pub(crate) const CHECKS: &[Check] = &[Check {
    name: "container: events of every family name their container and its pod",
    run: every_family,
}];

const POD: &str = "6b1f0c3a-9d2e-4f7b-8a1c-2e3f4a5b6c7d";
const CONTAINER: &str = "3f4a0c7e9d2b1f6a8c5e7d9b0a1c2e3f4a5b6c7d8e9f0a1b2c3d4e5f6a7b8c9d";

fn every_family(scene: &mut Scene) -> Result<(), Failure> {
    let wanted = [
        EventClass::Exec,
        EventClass::Exit,
        EventClass::Fork,
        EventClass::FileOpen,
        EventClass::Connect,
        EventClass::Accept,
        EventClass::Listen,
        EventClass::SocketClose,
        EventClass::Memfd,
    ];
    scene.all_of(&wanted)?;
    for class in wanted {
        scene.needs(class)?;
    }
    let cgroup = Cgroup::below("kubepods", &format!("burstable/pod{POD}/{CONTAINER}"))?;
    let file = std::env::temp_dir().join(format!("hemostat-container-{}", std::process::id()));
    let words = ["of-each-family-after-stdin", &file.to_string_lossy()];
    let (_, records) = scene.during(|_| cgroup.run_with_input(&words, &[]))?;
    let _ = std::fs::remove_file(&file);
    let mut tree = ProcessTree::new(Limits::default(), Box::new(NoProc), Box::new(Workloads::open()?));
    let mut told = BTreeSet::new();
    for record in records {
        let view = tree.take_in(&record);
        if record.task.cgroup != cgroup.id {
            continue;
        }
        let what = match &record.body {
            Body::Exec(_) => EventClass::Exec,
            Body::Fork { .. } => EventClass::Fork,
            Body::Exit(_) => EventClass::Exit,
            Body::Act(Activity::FileOpen { .. }) => EventClass::FileOpen,
            Body::Act(Activity::Connect(_)) => EventClass::Connect,
            Body::Act(Activity::Accept(_)) => EventClass::Accept,
            Body::Act(Activity::Listen { .. }) => EventClass::Listen,
            Body::Act(Activity::SocketClose { .. }) => EventClass::SocketClose,
            Body::Act(Activity::MemfdCreate { .. }) => EventClass::Memfd,
            Body::Act(other) => return Err(format!("not asked for: {other:?}").into()),
        };
        match &*view.process.workload {
            Workload::Container { container_id, pod_uid, .. } => {
                same("the container", &container_id.as_str(), &CONTAINER)?;
                same("its pod", &pod_uid.as_deref(), &Some(POD))?;
            }
            other => return Err(format!("{what:?} names {other:?}").into()),
        }
        told.insert(what);
    }
    same("families", &told, &wanted.into_iter().collect())
}

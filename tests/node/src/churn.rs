//! I11 with the kernel's own records: processes that come and go leave the process tree as large as it was.

use agent::{
    record::Body,
    tree::{Limits, ProcessTree, Sizes},
};
use model::{Activity, EventClass};

use crate::{
    Check, Failure,
    differential::{NoProc, OneWorkload},
    guest,
    scene::{Scene, run_actor, same},
};

pub(crate) const CHECKS: &[Check] = &[
    Check { name: "tree: i11_50,000 short processes leave it flat", run: flat },
    Check { name: "tree: an orphan keeps the parent that it was forked by", run: orphan },
];

/// Mistake 10 of peers.md: whoever has lost its parent is not shown as a child of init.
fn orphan(scene: &mut Scene) -> Result<(), Failure> {
    scene.all_of(&[EventClass::Memfd])?;
    scene.needs(EventClass::Memfd)?;
    let (parent, records) = scene.during(|scene| {
        let parent = run_actor(&["leave-an-orphan"])?;
        scene.wait_for(|record| matches!(&record.body, Body::Act(Activity::MemfdCreate { name, .. }) if name == "orphan"))?;
        Ok(parent)
    })?;
    let mut tree = ProcessTree::new(Limits::default(), Box::new(NoProc), Box::new(OneWorkload));
    let mut seen = 0;
    for record in &records {
        let view = tree.take_in(record);
        if !matches!(&record.body, Body::Act(Activity::MemfdCreate { name, .. }) if name == "orphan") {
            continue;
        }
        seen += 1;
        if record.task.parent.pid == parent {
            return Err("its parent still lived: nothing was tried".into());
        }
        same("the parent", &view.process.parent.map(|key| key.pid), &Some(parent))?;
        same("the first ancestor", &view.ancestors.first().map(|one| one.key.pid), &Some(parent))?;
    }
    same("what the orphan did", &seen, &1)
}

fn flat(scene: &mut Scene) -> Result<(), Failure> {
    // An emulated machine makes as many in a quarter of an hour.
    let each = if scene.quick || guest::is_init() { 2_000 } else { 25_000 };
    if each < 25_000 {
        println!("  {} of them here", 2 * each);
    }
    let limits = Limits::default();
    let mut tree = ProcessTree::new(limits, Box::new(NoProc), Box::new(OneWorkload));
    let mut after = Vec::<Sizes>::new();
    let mut ended = 0;
    for _ in 0..2 {
        let (parent, records) = scene.during(|_| run_actor(&["fork", &each.to_string()]))?;
        for record in &records {
            ended += usize::from(record.task.parent.pid == parent && matches!(record.body, Body::Exit(_)));
            tree.take_in(record);
        }
        after.push(tree.sizes());
    }
    same("short processes whose end was told", &ended, &(2 * each))?;
    let [first, second] = after[..] else { return Err("two rounds".into()) };
    for sizes in [first, second] {
        // Other programs of this machine are in it, too: they are few against the storm.
        if sizes.living > each / 10 || sizes.dead > limits.dead || sizes.bytes > limits.bytes {
            return Err(format!("the tree holds {sizes:?}").into());
        }
    }
    if second.bytes > first.bytes + first.bytes / 4 + (64 << 10) {
        return Err(format!("it grew from {first:?} to {second:?}").into());
    }
    Ok(())
}

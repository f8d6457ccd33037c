//! Changing the plan under load: no gap.

use std::{io::Read, process::Stdio};

use model::{Activity, ClassCount, ClassPlan, EventClass, FilterPlan, KernelTest};

use crate::{
    Check, Failure,
    process::Scratch,
    scene::{Scene, acts, command, same},
};

pub(crate) const CHECKS: &[Check] =
    &[Check { name: "swap: i1_no event that both plans want is lost while plans change", run: under_load }];

fn under_load(scene: &mut Scene) -> Result<(), Failure> {
    let base = Scratch::new("swap")?;
    let path = base.0.join("wanted").to_str().unwrap_or_default().to_owned();
    let plan = |n: usize| {
        let mut tests: Vec<KernelTest> =
            (0..50).map(|m| KernelTest::PathSuffix(format!("/{n}-{m}.conf"))).collect();
        // By turns another kind of test wants it.
        tests.push(match n % 3 {
            0 => KernelTest::PathIs(path.clone()),
            1 => KernelTest::PathSuffix("/wanted".into()),
            _ => KernelTest::PathPrefix(base.0.to_str().unwrap_or_default().into()),
        });
        FilterPlan { classes: [(EventClass::FileOpen, ClassPlan::AnyOf(tests))].into(), hold: vec![] }
    };
    scene.probes.apply_plan(&plan(0))?;
    scene.needs(EventClass::FileOpen)?;
    let swaps = if scene.quick { 30 } else { 300 };
    let stop = base.0.join("stop");
    let counts = |scene: &Scene| -> Result<ClassCount, Failure> {
        Ok(scene.probes.counts()?.get(&EventClass::FileOpen).copied().unwrap_or_default())
    };
    let before = counts(scene)?;
    let ((pid, opens), records) = scene.during(|scene| {
        let mut worker = command(&["open-until", &path, stop.to_str().unwrap_or_default()]);
        let mut worker = worker.stdout(Stdio::piped()).spawn()?;
        for n in 1..=swaps {
            scene.probes.apply_plan(&plan(n))?;
        }
        std::fs::write(&stop, "")?;
        let mut said = String::new();
        worker.stdout.take().ok_or("no output")?.read_to_string(&mut said)?;
        worker.wait()?;
        Ok((worker.id(), said.trim().parse::<usize>()?))
    })?;
    let seen = acts(&records, model::Pid(pid))
        .into_iter()
        .filter(|act| matches!(act, Activity::FileOpen { file, .. } if file.path == path))
        .count();
    // What a slow reader lets the ring lose, or another program in the midst of its scratch space, is counted, and no gap of a swap.
    let after = counts(scene)?;
    let lost = usize::try_from(after.lost() - before.lost())?;
    same(&format!("opens seen or counted as lost ({before:?}, then {after:?})"), &(seen + lost), &opens)?;
    if opens < 10 * swaps {
        return Err(format!("only {opens} opens during {swaps} swaps: too few to prove anything").into());
    }
    Ok(())
}

//! Changing the plan under load: no gap.

use model::{Activity, ClassPlan, EventClass, FilterPlan, KernelTest};

use crate::{
    Check, Failure,
    process::Scratch,
    scene::{Scene, acts, helper, same},
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
    let opens = if scene.quick { 20_000 } else { 200_000 };
    let (swaps, records) = scene.during(|scene| {
        let mut worker = helper(&["open-loop", &path, &opens.to_string()])?;
        let mut swaps = 0;
        while worker.try_wait()?.is_none() {
            swaps += 1;
            scene.probes.apply_plan(&plan(swaps))?;
        }
        Ok((worker.id(), swaps))
    })?;
    let (pid, swaps) = swaps;
    let seen = acts(&records, model::Pid(pid))
        .into_iter()
        .filter(|act| matches!(act, Activity::FileOpen { file, .. } if file.path == path))
        .count();
    same("opens seen", &seen, &opens)?;
    if swaps < 10 {
        return Err(format!("only {swaps} swaps: the load was too short to prove anything").into());
    }
    Ok(())
}

//! The forms that hooks take where a kernel lacks the best ones: whatever is told with the best is told with them.

use agent::probe::Forms;
use model::{ClassPlan, EventClass, FilterPlan, HookState};

use crate::{Check, Failure, accounting, credentials, file, kernel, net, scene::Scene, uring};

pub(crate) const CHECKS: &[Check] =
    &[Check { name: "forms: each hook's best is taken where this kernel gives it, and said", run: best }];

/// What is run again without the best forms: of each family that has others.
pub(crate) const AGAIN: [&[Check]; 6] =
    [credentials::CHECKS, kernel::CHECKS, file::CHECKS, net::CHECKS, uring::CHECKS, accounting::BY_CLASS];

fn states(scene: &mut Scene) -> Result<Vec<(String, HookState)>, Failure> {
    let classes = EventClass::ALL.into_iter().map(|class| (class, ClassPlan::All)).collect();
    scene.probes.apply_plan(&FilterPlan { classes, hold: vec![] })?;
    let states = scene.probes.hooks().into_iter().map(|hook| (hook.hook, hook.state)).collect();
    scene.probes.apply_plan(&FilterPlan::default())?;
    Ok(states)
}

/// Whether there is anything to run again.
pub(crate) enum Another {
    /// At least one hook takes another form.
    Yes,
    /// Why not.
    No(&'static str),
}

/// Without the best forms other hooks are attached than with them; where this kernel gives the best of none, all has been run already.
pub(crate) fn is_another(scene: &mut Scene) -> Result<Another, Failure> {
    let mut usual = None;
    let usual = states(Scene::fresh(&mut usual, Forms::Best, scene.quick)?)?;
    let here = states(scene)?;
    let form = |state: &HookState| match state {
        HookState::Attached { to } | HookState::Fallback { to, .. } => Some(to.clone()),
        _ => None,
    };
    let mut others = 0;
    for ((hook, usual), (_, here)) in usual.iter().zip(&here) {
        match (form(usual), form(here)) {
            (Some(usual), Some(here)) => others += usize::from(usual != here),
            (None, None) => {}
            _ => return Err(format!("{hook}: {usual:?} and {here:?}").into()),
        }
    }
    Ok(match others {
        0 => Another::No("this kernel gives no better forms: what ran before has run with these"),
        _ => Another::Yes,
    })
}

/// Hooks that trace functions are attached so, or it is said why not, for all of them alike: the kernel either has it or not.
fn best(scene: &mut Scene) -> Result<(), Failure> {
    let mut tracing = Vec::new();
    for (hook, state) in states(scene)? {
        match state {
            HookState::Attached { to } if to.starts_with("fe") => tracing.push((hook, true)),
            HookState::Fallback { because, .. } if because.starts_with("fe") => {
                tracing.push((hook.clone(), false));
                if !because.contains("does not allow this kind of program") {
                    return Err(format!("{hook}: {because}").into());
                }
            }
            HookState::Failed { because } => return Err(format!("{hook}: {because}").into()),
            _ => {}
        }
    }
    let has = tracing.iter().filter(|(_, best)| *best).count();
    if tracing.len() >= 9 && (has == 0 || has == tracing.len()) {
        return Ok(());
    }
    Err(format!("tracing of functions: {tracing:?}").into())
}

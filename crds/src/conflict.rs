//! Where two policies say different things of the same incidents. The strictest word holds in any case; people should see that it does.

use crate::{Match, ResponsePolicySpec};

/// What two policies say differently of incidents that both may speak of, and which word holds; empty where they do not meet or agree.
#[must_use]
pub fn conflicts(this: &ResponsePolicySpec, other: &ResponsePolicySpec) -> Vec<String> {
    if !may_meet(&this.matches, &other.matches) {
        return Vec::new();
    }
    let mut found = Vec::new();
    if let (Some(ours), Some(theirs)) = (this.mode, other.mode)
        && ours != theirs
    {
        found.push(format!("mode {theirs:?} and not {ours:?}: {:?} holds", ours.min(theirs)));
    }
    if let (Some(ours), Some(theirs)) = (this.widest, other.widest)
        && ours != theirs
    {
        found.push(format!("widest {theirs:?} and not {ours:?}: {:?} holds", ours.min(theirs)));
    }
    let (ours, theirs) = (&this.approvals.approvers, &other.approvals.approvers);
    if !ours.is_empty() && !theirs.is_empty() && !ours.iter().any(|one| theirs.contains(one)) {
        found.push(format!(
            "approvers {} and not {}: nobody is both, so nobody can say yes",
            theirs.join(" "),
            ours.join(" ")
        ));
    }
    let budgets = [
        ("runsPerHour", this.budgets.runs_per_hour, other.budgets.runs_per_hour),
        ("actionsPerHour", this.budgets.actions_per_hour, other.budgets.actions_per_hour),
    ];
    for (name, ours, theirs) in budgets {
        if let (Some(ours), Some(theirs)) = (ours, theirs)
            && ours != theirs
        {
            found.push(format!("{name} {theirs} and not {ours}: {} holds", ours.min(theirs)));
        }
    }
    found
}

/// Whether an incident is possible that both speak of: unless a part that both give has nothing in common.
fn may_meet(one: &Match, other: &Match) -> bool {
    let same = |a: &String, b: &String| a == b;
    let below = |a: &String, b: &String| {
        let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
        let short = short.trim_end_matches('/');
        long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let begins = |a: &String, b: &String| a.starts_with(b.as_str()) || b.starts_with(a.as_str());
    let covers = |a: &String, b: &String| {
        let of = |wide: &str, narrow: &str| {
            narrow.strip_prefix(wide).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        of(a, b) || of(b, a)
    };
    meet(&one.cgroup_paths, &other.cgroup_paths, below)
        && meet(&one.units, &other.units, same)
        && meet(&one.containers, &other.containers, begins)
        && meet(&one.pods, &other.pods, same)
        && meet(&one.levels, &other.levels, |a, b| a == b)
        && meet(&one.techniques, &other.techniques, covers)
        && meet(&one.playbooks, &other.playbooks, same)
}

/// A part that one of them does not give excludes nothing.
fn meet<T>(one: &[T], other: &[T], fits: impl Fn(&T, &T) -> bool) -> bool {
    one.is_empty() || other.is_empty() || one.iter().any(|a| other.iter().any(|b| fits(a, b)))
}

#[cfg(test)]
mod tests {
    use crate::{Mode, Radius};

    use super::*;

    fn policy(change: impl Fn(&mut ResponsePolicySpec)) -> ResponsePolicySpec {
        let mut policy = ResponsePolicySpec::default();
        change(&mut policy);
        policy
    }

    #[test]
    fn different_words_about_the_same_incidents_are_told_with_what_holds() {
        let wide = policy(|it| {
            it.mode = Some(Mode::Auto);
            it.widest = Some(Radius::Node);
            it.approvals.approvers = vec!["user:ada".into()];
            it.budgets.runs_per_hour = Some(20);
        });
        let strict = policy(|it| {
            it.mode = Some(Mode::Shadow);
            it.widest = Some(Radius::Process);
            it.approvals.approvers = vec!["user:bob".into()];
            it.budgets.runs_per_hour = Some(5);
        });
        let found = conflicts(&wide, &strict);
        assert_eq!(
            found,
            [
                "mode Shadow and not Auto: Shadow holds",
                "widest Process and not Node: Process holds",
                "approvers user:bob and not user:ada: nobody is both, so nobody can say yes",
                "runsPerHour 5 and not 20: 5 holds",
            ]
        );
        assert_eq!(conflicts(&strict, &wide).len(), 4);
        assert!(conflicts(&wide, &wide).is_empty());
        assert!(
            conflicts(&wide, &ResponsePolicySpec::default()).is_empty(),
            "who says nothing contradicts nobody"
        );
    }

    #[test]
    fn policies_that_never_meet_do_not_conflict() {
        let meet = |one: fn(&mut Match), other: fn(&mut Match)| {
            let of = |change: fn(&mut Match), mode| {
                policy(|it| {
                    change(&mut it.matches);
                    it.mode = Some(mode);
                })
            };
            !conflicts(&of(one, Mode::Auto), &of(other, Mode::Shadow)).is_empty()
        };
        assert!(meet(|_| {}, |it| it.playbooks = vec!["p".into()]));
        assert!(!meet(|it| it.playbooks = vec!["q".into()], |it| it.playbooks = vec!["p".into()]));
        assert!(meet(
            |it| it.techniques = vec!["T1059".into()],
            |it| it.techniques = vec!["T1059.004".into()]
        ));
        assert!(!meet(
            |it| it.techniques = vec!["T1059.001".into()],
            |it| it.techniques = vec!["T1059.004".into()]
        ));
        assert!(meet(
            |it| it.cgroup_paths = vec!["a/b/c".into()],
            |it| it.cgroup_paths = vec!["a/b/".into()]
        ));
        assert!(!meet(|it| it.cgroup_paths = vec!["a/bc".into()], |it| it.cgroup_paths = vec!["a/b".into()]));
        assert!(meet(
            |it| it.containers = vec!["0123456789abcd".into()],
            |it| it.containers = vec!["0123456789ab".into()]
        ));
        // One by its unit, the other by its playbook: an incident may be both.
        assert!(meet(|it| it.units = vec!["a.service".into()], |it| it.playbooks = vec!["p".into()]));
    }
}

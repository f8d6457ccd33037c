//! What a node may do to a pod by itself, before anybody is asked: a rule's own reaction goes by the same protection, labels and policies as
//! a playbook's actions, as far as those depend on the place alone.

use crds::{Exclusion, Match, Mode, Protected, ResponsePolicySpec};
use model::{NodeGuard, PodGuard, Timestamp};

use crate::{
    gate::{SWITCH, is_on},
    target,
};

/// A policy, its name, and the namespace that it speaks of; of all where it is in Hemostat's own.
#[derive(Debug, Clone, PartialEq)]
pub struct Scoped {
    /// Its name.
    pub name: String,
    /// The only namespace that it speaks of.
    pub scope: Option<String>,
    /// What it says.
    pub spec: ResponsePolicySpec,
}

/// A pod, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The API server's uid.
    pub uid: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Value of the label [`SWITCH`] on it.
    pub switch: Option<&'a str>,
    /// The same of its namespace.
    pub namespace_switch: Option<&'a str>,
    /// Which folder of its node it has that the pods' network is installed in.
    pub network: Option<&'a str>,
}

/// Whether a node may act on a pod by itself. `own` is Hemostat's own namespace. What a policy says of levels, techniques, playbooks or
/// containers is not looked at: that is known only with the finding, and decided by the gate.
#[must_use]
pub fn pod(place: &Place<'_>, own: Option<&str>, policies: &[Scoped], now: Timestamp) -> PodGuard {
    let because = |text: String| crds::cut(&text, NodeGuard::MAX_BECAUSE);
    let never = |text: String| PodGuard::Never { because: because(text) };
    let asked = |text: String| PodGuard::Asked { because: because(text) };
    if own == Some(place.namespace) {
        return never(format!("the namespace {} is Hemostat's own", place.namespace));
    }
    let here =
        || policies.iter().filter(|policy| policy.scope.as_deref().is_none_or(|of| of == place.namespace));
    let mut kept = Protected::default();
    kept.namespaces.extend(here().flat_map(|policy| policy.spec.protected.namespaces.iter().cloned()));
    if let Some(text) = target::protected_namespace(place.namespace, &kept) {
        return never(text);
    }
    if let Some(path) = place.network {
        return never(format!("it belongs to the pods' network: it has {path} of its node"));
    }
    let off = |value: Option<&str>| value.is_some_and(|value| value != "on");
    if off(place.switch) {
        return asked(format!(
            "label {SWITCH} of pod {}/{} keeps automatic response away",
            place.namespace, place.name
        ));
    }
    if off(place.namespace_switch) {
        return asked(format!(
            "label {SWITCH} of namespace {} keeps automatic response away",
            place.namespace
        ));
    }
    for policy in here() {
        if let Some(mode @ (Mode::Shadow | Mode::Approve)) = policy.spec.mode
            && is_of_place(&policy.spec.matches, place)
        {
            return asked(format!("policy {} allows at most {mode:?}", policy.name));
        }
        if let Some(work) = policy.spec.maintenance.iter().find(|one| is_on(one, now))
            && is_of_place(&policy.spec.matches, place)
        {
            return asked(format!("policy {}: planned work: {}", policy.name, work.reason));
        }
        let excludes = |one: &&Exclusion| {
            one.expires.is_none_or(|end| now < end.0)
                && !one.matches.is_empty()
                && is_of_place(&policy.spec.matches, place)
                && is_of_place(&one.matches, place)
        };
        if let Some(one) = policy.spec.exclusions.iter().find(excludes) {
            return asked(format!("policy {} excludes it: {}", policy.name, one.reason));
        }
    }
    PodGuard::Free
}

/// Paths and units that policies for everything protect; an error where they are more than a node is told.
///
/// # Errors
/// Why nothing may be done by nodes themselves.
pub fn places(policies: &[Scoped]) -> Result<(Vec<String>, Vec<String>), String> {
    let all = || policies.iter().filter(|policy| policy.scope.is_none()).map(|policy| &policy.spec.protected);
    let gather = |mut list: Vec<String>, what: &str| {
        list.sort();
        list.dedup();
        let fits =
            list.len() <= NodeGuard::MAX_PLACES && list.iter().all(|one| one.len() <= NodeGuard::MAX_PLACE);
        fits.then_some(list).ok_or_else(|| {
            format!("policies protect more {what} than the {} that a node is told", NodeGuard::MAX_PLACES)
        })
    };
    let paths = gather(all().flat_map(|kept| kept.cgroup_paths.iter().cloned()).collect(), "cgroups")?;
    let units = gather(all().flat_map(|kept| kept.units.iter().cloned()).collect(), "units")?;
    Ok((paths, units))
}

/// Whether a `match` fits a pod, by what is said of places alone.
fn is_of_place(matches: &Match, place: &Place<'_>) -> bool {
    let said = Match { pods: Vec::new(), ..matches.clone() };
    said.is_empty() && (matches.pods.is_empty() || matches.pods.iter().any(|uid| uid == place.uid))
}

#[cfg(test)]
mod tests {
    use crds::Maintenance;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn place(namespace: &str) -> Place<'_> {
        Place { uid: "u-1", namespace, name: "api-0", switch: None, namespace_switch: None, network: None }
    }

    fn policy(scope: Option<&str>, spec: ResponsePolicySpec) -> Scoped {
        Scoped { name: "p".into(), scope: scope.map(str::to_owned), spec }
    }

    fn protects(namespace: &str) -> ResponsePolicySpec {
        let protected = Protected { namespaces: vec![namespace.into()], ..Protected::default() };
        ResponsePolicySpec { protected, ..ResponsePolicySpec::default() }
    }

    fn is_never(guard: &PodGuard, word: &str) -> bool {
        matches!(guard, PodGuard::Never { because } if because.contains(word))
    }

    fn is_asked(guard: &PodGuard, word: &str) -> bool {
        matches!(guard, PodGuard::Asked { because } if because.contains(word))
    }

    #[test]
    fn i6_system_namespaces_ours_the_networks_pods_and_what_policies_protect_are_never_touched() {
        let none = |namespace: &str| pod(&place(namespace), Some("hemostat-system"), &[], NOW);
        for namespace in ["kube-system", "kube-public", "calico-system", "cilium"] {
            assert!(is_never(&none(namespace), namespace), "{namespace}");
        }
        assert!(is_never(&none("hemostat-system"), "own"));
        assert_eq!(none("pay"), PodGuard::Free);
        let network = Place { network: Some("/etc/cni"), ..place("pay") };
        assert!(is_never(&pod(&network, None, &[], NOW), "/etc/cni"));
        let vault = [policy(None, protects("vault"))];
        assert!(is_never(&pod(&place("vault"), None, &vault, NOW), "vault"));
        assert_eq!(pod(&place("pay"), None, &vault, NOW), PodGuard::Free);
    }

    #[test]
    fn i6_a_namespaces_own_policy_protects_it_and_no_other() {
        let own = [policy(Some("pay"), protects("pay")), policy(Some("shop"), protects("bank"))];
        assert!(is_never(&pod(&place("pay"), None, &own, NOW), "pay"));
        assert_eq!(pod(&place("bank"), None, &own, NOW), PodGuard::Free);
    }

    #[test]
    fn i8_a_place_that_a_label_or_a_policy_keeps_from_automatic_response_is_left_to_people() {
        let off = Place { switch: Some("off"), ..place("pay") };
        assert!(is_asked(&pod(&off, None, &[], NOW), "of pod pay/api-0"));
        let namespace = Place { namespace_switch: Some("off"), ..place("pay") };
        assert!(is_asked(&pod(&namespace, None, &[], NOW), "of namespace pay"));
        let on = Place { switch: Some("on"), ..place("pay") };
        assert_eq!(pod(&on, None, &[], NOW), PodGuard::Free);
        for mode in [Mode::Shadow, Mode::Approve] {
            let spec = ResponsePolicySpec { mode: Some(mode), ..ResponsePolicySpec::default() };
            let policies = [policy(Some("pay"), spec)];
            assert!(is_asked(&pod(&place("pay"), None, &policies, NOW), "at most"), "{mode:?}");
            assert_eq!(pod(&place("shop"), None, &policies, NOW), PodGuard::Free);
        }
        let auto = ResponsePolicySpec { mode: Some(Mode::Auto), ..ResponsePolicySpec::default() };
        assert_eq!(pod(&place("pay"), None, &[policy(None, auto)], NOW), PodGuard::Free);
    }

    #[test]
    fn an_exclusion_of_a_pod_holds_for_it_alone_and_until_it_expires() {
        let excluded = |uid: &str, expires: Option<i64>| {
            let matches = Match { pods: vec![uid.into()], ..Match::default() };
            let expires = expires.map(|at| crds::Moment(Timestamp(at)));
            let exclusion = Exclusion { matches, reason: "a game day".into(), expires };
            [policy(
                None,
                ResponsePolicySpec { exclusions: vec![exclusion], ..ResponsePolicySpec::default() },
            )]
        };
        assert!(is_asked(&pod(&place("pay"), None, &excluded("u-1", None), NOW), "a game day"));
        assert!(is_asked(&pod(&place("pay"), None, &excluded("u-1", Some(1_001)), NOW), "a game day"));
        assert_eq!(pod(&place("pay"), None, &excluded("u-1", Some(1_000)), NOW), PodGuard::Free);
        assert_eq!(pod(&place("pay"), None, &excluded("u-2", None), NOW), PodGuard::Free);
    }

    #[test]
    fn planned_work_in_a_place_is_left_to_people_while_it_lasts() {
        let moment = |at: i64| crds::Moment(Timestamp(at));
        let work =
            Maintenance { from: moment(500), until: moment(2_000), every: None, reason: "a move".into() };
        let spec = ResponsePolicySpec { maintenance: vec![work], ..ResponsePolicySpec::default() };
        let policies = [policy(Some("pay"), spec)];
        for (at, is_on) in [(499, false), (500, true), (1_999, true), (2_000, false)] {
            let guard = pod(&place("pay"), None, &policies, Timestamp(at));
            assert_eq!(is_asked(&guard, "planned work: a move"), is_on, "{at}");
        }
        assert_eq!(pod(&place("shop"), None, &policies, NOW), PodGuard::Free);
    }

    #[test]
    fn a_policy_for_some_rules_leaves_the_others_to_the_node() {
        let matches = Match { techniques: vec!["T1496".into()], ..Match::default() };
        let spec = ResponsePolicySpec { mode: Some(Mode::Shadow), matches, ..ResponsePolicySpec::default() };
        assert_eq!(pod(&place("pay"), None, &[policy(None, spec)], NOW), PodGuard::Free);
    }

    #[test]
    fn i11_more_places_than_a_node_is_told_let_it_do_nothing() {
        let protected = Protected { units: vec!["db.service".into()], ..Protected::default() };
        let some = ResponsePolicySpec { protected, ..ResponsePolicySpec::default() };
        let all = [policy(None, some.clone()), policy(Some("pay"), some)];
        assert_eq!(places(&all).unwrap().1, ["db.service"]);
        let units = (0..=NodeGuard::MAX_PLACES).map(|n| format!("{n}.service")).collect();
        let protected = Protected { units, ..Protected::default() };
        let many = ResponsePolicySpec { protected, ..ResponsePolicySpec::default() };
        assert!(places(&[policy(None, many)]).unwrap_err().contains("units"));
    }
}

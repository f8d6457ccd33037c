use super::*;

const GOOD: &str = r#"# a comment
apiVersion: hemostat.dev/v1alpha1
kind: Playbook
metadata: {name: shell}
spec:
  mode: Auto
  trigger: {techniques: [T1059]}
  steps:
    - name: freeze
      action: node.freeze
      when: "finding.level == 'high'"
      timeout: 3s
---
apiVersion: hemostat.dev/v1alpha1
kind: ResponsePolicy
metadata: {name: careful}
spec:
  mode: Approve
"#;

fn messages(text: &str) -> Vec<String> {
    read("p.yaml", text).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn reads_several_documents_and_knows_their_places() {
    let reading = read("p.yaml", GOOD);
    assert_eq!(reading.problems, []);
    let [Resource::Playbook(playbook), Resource::ResponsePolicy(policy)] = &reading.resources[..] else {
        panic!("{reading:?}")
    };
    assert_eq!(playbook.value.spec.steps[0].name, "freeze");
    assert_eq!(playbook.places.of("spec.steps[0].action").to_string(), "p.yaml:10:15");
    assert_eq!(playbook.places.within("spec.steps[0].when", 1, 9).to_string(), "p.yaml:11:22");
    assert_eq!(playbook.places.of("spec.steps[0].nothing.here").to_string(), "p.yaml:9:7");
    assert_eq!(policy.places.of("spec.mode").to_string(), "p.yaml:18:9");
}

#[test]
fn says_all_mistakes_of_shape_at_once_with_place_and_likely_meaning() {
    let text =
        GOOD.replace("timeout: 3s", "neds: [x]\n      onFailure: rollback\n      verify: {attempts: 99}");
    let text = text.replace("mode: Auto", "moed: Auto");
    assert_eq!(
        messages(&text),
        [
            "p.yaml:6:3: error: unknown field `moed`; expected one of blastRadius, description, maximumDuration, mode, \
             steps, trigger (did you mean `mode`?)",
            "p.yaml:12:7: error: unknown field `neds`; expected one of action, alternatives, approval, name, needs, \
             observe, onFailure, target, timeout, verify, when, with, withFrom (did you mean `needs`?)",
            "p.yaml:13:18: error: spec.steps[0].onFailure: expected one of Stop, Continue, Rollback, found `rollback` \
             (did you mean `Rollback`?)",
            "p.yaml:14:26: error: spec.steps[0].verify.attempts: 99 is not within 1 to 10",
        ]
    );
    assert!(matches!(read("p.yaml", &text).resources[..], [Resource::ResponsePolicy(_)]));
}

#[test]
fn says_what_a_value_should_have_been() {
    let bad_time = messages(&GOOD.replace("3s", "3 seconds"));
    assert_eq!(bad_time.len(), 1, "{bad_time:?}");
    assert!(bad_time[0].starts_with("p.yaml:12:"), "{bad_time:?}");
    assert!(bad_time[0].contains("no length of time"), "{bad_time:?}");
    assert!(
        messages(&GOOD.replace("kind: Playbook", "kind: PlayBook"))[0].contains("did you mean `Playbook`?")
    );
    assert!(messages("kind: Playbook\nmetadata: {name: x}\nspec: {").last().unwrap().contains("p.yaml:"));
    let many: String = (0..65).map(|n| format!("    - {{name: s{n}, action: node.freeze}}\n")).collect();
    let (before, behind) = GOOD.split_once("---\n").unwrap();
    let many = messages(&format!("{before}{many}---\n{behind}"));
    assert_eq!(many, ["p.yaml:9:5: error: spec.steps: 66 entries; at most 64"]);
}

#[test]
fn hostile_text_is_refused_with_a_message() {
    let bomb = format!("a: &a [x,x]\nb: {}", "[".repeat(5000));
    for text in
        ["\u{0}", "{", "a: b: c", "- - -", "%YAML 9", "*nothing", "a: *x", bomb.as_str(), "---\n---\n"]
    {
        let reading = read("p.yaml", text);
        assert!(reading.resources.is_empty());
    }
    assert!(!read("p.yaml", &"x".repeat(MAX_FILE + 1)).problems.is_empty());
}

#[test]
fn a_value_of_a_wrong_type_hides_no_other_mistake() {
    let text = "apiVersion: hemostat.dev/v1alpha1
kind: Playbook
metadata:
  name: many
spec:
  mode: Shadow
  maximumDuration: soon
  trigger:
    rules: [a]
  steps:
    - name: freeze
      action: node.freeze
      timeout: forever
    - name: kill
      action: node.kill
      needs: [freez]
      timeout: 3 parsecs
";
    let reading = read("p.yaml", text);
    let mut lines: Vec<u32> = reading.problems.iter().map(|problem| problem.place.line).collect();
    lines.sort_unstable();
    assert_eq!(lines, [7, 13, 17], "{:#?}", reading.problems);
    assert!(reading.resources.is_empty());
    assert_eq!(reading.damaged.len(), 1, "what is left of it can be looked through for more");
}

#[test]
fn a_key_that_there_is_not_hides_no_other_mistake_whatever_its_value() {
    for key in ["alow: [10.0.0.0/8]", "alow: {a: [b]}", "alow: x, alow2: y", "alow: "] {
        let text = GOOD.replace("timeout: 3s", &format!("with: {{{key}}}\n      timeout: 3 seconds"));
        let reading = read("p.yaml", &text);
        let told: Vec<String> = reading.problems.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|one| one.contains("unknown field `alow`")), "{key}: {told:?}");
        assert!(told.iter().any(|one| one.starts_with("p.yaml:13:")), "{key}: {told:?}");
        let [Resource::Playbook(rest)] = &reading.damaged[..] else { panic!("{key}: {told:?}") };
        assert_eq!(rest.value.spec.steps[0].action.0, "node.freeze", "{key}");
        assert_eq!(reading.resources.len(), 1, "{key}: only the policy can be used");
    }
}

//! What is proposed is a patch that Git takes.

use crds::Mode;
use hemostat_respond::gate::promotion::{NoPatch, mode_hunk, patch};

#[test]
fn a_patch_applies_with_git_and_changes_the_mode_alone() {
    let with = "# a playbook\napiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata:\n  name: p\nspec:\n  mode: \"Shadow\" # not yet\n  trigger:\n    rules: [r]\n  steps:\n    - name: freeze\n      action: node.freeze\n      target: { kind: Process }\n";
    let without = with.replace("  mode: \"Shadow\" # not yet\n", "");
    let flow = "apiVersion: hemostat.dev/v1alpha1\nkind: Playbook\nmetadata: {name: p}\nspec: {mode: Shadow, trigger: {rules: [r]}, steps: [{name: s, action: node.freeze, target: {kind: Process}}]}";
    let policy = "apiVersion: hemostat.dev/v1alpha1\nkind: ResponsePolicy\nmetadata:\n  name: p\nspec:\n  mode: Approve\n";
    for (text, is_policy) in [
        (with, false),
        (&*without, false),
        (flow, false),
        (policy, true),
        (&*format!("{policy}---\n{with}"), false),
    ] {
        let hunk = mode_hunk("books/p.yaml", text, "p", is_policy, Mode::Auto).unwrap();
        let whole = patch("p: mode Auto", &["evil\n--- a/etc/passwd\n+++ b/etc/passwd".into()], &[hunk]);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("books")).unwrap();
        std::fs::write(dir.path().join("books/p.yaml"), text).unwrap();
        std::fs::write(dir.path().join("p.patch"), &whole).unwrap();
        let git = std::process::Command::new("git")
            .current_dir(dir.path())
            .args(["apply", "p.patch"])
            .output()
            .unwrap();
        assert!(git.status.success(), "{}\n{whole}", String::from_utf8_lossy(&git.stderr));
        let after = std::fs::read_to_string(dir.path().join("books/p.yaml")).unwrap();
        assert!(after.contains("Auto"), "{after}");
        assert!(after.len().abs_diff(text.len()) < 20);
    }
    assert!(matches!(mode_hunk("p.yaml", with, "q", false, Mode::Auto), Err(NoPatch::Absent { .. })));
    let alias = with.replace("\"Shadow\" # not yet", "&m Shadow");
    assert!(
        mode_hunk("p.yaml", &alias, "p", false, Mode::Auto).is_ok_and(|h| h.diff.contains("&m Auto"))
            || matches!(mode_hunk("p.yaml", &alias, "p", false, Mode::Auto), Err(NoPatch::Unusual { .. }))
    );
}

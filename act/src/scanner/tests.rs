//! Reports as the scanners write them, and what is not one.

use proptest::prelude::*;

use super::*;

fn scanner(kind: &str) -> Scanner {
    format!("{kind}=registry.example/{kind}:1").parse().unwrap()
}

fn trivy_report() -> Value {
    json!({
        "SchemaVersion": 2, "ArtifactName": "registry.example/miner:1", "ArtifactType": "container_image",
        "Results": [
            {"Target": "debian", "Class": "os-pkgs", "Vulnerabilities": [
                {"VulnerabilityID": "CVE-2021-44228", "PkgName": "log4j", "InstalledVersion": "2.14", "FixedVersion": "2.15", "Severity": "CRITICAL"},
                {"VulnerabilityID": "CVE-2023-0001", "PkgName": "a", "Severity": "LOW"},
            ]},
            {"Target": "app", "Class": "lang-pkgs", "Vulnerabilities": [{"VulnerabilityID": "CVE-2023-0001", "PkgName": "b", "Severity": "HIGH"}]},
            {"Target": "clean"},
        ],
    })
}

fn grype_report() -> Value {
    json!({
        "matches": [
            {"vulnerability": {"id": "GHSA-jfh8-c2jp-5v3q", "severity": "Critical", "fix": {"versions": ["2.15"], "state": "fixed"}}, "artifact": {"name": "log4j"}},
            {"vulnerability": {"id": "CVE-2020-1", "severity": "Negligible", "fix": {"state": "wont-fix"}}, "artifact": {"name": "a"}},
        ],
        "source": {"type": "image"}, "descriptor": {"name": "grype", "version": "0.121.2"},
    })
}

#[test]
fn a_report_of_trivy_is_understood() {
    let log = format!("2026-11-22 WARN something\n{:#}\n", trivy_report());
    let outputs = scanner("trivy").report(&log).unwrap().outputs();
    let wanted = json!({"vulnerable": true, "known": 2, "critical": 1, "high": 1, "fixable": 1, "ids": ["CVE-2021-44228", "CVE-2023-0001"]});
    assert_eq!(json!(outputs), wanted);
    let clean = json!({"SchemaVersion": 2, "ArtifactName": "x", "Results": [{"Target": "debian"}]});
    assert_eq!(scanner("trivy").report(&clean.to_string()).unwrap().outputs()["vulnerable"], false);
}

#[test]
fn a_report_of_grype_is_understood() {
    let outputs = scanner("grype").report(&grype_report().to_string()).unwrap().outputs();
    assert_eq!(
        (&outputs["known"], &outputs["critical"], &outputs["fixable"]),
        (&json!(2), &json!(1), &json!(1))
    );
    let mut clean = grype_report();
    clean["matches"] = json!([]);
    assert_eq!(scanner("grype").report(&clean.to_string()).unwrap().outputs()["vulnerable"], false);
}

#[test]
fn what_is_no_whole_report_of_that_scanner_is_no_clean_one() {
    let whole = trivy_report().to_string();
    for log in ["", "FATAL cannot pull", "{}", "{\"SchemaVersion\": 2}", "[]", &whole[..whole.len() - 1]] {
        scanner("trivy").report(log).unwrap_err();
    }
    scanner("trivy").report(&grype_report().to_string()).unwrap_err();
    scanner("grype").report(&whole).unwrap_err();
}

#[test]
fn what_an_image_says_of_itself_does_not_get_into_outputs() {
    let mut report = trivy_report();
    report["Results"][0]["Vulnerabilities"][0]["VulnerabilityID"] = "x\n@channel <!here>".into();
    report["Results"][0]["Vulnerabilities"][0]["PkgName"] = "<script>".into();
    let outputs = scanner("trivy").report(&report.to_string()).unwrap().outputs();
    assert!(!json!(outputs).to_string().contains(['@', '<']), "{outputs:?}");
    let many: Vec<Value> = (0..5000).map(|n| json!({"VulnerabilityID": format!("CVE-2020-{n}")})).collect();
    report["Results"] = json!([{"Vulnerabilities": many}]);
    let outputs = scanner("trivy").report(&report.to_string()).unwrap().outputs();
    assert_eq!((&outputs["known"], outputs["ids"].as_array().unwrap().len()), (&json!(5000), MAX_TOLD));
}

#[test]
fn the_image_is_the_last_word_and_never_an_option() {
    for kind in ["trivy", "grype"] {
        let words = scanner(kind).words("api:1");
        assert!(
            words.last().unwrap().ends_with("api:1") && !words.last().unwrap().starts_with('-'),
            "{words:?}"
        );
    }
    for bad in ["clair=x", "trivy", "trivy="] {
        bad.parse::<Scanner>().unwrap_err();
    }
}

proptest! {
    #[test]
    fn no_log_makes_the_reader_fall(log in "\\PC{0,200}", cut in 0..900usize) {
        drop(scanner("trivy").report(&log));
        let report = trivy_report().to_string();
        let cut = report.floor_char_boundary(cut.min(report.len()));
        let read = scanner("trivy").report(&report[..cut]);
        prop_assert_eq!(read.is_ok(), cut == report.len());
    }
}

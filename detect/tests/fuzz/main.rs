//! The fuzz targets' bodies on the stable compiler (`hemostat-fuzzing` says how).

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use fuzzing::Campaign;

const CAMPAIGN: Campaign<'_> = Campaign {
    folder: env!("CARGO_MANIFEST_DIR"),
    targets: &bodies::TARGETS,
    telling: &[b"&a *a", b"not ", b" of them", b"|all", b"timespan: ", b"group-by: "],
};

#[test]
fn i11_any_text_is_a_rule_file_or_is_refused() {
    CAMPAIGN.run("load");
}

#[test]
fn i11_any_text_is_a_test_file_or_is_refused() {
    CAMPAIGN.run("rule_tests");
}

#[test]
fn rules_and_events_of_any_bytes_are_judged_alike() {
    CAMPAIGN.run("matcher");
}

#[test]
fn i11_any_text_is_a_checkpoint_or_is_refused() {
    CAMPAIGN.run("checkpoint");
}

#[test]
fn hits_of_any_bytes_are_correlated_alike_in_any_order_and_over_a_restart() {
    CAMPAIGN.run("correlate");
}

/// So that fuzzing begins with what is written today. `HEMOSTAT_FUZZ_WRITE=1` writes it anew.
#[test]
fn the_corpus_has_a_checkpoint_of_today() {
    for (name, written) in bodies::checkpoints() {
        let path = format!("{}/fuzz/seeds/checkpoint/{name}.json", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("HEMOSTAT_FUZZ_WRITE").is_some() {
            std::fs::write(&path, &written).expect("the corpus can be written");
        }
        let kept = std::fs::read(&path).expect("a file of the corpus");
        assert!(
            kept == written,
            "{path} is not what is written today: HEMOSTAT_FUZZ_WRITE=1 cargo test -p hemostat-detect --test fuzz"
        );
    }
}

//! The fuzz targets' bodies on the stable compiler (`hemostat-fuzzing` says how).

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use fuzzing::Campaign;

const CAMPAIGN: Campaign<'_> = Campaign {
    folder: env!("CARGO_MANIFEST_DIR"),
    targets: &bodies::TARGETS,
    telling: &[b"0.0.0.0/0", b"::/0", b" OR ", b" AND ", b"//", b"127.0.0.1"],
};

#[test]
fn i11_any_bytes_are_a_list_or_are_refused() {
    CAMPAIGN.run("plain");
}

#[test]
fn i11_any_bytes_are_a_table_or_are_refused() {
    CAMPAIGN.run("csv");
}

#[test]
fn i11_any_bytes_are_a_misp_document_or_are_refused() {
    CAMPAIGN.run("misp");
}

#[test]
fn i11_any_bytes_are_a_stix_bundle_or_are_refused() {
    CAMPAIGN.run("stix");
}

#[test]
fn i11_any_bytes_are_a_pattern_or_are_refused() {
    CAMPAIGN.run("pattern");
}

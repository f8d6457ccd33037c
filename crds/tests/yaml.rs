//! Generated things are compared. To write them anew: `HEMOSTAT_WRITE_CRDS=1 cargo test -p hemostat-crds --test yaml`.

use std::{env, fs, path::Path};

#[test]
fn the_yaml_is_that_of_the_types() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    for (name, wanted) in hemostat_crds::yaml::definitions().unwrap() {
        let path = folder.join(name);
        if env::var_os("HEMOSTAT_WRITE_CRDS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &wanted).unwrap();
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == wanted,
            "{} is not what the types say: run this test with HEMOSTAT_WRITE_CRDS=1",
            path.display()
        );
    }
}

//! Takes the finished eBPF objects in: `cargo xtask ebpf` builds them with the kernel side's own compiler.

use std::{env, error::Error, fs, path::PathBuf};

const OBJECTS: [&str; 2] = ["probes", "quarantine"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=HEMOSTAT_EBPF_DIR");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let dir = match env::var_os("HEMOSTAT_EBPF_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env::var("CARGO_MANIFEST_DIR")?)
            .join("../agent-ebpf/target/bpfel-unknown-none/release"),
    };
    for name in OBJECTS {
        let object = dir.join(name);
        println!("cargo::rerun-if-changed={}", object.display());
        if let Err(err) = fs::copy(&object, out.join(name)) {
            println!(
                "cargo::error=the eBPF object {} is not there ({err}): run `cargo xtask ebpf` first, or set \
                 HEMOSTAT_EBPF_DIR to the folder that holds it",
                object.display()
            );
        }
    }
    Ok(())
}

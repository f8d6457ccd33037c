//! Takes the finished eBPF objects in: `cargo xtask ebpf` builds them with the kernel side's own compiler. Their DWARF, from which the BTF
//! was made, is three quarters of them and is left out: whatever is in the program's file is resident once it was read.

use std::{env, error::Error, fs, path::PathBuf};

/// A section without bytes in the file.
const SHT_NOBITS: usize = 8;
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
        match fs::read(&object) {
            Ok(whole) => fs::write(out.join(name), without_dwarf(&whole).unwrap_or(whole))?,
            Err(err) => println!(
                "cargo::error=the eBPF object {} is not there ({err}): run `cargo xtask ebpf` first, or set \
                 HEMOSTAT_EBPF_DIR to the folder that holds it",
                object.display()
            ),
        }
    }
    Ok(())
}

/// The same ELF file (64 bits, little-endian, as the kernel side always is) with its debug sections empty. All sections keep their numbers,
/// so nothing that refers to one has to change.
fn without_dwarf(object: &[u8]) -> Option<Vec<u8>> {
    // Elf64_Ehdr: e_shoff at 40, e_shentsize at 58, e_shnum at 60, e_shstrndx at 62
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let mut whole = [0; 8];
        whole[..bytes].copy_from_slice(object.get(at..at + bytes)?);
        usize::try_from(u64::from_le_bytes(whole)).ok()
    };
    let (table, entry) = (number(40, 8)?, number(58, 2)?);
    let (count, names) = (number(60, 2)?, number(62, 2)?);
    // Elf64_Shdr: sh_name at 0, sh_type at 4, sh_offset at 24, sh_size at 32, sh_addralign at 48
    let header = |section: usize| table + section * entry;
    let names = number(header(names) + 24, 8)?;
    let mut out = object.get(..64)?.to_vec();
    let mut headers = object.get(table..header(count))?.to_vec();
    for section in 0..count {
        let at = header(section);
        let name = object.get(names + number(at, 4)?..)?;
        let debug = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
        let (offset, size) = (number(at + 24, 8)?, number(at + 32, 8)?);
        out.resize(out.len().next_multiple_of(number(at + 48, 8)?.max(1)), 0);
        let mut set = |field: usize, value: usize| {
            let field = section * entry + field;
            headers[field..field + 8].copy_from_slice(&(value as u64).to_le_bytes());
        };
        set(24, out.len());
        if debug {
            set(32, 0);
        } else if number(at + 4, 4)? != SHT_NOBITS {
            out.extend_from_slice(object.get(offset..offset + size)?);
        }
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let table = out.len() as u64;
    out[40..48].copy_from_slice(&table.to_le_bytes());
    out.extend_from_slice(&headers);
    Some(out)
}

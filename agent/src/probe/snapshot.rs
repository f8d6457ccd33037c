//! Task iterators: programs that the kernel runs once per task for whoever reads them.

use std::io::Read;

use aya::{
    Btf, Ebpf,
    programs::{Iter, Program},
};

use super::error::{chain, program_failure};

/// Loads and attaches the iterator if need be, and reads all that it writes.
pub(super) fn read(ebpf: &mut Ebpf, name: &str) -> Result<Vec<u8>, String> {
    let program: &mut Program =
        ebpf.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))?;
    let iter = <&mut Iter>::try_from(program).map_err(|err| chain(&err))?;
    if iter.fd().is_err() {
        let btf = Btf::from_sys_fs().map_err(|err| chain(&err))?;
        iter.load("task", &btf).map_err(|err| program_failure(name, &err))?;
    }
    let id = iter.attach().map_err(|err| chain(&err))?;
    let link = iter.take_link(id).map_err(|err| chain(&err))?;
    let mut file = link.into_file().map_err(|err| chain(&err))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(|err| format!("reading {name}: {err}"))?;
    Ok(bytes)
}

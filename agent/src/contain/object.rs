//! The quarantine's eBPF object, built by `cargo xtask ebpf` and taken in by build.rs.

pub(super) static QUARANTINE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/quarantine"));

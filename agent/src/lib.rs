//! Hemostat's node agent. Records come from the kernel ([`record`]), get a process, a parent and a workload, are judged by
//! the rules, and leave as findings; commands come back and are carried out.
//!
//! It knows nothing of incidents and playbooks.

pub mod contain;
pub mod probe;
pub mod mask;
pub mod record;
pub mod spool;
pub mod tree;
pub mod workload;

//! The kernel side, seen from user space: loads the programs that the rules need in the best form that this kernel has,
//! writes the filter plan into their maps, and gives out what the rings say as [`crate::record::Record`]s.

mod btf;
mod canary;
mod counts;
mod decode;
mod error;
mod halt;
mod held;
mod hooks;
mod load;
mod object;
mod plan;
mod quick;
mod reader;
mod release;
mod ring;
mod snapshot;
mod sys;

pub use canary::CanaryReport;
pub use counts::CgroupBudget;
pub use decode::DecodeError;
pub use error::ProbeError;
pub use halt::Halt;
pub use held::HeldProcess;
pub use load::{Budgets, Forms, OwnEvents, ProbeConfig, Probes};
pub use reader::{Reader, StopFlag};
pub use release::release_held;
pub(crate) use release::{continue_process, unpin};

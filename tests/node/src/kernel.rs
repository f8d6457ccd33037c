use crate::{Check, Failure};
pub(crate) const CHECKS: &[Check] = &[];
pub(crate) fn help(words: &[&str]) -> Result<std::process::ExitCode, Failure> {
    Err(format!("no helper {words:?}").into())
}

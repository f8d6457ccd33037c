//! Network.

use super::Hook;

pub(super) const HOOKS: &[Hook] = &[];

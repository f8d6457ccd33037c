//! The object as the running kernel can take it.

use std::mem::size_of;

use agent_abi::{CAST_CALL, CAST_MARK, NO_CAST};
use zerocopy::IntoBytes;

/// Kernel function that makes a typed pointer of any address (Linux 6.2).
pub(super) const CAST: &str = "bpf_rdonly_cast";

/// A copy of the object in which every mark is the call of the kernel function with this type id, or, without one, an instruction to which
/// nothing comes. Aligned as an ELF reader wants it.
pub(super) struct Object {
    words: Vec<u64>,
    len: usize,
}

impl Object {
    /// Copies and marks.
    pub(super) fn new(object: &[u8], function: Option<u32>) -> Self {
        let mut words = vec![0_u64; object.len().div_ceil(size_of::<u64>())];
        let bytes = &mut words.as_mut_bytes()[..object.len()];
        bytes.copy_from_slice(object);
        let mut call = NO_CAST;
        if let Some(id) = function {
            call[..4].copy_from_slice(&CAST_CALL);
            call[4..].copy_from_slice(&id.to_le_bytes());
        }
        // Instructions stand at multiples of their size.
        for instruction in bytes.chunks_exact_mut(CAST_MARK.len()) {
            if instruction == CAST_MARK {
                instruction.copy_from_slice(&call);
            }
        }
        Self { words, len: object.len() }
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_calls_and_nothing_else_changes() {
        let mut object = vec![7_u8; 33];
        object[8..16].copy_from_slice(&CAST_MARK);
        let made = Object::new(&object, Some(0x0102_0304));
        assert_eq!(made.bytes()[8..16], [0x85, 0x20, 0, 0, 4, 3, 2, 1]);
        assert_eq!((&made.bytes()[..8], &made.bytes()[16..]), (&object[..8], &object[16..]));
        assert_eq!(Object::new(&object, None).bytes()[8..16], NO_CAST);
    }
}

//! Offsets of structure members from the running kernel's BTF
//! (<https://docs.kernel.org/bpf/btf.html>, format of /sys/kernel/btf/vmlinux).

use std::collections::HashMap;

use agent_abi::WORDS_MAX;

use super::error::ProbeError;

/// Where the kernel keeps its types.
pub(super) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// How deep anonymous and nested members are followed.
const DEPTH: u32 = 16;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;

/// The kernel's types, indexed for look-ups by name.
pub(super) struct KernelTypes {
    data: Vec<u8>,
    /// Byte position of each type; index = type id, 0 is void.
    at: Vec<u32>,
    strings: usize,
    /// Structures and unions by name; a name can stand for several.
    structures: HashMap<u32, Vec<u32>>,
}

impl KernelTypes {
    /// Reads the running kernel's.
    pub(super) fn of_running_kernel() -> Result<Self, ProbeError> {
        let data = std::fs::read(VMLINUX).map_err(|source| ProbeError::NoBtf { path: VMLINUX, source })?;
        Self::parse(data)
    }

    /// Indexes a BTF blob. Broken input gives an error, never a panic.
    pub(super) fn parse(data: Vec<u8>) -> Result<Self, ProbeError> {
        let broken = |at, what| ProbeError::BrokenBtf { at, what };
        let word = |at: usize| word_at(&data, at).ok_or(broken(at, "a word"));
        if word(0)? & 0xffff != 0xeb9f {
            return Err(broken(0, "the magic number eb9f in this machine's byte order"));
        }
        let header = word(4)? as usize;
        let (types, types_len) = (header + word(8)? as usize, word(12)? as usize);
        let strings = header + word(16)? as usize;
        if types.checked_add(types_len).is_none_or(|end| end > data.len()) || strings > data.len() {
            return Err(broken(8, "sections within the file"));
        }
        let mut at = vec![0];
        let mut structures: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut position = types;
        while position < types + types_len {
            let info = word(position + 4)?;
            let (kind, members) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            if kind == KIND_STRUCT || kind == KIND_UNION {
                structures.entry(word(position)?).or_default().push(at.len() as u32);
            }
            at.push(position as u32);
            position += 12
                + match kind {
                    KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                    KIND_ARRAY => 12,
                    KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * members,
                    KIND_ENUM | KIND_FUNC_PROTO => 8 * members,
                    _ => 0,
                };
        }
        Ok(Self { at, strings, structures, data })
    }

    /// Byte offset of `member` (dots lead into nested structures) in the structure `name`.
    pub(super) fn offset(&self, name: &str, member: &str) -> Option<u32> {
        let candidates = self.structures.iter().filter(|(at, _)| self.text(**at) == name.as_bytes());
        candidates.flat_map(|(_, ids)| ids).find_map(|id| self.path(*id, member))
    }

    /// Type id of a function.
    pub(super) fn function(&self, name: &str) -> Option<u32> {
        (1..self.at.len() as u32).find(|id| {
            matches!(self.head(*id), Some((KIND_FUNC, ..))) && self.name(*id) == Some(name.as_bytes())
        })
    }

    /// Type id of a structure that begins with [`WORDS_MAX`] words.
    pub(super) fn words_structure(&self, name: &str) -> Option<u32> {
        let ids = self.structures.iter().find(|(at, _)| self.text(**at) == name.as_bytes())?.1;
        ids.iter().copied().find(|id| {
            (0..WORDS_MAX).all(|n| {
                let member = |at: usize| word_at(&self.data, self.position(*id)? + 12 + 12 * n + at);
                let (inner, bits) = (member(4), member(8));
                let integer = inner.and_then(|inner| self.resolved(inner)).and_then(|inner| self.head(inner));
                matches!(self.head(*id), Some((KIND_STRUCT, count, _)) if count as usize >= WORDS_MAX)
                    && matches!(integer, Some((KIND_INT, _, 8)))
                    && bits == Some(64 * n as u32)
            })
        })
    }

    /// Number of arguments of a function's prototype behind a typedef `btf_trace_…` (its first argument is the probe's
    /// own data).
    pub(super) fn tracepoint_arguments(&self, tracepoint: &str) -> Option<u32> {
        let name = format!("btf_trace_{tracepoint}");
        (1..self.at.len() as u32).find_map(|id| {
            let (kind, _, refers) = self.head(id)?;
            if kind != KIND_TYPEDEF || self.name(id)? != name.as_bytes() {
                return None;
            }
            // typedef → pointer → prototype
            let (_, _, prototype) = self.head(refers)?;
            let (kind, members, _) = self.head(prototype)?;
            (kind == KIND_FUNC_PROTO).then(|| members.saturating_sub(1))
        })
    }

    fn path(&self, id: u32, member: &str) -> Option<u32> {
        let (first, rest) =
            member.split_once('.').map_or((member, None), |(first, rest)| (first, Some(rest)));
        let (offset, inner) = self.member(id, first, DEPTH)?;
        match rest {
            Some(rest) => Some(offset + self.path(self.resolved(inner)?, rest)?),
            None => Some(offset),
        }
    }

    /// A member's offset and type, anonymous structures and unions included.
    fn member(&self, id: u32, name: &str, depth: u32) -> Option<(u32, u32)> {
        let (kind, count, _) = self.head(id)?;
        if depth == 0 || (kind != KIND_STRUCT && kind != KIND_UNION) {
            return None;
        }
        let bitfields = word_at(&self.data, self.position(id)? + 4)? >> 31 == 1;
        for n in 0..count as usize {
            let at = self.position(id)? + 12 + 12 * n;
            let (text, inner, bits) =
                (word_at(&self.data, at)?, word_at(&self.data, at + 4)?, word_at(&self.data, at + 8)?);
            let offset = if bitfields { bits & 0xff_ffff } else { bits } / 8;
            if self.text(text) == name.as_bytes() {
                return Some((offset, inner));
            }
            if self.text(text).is_empty()
                && let Some((below, found)) = self.member(self.resolved(inner)?, name, depth - 1)
            {
                return Some((offset + below, found));
            }
        }
        None
    }

    /// Through typedefs and qualifiers.
    fn resolved(&self, mut id: u32) -> Option<u32> {
        for _ in 0..DEPTH {
            match self.head(id)? {
                (KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG, _, refers) => {
                    id = refers
                }
                _ => return Some(id),
            }
        }
        None
    }

    /// Kind, number of members, size or type referred to.
    fn head(&self, id: u32) -> Option<(u32, u32, u32)> {
        let at = self.position(id)?;
        let info = word_at(&self.data, at + 4)?;
        Some((info >> 24 & 0x1f, info & 0xffff, word_at(&self.data, at + 8)?))
    }

    fn name(&self, id: u32) -> Option<&[u8]> {
        Some(self.text(word_at(&self.data, self.position(id)?)?))
    }

    fn position(&self, id: u32) -> Option<usize> {
        if id == 0 { None } else { self.at.get(id as usize).map(|at| *at as usize) }
    }

    fn text(&self, at: u32) -> &[u8] {
        let rest = self.data.get(self.strings + at as usize..).unwrap_or_default();
        &rest[..rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len())]
    }
}

fn word_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_running_kernels_types() {
        let Ok(types) = KernelTypes::of_running_kernel() else {
            println!("SKIPPED: this kernel has no {VMLINUX}");
            return;
        };
        assert_eq!(types.offset("list_head", "prev"), Some(8));
        // Within an anonymous structure.
        assert!(types.offset("mm_struct", "arg_start").is_some_and(|at| at > 0));
        // Nested by name.
        let (ns, inum) = (types.offset("net", "ns"), types.offset("ns_common", "inum"));
        assert_eq!(types.offset("net", "ns.inum"), ns.zip(inum).map(|(a, b)| a + b));
        assert_eq!(types.offset("task_struct", "no_such_member"), None);
        assert!(types.function("vfs_read").is_some() && types.function("no_such_function").is_none());
        assert!(types.words_structure("pt_regs").is_some() && types.words_structure("list_head").is_none());
        assert_eq!(types.tracepoint_arguments("sched_process_exec"), Some(3));
    }

    #[test]
    fn broken_input_is_an_error() {
        for data in [vec![], vec![0; 64], [&[0x9f, 0xeb, 1, 0][..], &[0xff; 60]].concat()] {
            assert!(KernelTypes::parse(data).is_err());
        }
    }
}

//! How memory that is not needed any more goes back: what glibc's allocator keeps, and code that only the start ran.
//!
//! The start needs much memory for a moment (the kernel's type information, rules, regexes), from several threads. By default glibc
//! keeps what is freed in an arena for each thread and raises its thresholds as it goes: 38 MB of 81 resident were such leftovers.
#![expect(
    unsafe_code,
    reason = "mallopt, malloc_trim and madvise are calls into libc without a safe wrapper"
)]

/// Largest block that is kept for reuse, and least size that gets a mapping of its own, in bytes.
#[cfg(target_env = "gnu")]
const THRESHOLD: libc::c_int = 128 * 1024;

/// Makes the allocator give freed memory back to the system. Called once, at the start of the program, before there are threads.
pub fn give_back_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 2), (libc::M_TRIM_THRESHOLD, THRESHOLD), (libc::M_MMAP_THRESHOLD, THRESHOLD)]
    {
        // SAFETY: mallopt takes two numbers and touches only the allocator's own settings; a refusal (0) changes nothing.
        if unsafe { libc::mallopt(parameter, value) } == 0 {
            tracing::debug!(parameter, "the allocator does not take this setting");
        }
    }
}

/// Gives back what is free now, also between blocks that are in use. Takes some milliseconds: for the end of a start and for idle moments.
pub(crate) fn give_back_now() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes a number and touches only the allocator's own memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets go of the mapped pages of the program's own code. What runs again comes back from the page cache without a read, a sixteenth of a
/// megabyte at a time and within some microseconds; what only the start ran (rules, playbooks, the kernel's types: most of it) stays away.
pub(crate) fn let_go_of_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return };
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
    for (begin, length) in code_of(&program.to_string_lossy(), &maps) {
        // SAFETY: a private mapping of the program's file that was never writable, so each page has a copy of itself in that file; the
        // addresses are the kernel's own.
        unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(begin), length, libc::MADV_DONTNEED);
        }
    }
}

/// Lets go of code again once so much came back since the last time: a containment runs, for once, what then lies unused.
#[derive(Debug, Default)]
pub(crate) struct CodeWatch {
    least_kb: Option<u64>,
}

impl CodeWatch {
    /// In kB of mapped files that are resident; a containment brings some 8 MB of code in.
    const MORE_KB: u64 = 4096;

    /// Remembers how little was enough.
    pub(crate) fn look(&mut self) -> Option<u64> {
        let now = resident_of_files_kb()?;
        let least = self.least_kb.get_or_insert(now);
        *least = now.min(*least);
        Some(now.saturating_sub(*least))
    }

    pub(crate) fn let_go_if_grown(&mut self) {
        if self.look().is_some_and(|more| more > Self::MORE_KB) {
            let_go_of_code();
        }
    }
}

/// `RssFile` of proc(5).
fn resident_of_files_kb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Begin and length of what is mapped of this file to be run, and cannot be written to.
fn code_of(program: &str, maps: &str) -> Vec<(usize, usize)> {
    let code = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (range, rights) = (words.next()?, words.next()?);
        if rights != "r-xp" || words.nth(3)? != program {
            return None;
        }
        let (begin, end) = range.split_once('-')?;
        let (begin, end) = (usize::from_str_radix(begin, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        Some((begin, end.checked_sub(begin)?))
    };
    maps.lines().filter_map(code).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_the_program_is_let_go_of() {
        let maps = "\
5500-6600 r--p 00000000 fe:00 77 /usr/bin/hemostat
6600-8800 r-xp 00001100 fe:00 77 /usr/bin/hemostat
8800-9900 rw-p 00003300 fe:00 77 /usr/bin/hemostat
a000-b000 r-xp 00000000 fe:00 12 /usr/lib/libc.so.6
c000-d000 r-xp 00000000 00:00 0
";
        assert_eq!(code_of("/usr/bin/hemostat", maps), [(0x6600, 0x2200)]);
        let_go_of_code();
        assert_eq!(code_of("", std::hint::black_box("")), [], "and we run on");
    }
}

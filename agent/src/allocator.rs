//! How glibc's allocator keeps freed memory.
//!
//! The start needs much memory for a moment (the kernel's type information, rules, regexes), from several threads. By default glibc
//! keeps what is freed in an arena for each thread and raises its thresholds as it goes: 38 MB of 81 resident were such leftovers.
#![expect(unsafe_code, reason = "mallopt and malloc_trim are calls into libc without a safe wrapper")]

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

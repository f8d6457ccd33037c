//! Hemostat's probes: one file per family, each hook in its best form and its fallbacks. The agent loads only what a rule
//! needs and what this kernel has (agent/src/probe).
//!
//! A hook takes an [`event::Event`], lets the filter and the budget of the cgroup decide, builds its record in a slot of
//! scratch memory and hands it to a ring; whatever happens to it is counted.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value would be copied once more onto a stack of 512 bytes"
)]

mod credentials;
mod dns;
mod event;
mod file;
mod filter;
mod kernel;
mod maps;
mod net;
mod path;
mod process;
mod quick;
mod read;
mod scratch;
mod shadow;
mod snapshot;
mod syscalls;
mod task;
mod text;
mod uring;
mod uring_accept;

/// Helpers of the tracing family are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

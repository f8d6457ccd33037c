//! Network quarantine of a cgroup and of all below it: every IPv4 and IPv6 packet of its sockets, in both directions, whatever the
//! protocol and however old the connection. connect(2) and sendmsg(2) fail at once, so that a program does not hang in them.
//!
//! An object of its own, apart from the probes: it is loaded once per action, filled, attached, and pinned.
#![no_std]
#![no_main]

mod packet;

use agent_abi::quarantine::{
    COUNT_DROPPED_IN, COUNT_DROPPED_OUT, COUNT_PASSED_IN, COUNT_PASSED_OUT, COUNT_REFUSED, COUNTS,
    MAX_NETWORKS, MODE_ISOLATE, Peer, Policy,
};
use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock_addr, map},
    maps::{Array, LpmTrie, PerCpuArray, lpm_trie::Key},
    programs::{SkBuffContext, SockAddrContext},
};
use packet::{Address, End};

const DROP: i32 = 0;
const PASS: i32 = 1;

/// As the probes: the package is Apache-2.0 or GPL-2.0.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[map]
static POLICY: Array<Policy> = Array::with_max_entries(1, 0);
#[map]
static NETS4: LpmTrie<[u8; 4], Peer> = LpmTrie::with_max_entries(MAX_NETWORKS, 1);
#[map]
static NETS6: LpmTrie<[u8; 16], Peer> = LpmTrie::with_max_entries(MAX_NETWORKS, 1);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTS, 0);

#[cgroup_skb(ingress)]
pub fn packet_in(ctx: SkBuffContext) -> i32 {
    judge_packet(&ctx, End::Source, COUNT_PASSED_IN, COUNT_DROPPED_IN)
}

#[cgroup_skb(egress)]
pub fn packet_out(ctx: SkBuffContext) -> i32 {
    judge_packet(&ctx, End::Destination, COUNT_PASSED_OUT, COUNT_DROPPED_OUT)
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    judge_call4(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    judge_call4(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    judge_call6(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    judge_call6(&ctx)
}

#[inline(always)]
fn judge_packet(ctx: &SkBuffContext, peer: End, passed: u32, dropped: u32) -> i32 {
    let passes = match packet::peer(ctx, peer) {
        Some((address, port)) => allows(&address, port),
        // Neither IPv4 nor IPv6, or cut short: nothing of it is on an allow list.
        None => isolates(),
    };
    count(if passes { passed } else { dropped });
    if passes { PASS } else { DROP }
}

#[inline(always)]
fn judge_call4(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the verifier checks each access to the context.
    let (address, port) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).user_port) };
    judge_call(&Address::V4(address.to_ne_bytes()), port)
}

#[inline(always)]
fn judge_call6(ctx: &SockAddrContext) -> i32 {
    // SAFETY: the verifier checks each access to the context.
    let (words, port) = unsafe {
        let addr = ctx.sock_addr;
        let words = [(*addr).user_ip6[0], (*addr).user_ip6[1], (*addr).user_ip6[2], (*addr).user_ip6[3]];
        (words, (*addr).user_port)
    };
    judge_call(&packet::address6(words), port)
}

#[inline(always)]
fn judge_call(address: &Address, port: u32) -> i32 {
    if allows(address, Some(u16::from_be(port as u16))) {
        return PASS;
    }
    count(COUNT_REFUSED);
    DROP
}

/// Whether traffic with this peer passes. `port` is `None` where the protocol has none.
#[inline(always)]
fn allows(address: &Address, port: Option<u16>) -> bool {
    let rule = match address {
        Address::V4(octets) => NETS4.get(Key::new(32, *octets)),
        Address::V6(octets) => NETS6.get(Key::new(128, *octets)),
    };
    let listed = match rule {
        Some(peer) => peer.port == 0 || port == Some(peer.port),
        None => false,
    };
    if isolates() { listed } else { !listed }
}

/// Whether the policy is to isolate; so it is as long as none is written.
#[inline(always)]
fn isolates() -> bool {
    match POLICY.get(0) {
        Some(policy) => policy.mode == MODE_ISOLATE,
        None => true,
    }
}

#[inline(always)]
fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the slot is this CPU's own; an interrupt in between can at most lose one count.
        unsafe { *counter = (*counter).wrapping_add(1) };
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

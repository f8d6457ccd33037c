//! Packets: DNS questions on their way out, and the bytes of UDP conversations.

use core::ffi::c_void;

use agent_abi::{Class, DnsBody, End, Fate, NetRecord, QUESTION_MAX, RecordHeader, TEXT_TRUNCATED, Text};
use aya_ebpf::{
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use crate::{
    event,
    net::{DNS, mapped, owner_of},
    off,
    read::{bounded, peek},
    scratch::{self, Claim},
    task,
};

const HEADER: usize = size_of::<RecordHeader>();
const TAIL: usize = HEADER + size_of::<DnsBody>();
const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS_HEADER: u32 = 12;

/// Packets that leave.
#[cgroup_skb(egress)]
pub fn net_egress(ctx: SkBuffContext) -> i32 {
    let _ = packet(&ctx, Way::Out);
    1
}

/// Packets that arrive.
#[cgroup_skb(ingress)]
pub fn net_ingress(ctx: SkBuffContext) -> i32 {
    let _ = packet(&ctx, Way::In);
    1
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    In,
    Out,
}

/// What a packet's first bytes say.
struct Head {
    protocol: u8,
    /// Where the transport's header begins.
    at: u32,
    local: End,
    remote: End,
}

#[inline(always)]
fn packet(ctx: &SkBuffContext, way: Way) -> Option<()> {
    // SAFETY: the context; remote_port is in network order, 0 where the socket is not connected.
    let (len, sk, remote) = unsafe {
        let skb = ctx.skb.skb;
        let remote = u32::from_be(core::ptr::read_volatile(&raw const (*skb).remote_port)) as u16;
        (core::ptr::read_volatile(&raw const (*skb).len), (*skb).__bindgen_anon_2.sk, remote)
    };
    if sk.is_null() {
        return None;
    }
    // Most packets are of TCP connections to other ports: they go before anything of them is read.
    let asks = way == Way::Out && (remote == 0 || remote == DNS) && event::is_on(Class::Dns);
    if !asks && (!event::is_on(Class::SocketClose) || protocol(&load(ctx, 0)?) != UDP) {
        return None;
    }
    let head = head(ctx, way)?;
    let owner = owner_of(sk.cast());
    if head.protocol == UDP {
        let payload = u64::from(len.checked_sub(head.at + 8)?);
        if let Some(owner) = owner {
            count(owner, &head, way, payload);
        }
    }
    if asks && head.remote.port == DNS {
        question(ctx, &head, len, owner_of(sk.cast()));
    }
    Some(())
}

#[inline(always)]
fn count(owner: &mut NetRecord, head: &Head, way: Way, payload: u64) {
    // Several CPUs may send over one socket: a sum may then lack a packet, which a lock for each packet is not worth.
    if way == Way::Out {
        owner.body.sent += payload;
        owner.body.local = head.local;
    } else {
        owner.body.received += payload;
    }
}

/// The transport protocol in an IP header's first bytes; IPv6's extension headers are not followed.
#[inline(always)]
fn protocol(first: &[u8; 10]) -> u8 {
    if first[0] >> 4 == 4 { first[9] } else { first[6] }
}

/// Reads IP header and ports.
#[inline(always)]
fn head(ctx: &SkBuffContext, way: Way) -> Option<Head> {
    let first: [u8; 10] = load(ctx, 0)?;
    let protocol = protocol(&first);
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let (at, source, destination) = if first[0] >> 4 == 4 {
        let addrs: [u32; 2] = load(ctx, 12)?;
        (u32::from(first[0] & 15) * 4, mapped(addrs[0]), mapped(addrs[1]))
    } else {
        let addrs: [[u8; 16]; 2] = load(ctx, 8)?;
        (40, addrs[0], addrs[1])
    };
    let ports: [u16; 2] = load(ctx, at)?;
    let source = End { addr: source, port: u16::from_be(ports[0]), pad: 0 };
    let destination = End { addr: destination, port: u16::from_be(ports[1]), pad: 0 };
    let (local, remote) = if way == Way::Out { (source, destination) } else { (destination, source) };
    Some(Head { protocol, at, local, remote })
}

/// A packet to port 53: if it begins with a question, tell it.
#[inline(always)]
fn question(ctx: &SkBuffContext, head: &Head, len: u32, owner: Option<&mut NetRecord>) -> Option<()> {
    let message = if head.protocol == UDP {
        head.at + 8
    } else {
        let offset: u8 = load(ctx, head.at + 12)?;
        // Two bytes of length stand before the message (RFC 1035 §4.2.2).
        head.at + u32::from(offset >> 4) * 4 + 2
    };
    // id, flags, number of questions
    let dns: [u16; 3] = load(ctx, message)?;
    // A response, another operation than a query, or no question (RFC 1035 §4.1.1).
    if u16::from_be(dns[1]) & 0xf800 != 0 || dns[2] == 0 {
        return None;
    }
    let rest = len.checked_sub(message + DNS_HEADER)?;
    if rest == 0 {
        return None;
    }
    let claim = scratch::claim();
    let Some(claim) = claim else {
        event::count(Class::Dns, Fate::Seen);
        event::count(Class::Dns, Fate::LostRead);
        return None;
    };
    tell(ctx, head, message + DNS_HEADER, rest, owner, claim);
    claim.release();
    Some(())
}

#[inline(always)]
fn tell(ctx: &SkBuffContext, head: &Head, at: u32, rest: u32, owner: Option<&mut NetRecord>, claim: Claim) {
    let header: *mut RecordHeader = claim.at(0);
    // SAFETY: the header lies in the record.
    let header = unsafe {
        match owner {
            Some(owner) => *header = owner.header,
            // A socket from before the probes: UDP packets leave in the context of who sends them.
            None => {
                let current = task::current();
                task::fill_for(header, Class::Dns, current);
                (*header).cgroup = task::cgroup(current);
                (*header).comm = peek(current as u64 + u64::from(off!(task_comm))).unwrap_or([0; 16]);
            }
        }
        (*header).class = Class::Dns as u8;
        (*header).at = bpf_ktime_get_boot_ns();
        &*header
    };
    let Some(event) = event::begin_for(Class::Dns, header) else { return };
    if !event.within_budget_of(header.cgroup) {
        return;
    }
    let cut = rest > QUESTION_MAX as u32;
    // At least 1 in a way that 6.1's verifier sees: it learns nothing from a comparison with 0.
    let len = bounded(u64::from(if cut { QUESTION_MAX as u32 } else { rest }).wrapping_sub(1), 0x1ff) + 1;
    // SAFETY: the question lies in the record; its length is 1 to 512.
    let read = unsafe {
        rest != 0
            && bpf_skb_load_bytes(
                ctx.skb.skb as *const c_void,
                at,
                claim.record().add(TAIL).cast(),
                len as u32,
            ) == 0
    };
    if !read {
        return event.lost(Fate::LostRead);
    }
    let question = Text { len: len as u16, flags: if cut { TEXT_TRUNCATED } else { 0 } };
    // SAFETY: the body lies in the record.
    unsafe {
        *claim.at::<DnsBody>(HEADER) =
            DnsBody { server: head.remote, protocol: u32::from(head.protocol), question, pad: 0 };
    }
    event.submit(claim, TAIL as u64 + len);
}

#[inline(always)]
fn load<T: Copy>(ctx: &SkBuffContext, at: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes the whole value or fails.
    unsafe {
        let err = bpf_skb_load_bytes(
            ctx.skb.skb as *const c_void,
            at,
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
        );
        if err == 0 { Some(value.assume_init()) } else { None }
    }
}

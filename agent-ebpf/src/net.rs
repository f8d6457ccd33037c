//! Network: connect, bind, listen, accept, close with byte counts.
//!
//! Who owns a socket is noted when it connects or is accepted, and read again when it sends a question or ends: packets and
//! ends of connections happen in interrupts, where the current task means nothing. The note lives with the socket
//! (`sk_storage`), so there is one for each, however many there are; only for accepted sockets, which no program meets in
//! the acceptor's context by type, it is a table by address.

use core::ffi::c_void;

use agent_abi::{Class, End, Fate, NetBody, NetRecord, RecordHeader};
use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_addr},
    btf_maps::SkStorage,
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_sk_storage_get, bpf_skc_to_tcp_sock},
    macros::{btf_map, btf_tracepoint, cgroup_sock, cgroup_sock_addr, fexit, map},
    maps::LruHashMap,
    programs::{BtfTracePointContext, FExitContext, SockAddrContext, SockContext},
};

use crate::{
    event::{self, Event},
    file::file_of,
    filter, off,
    read::{field, peek},
    syscalls::{Call, SOCKETCALL},
    task,
};

/// Owner of each socket that has connected or sent.
#[btf_map]
pub static OWNERS: SkStorage<NetRecord> = SkStorage::new();
/// Owner of each accepted socket, by the address of its `struct sock`. Where it is full the least recently used goes; the
/// process that closes such a socket is then taken for its owner.
#[map]
static ACCEPTED: LruHashMap<u64, RecordHeader> = LruHashMap::with_max_entries(32_768, 0);
/// Sockets whose end [`net_state_interrupt`] has told and [`net_state_twin`] has not been asked about yet: one for each processor, and
/// those that the twin was not called for.
#[map]
static TOLD: LruHashMap<u64, u8> = LruHashMap::with_max_entries(4_096, 0);

const TCP: u32 = 6;
/// Port of questions.
pub const DNS: u16 = 53;
const UDP: u32 = 17;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const CREATE: u64 = 1;

// include/net/tcp_states.h
const ESTABLISHED: i32 = 1;
const FIN_WAIT1: i32 = 4;
const CLOSE: i32 = 7;
const CLOSE_WAIT: i32 = 8;
const LAST_ACK: i32 = 9;
const LISTEN: i32 = 10;
const SYN_SENT: i32 = 2;
const SYN_RECV: i32 = 3;
const NEW_SYN_RECV: i32 = 12;
/// SOCK_DONE of enum sock_flags (include/net/sock.h): a FIN was received.
const SOCK_DONE: u64 = 1 << 1;
/// socketcall(2): SYS_ACCEPT and SYS_ACCEPT4 of include/uapi/linux/net.h.
const CALL_ACCEPT: u64 = 5;
const CALL_ACCEPT4: u64 = 18;

/// connect over IPv4, once per attempt, TCP and UDP.
#[cgroup_sock_addr(connect4)]
pub fn net_connect4(ctx: SockAddrContext) -> i32 {
    connecting(&ctx, end4(ctx.sock_addr), Again::Yes);
    1
}

/// connect over IPv6.
#[cgroup_sock_addr(connect6)]
pub fn net_connect6(ctx: SockAddrContext) -> i32 {
    connecting(&ctx, end6(ctx.sock_addr), Again::Yes);
    1
}

/// sendto over a UDP socket that is not connected: told once for each destination in a row.
#[cgroup_sock_addr(sendmsg4)]
pub fn net_sendmsg4(ctx: SockAddrContext) -> i32 {
    connecting(&ctx, end4(ctx.sock_addr), Again::No);
    1
}

/// The same over IPv6.
#[cgroup_sock_addr(sendmsg6)]
pub fn net_sendmsg6(ctx: SockAddrContext) -> i32 {
    connecting(&ctx, end6(ctx.sock_addr), Again::No);
    1
}

/// bind has succeeded; the port is the one that the kernel chose.
#[cgroup_sock(post_bind4)]
pub fn net_bind4(ctx: SockContext) -> i32 {
    // SAFETY: the context; volatile, since the verifier wants reads of four bytes.
    let (addr, port) =
        unsafe { (word(&raw const (*ctx.sock).src_ip4), word(&raw const (*ctx.sock).src_port)) };
    bound(&ctx, End { addr: mapped(addr), port: port as u16, pad: 0 });
    1
}

/// The same over IPv6.
#[cgroup_sock(post_bind6)]
pub fn net_bind6(ctx: SockContext) -> i32 {
    // SAFETY: as above.
    let (addr, port) =
        unsafe { (words((&raw const (*ctx.sock).src_ip6).cast()), word(&raw const (*ctx.sock).src_port)) };
    bound(&ctx, End { addr, port: port as u16, pad: 0 });
    1
}

/// A socket is released; tells the end of a UDP conversation. (TCP lives on after it.)
#[cgroup_sock(sock_release)]
pub fn net_release(ctx: SockContext) -> i32 {
    // SAFETY: the context.
    if unsafe { word(&raw const (*ctx.sock).protocol) } != UDP {
        return 1;
    }
    if let Some(owner) = owner_of(ctx.as_ptr()) {
        let mut record = *owner;
        closed(&mut record, None);
    }
    1
}

/// tp_btf/inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate), of sockets that a task holds.
///
/// The kernel does not run a program of this kind inside itself: where a packet's interrupt ends one connection while the
/// program tells of another, the second would be missed without a trace. So there are two programs. What
/// happens while a task holds the socket can be interrupted, and is this one's; what happens in interrupts cannot, and is
/// [`net_state_interrupt`]'s.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn net_state(ctx: BtfTracePointContext) -> u32 {
    state_changed(&ctx, Held::Task)
}

/// The same, of sockets that no task holds: packets, timers, and the end of close, which runs with interrupts' work put off.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn net_state_interrupt(ctx: BtfTracePointContext) -> u32 {
    state_changed(&ctx, Held::Nobody)
}

/// The twin of [`net_state_interrupt`], called right after it. That one may itself be interrupted just as it finds that an event is not
/// its own; what ends in that interrupt it is not called for (on 6.1 one to five of 40,000 ends in a storm), and this one tells it.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn net_state_twin(ctx: BtfTracePointContext) -> u32 {
    state_changed(&ctx, Held::NobodyTwin)
}

/// accept and accept4; called from `sys_exit`.
#[btf_tracepoint(function = "sys_exit")]
pub fn net_accept(ctx: BtfTracePointContext) -> u32 {
    let call = Call::new(&ctx);
    if call.shape == SOCKETCALL && !matches!(call.first(), CALL_ACCEPT | CALL_ACCEPT4) {
        return 0;
    }
    let _ = accepted(file_of(call.result));
    0
}

/// fexit/inet_csk_accept, which gives the new socket: accept by whatever way, a system call or io_uring, and nothing else's cost.
#[fexit]
pub fn accept_return(ctx: FExitContext) -> u32 {
    if let Ok(sk) = ctx.ret::<u64>()
        && sk != 0
    {
        let _ = accepted_socket(sk);
    }
    0
}

/// Who holds a socket's lock.
#[derive(Clone, Copy, PartialEq)]
enum Held {
    Nobody,
    /// The same, asked a second time.
    NobodyTwin,
    Task,
}

#[inline(always)]
fn state_changed(ctx: &BtfTracePointContext, held: Held) -> u32 {
    let sk: *const u8 = ctx.arg(0);
    // SAFETY: a socket, known to the verifier.
    let by_task = unsafe { field::<i32>(sk, off!(sk_owned)) } != 0;
    if by_task != (held == Held::Task) {
        return 0;
    }
    let (old, new): (i32, i32) = (ctx.arg(1), ctx.arg(2));
    // SAFETY: as above.
    if unsafe { field::<u16>(sk, off!(sk_protocol)) } != TCP as u16 {
        return 0;
    }
    match new {
        LISTEN if held != Held::NobodyTwin => listening(sk),
        // close or shutdown, in the context of who does it.
        FIN_WAIT1 | LAST_ACK if held != Held::NobodyTwin && (old == ESTABLISHED || old == CLOSE_WAIT) => {
            closing(sk)
        }
        CLOSE if !matches!(old, SYN_SENT | SYN_RECV | CLOSE | LISTEN | NEW_SYN_RECV) => match held {
            Held::Task => ended(sk),
            Held::Nobody => {
                let _ = TOLD.insert(&(sk as u64), &1, 0);
                ended(sk);
            }
            Held::NobodyTwin if TOLD.remove(&(sk as u64)).is_err() => ended(sk),
            Held::NobodyTwin => {}
        },
        _ => {}
    }
    0
}

/// Whether the same destination again is a new event.
#[derive(Clone, Copy, PartialEq)]
enum Again {
    No,
    Yes,
}

#[inline(always)]
fn connecting(ctx: &SockAddrContext, remote: End, again: Again) {
    // SAFETY: the context.
    let (sk, protocol) = unsafe {
        let addr = ctx.sock_addr;
        ((*addr).__bindgen_anon_1.sk.cast::<c_void>(), word(&raw const (*addr).protocol))
    };
    if again == Again::No
        && let Some(owner) = owner_of(sk)
        && owner.body.remote == remote
    {
        return;
    }
    let mut record = new_empty();
    record.body.remote = remote;
    record.body.protocol = protocol;
    let told = match event::begin(Class::Connect) {
        Some(event) if wanted(event, &record) => Some(event),
        Some(event) => {
            event.filtered();
            None
        }
        None => None,
    };
    // Who owns a socket is asked when it ends and when it sends a question, and its last destination by the next sendto. A
    // question goes to its port; from a socket that another program has sent there, its sender is told as who asks.
    let kept = again == Again::No
        || event::is_on(Class::SocketClose)
        || (remote.port == DNS && event::is_on(Class::Dns));
    if told.is_none() && !kept {
        return;
    }
    task::fill_header(&raw mut record.header, Class::Connect);
    if kept {
        note(sk, &mut record);
    }
    if let Some(event) = told
        && event.within_budget()
    {
        send(event, &mut record);
    }
}

#[inline(always)]
fn bound(ctx: &SockContext, local: End) {
    let Some(event) = event::begin(Class::Bind) else { return };
    let mut record = new_record(Class::Bind);
    record.body.local = local;
    // SAFETY: the context.
    record.body.protocol = unsafe { word(&raw const (*ctx.sock).protocol) };
    finish(event, &mut record);
}

#[inline(always)]
fn listening(sk: *const u8) {
    let Some(event) = event::begin(Class::Listen) else { return };
    let mut record = new_record(Class::Listen);
    record.body.protocol = TCP;
    record.body.local = typed_ends(sk).0;
    finish(event, &mut record);
}

/// Where nobody was noted as the owner, the one that closes is.
#[inline(always)]
fn closing(sk: *const u8) {
    if !event::is_on(Class::SocketClose)
        || ACCEPTED.get_ptr(&(sk as u64)).is_some()
        || owner_of(sk as *mut c_void).is_some()
    {
        return;
    }
    let mut record = new_record(Class::SocketClose);
    note(sk as *mut c_void, &mut record);
}

#[inline(always)]
fn ended(sk: *const u8) {
    if !event::is_on(Class::SocketClose) {
        return;
    }
    let mut record = new_empty();
    let key = sk as u64;
    if let Some(owner) = owner_of(sk as *mut c_void) {
        record.header = owner.header;
    } else if let Some(header) = ACCEPTED.get_ptr(&key) {
        // SAFETY: a map value; its entry is reused only after it has been removed.
        record.header = unsafe { *header };
        let _ = ACCEPTED.remove(&key);
    } else {
        // Nobody accepted it, or it is older than the probes and did not go by close: nobody can be named.
        event::count(Class::SocketClose, Fate::Seen);
        event::count(Class::SocketClose, Fate::LostRead);
        return;
    }
    (record.body.local, record.body.remote) = typed_ends(sk);
    record.body.protocol = TCP;
    closed(&mut record, Some(sk));
}

/// Tells the end of a connection whose owner's header `record` carries.
#[inline(always)]
fn closed(record: &mut NetRecord, tcp: Option<*const u8>) {
    let Some(event) = event::begin_for(Class::SocketClose, &record.header) else { return };
    if let Some(sk) = tcp {
        // SAFETY: a socket, known to the verifier.
        let tcp = unsafe { bpf_skc_to_tcp_sock(sk as *mut c_void) }.cast::<u8>().cast_const();
        if tcp.is_null() {
            return event.lost(Fate::LostRead);
        }
        // SAFETY: a TCP socket, known to the verifier. What was sent again is counted twice in bytes_sent; a FIN takes one
        // number of the sequence and is counted in bytes_received.
        unsafe {
            let sent: u64 = field(tcp, off!(tcp_bytes_sent));
            let again: u64 = field(tcp, off!(tcp_bytes_retrans));
            let received: u64 = field(tcp, off!(tcp_bytes_received));
            let fin = u64::from(field::<u64>(sk, off!(sk_flags)) & SOCK_DONE != 0);
            record.body.sent = sent.saturating_sub(again);
            record.body.received = received.saturating_sub(fin);
        }
    }
    record.header.class = Class::SocketClose as u8;
    // SAFETY: a helper without arguments.
    record.header.at = unsafe { bpf_ktime_get_boot_ns() };
    if !wanted(event, record) {
        return event.filtered();
    }
    if event.within_budget_of(record.header.cgroup) {
        send(event, record);
    }
}

/// A connection was accepted, whose file this is.
#[inline(always)]
pub fn accepted(file: Option<u64>) -> Option<()> {
    let file = file?;
    let socket: u64 = peek(file + u64::from(off!(file_private_data)))?;
    // The descriptor may have been given to something else meanwhile.
    if peek::<u64>(socket + u64::from(off!(socket_file)))? != file {
        return None;
    }
    accepted_socket(peek(socket + u64::from(off!(socket_sk)))?)
}

#[inline(always)]
fn accepted_socket(sk: u64) -> Option<()> {
    let family: u16 = peek(sk + u64::from(off!(sk_family)))?;
    if (family != AF_INET && family != AF_INET6)
        || peek::<u16>(sk + u64::from(off!(sk_protocol)))? != TCP as u16
    {
        return None;
    }
    let event = event::begin(Class::Accept);
    let closes = event::is_on(Class::SocketClose);
    if event.is_none() && !closes {
        return None;
    }
    let mut record = new_record(Class::Accept);
    if closes {
        let _ = ACCEPTED.insert(&sk, &record.header, 0);
    }
    let event = event?;
    record.body.protocol = TCP;
    let Some((local, remote)) = peeked_ends(sk, family) else {
        event.lost(Fate::LostRead);
        return None;
    };
    record.body.local = local;
    record.body.remote = remote;
    finish(event, &mut record);
    Some(())
}

/// Filter, budget, ring.
#[inline(always)]
fn finish(event: Event, record: &mut NetRecord) {
    if !wanted(event, record) {
        return event.filtered();
    }
    if event.within_budget() {
        send(event, record);
    }
}

#[inline(always)]
fn send(event: Event, record: &mut NetRecord) {
    record.header.len = size_of::<NetRecord>() as u32;
    event.submit_fixed(record);
}

#[inline(always)]
fn wanted(event: Event, record: &NetRecord) -> bool {
    if event.passes_all() {
        return true;
    }
    let end = if matches!(event.class, Class::Bind | Class::Listen) {
        record.body.local
    } else {
        record.body.remote
    };
    filter::port_passes(event.switch(), event.generation, event.class as u8, end.port)
        || filter::net_passes(event.switch(), event.generation, event.class as u8, end.addr)
}

#[inline(always)]
fn new_empty() -> NetRecord {
    // SAFETY: plain numbers.
    unsafe { core::mem::zeroed() }
}

/// A record of the current task.
#[inline(always)]
fn new_record(class: Class) -> NetRecord {
    let mut record = new_empty();
    task::fill_header(&raw mut record.header, class);
    record
}

/// Keeps the record with the socket.
#[inline(always)]
fn note(sk: *mut c_void, record: &mut NetRecord) {
    // SAFETY: a socket that the verifier knows; the value is copied.
    let kept =
        unsafe { bpf_sk_storage_get(owners(), sk, (&raw mut *record).cast(), CREATE) }.cast::<NetRecord>();
    if !kept.is_null() {
        // It may have been there before.
        // SAFETY: the value, which lives as long as the socket.
        unsafe { *kept = *record };
    }
}

/// What is kept with a socket.
#[inline(always)]
pub fn owner_of<'a>(sk: *mut c_void) -> Option<&'a mut NetRecord> {
    // SAFETY: a socket that the verifier knows; the value lives as long as the program runs.
    unsafe { bpf_sk_storage_get(owners(), sk, core::ptr::null_mut(), 0).cast::<NetRecord>().as_mut() }
}

#[inline(always)]
fn owners() -> *mut c_void {
    (&raw const OWNERS).cast_mut().cast()
}

#[inline(always)]
fn end4(addr: *const bpf_sock_addr) -> End {
    // SAFETY: the context.
    let (ip, port) = unsafe { (word(&raw const (*addr).user_ip4), word(&raw const (*addr).user_port)) };
    End { addr: mapped(ip), port: u16::from_be(port as u16), pad: 0 }
}

#[inline(always)]
fn end6(addr: *const bpf_sock_addr) -> End {
    // SAFETY: the context.
    let (ip, port) =
        unsafe { (words((&raw const (*addr).user_ip6).cast()), word(&raw const (*addr).user_port)) };
    End { addr: ip, port: u16::from_be(port as u16), pad: 0 }
}

/// Our end and the other end of a socket that the verifier knows.
#[inline(always)]
fn typed_ends(sk: *const u8) -> (End, End) {
    // SAFETY: a socket; a TCP socket is also an inet socket, which the conversion proves to the verifier.
    unsafe {
        let tcp = bpf_skc_to_tcp_sock(sk as *mut c_void).cast::<u8>().cast_const();
        // skc_num is 0 by the time a connection has ended.
        let sport = if tcp.is_null() { 0 } else { field::<u16>(tcp, off!(inet_sport)) };
        let dport: u16 = field(sk, off!(sk_dport));
        let (local, remote) = if field::<u16>(sk, off!(sk_family)) == AF_INET6 {
            // The verifier wants reads as wide as an array's element: copied instead.
            (
                peek(sk as u64 + u64::from(off!(sk_v6_rcv_saddr))).unwrap_or([0; 16]),
                peek(sk as u64 + u64::from(off!(sk_v6_daddr))).unwrap_or([0; 16]),
            )
        } else {
            (mapped(field(sk, off!(sk_rcv_saddr))), mapped(field(sk, off!(sk_daddr))))
        };
        (
            End { addr: local, port: u16::from_be(sport), pad: 0 },
            End { addr: remote, port: u16::from_be(dport), pad: 0 },
        )
    }
}

/// The same for a socket of which only the address is known.
#[inline(always)]
fn peeked_ends(sk: u64, family: u16) -> Option<(End, End)> {
    let (local, remote) = if family == AF_INET6 {
        (peek(sk + u64::from(off!(sk_v6_rcv_saddr)))?, peek(sk + u64::from(off!(sk_v6_daddr)))?)
    } else {
        (mapped(peek(sk + u64::from(off!(sk_rcv_saddr)))?), mapped(peek(sk + u64::from(off!(sk_daddr)))?))
    };
    let (num, dport): (u16, u16) =
        (peek(sk + u64::from(off!(sk_num)))?, peek(sk + u64::from(off!(sk_dport)))?);
    Some((End { addr: local, port: num, pad: 0 }, End { addr: remote, port: u16::from_be(dport), pad: 0 }))
}

/// IPv4 in network order, as `::ffff:a.b.c.d`.
#[inline(always)]
pub fn mapped(addr: u32) -> [u8; 16] {
    pair(0, u64::from(addr) << 32 | 0xffff_0000)
}

#[inline(always)]
fn pair(first: u64, second: u64) -> [u8; 16] {
    // SAFETY: the same size.
    unsafe { core::mem::transmute([first, second]) }
}

/// # Safety
/// `at` lies in a program's context.
#[inline(always)]
unsafe fn word(at: *const u32) -> u32 {
    // SAFETY: the caller's. Volatile: the verifier wants each access as wide as the field.
    unsafe { core::ptr::read_volatile(at) }
}

/// Four words of an IPv6 address in a program's context.
///
/// # Safety
/// As for [`word`].
#[inline(always)]
unsafe fn words(at: *const u32) -> [u8; 16] {
    // SAFETY: the caller's.
    unsafe {
        pair(
            u64::from(word(at)) | u64::from(word(at.add(1))) << 32,
            u64::from(word(at.add(2))) | u64::from(word(at.add(3))) << 32,
        )
    }
}

const _: fn(*mut bpf_sock, NetBody) = |_, _| {};

//! Who is at the other end of a packet. cgroup programs see a packet from its IP header on.

use aya_ebpf::programs::SkBuffContext;

/// EtherType numbers as the context has them: network order.
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;

const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const SCTP: u8 = 132;
const UDP_LITE: u8 = 136;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// RFC 8200 §4.1 lists at most seven; a packet with more is treated as one without ports.
const MAX_EXTENSIONS: usize = 7;

/// Which end of a packet the peer is.
#[derive(Clone, Copy)]
pub enum End {
    Source,
    Destination,
}

pub enum Address {
    V4([u8; 4]),
    V6([u8; 16]),
}

/// Address and port of the peer; `None` for what is no IP packet.
#[inline(always)]
pub fn peer(ctx: &SkBuffContext, end: End) -> Option<(Address, Option<u16>)> {
    // SAFETY: the verifier checks each access to the context.
    let protocol = unsafe { (*ctx.skb.skb).protocol };
    if protocol == IPV4 {
        let octets: [u8; 4] = load(ctx, if matches!(end, End::Source) { 12 } else { 16 })?;
        return Some((Address::V4(octets), port4(ctx, end)));
    }
    if protocol == IPV6 {
        let words: [u32; 4] = load(ctx, if matches!(end, End::Source) { 8 } else { 24 })?;
        return Some((address6(words), port6(ctx, end)));
    }
    None
}

/// An IPv6 address, or the IPv4 address that it maps (::ffff:a.b.c.d), from its four words in memory order.
#[inline(always)]
pub fn address6(words: [u32; 4]) -> Address {
    if words[0] == 0 && words[1] == 0 && words[2] == 0x0000_ffff_u32.to_be() {
        return Address::V4(words[3].to_ne_bytes());
    }
    let [a, b, c, d] =
        [words[0].to_ne_bytes(), words[1].to_ne_bytes(), words[2].to_ne_bytes(), words[3].to_ne_bytes()];
    Address::V6([
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
    ])
}

#[inline(always)]
fn port4(ctx: &SkBuffContext, end: End) -> Option<u16> {
    let first: u8 = load(ctx, 0)?;
    let fragment: [u8; 2] = load(ctx, 6)?;
    // a later fragment has no ports; without its first one it is never put together
    if u16::from_be_bytes(fragment) & 0x1fff != 0 {
        return None;
    }
    port(ctx, load(ctx, 9)?, usize::from(first & 0x0f) * 4, end)
}

#[inline(always)]
fn port6(ctx: &SkBuffContext, end: End) -> Option<u16> {
    let mut next: u8 = load(ctx, 6)?;
    let mut at = 40_usize;
    for _ in 0..MAX_EXTENSIONS {
        let [following, length]: [u8; 2] = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | AUTHENTICATION | FRAGMENT => load(ctx, at)?,
            _ => return port(ctx, next, at, end),
        };
        at += match next {
            AUTHENTICATION => (usize::from(length) + 2) * 4,
            FRAGMENT => {
                let offset: [u8; 2] = load(ctx, at + 2)?;
                if u16::from_be_bytes(offset) & 0xfff8 != 0 {
                    return None;
                }
                8
            }
            _ => (usize::from(length) + 1) * 8,
        };
        next = following;
    }
    None
}

#[inline(always)]
fn port(ctx: &SkBuffContext, protocol: u8, at: usize, end: End) -> Option<u16> {
    match protocol {
        TCP | UDP | DCCP | SCTP | UDP_LITE => {
            let ports: [u8; 4] = load(ctx, at)?;
            Some(match end {
                End::Source => u16::from_be_bytes([ports[0], ports[1]]),
                End::Destination => u16::from_be_bytes([ports[2], ports[3]]),
            })
        }
        _ => None,
    }
}

#[inline(always)]
fn load<T>(ctx: &SkBuffContext, at: usize) -> Option<T> {
    ctx.load(at).ok()
}

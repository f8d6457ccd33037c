//! Addresses as what is counted by them.

use std::net::{IpAddr, Ipv6Addr};

/// What one machine has, by which it is counted: an IPv4 address, however it is written, or the half of an IPv6 address that it cannot choose
/// (RFC 4291 §2.5.1: the interface's identifier is the lower 64 bits).
#[must_use]
pub fn machine_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(address.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_what_a_machine_can_choose_makes_it_no_other() {
        let of = |text: &str| machine_of(text.parse().unwrap()).to_string();
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("::ffff:192.0.2.1"), "192.0.2.1");
        assert_ne!(of("::ffff:192.0.2.1"), of("::ffff:192.0.2.2"));
        assert_eq!(of("2001:db8:0:1:2:3:4:5"), "2001:db8:0:1::");
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }
}

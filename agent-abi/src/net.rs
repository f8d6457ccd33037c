//! Bodies of the network family.

use crate::Text;

shared! {
    /// An address and a port.
    pub struct End [20] {
        /// IPv6 address; IPv4 as `::ffff:a.b.c.d`; all zeros where the hook runs before it is chosen.
        pub addr: [u8; 16],
        /// Host order.
        pub port: u16,
        /// Zero.
        pub pad: u16,
    }
}

shared! {
    /// connect, accept, bind, listen, close.
    pub struct NetBody [64] {
        /// Our end.
        pub local: End,
        /// The other end.
        pub remote: End,
        /// IP protocol number.
        pub protocol: u32,
        /// Zero.
        pub pad: u32,
        /// Payload bytes sent (close).
        pub sent: u64,
        /// Payload bytes received (close).
        pub received: u64,
    }
}

/// Longest question that is captured: a name of 255 bytes, type and class (RFC 1035 §2.3.4, §4.1.2).
pub const QUESTION_MAX: usize = 260;

shared! {
    /// A DNS question on its way out. Text: the question as on the wire (labels, type, class), possibly hostile.
    pub struct DnsBody [32] {
        /// The server asked.
        pub server: End,
        /// IP protocol number.
        pub protocol: u32,
        /// The question.
        pub question: Text,
        /// Zero.
        pub pad: u32,
    }
}

shared! {
    /// A whole record of the network family but DNS; the kernel side also keeps it with the socket, as its owner.
    pub struct NetRecord [176] {
        /// Who.
        pub header: crate::RecordHeader,
        /// What.
        pub body: NetBody,
    }
}

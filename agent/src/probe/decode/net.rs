//! Network and DNS.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv6Addr},
};

use agent_abi::{Class, DnsBody, End, NetBody};
use model::{Activity, Endpoint, Flow, Protocol};

use super::{Cursor, DecodeError};

/// `class` is one of the network family but DNS; any other is taken for the end of a connection.
pub(super) fn net(cursor: &mut Cursor<'_>, class: Class) -> Result<Activity, DecodeError> {
    let body: NetBody = cursor.take("the network body")?;
    let protocol = protocol(body.protocol);
    let (local, remote) = (endpoint(&body.local), endpoint(&body.remote));
    let flow = Flow { protocol, local, remote };
    Ok(match class {
        Class::Connect => Activity::Connect(flow),
        Class::Accept => Activity::Accept(flow),
        Class::Bind => Activity::Bind { protocol, local },
        Class::Listen => Activity::Listen { protocol, local },
        _ => Activity::SocketClose { flow, sent_bytes: body.sent, received_bytes: body.received },
    })
}

/// A question as it left: what stands in it is the sender's choice, and it need not be a question at all.
pub(super) fn dns(cursor: &mut Cursor<'_>) -> Result<Activity, DecodeError> {
    let body: DnsBody = cursor.take("the DNS body")?;
    let question = cursor.bytes(body.question, "the question")?;
    let (name, record_type) = parse(question);
    Ok(Activity::DnsQuery { name, record_type, server: endpoint(&body.server) })
}

fn protocol(number: u32) -> Protocol {
    match number {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        other => Protocol::Other(u8::try_from(other).unwrap_or(u8::MAX)),
    }
}

fn endpoint(end: &End) -> Endpoint {
    let addr = Ipv6Addr::from(end.addr);
    // A local end that the kernel has not chosen yet is all zeros: the model writes it as 0.0.0.0:0.
    if addr.is_unspecified() && end.port == 0 {
        return Endpoint { addr: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port: 0 };
    }
    Endpoint { addr: addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4), port: end.port }
}

/// Name (lower case, no final dot) and type of a question (RFC 1035 §4.1.2). Bytes that would be ambiguous or unprintable in
/// a name are escaped (§5.1). What ends too early or is no chain of labels gives the name up to there and type 0.
fn parse(question: &[u8]) -> (String, u16) {
    let mut name = String::new();
    let mut rest = question;
    while let Some((len, after)) = rest.split_first() {
        if *len == 0 {
            let kind = after.first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes));
            return (name, kind);
        }
        // More than 63 is a pointer, for which a question has no use.
        let Some((label, after)) = after.split_at_checked(usize::from(*len)).filter(|_| *len < 64) else {
            break;
        };
        if !name.is_empty() {
            name.push('.');
        }
        label.iter().for_each(|byte| escape(&mut name, *byte));
        rest = after;
    }
    (name, 0)
}

fn escape(name: &mut String, byte: u8) {
    match byte {
        b'.' | b'\\' | b'"' => name.extend(['\\', char::from(byte)]),
        0x21..=0x7e => name.push(char::from(byte.to_ascii_lowercase())),
        // Writing to a String cannot fail.
        _ => write!(name, "\\{byte:03}").unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn questions_are_read() {
        assert_eq!(parse(b"\x03WwW\x07eXample\x03com\0\0\x1c\0\x01"), ("www.example.com".into(), 28));
        assert_eq!(parse(b"\0\0\x02\0\x01"), (String::new(), 2));
        assert_eq!(parse(b"\x05a.b\\\xff\0\0\x01\0\x01"), (r"a\.b\\\255".into(), 1));
    }

    #[test]
    fn hostile_questions_end() {
        assert_eq!(parse(b"\x03www\xc0\x0c\0\x01"), ("www".into(), 0));
        assert_eq!(parse(b"\x3fshort"), (String::new(), 0));
        assert_eq!(parse(b""), (String::new(), 0));
        assert_eq!(parse(b"\x01a\0\0"), ("a".into(), 0));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_printable_name(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let (name, _) = parse(&bytes);
            prop_assert!(name.bytes().all(|byte| (0x21..0x7f).contains(&byte)));
            prop_assert!(name.len() <= 4 * bytes.len());
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let end = End { addr: "::ffff:10.1.2.3".parse::<Ipv6Addr>().unwrap().octets(), port: 53, pad: 0 };
        assert_eq!(endpoint(&end), Endpoint { addr: "10.1.2.3".parse().unwrap(), port: 53 });
    }
}

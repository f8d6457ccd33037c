//! One indicator's value, in the one form in which it is stored and looked up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Shortest prefixes taken: what is wider would fit a good part of all traffic, so that the feed would say nothing.
pub const SHORTEST_V4: u8 = 8;
/// See [`SHORTEST_V4`]. Registries give providers /20 to /32 (RFC 6177, RIPE-738).
pub const SHORTEST_V6: u8 = 20;
/// Labels of a name, at most: more than 127 do not fit into DNS, and nobody looks at more than these.
pub const MAX_LABELS: usize = 32;
/// Bytes of a URL kept.
pub const MAX_URL: usize = 2048;

/// Something that an event can show.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// An address (all bits given) or a network. IPv4 in IPv6 (`::ffff:a.b.c.d`) is IPv4.
    Network(IpNet),
    /// A name with everything below it: lower case, without the last dot.
    Domain(String),
    /// MD5, SHA-1, SHA-256 or SHA-512, told apart by length.
    Hash(Vec<u8>),
    /// Host, port where it is not the scheme's own, path and query; neither scheme nor fragment.
    Url(String),
}

/// Why a value is not taken.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error,
)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Nothing that is known.
    #[error("no address, network, domain, hash or URL")]
    NotAnIndicator,
    /// It would fit too much.
    #[error("too wide: networks from /8 (IPv6 /20) on, names of two labels or more")]
    TooWide,
    /// Loopback, link-local, multicast, unspecified.
    #[error("no address of another machine")]
    Special,
    /// RFC 1918 and the like; taken where the feed's own `private` says so.
    #[error("a private address, of which everybody has one")]
    Private,
    /// Longer than anything real.
    #[error("too long")]
    TooLong,
    /// Not UTF-8.
    #[error("not UTF-8")]
    NotText,
    /// A name beyond ASCII: on the wire it stands in its `xn--` form.
    #[error("a name beyond ASCII: give its xn-- form")]
    NotAscii,
    /// The row or object is broken.
    #[error("cannot be understood")]
    Malformed,
    /// A pattern of several conditions that must hold together, or of an operator that cannot be looked up.
    #[error("a pattern that is more than a list of values")]
    Pattern,
    /// Something of another type than an indicator, or one that its feed marked as not for detection.
    #[error("not an indicator of the feed's own account")]
    NotForDetection,
    /// Withdrawn by its source.
    #[error("revoked")]
    Revoked,
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// There are too many.
    #[error("more indicators than the limit")]
    TooMany,
}

impl Value {
    /// Reads what feeds write: defanged (`hxxp://a[.]b`), quoted, with a port, with `*.` before a name.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn parse(text: &str, private: Private) -> Result<Self, Refusal> {
        let text = text.trim().trim_matches(['"', '\'']).trim();
        if text.is_empty() {
            return Err(Refusal::NotAnIndicator);
        }
        if text.len() > MAX_URL {
            return Err(Refusal::TooLong);
        }
        let refanged;
        let text = if text.contains(['[', '(']) || text.starts_with("hxxp") || text.starts_with("hXXp") {
            refanged = refang(text);
            refanged.as_str()
        } else {
            text
        };
        if let Some(hash) = hash(text) {
            return Ok(Self::Hash(hash));
        }
        if let Ok(addr) = text.parse::<IpAddr>() {
            return Self::network(IpNet::from(addr), private);
        }
        if text.contains("://") {
            return url(text).map(Self::Url);
        }
        if text.contains('/') {
            return match text.parse::<IpNet>() {
                Ok(net) => Self::network(net, private),
                Err(_) => url(text).map(Self::Url),
            };
        }
        if let Some(addr) = with_port(text) {
            return Self::network(IpNet::from(addr), private);
        }
        let name = text.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        domain(name.map_or(text, |(name, _)| name)).map(Self::Domain)
    }

    /// A network as it is stored, unless it says nothing.
    ///
    /// # Errors
    /// Where it is too wide, or of this machine or of everybody.
    pub fn network(net: IpNet, private: Private) -> Result<Self, Refusal> {
        let net = plain(net.trunc());
        let (shortest, special, of_everybody) = match net {
            IpNet::V4(net) => (SHORTEST_V4, is_special_v4(net), is_private_v4(net)),
            IpNet::V6(net) => (SHORTEST_V6, is_special_v6(net), is_private_v6(net)),
        };
        if net.prefix_len() < shortest {
            Err(Refusal::TooWide)
        } else if special {
            Err(Refusal::Special)
        } else if of_everybody && private == Private::Refused {
            Err(Refusal::Private)
        } else {
            Ok(Self::Network(net))
        }
    }

    /// The bytes under which it is found: kinds never collide.
    pub(crate) fn key(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Network(IpNet::V4(net)) => {
                out.extend([b'4', net.prefix_len()]);
                out.extend(net.network().octets());
            }
            Self::Network(IpNet::V6(net)) => {
                out.extend([b'6', net.prefix_len()]);
                out.extend(net.network().octets());
            }
            Self::Domain(name) => {
                out.push(b'd');
                out.extend(name.as_bytes());
            }
            Self::Hash(bytes) => {
                out.push(b'h');
                out.extend(bytes);
            }
            Self::Url(text) => {
                out.push(b'u');
                out.extend(text.as_bytes());
            }
        }
    }

    /// The value as people read it, from its key.
    pub(crate) fn show(key: &[u8]) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match key {
            [b'4', len, rest @ ..] => match <[u8; 4]>::try_from(rest) {
                Ok(octets) => shown(IpAddr::from(octets), *len, 32),
                Err(_) => String::new(),
            },
            [b'6', len, rest @ ..] => match <[u8; 16]>::try_from(rest) {
                Ok(octets) => shown(IpAddr::from(octets), *len, 128),
                Err(_) => String::new(),
            },
            [b'h', rest @ ..] => rest.iter().map(|byte| format!("{byte:02x}")).collect(),
            [b'd' | b'u', rest @ ..] => text(rest),
            _ => String::new(),
        }
    }
}

/// Whether private addresses are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Private {
    /// They are not.
    #[default]
    Refused,
    /// They are: the feed speaks of the own network.
    Taken,
}

/// An address as it is looked up: IPv4 in IPv6 is IPv4.
#[must_use]
pub fn plain_address(addr: IpAddr) -> IpAddr {
    addr.to_canonical()
}

/// A name as it is looked up.
///
/// # Errors
/// Where it is none.
pub fn domain(text: &str) -> Result<String, Refusal> {
    let text = text.strip_prefix("*.").unwrap_or(text);
    let text = text.strip_prefix('.').unwrap_or(text);
    let text = text.strip_suffix('.').unwrap_or(text);
    if !text.is_ascii() {
        return Err(Refusal::NotAscii);
    }
    if text.len() > 253 {
        return Err(Refusal::TooLong);
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if text.is_empty() || !text.split('.').all(is_label) {
        return Err(Refusal::NotAnIndicator);
    }
    let last = text.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        // What looks like an address and is none, a version, a number.
        return Err(Refusal::NotAnIndicator);
    }
    match text.split('.').count() {
        1 => Err(Refusal::TooWide),
        2..=MAX_LABELS => Ok(text.to_ascii_lowercase()),
        _ => Err(Refusal::TooLong),
    }
}

/// A URL as it is stored and looked up.
///
/// # Errors
/// Where it has no host.
pub fn url(text: &str) -> Result<String, Refusal> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        None => ("http", text),
    };
    if rest.len() > MAX_URL {
        return Err(Refusal::TooLong);
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit('@').next().unwrap_or_default();
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let name = match bare.parse::<IpAddr>() {
        Ok(addr) => {
            // `::/0,` is a URL by its form, and would be one of this machine
            Value::network(IpNet::from(addr), Private::Taken)?;
            plain_address(addr).to_string()
        }
        Err(_) if path.is_empty() && !text.contains("://") => return Err(Refusal::NotAnIndicator),
        Err(_) => domain(bare)?,
    };
    let own = match scheme.to_ascii_lowercase().as_str() {
        "http" => "80",
        "https" => "443",
        "ftp" => "21",
        _ => "",
    };
    let port = port.filter(|port| !port.is_empty() && *port != own);
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(Refusal::NotAnIndicator);
    }
    let path = if path.is_empty() { "/" } else { path };
    let slash = if path.starts_with('?') { "/" } else { "" };
    Ok(match port {
        Some(port) => format!("{name}:{port}{slash}{path}"),
        None => format!("{name}{slash}{path}"),
    })
}

/// The host of a URL in its stored form.
#[must_use]
pub fn host_of(url: &str) -> &str {
    let host = url.split(['/', '?']).next().unwrap_or_default();
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') => name,
        _ => host,
    }
}

/// A hash in hex.
#[must_use]
pub fn hash(text: &str) -> Option<Vec<u8>> {
    if !matches!(text.len(), 32 | 40 | 64 | 128) {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

fn refang(text: &str) -> String {
    let text = text.replace("[.]", ".").replace("(.)", ".").replace("[dot]", ".").replace("[:]", ":");
    match text.get(..4) {
        Some(start) if start.eq_ignore_ascii_case("hxxp") => format!("http{}", &text[4..]),
        _ => text,
    }
}

fn with_port(text: &str) -> Option<IpAddr> {
    text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip())
}

fn shown(addr: IpAddr, len: u8, all: u8) -> String {
    if len == all { addr.to_string() } else { format!("{addr}/{len}") }
}

fn plain(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.network().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(net, IpNet::V4),
            None => net,
        },
        other => other,
    }
}

fn within_v4(net: Ipv4Net, of: &[(Ipv4Addr, u8)]) -> bool {
    of.iter().any(|(addr, len)| Ipv4Net::new(*addr, *len).is_ok_and(|of| of.contains(&net)))
}

fn within_v6(net: Ipv6Net, of: &[(Ipv6Addr, u8)]) -> bool {
    of.iter().any(|(addr, len)| Ipv6Net::new(*addr, *len).is_ok_and(|of| of.contains(&net)))
}

/// RFC 6890.
fn is_special_v4(net: Ipv4Net) -> bool {
    const OF: [(Ipv4Addr, u8); 5] = [
        (Ipv4Addr::UNSPECIFIED, 8),
        (Ipv4Addr::new(127, 0, 0, 0), 8),
        (Ipv4Addr::new(169, 254, 0, 0), 16),
        (Ipv4Addr::new(224, 0, 0, 0), 4),
        (Ipv4Addr::new(240, 0, 0, 0), 4),
    ];
    within_v4(net, &OF)
}

/// RFC 1918, RFC 6598.
fn is_private_v4(net: Ipv4Net) -> bool {
    const OF: [(Ipv4Addr, u8); 4] = [
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
    ];
    within_v4(net, &OF)
}

fn is_special_v6(net: Ipv6Net) -> bool {
    const OF: [(Ipv6Addr, u8); 4] = [
        (Ipv6Addr::UNSPECIFIED, 128),
        (Ipv6Addr::LOCALHOST, 128),
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
    ];
    within_v6(net, &OF)
}

/// RFC 4193.
fn is_private_v6(net: Ipv6Net) -> bool {
    within_v6(net, &[(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, Refusal> {
        Value::parse(text, Private::Refused).map(|value| {
            let mut key = Vec::new();
            value.key(&mut key);
            Value::show(&key)
        })
    }

    #[test]
    fn what_feeds_write_is_read() {
        for (text, shown) in [
            ("198.51.100.7", "198.51.100.7"),
            (" \"198.51.100.7:443\" ", "198.51.100.7"),
            ("198.51.100.77/24", "198.51.100.0/24"),
            ("198.51.100[.]7", "198.51.100.7"),
            ("::ffff:198.51.100.7", "198.51.100.7"),
            ("::ffff:198.51.100.0/120", "198.51.100.0/24"),
            ("2001:DB8::1", "2001:db8::1"),
            ("[2001:db8::1]:8443", "2001:db8::1"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("*.Evil.Example.", "evil.example"),
            ("evil.example:8080", "evil.example"),
            ("hxxps://evil[.]example/a?b=C#d", "evil.example/a?b=C"),
            ("HTTP://EVIL.example:80", "evil.example/"),
            ("https://evil.example:80/", "evil.example:80/"),
            ("http://u:p@[2001:db8::1]:8080/x", "2001:db8::1:8080/x"),
            ("evil.example/a.sh", "evil.example/a.sh"),
            ("D41D8CD98F00B204E9800998ECF8427E", "d41d8cd98f00b204e9800998ecf8427e"),
        ] {
            assert_eq!(parsed(text).as_deref(), Ok(shown), "{text}");
        }
    }

    #[test]
    fn what_says_nothing_is_refused_with_its_reason() {
        for (text, refusal) in [
            ("0.0.0.0/0", Refusal::TooWide),
            ("::/0", Refusal::TooWide),
            ("64.0.0.0/7", Refusal::TooWide),
            ("2000::/19", Refusal::TooWide),
            ("com", Refusal::TooWide),
            ("127.0.0.1", Refusal::Special),
            ("0.0.0.0", Refusal::Special),
            ("255.255.255.255", Refusal::Special),
            ("::1", Refusal::Special),
            ("224.0.0.0/8", Refusal::Special),
            ("10.0.0.0/8", Refusal::Private),
            ("192.168.1.1", Refusal::Private),
            ("::ffff:10.0.0.1", Refusal::Private),
            ("fd00::1", Refusal::Private),
            ("böse.example", Refusal::NotAscii),
            ("1.2.3", Refusal::NotAnIndicator),
            ("300.1.1.1", Refusal::NotAnIndicator),
            ("a b.c", Refusal::NotAnIndicator),
            ("-", Refusal::TooWide),
            ("", Refusal::NotAnIndicator),
            ("http://", Refusal::NotAnIndicator),
        ] {
            assert_eq!(parsed(text), Err(refusal), "{text}");
        }
        assert!(Value::parse("10.1.2.3", Private::Taken).is_ok());
        assert_eq!(Value::parse("127.0.0.1", Private::Taken), Err(Refusal::Special));
    }
}

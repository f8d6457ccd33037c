//! How a source is written on the command line and in a configuration: `FORMAT=PLACE[,OPTION=VALUE…]`.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use ipnet::IpNet;
use model::NodeId;

use super::read::Format;

/// Options of one source, at most.
const MAX_OPTIONS: usize = 32;

/// A source: what is written there, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpec {
    /// What it is written in.
    pub format: Format,
    /// Where it comes from.
    pub door: Door,
}

/// Where records come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Door {
    /// A log that is followed. Rotation by renaming and by copying and truncating is followed, too.
    Log(PathBuf),
    /// A folder into which whole files are put, packed or not; each is read once.
    Folder(PathBuf),
    /// A server of our own, to which records are posted.
    Https(HttpsDoor),
    /// Datagrams of flow exporters.
    Udp(UdpDoor),
    /// A Hubble relay, or a node's Hubble.
    Relay(RelayDoor),
}

/// Whose signed tokens are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedBy {
    /// File with the issuer's public keys, a JSON Web Key Set.
    pub jwks: PathBuf,
    /// Who says so in each token (`iss`).
    pub issuer: String,
    /// For whom each token must be (`aud`), where that is asked for.
    pub audience: Option<String>,
}

/// An HTTPS server. Who speaks is known by at least one of certificate, token and signature; each that is given is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpsDoor {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Path that is posted to; other paths are not there.
    pub path: String,
    /// Certificate chain of the server, PEM. Read again when it changes, as are the other files.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Authorities, one of which must have signed the client's certificate.
    pub client_ca: Option<PathBuf>,
    /// Common names or DNS names, one of which the client's certificate must have; any where none is given.
    pub clients: Vec<String>,
    /// File with the bearer token that must be shown.
    pub token: Option<PathBuf>,
    /// File with the secret of an HMAC-SHA-256 over the body, which must stand in [`HttpsDoor::hmac_header`].
    pub hmac: Option<PathBuf>,
    /// `X-Hub-Signature-256` where nothing else is said; lower case.
    pub hmac_header: String,
    /// Bodies are signed tokens of an issuer.
    pub signed_by: Option<SignedBy>,
}

/// A UDP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpDoor {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Addresses of the exporters; datagrams of others are thrown away and counted.
    pub from: Vec<IpNet>,
}

/// A gRPC server with Hubble's Observer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayDoor {
    /// `https://HOST:PORT`, `http://HOST:PORT` or `unix:/PATH`, as it was given.
    pub address: RelayAddress,
    /// Authority of the relay's certificate, PEM.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name that the relay's certificate must have, where it is another than the host's.
    pub name: Option<String>,
}

/// Where a relay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayAddress {
    /// TLS.
    Tls(String),
    /// Plain; only at an address of this machine.
    Plain(String),
    /// A node's own socket.
    Unix(PathBuf),
}

impl SourceSpec {
    /// A log that is followed.
    #[must_use]
    pub fn log(format: Format, path: impl Into<PathBuf>) -> Self {
        Self { format, door: Door::Log(path.into()) }
    }

    /// What it is called in findings and in the status; takes the place of a node's name.
    #[must_use]
    pub fn name(&self) -> NodeId {
        NodeId::new(self.to_string())
    }
}

/// `FORMAT:PLACE`, without options: no secret's place.
impl fmt::Display for SourceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.format.name(), self.door)
    }
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(path) => write!(f, "{}", path.display()),
            Self::Folder(path) => write!(f, "{}/", path.display()),
            Self::Https(door) => write!(f, "https://{}{}", door.listen, door.path),
            Self::Udp(door) => write!(f, "udp://{}", door.listen),
            Self::Relay(door) => match &door.address {
                RelayAddress::Tls(host) => write!(f, "grpcs://{host}"),
                RelayAddress::Plain(host) => write!(f, "grpc://{host}"),
                RelayAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            },
        }
    }
}

/// Why a text is no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// It has no `=`.
    #[error("`{0}` is not FORMAT=PLACE")]
    Shape(String),
    /// No such format.
    #[error("unknown format `{name}`: one of {known}")]
    Format {
        /// As given.
        name: String,
        /// All there are.
        known: String,
    },
    /// A relative path would mean another file after a change of folder.
    #[error("`{0}` is neither an absolute path nor https://, udp://, grpcs://, grpc:// or unix:")]
    Place(String),
    /// The format does not come this way.
    #[error("{format} does not come from {door}: {instead}")]
    Door {
        /// The format's name.
        format: &'static str,
        /// The kind of place.
        door: &'static str,
        /// What there is.
        instead: &'static str,
    },
    /// An option that is not understood, is missing, or cannot be.
    #[error("option `{option}` of {place}: {because}")]
    Option {
        /// Which.
        option: String,
        /// Of which place.
        place: String,
        /// Why.
        because: String,
    },
}

impl FromStr for SourceSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (name, rest) = text.split_once('=').ok_or_else(|| SpecError::Shape(text.into()))?;
        let format = Format::from_name(name).ok_or_else(|| SpecError::Format {
            name: name.into(),
            known: Format::ALL.map(Format::name).join(", "),
        })?;
        let door = if rest.starts_with('/') { path(format, rest)? } else { server(format, rest)? };
        Ok(Self { format, door })
    }
}

fn path(format: Format, text: &str) -> Result<Door, SpecError> {
    let wrong = |door, instead| Err(SpecError::Door { format: format.name(), door, instead });
    if format == Format::Netflow {
        return wrong("a file", "it is udp://ADDRESS:PORT,from=NETWORK");
    }
    let Some(folder) = text.strip_suffix('/') else { return Ok(Door::Log(text.into())) };
    if !format.is_json() {
        return wrong("a folder", "give the log's own path; only formats in JSON are read from folders");
    }
    Ok(Door::Folder(if folder.is_empty() { "/" } else { folder }.into()))
}

fn server(format: Format, text: &str) -> Result<Door, SpecError> {
    let mut parts = text.split(',');
    let place = parts.next().unwrap_or_default();
    let mut options = Options { place, given: Vec::new() };
    for part in parts.take(MAX_OPTIONS) {
        let Some((key, value)) = part.split_once('=').filter(|(_, value)| !value.is_empty()) else {
            return Err(options.wrong(part, "not OPTION=VALUE"));
        };
        options.given.push((key.trim(), value));
    }
    let wrong = |door, instead| SpecError::Door { format: format.name(), door, instead };
    let door = if let Some(rest) = place.strip_prefix("https://") {
        if !format.is_posted() {
            return Err(wrong("HTTPS", "see docs/sources.md for the ways of each format"));
        }
        Door::Https(https(format, rest, &mut options)?)
    } else if let Some(rest) = place.strip_prefix("udp://") {
        if format != Format::Netflow {
            return Err(wrong("UDP", "only netflow does"));
        }
        let listen = address(rest, &options)?;
        let from = options.required(
            "from",
            "the exporters' networks, separated by +, are needed: whoever may send could make up flows",
        )?;
        let networks = from.split('+').map(|one| {
            let host = one.parse().map(|addr: std::net::IpAddr| IpNet::from(addr.to_canonical()));
            host.or_else(|_| one.parse())
                .map_err(|_| options.wrong("from", &format!("`{one}` is no network")))
        });
        let from = networks.collect::<Result<Vec<IpNet>, _>>()?;
        Door::Udp(UdpDoor { listen, from })
    } else if let Some(address) = relay_address(place) {
        if format != Format::Hubble {
            return Err(wrong("gRPC", "only hubble does"));
        }
        Door::Relay(relay(address, &mut options)?)
    } else {
        return Err(SpecError::Place(place.into()));
    };
    match options.given.first() {
        Some((unknown, _)) => Err(options.wrong(unknown, "there is no such option here")),
        None => Ok(door),
    }
}

fn https(format: Format, rest: &str, options: &mut Options<'_>) -> Result<HttpsDoor, SpecError> {
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let listen = address(host, options)?;
    let cert = options.required_file("cert", "the server's certificate is needed")?;
    let key = options.required_file("key", "the key of the server's certificate is needed")?;
    let client_ca = options.file("client-ca")?;
    let clients: Vec<String> = options
        .take("clients")
        .map(|names| names.split('+').map(str::to_owned).collect())
        .unwrap_or_default();
    if client_ca.is_none() && !clients.is_empty() {
        return Err(options.wrong("clients", "without client-ca no certificate is asked for"));
    }
    let (token, hmac) = (options.file("token")?, options.file("hmac")?);
    let signed_by = signed_by(format, options)?;
    if client_ca.is_none() && token.is_none() && hmac.is_none() && signed_by.is_none() {
        let because = match format {
            Format::Events => {
                "one of client-ca, token, hmac and jwks is needed: whoever may send could make up records"
            }
            _ => "one of client-ca, token and hmac is needed: whoever may send could make up records",
        };
        return Err(options.wrong("client-ca", because));
    }
    let header = options.take("hmac-header").unwrap_or("X-Hub-Signature-256");
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if header.len() > 64 || !header.bytes().all(is_name) {
        return Err(options.wrong("hmac-header", "no header's name"));
    }
    let hmac_header = header.to_ascii_lowercase();
    Ok(HttpsDoor {
        listen,
        path: path.into(),
        cert,
        key,
        client_ca,
        clients,
        token,
        hmac,
        hmac_header,
        signed_by,
    })
}

fn signed_by(format: Format, options: &mut Options<'_>) -> Result<Option<SignedBy>, SpecError> {
    let (jwks, issuer) = (options.file("jwks")?, options.take("issuer").map(str::to_owned));
    let audience = options.take("audience").map(str::to_owned);
    match (jwks, issuer) {
        (Some(_), _) if format != Format::Events => {
            Err(options.wrong("jwks", "only security-events come as signed tokens"))
        }
        (Some(jwks), Some(issuer)) => Ok(Some(SignedBy { jwks, issuer, audience })),
        (None, None) if audience.is_none() => Ok(None),
        _ => Err(options
            .wrong("jwks", "jwks and issuer belong together: whose keys these are, and audience to them")),
    }
}

fn relay_address(place: &str) -> Option<RelayAddress> {
    if let Some(path) = place.strip_prefix("unix:") {
        return path.starts_with('/').then(|| RelayAddress::Unix(path.into()));
    }
    let tls = place.strip_prefix("grpcs://").map(|host| RelayAddress::Tls(host.into()));
    tls.or_else(|| place.strip_prefix("grpc://").map(|host| RelayAddress::Plain(host.into())))
}

fn relay(address: RelayAddress, options: &mut Options<'_>) -> Result<RelayDoor, SpecError> {
    let (ca, name) = (options.file("ca")?, options.take("name").map(str::to_owned));
    let identity = match (options.file("cert")?, options.file("key")?) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => return Err(options.wrong("cert", "cert and key belong together")),
    };
    match &address {
        RelayAddress::Tls(_) if ca.is_none() => {
            return Err(options.wrong("ca", "the authority of the relay's certificate is needed"));
        }
        RelayAddress::Plain(host) => {
            let local = host.parse().is_ok_and(|addr: SocketAddr| addr.ip().is_loopback());
            if !local {
                return Err(options.wrong("grpc://", "in plain only from 127.0.0.1 or [::1]; use grpcs://"));
            }
        }
        _ => {}
    }
    Ok(RelayDoor { address, ca, identity, name })
}

fn address(host: &str, options: &Options<'_>) -> Result<SocketAddr, SpecError> {
    host.parse().map_err(|_| options.wrong("address", &format!("`{host}` is not ADDRESS:PORT")))
}

struct Options<'a> {
    place: &'a str,
    given: Vec<(&'a str, &'a str)>,
}

impl<'a> Options<'a> {
    fn take(&mut self, name: &str) -> Option<&'a str> {
        let at = self.given.iter().position(|(key, _)| *key == name)?;
        Some(self.given.remove(at).1)
    }

    fn required(&mut self, name: &str, because: &str) -> Result<&'a str, SpecError> {
        self.take(name).ok_or_else(|| self.wrong(name, because))
    }

    fn file(&mut self, name: &str) -> Result<Option<PathBuf>, SpecError> {
        match self.take(name) {
            Some(path) if path.starts_with('/') => Ok(Some(path.into())),
            Some(path) => Err(self.wrong(name, &format!("the path `{path}` is not absolute"))),
            None => Ok(None),
        }
    }

    fn required_file(&mut self, name: &str, because: &str) -> Result<PathBuf, SpecError> {
        self.file(name)?.ok_or_else(|| self.wrong(name, because))
    }

    fn wrong(&self, option: &str, because: &str) -> SpecError {
        SpecError::Option { option: option.into(), place: self.place.into(), because: because.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<SourceSpec, SpecError> {
        text.parse()
    }

    #[test]
    fn sources_are_written_as_format_and_place() {
        let spec = read("kubernetes-audit=/var/log/audit.log").unwrap();
        assert_eq!(spec.to_string(), "kubernetes-audit:/var/log/audit.log");
        assert!(matches!(read("auth"), Err(SpecError::Shape(_))));
        assert!(matches!(read("auth=x.log"), Err(SpecError::Place(_))));
        let unknown = read("audit=/x").unwrap_err().to_string();
        assert!(unknown.contains("kubernetes-audit, auth, journal"), "{unknown}");
        for format in Format::ALL {
            assert_eq!(Format::from_name(format.name()), Some(format));
        }
        assert_eq!(read("cloudtrail=/logs/").unwrap().door, Door::Folder("/logs".into()));
        assert!(read("auth=/var/log/").unwrap_err().to_string().contains("only formats in JSON"));
    }

    #[test]
    fn servers_say_who_may_speak() {
        let text = "kubernetes-audit=https://0.0.0.0:9443/audit,cert=/c,key=/k,client-ca=/ca,clients=a+b";
        let spec = read(text).unwrap();
        assert_eq!(spec.name().as_str(), "kubernetes-audit:https://0.0.0.0:9443/audit");
        let Door::Https(door) = spec.door else { panic!() };
        assert_eq!((door.path.as_str(), door.clients), ("/audit", vec!["a".to_owned(), "b".to_owned()]));
        for (text, says) in [
            ("kubernetes-audit=https://0.0.0.0:9443,cert=/c,key=/k", "make up records"),
            ("kubernetes-audit=https://0.0.0.0:9443,key=/k,token=/t", "certificate is needed"),
            ("kubernetes-audit=https://0.0.0.0:9443,cert=/c,key=/k,token=t", "not absolute"),
            ("kubernetes-audit=https://0.0.0.0:9443,cert=/c,key=/k,token=/t,x=/y", "`x`"),
            ("kubernetes-audit=https://0.0.0.0:9443,cert=/c,key=/k,token=/t,clients=a", "without client-ca"),
            ("kubernetes-audit=https://here,cert=/c,key=/k,token=/t", "`here` is not ADDRESS:PORT"),
            ("auth=https://0.0.0.0:1,cert=/c,key=/k,token=/t", "does not come from HTTPS"),
            ("netflow=udp://0.0.0.0:2055", "make up flows"),
            ("netflow=udp://0.0.0.0:2055,from=10.0.0.0/8+x", "`x` is no network"),
            ("netflow=/var/log/flows", "udp://"),
            ("hubble=grpc://relay.kube-system:80", "use grpcs://"),
            ("hubble=grpcs://relay.kube-system:443", "authority"),
            ("okta=grpcs://relay:443,ca=/x", "only hubble"),
            ("security-events=https://0.0.0.0:1,cert=/c,key=/k", "hmac and jwks is needed"),
            ("security-events=https://0.0.0.0:1,cert=/c,key=/k,jwks=/j", "belong together"),
            ("security-events=https://0.0.0.0:1,cert=/c,key=/k,token=/t,audience=us", "belong together"),
            ("okta=https://0.0.0.0:1,cert=/c,key=/k,jwks=/j,issuer=i", "only security-events"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let spec = read("netflow=udp://0.0.0.0:2055,from=10.0.0.0/8+192.0.2.1").unwrap();
        let Door::Udp(door) = spec.door else { panic!() };
        assert_eq!(door.from[1].to_string(), "192.0.2.1/32");
        assert_eq!(read("hubble=unix:/run/hubble.sock").unwrap().to_string(), "hubble:unix:/run/hubble.sock");
    }
}

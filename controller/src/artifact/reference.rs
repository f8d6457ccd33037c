//! Which artifact: `registry/repository@sha256:…`. The digest alone says what is meant; a tag before it is for people.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// SHA-256 of some bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Digest(String);

impl Digest {
    /// Of these bytes.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(bytes)))
    }

    /// `sha256:` and 64 hexadecimal digits in lower case: the only algorithm that every registry has.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("sha256:")?;
        let sound = digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        sound.then(|| Self(digits.to_owned()))
    }

    /// The digits alone, as a file's name.
    pub(super) fn digits(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// An artifact in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// `host` or `host:port`.
    pub(super) registry: String,
    /// Path of the repository.
    pub(super) repository: String,
    /// Of the manifest.
    pub(super) digest: Digest,
}

impl Reference {
    /// Reads what a RuleSet says. What the schema refuses is refused here, too: objects may be older than their schema.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let no = |because: &str| format!("{text}: {because}");
        let (name, digest) = text.split_once('@').ok_or_else(|| no("there is no digest (@sha256:…)"))?;
        let digest = Digest::parse(digest)
            .ok_or_else(|| no("the digest is not sha256: and 64 hexadecimal digits in lower case"))?;
        let (registry, path) = name.split_once('/').ok_or_else(|| no("there is no repository"))?;
        // A tag follows the last slash; before it, a colon is a port's.
        let repository = match path.rsplit_once(':') {
            Some((repository, tag)) if is_tag(tag) => repository,
            Some(_) => return Err(no("the tag is none")),
            None => path,
        };
        if !is_registry(registry) {
            return Err(no("the registry is no host's name"));
        }
        if !repository.split('/').all(is_component) {
            return Err(no("the repository is no path of lower-case names"));
        }
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), digest })
    }

    /// Where the registry's interface is: Docker Hub's is not under its own name.
    pub(super) fn host(&self) -> &str {
        if self.registry == "docker.io" { "registry-1.docker.io" } else { &self.registry }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.registry, self.repository, self.digest)
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let host = !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
        && host.bytes().any(|b| b.is_ascii_alphanumeric());
    host && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// One part of a repository's path (distribution-spec 1.1, "Pulling manifests").
fn is_component(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(plain)
        && bytes.last().copied().is_some_and(plain)
        && bytes.iter().all(|&b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
        && !text.contains("..")
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn the_digest_is_needed_and_a_tag_before_it_is_for_people() {
        let plain = Reference::parse(&format!("r.example.com:5000/a/b-c{DIGEST}")).unwrap();
        assert_eq!((plain.registry.as_str(), plain.repository.as_str()), ("r.example.com:5000", "a/b-c"));
        assert_eq!(Reference::parse(&format!("r.example.com:5000/a/b-c:1.2{DIGEST}")).unwrap(), plain);
        assert_eq!(plain.to_string(), format!("r.example.com:5000/a/b-c{DIGEST}"));
        assert_eq!(
            Reference::parse(&format!("docker.io/a/b{DIGEST}")).unwrap().host(),
            "registry-1.docker.io"
        );
        for wrong in [
            "r.example.com/a:latest",
            "r.example.com/a",
            &format!("a{DIGEST}"),
            &format!("r.example.com/../b{DIGEST}"),
            &format!("r.example.com/a/./b{DIGEST}"),
            &format!("r.example.com/A{DIGEST}"),
            &format!("r.example.com//a{DIGEST}"),
            &format!("user@r.example.com/a{DIGEST}"),
            &format!("r.example.com:99999/a{DIGEST}"),
            &format!("r.example.com/a?x=1{DIGEST}"),
            "r.example.com/a@sha256:00",
            "r.example.com/a@sha512:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            &format!("r.example.com/a{}", DIGEST.to_uppercase().replace("SHA", "sha")),
        ] {
            assert!(Reference::parse(wrong).is_err(), "{wrong}");
        }
    }
}

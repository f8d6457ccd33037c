//! Secrets in evidence: what must not leave the process in clear text.

use std::borrow::Cow;

/// Masks secrets in text that goes into evidence. The agent gives its own rules here ([`super::ContainConfig::mask`]).
pub trait Mask: Send + Sync {
    /// The value of an environment variable.
    fn environment<'a>(&self, name: &str, value: &'a str) -> Cow<'a, str>;
    /// A whole argument vector, in order.
    fn arguments(&self, arguments: &[String]) -> Vec<String>;
}

/// The careful default: no value of the environment is kept, only its length, and arguments after something that looks like the name
/// of a secret are left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct MaskAll;

/// Parts of names whose values are secrets.
const SECRET_WORDS: [&str; 8] = ["pass", "pwd", "secret", "token", "key", "auth", "cred", "session"];

impl Mask for MaskAll {
    fn environment<'a>(&self, _: &str, value: &'a str) -> Cow<'a, str> {
        Cow::Owned(format!("<masked, {} bytes>", value.len()))
    }

    fn arguments(&self, arguments: &[String]) -> Vec<String> {
        let mut masked = Vec::with_capacity(arguments.len());
        let mut next_is_secret = false;
        for argument in arguments {
            let names_secret = |text: &str| {
                let lower = text.to_ascii_lowercase();
                SECRET_WORDS.iter().any(|word| lower.contains(word))
            };
            match argument.split_once('=') {
                _ if next_is_secret => masked.push("<masked>".to_owned()),
                Some((name, _)) if names_secret(name) => masked.push(format!("{name}=<masked>")),
                _ => masked.push(argument.clone()),
            }
            next_is_secret = !next_is_secret
                && argument.starts_with('-')
                && !argument.contains('=')
                && names_secret(argument);
        }
        masked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_pass() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let masked = MaskAll.arguments(&words("psql --password hunter2 --host=db api_token=abc -v"));
        assert_eq!(masked.join(" "), "psql --password <masked> --host=db api_token=<masked> -v");
        assert_eq!(MaskAll.environment("HOME", "/root"), "<masked, 5 bytes>");
    }
}

//! Patterns of environment names, in which `*` stands for any text: `pr-*`.

use std::fmt;
use std::str::FromStr;

use crate::names::{EnvironmentName, NameError};

/// Longest pattern, in bytes: that of a name.
const LIMIT: usize = 63;

/// The name of an environment, in which `*` stands for any text, none included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(String);

impl NamePattern {
    /// Whether it has a `*`, so that it can mean several environments.
    pub fn is_open(&self) -> bool {
        self.0.contains('*')
    }

    /// Whether it means an environment.
    pub fn matches(&self, name: &EnvironmentName) -> bool {
        self.source_of(name).is_some()
    }

    /// The part of a name before what the last `*` stands for: of `shop-pr-12` and `*-pr-*` that is
    /// `shop-pr-`. `None` where the pattern does not mean the environment.
    pub fn source_of<'a>(&self, name: &'a EnvironmentName) -> Option<&'a str> {
        let name = name.as_str();
        let Some((begin, end)) = self.0.rsplit_once('*') else {
            return (name == self.0).then_some(name);
        };
        let mut parts = begin.split('*');
        let mut rest = name.strip_prefix(parts.next().unwrap_or_default())?;
        // The first place leaves most for what follows.
        for part in parts {
            rest = &rest[rest.find(part)? + part.len()..];
        }
        rest.ends_with(end).then(|| &name[..name.len() - rest.len()])
    }
}

impl FromStr for NamePattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if !text.contains('*') {
            return text.parse().map(|name: EnvironmentName| Self(name.to_string()));
        }
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-*".contains(&byte);
        match text.len() <= LIMIT && text.bytes().all(allowed) {
            true => Ok(Self(text.to_owned())),
            false => Err(NameError::new(
                text,
                "a pattern of environment names",
                "lower-case letters, digits, hyphens and `*` for any text, at most 63",
            )),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, name, source) in [
            ("pr-*", "pr-12", Some("pr-")),
            ("pr-*", "pr-", None),
            ("pr-*", "shop-pr-12", None),
            ("*", "dev", Some("")),
            ("*-pr-*", "shop-pr-12", Some("shop-pr-")),
            ("*-pr-*", "shop-pr-1-pr-2", Some("shop-pr-")),
            ("*-pr-*", "pr-12", None),
            ("a*b*c", "a-b-b-c", Some("a-b")),
            ("a*b*c", "abc", Some("ab")),
            ("a*bc", "abc", Some("a")),
            ("ab*ba", "aba", None),
            ("**x", "yx", Some("")),
            ("dev", "dev", Some("dev")),
            ("dev", "dev-1", None),
        ] {
            let Ok(name) = name.parse() else {
                assert_eq!(source, None);
                continue;
            };
            let pattern: NamePattern = pattern.parse().unwrap();
            assert_eq!(pattern.source_of(&name), source, "{pattern} {name}");
            assert_eq!(pattern.matches(&name), source.is_some());
        }
        assert!("pr-*".parse::<NamePattern>().unwrap().is_open());
        assert!(!"pr-1".parse::<NamePattern>().unwrap().is_open());
    }

    #[test]
    fn what_no_name_has_is_refused() {
        let long = "*".repeat(64);
        for text in ["", "PR-*", "pr_*", "pr-[0-9]", "*/x", "a b*", "-x", &long] {
            let error = text.parse::<NamePattern>().unwrap_err().to_string();
            assert!(error.contains("lower"), "{text}: {error}");
        }
    }
}

//! How an instance is checked for life, as a checked type: in an argument, a label of a container
//! or a service definition. The container-registrar does the checking.

use std::fmt;
use std::str::FromStr;

use crate::names::{Hostname, NameError, ServiceName, checked_conversions};

/// Longest path, in bytes.
const LIMIT: usize = 1024;

/// How to check an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Check {
    /// A connection is enough.
    Tcp,
    /// This path, perhaps with a query, has to answer 2xx or 3xx.
    Http(CheckPath),
}

/// An absolute path with an optional query, in the characters of RFC 3986.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CheckPath(String);

impl CheckPath {
    /// The path and the query.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The Host that an HTTP check asks with: what callers ask with, unless another one is given. A
/// server that serves by host names (a virtual host, Django, Rails) refuses its own address.
pub fn host(given: Option<&Hostname>, service: &ServiceName) -> String {
    given.map_or_else(|| format!("{service}.service"), ToString::to_string)
}

impl FromStr for Check {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "tcp" {
            return Ok(Self::Tcp);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/%?".contains(&byte);
        if text.starts_with('/') && text.len() <= LIMIT && text.bytes().all(allowed) {
            return Ok(Self::Http(CheckPath(text.to_owned())));
        }
        Err(NameError::new(
            text,
            "a check",
            "`tcp` or the path of an http URL such as /health",
        ))
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp => f.pad("tcp"),
            Self::Http(path) => f.pad(path.as_str()),
        }
    }
}
checked_conversions!(Check);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_asks_as_callers_do_unless_told_otherwise() {
        let service = "backend.service".parse().unwrap();
        assert_eq!(host(None, &service), "backend.service");
        let given = "shop.example.com".parse().unwrap();
        assert_eq!(host(Some(&given), &service), "shop.example.com");
    }

    #[test]
    fn texts() {
        for good in ["tcp", "/", "/health", "/health?deep=1", "/a%20b"] {
            assert_eq!(good.parse::<Check>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "http",
            "TCP",
            "health",
            "http://x/health",
            "/a b",
            "/a\r\nX: y",
            "/a#b",
            "*",
        ] {
            assert!(bad.parse::<Check>().is_err(), "{bad:?}");
        }
    }
}

//! One address of etcd: scheme, host and port. What a URL could hold besides, a password above all,
//! is refused.

use std::fmt;
use std::str::FromStr;

/// One address of etcd, as `http://host:port` or `https://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// The URL, with scheme and port.
    pub fn url(&self) -> &str {
        &self.0
    }

    /// The part `host:port` of the URL.
    pub fn host_and_port(&self) -> &str {
        self.0.split_once("://").map_or(self.0.as_str(), |(_, rest)| rest)
    }

    /// Whether it is reached by TLS.
    pub fn is_tls(&self) -> bool {
        self.0.starts_with(TLS)
    }

    /// The host, an IPv6 address without its brackets: what a certificate has to be made out to.
    pub fn host(&self) -> &str {
        let host = self.host_and_port().rsplit_once(':').map_or("", |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

const PLAIN: &str = "http://";
const TLS: &str = "https://";
const DEFAULT_PORT: u16 = 2379;

/// Why a text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; an endpoint looks like http://10.0.0.1:2379, https://etcd-1:2379 or etcd-1:2379")]
pub struct EndpointError {
    problem: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    /// Takes `http://host:port`, `https://host:port`, `host:port`, `host` and `[ipv6]:port`; the
    /// port is 2379 where none is given.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = |problem| Err(EndpointError { problem });
        let text = text.trim();
        let (scheme, rest) = match text.strip_prefix(TLS) {
            Some(rest) => (TLS, rest),
            None => (PLAIN, text.strip_prefix(PLAIN).unwrap_or(text)),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains("://") {
            return error("the scheme is neither http nor https");
        }
        if rest.contains('@') {
            // Never repeat it: what stands there may be a password.
            return error(
                "an endpoint must not contain a user or password: use --etcd-user and \
                 --etcd-password-file",
            );
        }
        let (host, port) = split_port(rest).ok_or(EndpointError {
            problem: "the port is not a number from 1 to 65535",
        })?;
        if !is_host(host) {
            return error(if host.is_empty() {
                "the host is missing"
            } else {
                "the host is not a name or an address"
            });
        }
        Ok(Self(format!("{scheme}{host}:{port}")))
    }
}

/// Splits `host:port`; an IPv6 address keeps its brackets.
fn split_port(text: &str) -> Option<(&str, u16)> {
    let host_end = if text.starts_with('[') {
        text.find(']')? + 1
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (host, port) = text.split_at(host_end);
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => DEFAULT_PORT,
        None => return None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
        Some(_) => return None,
    };
    (port != 0).then_some((host, port))
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, url) in [
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("https://etcd-1", "https://etcd-1:2379"),
            ("etcd-1:4001", "http://etcd-1:4001"),
            ("etcd", "http://etcd:2379"),
            ("http://etcd:2379/", "http://etcd:2379"),
            ("[::1]:2379", "http://[::1]:2379"),
            ("http://[fd00::1]", "http://[fd00::1]:2379"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().url(), url, "{text}");
        }
        for (text, part) in [
            ("ftp://etcd:2379", "scheme"),
            ("http://me:secret@etcd:2379", "--etcd-user"),
            ("https://me:secret@etcd:2379", "--etcd-user"),
            ("", "host is missing"),
            (":2379", "host is missing"),
            ("etcd:0", "port"),
            ("etcd:65536", "port"),
            ("etcd:+80", "port"),
            ("::1", "port"),
            ("[::1", "port"),
            ("[zz]:1", "host is not"),
            ("et cd:1", "host is not"),
            ("etcd:1/v2", "port"),
        ] {
            let message = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn a_certificate_is_made_out_to_the_bare_host() {
        let parts = |text: &str| {
            let endpoint: Endpoint = text.parse().unwrap();
            (endpoint.is_tls(), endpoint.host().to_owned())
        };
        assert_eq!(parts("https://[::1]:2379"), (true, "::1".to_owned()));
        assert_eq!(parts("https://etcd-1"), (true, "etcd-1".to_owned()));
        assert_eq!(parts("10.0.0.1:4001"), (false, "10.0.0.1".to_owned()));
    }
}

//! URLs and addresses in the settings of a service: which services it calls, and how.

use std::ops::Range;

/// A server that a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CalledServer<'t> {
    /// In lower case; nothing for a text that is only `host:port`.
    pub(super) scheme: Option<String>,
    pub(super) host: &'t str,
    pub(super) port: Option<u16>,
    /// What follows the host and the port, up to the end of the URL.
    pub(super) path: &'t str,
    /// Where the host and the port are.
    at: Range<usize>,
}

/// What ends a URL, other than a blank.
const ENDS: &str = ",;\"'`()<>[]{}|\\^";

/// The servers that a text names: by URLs anywhere in it, or as a whole.
pub(super) fn calls(text: &str) -> Vec<CalledServer<'_>> {
    let mut calls: Vec<CalledServer<'_>> = Vec::new();
    let mut from = 0;
    while let Some(found) = text[from..].find("://") {
        let colon = from + found;
        let is_scheme = |letter: char| letter.is_ascii_alphanumeric() || "+-.".contains(letter);
        let scheme = text[..colon].rfind(|letter| !is_scheme(letter));
        let scheme_at = scheme.map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
        let begin = colon + 3;
        let rest = &text[begin..];
        let end = rest.find(|letter: char| letter.is_whitespace() || ENDS.contains(letter));
        let url = &rest[..end.unwrap_or(rest.len())];
        let authority_end = url.find(['/', '?', '#']).unwrap_or(url.len());
        let authority = &url[..authority_end];
        let user = authority.rfind('@').map_or(0, |at| at + 1);
        if let Some((host, port)) = host_and_port(&authority[user..]) {
            calls.push(CalledServer {
                scheme: Some(text[scheme_at..colon].to_ascii_lowercase()),
                host,
                port,
                path: &url[authority_end..],
                at: begin + user..begin + authority_end,
            });
        }
        from = begin;
    }
    if calls.is_empty() {
        if let Some((host, port @ Some(_))) = host_and_port(text) {
            let (scheme, path, at) = (None, "", 0..text.len());
            calls.push(CalledServer {
                scheme,
                host,
                port,
                path,
                at,
            });
        }
    }
    calls
}

pub(super) fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (text, None),
    };
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (!host.is_empty() && host.bytes().all(is_part)).then_some((host, port))
}

/// The text with other servers: `other` has a server's new host and port, if it gets one.
pub(super) fn rewritten(text: &str, other: impl Fn(&CalledServer<'_>) -> Option<String>) -> Option<String> {
    let mut new = String::new();
    let mut from = 0;
    for call in calls(text) {
        if let Some(other) = other(&call) {
            new += &text[from..call.at.start];
            new += &other;
            from = call.at.end;
        }
    }
    (from > 0).then(|| new + &text[from..])
}

/// The text without what its URLs have before a host: a user, and perhaps a password.
pub(super) fn masked(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(found) = rest.find("://") {
        let (before, after) = rest.split_at(found + 3);
        shown += before;
        let is_end = |letter: char| letter.is_whitespace() || "\"'`,".contains(letter);
        let url = &after[..after.find(is_end).unwrap_or(after.len())];
        let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
        // A password may have characters that end an authority.
        let user = match (authority.rfind('@'), host_and_port(authority)) {
            (None, None) => url.rfind('@'),
            (user, _) => user,
        };
        if user.is_some() {
            shown.push('…');
        }
        rest = &after[user.unwrap_or(0)..];
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        let shown = |call: &CalledServer<'_>| {
            let scheme = call.scheme.as_deref().unwrap_or("(none)");
            let port = call.port.map_or_else(String::new, |port| format!(":{port}"));
            format!("{scheme} {}{port} {}", call.host, call.path)
        };
        calls(text).iter().map(shown).collect()
    }

    #[test]
    fn servers_are_found() {
        for (text, expected) in [
            ("http://orders:8080/api?x=1", &["http orders:8080 /api?x=1"][..]),
            ("HTTP://orders", &["http orders "]),
            ("postgres://u:p@w@db:5432/x", &["postgres db:5432 /x"]),
            (
                "curl -f http://localhost/health || exit 1",
                &["http localhost /health"],
            ),
            ("http://a:1,http://b:2", &["http a:1 ", "http b:2 "]),
            ("orders:8080", &["(none) orders:8080 "]),
            ("orders", &[]),
            ("http://", &[]),
            ("http://:80", &[]),
            ("http://a:99999/", &[]),
            ("8080:80", &["(none) 8080:80 "]),
            ("ü://ä", &[]),
            ("äa://b", &["a b "]),
            ("redis://cache", &["redis cache "]),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn users_and_passwords_are_not_shown() {
        for (text, expected) in [
            ("http://orders:8080/a@b", "http://orders:8080/a@b"),
            ("postgres://shop:s3cret@db/x", "postgres://…@db/x"),
            (
                "--db postgres://shop:s/3@c@db/x http://t@a/",
                "--db postgres://…@db/x http://…@a/",
            ),
            ("http://a:1,http://u:p@b:2", "http://a:1,http://…@b:2"),
            ("ü://ä", "ü://ä"),
            ("http://", "http://"),
        ] {
            assert_eq!(masked(text), expected, "{text}");
        }
    }

    #[test]
    fn only_what_is_known_is_rewritten() {
        let other = |call: &CalledServer<'_>| (call.host == "orders").then(|| "orders.service".to_owned());
        for (text, expected) in [
            (
                "http://orders:8080/a, http://u:p@orders/",
                Some("http://orders.service/a, http://u:p@orders.service/"),
            ),
            ("http://db/", None),
            ("orders", None),
        ] {
            assert_eq!(rewritten(text, other).as_deref(), expected, "{text}");
        }
    }
}

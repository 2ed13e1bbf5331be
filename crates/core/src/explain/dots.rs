//! Segments `..` of a path, in every spelling that a server may resolve: encoded, also several
//! times, with slashes of either kind, before what cuts the rest off (`..;x`, `..%3f`, `..%00`). No
//! browser sends one. Escapes that only some servers understand count, whatever they mean.

/// Whether a path has one.
pub(super) fn climbs(path: &str) -> bool {
    let mut plain = path.to_ascii_lowercase();
    while plain.contains("%25") {
        plain = plain.replace("%25", "%");
    }
    if plain
        .match_indices('%')
        .any(|(at, _)| is_odd(&plain.as_bytes()[at + 1..]))
    {
        return true;
    }
    for (spelt, meant) in [
        ("%2e", "."),
        ("%2f", "/"),
        ("%5c", "/"),
        ("\\", "/"),
        ("%3b", ";"),
        ("%3f", ";"),
        ("%23", ";"),
        ("%00", ";"),
    ] {
        plain = plain.replace(spelt, meant);
    }
    // What stands before the first slash is no segment.
    let mut segments = plain.split('/').skip(1);
    segments.any(|segment| segment.split(';').next() == Some(".."))
}

/// Whether what follows a `%` makes an escape that no client writes: one whose own digits are
/// escaped, one of four digits, or the first byte of UTF-8 that is longer than it may be.
fn is_odd(rest: &[u8]) -> bool {
    let digit = |at: usize| rest.get(at).is_some_and(u8::is_ascii_hexdigit);
    let escaped_digit = |rest: &[u8]| {
        matches!(
            rest,
            [b'%', b'3', b'0'..=b'9', ..] | [b'%', b'4' | b'6', b'1'..=b'6', ..]
        )
    };
    escaped_digit(rest)
        || (digit(0) && escaped_digit(&rest[1..]))
        || (rest.first() == Some(&b'u') && (1..=4).all(digit))
        || matches!(
            rest,
            [b'c', b'0' | b'1', b'%', b'8' | b'9' | b'a' | b'b', ..]
                | [b'c', b'0' | b'1', b'%', b'2', b'e' | b'f', ..]
                | [b'e', b'0', b'%', b'8' | b'9', ..]
                | [b'f', b'0', b'%', b'8', ..]
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_server_may_resolve() {
        for path in [
            "/a/../b",
            "/..",
            "/a/..",
            "/a/%2e%2e/b",
            "/a/.%2E/b",
            "/a/..%2fb",
            "/a%2f..%2Fb",
            "/a\\..\\b",
            "/a/%5c..%5Cb",
            "/a/%252e%252e%252fb",
            "/a%25252f..",
            "/a/..;/b",
            "/a/..%3bx=1/b",
            "/a/..%00",
            "/a/..%23b",
            "/a/..%3F",
        ] {
            assert!(climbs(path), "{path}");
        }
        for path in [
            "/",
            "/a/...",
            "/..a",
            "/a..",
            "/a/./b",
            "/.well-known/x",
            "/a..b/c",
            "/%2e",
            "/;../b",
            "/a%2e%2e/b",
            "..",
        ] {
            assert!(!climbs(path), "{path}");
        }
    }

    #[test]
    fn escapes_that_only_some_servers_understand() {
        for path in [
            "/%25%32%65%25%32%65/b",
            "/%252%65.",
            "/%2%65.",
            "/.%%32e/b",
            "/%25%2532%2565",
            "/%2525%34%31",
            "/%%61",
            "/a/%u002e%U002E/b",
            "/%25u002e",
            "/%c0%ae%c0%ae/b",
            "/..%C0%AFb",
            "/%c1%9c",
            "/%c0%2e",
            "/%25c0%25ae",
            "/%e0%80%ae",
            "/%f0%80%80%ae",
        ] {
            assert!(climbs(path), "{path}");
        }
        for path in [
            "/100%25%20off",
            "/50%25%3Aoff",
            "/a%252Fb",
            "/a%25252Fb",
            "/100%",
            "/100%%",
            "/%25%40x",
            "/%e3%81%82/%C3%A9",
            "/%e0%b8%81",
            "/%f0%9f%98%80",
            "/%c0%20",
            "/%unit",
            "/%20%41",
            "/%31%32",
        ] {
            assert!(!climbs(path), "{path}");
        }
    }
}

//! Segments `..` of a path, in every spelling that a server may resolve: encoded, also several
//! times, with slashes of either kind, before what cuts the rest off (`..;x`, `..%3f`, `..%00`). No
//! browser sends one.

/// Whether a path has one.
pub(super) fn climbs(path: &str) -> bool {
    let mut plain = path.to_ascii_lowercase();
    while plain.contains("%25") {
        plain = plain.replace("%25", "%");
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
}

//! Which paths of the host a launched container may have. What a definition mounts becomes a root
//! of the launcher, from which everybody who can write a definition can then read.

use std::path::{Path, PathBuf};

/// The characters of a path that a list with commas, a settings file and a command line take as
/// they are.
pub const PLAIN: &str = "letters, digits and . _ / @ + -";

/// The host itself, and what controls it: with everything below.
const CLOSED: [&str; 7] = [
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/run",
    "/var/run",
    "/var/lib/docker",
];
/// Files below them that hold no secret, and that containers often have.
const HARMLESS: [&str; 4] = [
    "/etc/localtime",
    "/etc/timezone",
    "/etc/ssl/certs",
    "/etc/ca-certificates",
];

/// Whether a path is of [`PLAIN`] characters only.
pub fn is_plain(path: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._/@+-".contains(letter);
    path.chars().all(is_plain)
}

/// Why no launched container may have this path of the host, if none may: `own` has more paths of
/// which this holds.
pub fn closed(path: &Path, own: &[PathBuf]) -> Option<String> {
    let shown = path.display();
    if !is_plain(&path.to_string_lossy()) {
        return Some(format!(
            "the path `{shown}` on the host has other characters than {PLAIN}"
        ));
    }
    if path.extension().is_some_and(|it| it == "sock") {
        return Some(format!(
            "`{shown}` is a socket, and a socket such as the engine's makes a container root on the host"
        ));
    }
    if HARMLESS.iter().any(|it| path.starts_with(it)) {
        return None;
    }
    let own = own.iter().map(PathBuf::as_path);
    let closed = CLOSED.iter().map(Path::new).chain(own);
    let found = closed
        .into_iter()
        .find(|it| path.starts_with(it) || it.starts_with(path))?;
    let found = found.display();
    Some(format!(
        "`{shown}` would open `{found}` of the host to everyone who may write a definition"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_controls_the_host_is_closed() {
        let own = [PathBuf::from("/srv/shop/mayfly")];
        for (path, part) in [
            ("/", "would open `/etc`"),
            ("/etc", "would open `/etc`"),
            ("/etc/shadow", "would open `/etc`"),
            ("/proc/1/root", "would open `/proc`"),
            ("/var", "would open `/var/run`"),
            ("/var/lib", "would open `/var/lib/docker`"),
            ("/var/lib/docker/volumes/x", "would open `/var/lib/docker`"),
            ("/run/user/1000", "would open `/run`"),
            ("/srv/engine.sock", "is a socket"),
            ("/srv/shop", "would open `/srv/shop/mayfly`"),
            ("/srv/shop/mayfly/passwords", "would open `/srv/shop/mayfly`"),
            ("/srv/$(id)", "other characters than letters"),
            ("/srv/a b", "other characters than letters"),
            ("/srv/a,/etc", "other characters than letters"),
        ] {
            let found = closed(Path::new(path), &own).unwrap_or_default();
            assert!(found.contains(part), "{path}: {found:?}");
        }
        for path in [
            "/srv/shop/rules",
            "/srv/shop/mayfly2",
            "/etc/localtime",
            "/var/lib/shop",
            "/etcetera",
        ] {
            assert_eq!(closed(Path::new(path), &own), None, "{path}");
        }
    }
}

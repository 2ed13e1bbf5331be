//! Whether a directory is lost by a restart: one in memory, or in the own layer of a container. An
//! archive there is none.

use std::path::{Path, PathBuf};

/// File systems in memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];
/// File systems that a container has as its root; what is written there goes with the container.
const LAYERS: [&str; 3] = ["overlay", "aufs", "fuse.fuse-overlayfs"];

/// That a directory, which need not be there yet, will not outlive a restart; `None` if it will, or
/// where that is not known.
pub fn warning(directory: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let there = directory.ancestors().find_map(|part| part.canonicalize().ok())?;
    let why = why(&mounts, &there)?;
    Some(format!("the archive {} {why}", directory.display()))
}

/// What loses a path, by the kernel's list of mounts (`man 5 proc_pid_mountinfo`).
fn why(mounts: &str, path: &Path) -> Option<&'static str> {
    let mount = |line: &str| {
        let (place, source) = line.split_once(" - ")?;
        let place = place.split(' ').nth(4)?.replace("\\040", " ");
        Some((PathBuf::from(place), source.split(' ').next()?.to_owned()))
    };
    // Of two at one place the later one is on top.
    let over = mounts
        .lines()
        .filter_map(mount)
        .filter(|(place, _)| path.starts_with(place));
    let (place, kind) = over.max_by_key(|(place, _)| place.components().count())?;
    if IN_MEMORY.contains(&kind.as_str()) {
        return Some(
            "is in memory, so a restart of the host deletes it; choose another directory with \
             --archive",
        );
    }
    (LAYERS.contains(&kind.as_str()) && place == Path::new("/")).then_some(
        "is in the container and not on a volume, so a new container does not have it; mount a \
         volume at this directory",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_restart_loses_is_known() {
        let mounts = "\
            22 1 0:21 / / rw,relatime shared:1 - overlay overlay rw\n\
            23 22 8:1 /v /var/lib/mayfly/archive rw - ext4 /dev/sda1 rw\n\
            24 22 0:5 / /dev/shm rw - tmpfs tmpfs rw\n\
            25 22 0:9 / /with\\040blank rw - tmpfs tmpfs rw\n\
            26 25 8:1 / /with\\040blank rw - ext4 /dev/sda1 rw\n";
        for (path, words) in [
            ("/var/lib/mayfly/archive/a", None),
            ("/var/lib/mayfly/archives", Some("in the container")),
            ("/dev/shm/x", Some("in memory")),
            ("/with blank", None),
        ] {
            let found = why(mounts, Path::new(path));
            assert_eq!(found.is_some(), words.is_some(), "{path}: {found:?}");
            assert!(
                found.unwrap_or_default().contains(words.unwrap_or_default()),
                "{path}"
            );
        }
        let on_disk = mounts.replace("overlay", "ext4");
        assert_eq!(why(&on_disk, Path::new("/var/lib")), None);
        assert_eq!(why("nonsense", Path::new("/")), None);
    }
}

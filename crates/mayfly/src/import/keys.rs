//! The keys of a service in a compose file: which a service definition has room for, which are
//! dropped because the launcher decides on them, and which keep the service in its compose file.

use mayfly_core::nearest::nearest;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyFate {
    Read,
    /// The definition goes without it: the launcher decides.
    Dropped,
    /// Without it the service would be another one, so no definition is written.
    Keeps(&'static str),
    /// Compose has no such key.
    Unknown,
}

const READ: [&str; 21] = [
    "image",
    "build",
    "ports",
    "expose",
    "environment",
    "env_file",
    "command",
    "healthcheck",
    "volumes",
    "labels",
    "profiles",
    "deploy",
    "scale",
    "mem_limit",
    "cpus",
    "networks",
    "network_mode",
    "container_name",
    "hostname",
    "links",
    "extends",
];

const PRIVILEGES: &str = "a definition has no such field: only the launcher decides on privileges, and it gives containers \
     no devices; so the service stays in your compose file";
const USER: &str = "a container that is launched runs as the user of its image: set `USER` in the Dockerfile; until \
     then the service stays in your compose file";
const NAMESPACE: &str = "a launched container shares no namespace with the host or another container; so the service \
     stays in your compose file";
const FILES: &str = "a definition has no such field: build the files into the image, or mount them by `volumes`, \
     read-only; until then the service stays in your compose file";
const IMAGE: &str = "a definition has no such field: set it in the Dockerfile; until then the service stays in your \
     compose file";
const NAMES: &str = "a definition has no such field: the launcher's --dns resolves names; the service stays in your \
     compose file";

const DROPPED: [&str; 41] = [
    "restart",
    "logging",
    "log_driver",
    "log_opt",
    "domainname",
    "init",
    "stop_signal",
    "stop_grace_period",
    "pull_policy",
    "pull_refresh_after",
    "platform",
    "cap_drop",
    "security_opt",
    "read_only",
    "ulimits",
    "mem_reservation",
    "mem_swappiness",
    "memswap_limit",
    "oom_kill_disable",
    "oom_score_adj",
    "pids_limit",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpu_shares",
    "cpuset",
    "blkio_config",
    "tty",
    "stdin_open",
    "attach",
    "annotations",
    "storage_opt",
    "isolation",
    "mac_address",
    "label_file",
    "external_links",
    "develop",
    "depends_on",
];

const KEEPS: [(&[&str], &str); 7] = [
    (
        &[
            "privileged",
            "cap_add",
            "devices",
            "device_cgroup_rules",
            "gpus",
            "sysctls",
            "runtime",
            "cgroup",
            "cgroup_parent",
            "credential_spec",
            "use_api_socket",
        ],
        PRIVILEGES,
    ),
    (&["user", "group_add"], USER),
    (&["pid", "ipc", "uts", "userns_mode", "net"], NAMESPACE),
    (
        &[
            "secrets",
            "configs",
            "tmpfs",
            "shm_size",
            "volumes_from",
            "volume_driver",
        ],
        FILES,
    ),
    (&["entrypoint", "working_dir"], IMAGE),
    (&["dns", "dns_search", "dns_opt", "extra_hosts"], NAMES),
    (
        &["post_start", "pre_stop", "provider", "models"],
        "a definition has no such field: the service stays in your compose file",
    ),
];

/// What becomes of a key.
pub(super) fn fate(key: &str) -> KeyFate {
    if READ.contains(&key) {
        return KeyFate::Read;
    }
    let within = |(keys, _): &&(&[&str], &'static str)| keys.contains(&key);
    if DROPPED.contains(&key) {
        return KeyFate::Dropped;
    }
    match KEEPS.iter().find(within) {
        Some((_, why)) => KeyFate::Keeps(why),
        None => KeyFate::Unknown,
    }
}

/// The known key that was probably meant.
pub(super) fn meant(key: &str) -> Option<&'static str> {
    let others = DROPPED
        .iter()
        .chain(KEEPS.iter().flat_map(|(keys, _)| keys.iter()));
    let known: Vec<&str> = READ.iter().chain(others).copied().collect();
    nearest(key, &known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_one_fate() {
        let others = DROPPED
            .iter()
            .chain(KEEPS.iter().flat_map(|(keys, _)| keys.iter()));
        let mut known: Vec<&str> = READ.iter().chain(others).copied().collect();
        known.sort_unstable();
        let count = known.len();
        known.dedup();
        assert_eq!(known.len(), count);
        assert_eq!(fate("image"), KeyFate::Read);
        assert_eq!(fate("restart"), KeyFate::Dropped);
        assert!(matches!(fate("privileged"), KeyFate::Keeps(_)));
        assert_eq!(fate("imgae"), KeyFate::Unknown);
        assert_eq!(meant("imgae"), Some("image"));
    }
}

//! Fields that people know from compose, `docker run` or Kubernetes, and that a definition may not
//! have: each would give anyone who may push a file something of the host. They are refused by
//! name, so that nobody looks for the right way to write them.

/// Fields of a kind, and why they are not to be had.
struct Denied {
    /// In lower case and without `_` and `-`, so that `cap_add`, `cap-add` and `capAdd` are one.
    fields: &'static [&'static str],
    why: &'static str,
}

const DENIED: [Denied; 5] = [
    Denied {
        fields: &[
            "privileged",
            "capadd",
            "capdrop",
            "securityopt",
            "securitycontext",
            "devices",
            "device",
            "devicecgrouprules",
            "devicereadbps",
            "gpus",
            "sysctls",
            "sysctl",
            "runtime",
            "ulimits",
            "ulimit",
            "cgroup",
            "cgroupparent",
            "oomkilldisable",
            "oomscoreadj",
            "credentialspec",
            "isolation",
        ],
        why: "only the launcher decides on a container's privileges, and it gives no device",
    },
    Denied {
        fields: &[
            "user",
            "groupadd",
            "userns",
            "usernsmode",
            "runasuser",
            "runasgroup",
        ],
        why: "a container runs as the user of its image",
    },
    Denied {
        fields: &[
            "network",
            "networkmode",
            "net",
            "pid",
            "ipc",
            "uts",
            "hostnetwork",
            "hostpid",
            "hostipc",
            "shareprocessnamespace",
        ],
        why: "a container shares no namespace with the host or another container; `networks` \
             names networks of the engine to join",
    },
    Denied {
        fields: &["ports", "publish", "publishall", "expose", "hostport"],
        why: "a container takes no port of the host; `port` is the service's port in its \
             container, and requests come through the router",
    },
    Denied {
        fields: &[
            "mounts",
            "mount",
            "bind",
            "binds",
            "hostpath",
            "volumemounts",
            "volumesfrom",
            "volumedriver",
            "tmpfs",
            "secrets",
            "configs",
            "envfile",
        ],
        why: "a container can only read files of the host that `volumes` names, below a directory \
             that the launcher allows",
    },
];

/// What to say of a field that is not known because it is not to be had.
pub(super) fn advice(field: &str) -> Option<String> {
    let bare: String = field.chars().filter(|letter| !"_-".contains(*letter)).collect();
    let bare = bare.to_ascii_lowercase();
    let denied = DENIED.iter().find(|it| it.fields.contains(&bare.as_str()))?;
    Some(format!(
        "not allowed: {} (anyone who can push a file can write a definition)",
        denied.why
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spelling_of_what_is_denied_is_known() {
        for (field, part) in [
            ("privileged", "container's privileges"),
            ("cap_add", "container's privileges"),
            ("cap-add", "container's privileges"),
            ("capAdd", "container's privileges"),
            ("user", "user of its image"),
            ("network_mode", "`networks` names"),
            ("hostNetwork", "`networks` names"),
            ("pid", "`networks` names"),
            ("ports", "`port` is"),
            ("mounts", "`volumes` names"),
            ("env_file", "`volumes` names"),
        ] {
            let reported = advice(field).unwrap_or_default();
            assert!(
                reported.starts_with("not allowed") && reported.contains(part),
                "{field}: {reported}"
            );
        }
        for field in super::super::decode::KNOWN {
            assert_eq!(advice(field), None, "{field}");
        }
        assert_eq!(advice("comand"), None);
    }
}

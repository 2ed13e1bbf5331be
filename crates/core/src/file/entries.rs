//! Which entries of a directory are its files, and what to report about those that only look like
//! one. Hidden entries are ignored: `.git`, swap files of editors, `..data` of config maps.

/// What to say of a directory in which files lie.
pub const FOLDER: &str = "a subdirectory is not read: put its files beside the others";
/// What to say of a directory with the name of a file.
pub const NO_FILE: &str = "neither a file nor a link to a file: put the file itself here (if a file \
    to mount is missing, a container engine creates a directory in its place)";
/// What to say of a link to a directory elsewhere.
pub const LINK: &str = "a link to a directory is not followed: put its files beside the others";

/// Whether an entry of a directory of this name is taken for one of its files: `*.yaml` or `*.yml`,
/// not hidden. Backups and temporary files of editors (`.dev.yaml.swp`, `dev.yaml~`, `4913`,
/// `#dev.yaml#`) are not.
pub fn is_yaml_file(name: &str) -> bool {
    let long_enough = |stem: &str| !stem.is_empty();
    let stem = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml"));
    stem.is_some_and(long_enough) && !is_hidden(name)
}

/// Whether nobody expects an entry of this name to be taken for a file: it begins with a dot, or as
/// what Emacs saves.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '#'])
}

/// Whether a person may take an entry of this name for one of the files.
pub fn is_like_yaml(name: &str) -> bool {
    is_yaml_file(&name.to_ascii_lowercase())
}

/// Why a file of this name is none of the directory's, if a person may think that it is.
pub fn why_not_taken(name: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(name);
    if !is_like_yaml(&text) {
        return None;
    }
    if std::str::from_utf8(name).is_err() {
        return Some("its name is not UTF-8: rename the file, with plain letters only");
    }
    (!is_yaml_file(&text)).then_some("its name does not end in .yaml or .yml, in lower case: rename it")
}

/// The name of an entry as it can be shown: what is not UTF-8 by its bytes, `caf\xE9.yaml`.
pub fn shown(name: &[u8]) -> String {
    let mut shown = String::new();
    for chunk in name.utf8_chunks() {
        shown += chunk.valid();
        for byte in chunk.invalid() {
            shown += &format!("\\x{byte:02X}");
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for name in ["dev.yaml", "dev.yml", "a b.yaml", "dev.yaml.yml"] {
            assert!(is_yaml_file(name), "{name}");
            assert_eq!(why_not_taken(name.as_bytes()), None, "{name}");
        }
        for name in [
            ".dev.yaml.swp",
            "dev.yaml~",
            "4913",
            ".dev.yaml",
            "#dev.yaml#",
            ".#dev.yaml",
            "dev.yaml.bak",
            ".yaml",
            "..data",
            "README.md",
            "dev.yaml.tmp",
            "backend.env",
            ".git",
            ".DEV.YAML",
        ] {
            assert!(!is_yaml_file(name), "{name}");
            assert_eq!(why_not_taken(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn what_looks_like_a_file_is_reported() {
        for name in ["UPPER.YAML", "dev.YML", "dev.Yaml"] {
            assert!(!is_yaml_file(name), "{name}");
            assert!(
                why_not_taken(name.as_bytes()).unwrap().contains("lower case"),
                "{name}"
            );
        }
        let latin1 = b"caf\xe9.yaml";
        assert!(
            why_not_taken(latin1)
                .unwrap()
                .starts_with("its name is not UTF-8")
        );
        assert_eq!(shown(latin1), "caf\\xE9.yaml");
        assert_eq!(shown("café.yaml".as_bytes()), "café.yaml");
        assert_eq!(why_not_taken(b".caf\xe9.yaml"), None);
    }
}

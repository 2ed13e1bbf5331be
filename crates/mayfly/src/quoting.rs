//! Words of commands that Mayfly prints for people to run in a shell.

use std::path::Path;

/// A text as a POSIX shell takes it for one word.
pub fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// The same of a path.
pub fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_what_is_quoted_for_one_word() {
        for (text, expected) in [
            ("web=/api", "web=/api"),
            ("*", "'*'"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(text), expected);
        }
        assert_eq!(quoted_path(Path::new("/my shop/.env")), "'/my shop/.env'");
    }
}

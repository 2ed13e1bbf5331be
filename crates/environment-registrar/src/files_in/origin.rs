//! Where a file comes from. A copy of what another writer has registered begins with a line that
//! holds the digest of the rest. As long as the digest fits, nobody has changed the file: it
//! follows etcd and is never registered from here. Once it does not fit, the file is a person's: it
//! is registered, and never overwritten or deleted.

use mayfly_core::environment_file::to_yaml;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;
use sha2::{Digest as _, Sha256};

const MARK: &str = "# mayfly write-back of ";
const DIGEST: &str = ", follows etcd until you change this file: sha256 ";

/// Where a file comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origin {
    #[default]
    Person,
    /// It is a copy of this environment, as we wrote it.
    Copy(EnvironmentName),
    /// It was a copy, and a person changed it.
    Edited {
        of: EnvironmentName,
        /// The digest of the copy.
        base: String,
    },
}

impl Origin {
    /// Where the content of a file comes from.
    pub fn of(content: &[u8]) -> Self {
        let Some((of, base, rest)) = split(content) else {
            return Self::Person;
        };
        if digest(rest) == base {
            Self::Copy(of)
        } else {
            Self::Edited { of, base }
        }
    }
}

/// The content of a file without the line that marks it as a copy.
pub fn without_mark(content: &[u8]) -> &[u8] {
    split(content).map_or(content, |(_, _, rest)| rest)
}

fn split(content: &[u8]) -> Option<(EnvironmentName, String, &[u8])> {
    let end = content.iter().position(|octet| *octet == b'\n')?;
    let line = std::str::from_utf8(&content[..end]).ok()?;
    let (name, digest) = line.strip_prefix(MARK)?.split_once(DIGEST)?;
    Some((
        name.parse().ok()?,
        digest.trim_end().to_owned(),
        &content[end + 1..],
    ))
}

fn digest(rest: &[u8]) -> String {
    hex::encode(Sha256::digest(rest))
}

/// A content with the line that marks it as the copy of an environment.
pub fn marked(name: &EnvironmentName, content: &str) -> String {
    format!("{MARK}{name}{DIGEST}{}\n{content}", digest(content.as_bytes()))
}

/// The digest that the copy of an environment has.
pub fn digest_of(environment: &Environment) -> String {
    digest(to_yaml(environment).as_bytes())
}

/// The file name of the copy of an environment.
pub fn home(name: &EnvironmentName) -> String {
    format!("{name}.yaml")
}

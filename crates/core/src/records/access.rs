//! Who may use an environment from outside: users with a password, and networks. What is kept of a
//! password is a hash with a salt. A password has 128 random bits (`mayfly access` makes it), so
//! one pass of SHA-256 is as good as a slow hash: nobody can try them out, and the router, which
//! hashes for each request, has nothing to pay for.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::names::{NameError, Text, checked_conversions, checked_text};
use crate::outside::Network;

/// How a password begins that `mayfly access` has made: the edge knows it by that, and passes it to
/// no instance.
pub const PASSWORD_PREFIX: &str = "mayfly-";

/// Most users and most networks of one environment: each is a row of every router's tables, or some
/// of them.
pub const ACCESS_LIMIT: usize = 100;

/// Who may use an environment: any of these users, and whoever asks from one of these networks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// The users, each with the hash of a password.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub users: BTreeMap<UserName, PasswordHash>,
    /// The networks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<Network>,
}

impl Access {
    /// About how many bytes it takes in a record.
    pub(super) fn bytes(&self) -> usize {
        /// The names of the fields.
        const FRAME: usize = 40;
        let users = self
            .users
            .keys()
            .map(|user| user.as_str().len() + PasswordHash::LENGTH + 6);
        let networks = self.from.iter().map(|network| network.to_string().len() + 3);
        FRAME + users.sum::<usize>() + networks.sum::<usize>()
    }
}

/// The name of a user: letters, digits and `._@-`, at most 64.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(Text);

/// Longest name of a user, in bytes.
const USER_LIMIT: usize = 64;

impl UserName {
    fn check(text: &str) -> Result<Text, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
        let begins = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins && text.len() <= USER_LIMIT && text.bytes().all(allowed) {
            return Ok(text.into());
        }
        let rule = "letters, digits and `._@-`, a letter or digit first, at most 64";
        Err(NameError::new(text, "the name of a user", rule))
    }
}
checked_text!(UserName);

/// What is kept of a password: `sha256:<salt>:<hash>`, where what is hashed is `<salt>:<password>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PasswordHash {
    salt: [u8; 16],
    hash: [u8; 32],
}

impl PasswordHash {
    /// The length of its text.
    const LENGTH: usize = "sha256:".len() + 32 + 1 + 64;

    /// The hash of a password.
    pub fn of(password: &str, salt: [u8; 16]) -> Self {
        let salted = format!("{}:{password}", hex::encode(salt));
        let hash = Sha256::digest(salted).into();
        Self { salt, hash }
    }

    /// Whether it is that of this password.
    pub fn fits(&self, password: &str) -> bool {
        *self == Self::of(password, self.salt)
    }
}

impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}:{}", hex::encode(self.salt), hex::encode(self.hash))
    }
}

impl FromStr for PasswordHash {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let read = || {
            let (salt, hash) = text.strip_prefix("sha256:")?.split_once(':')?;
            let lower = text.bytes().all(|byte| !byte.is_ascii_uppercase());
            let salt = hex::decode(salt).ok().filter(|_| lower)?.try_into().ok()?;
            let hash = hex::decode(hash).ok()?.try_into().ok()?;
            Some(Self { salt, hash })
        };
        // Who writes a password here must not find it in a log.
        read().ok_or_else(|| {
            let rule = "what `mayfly access` prints, `sha256:` with a salt and a hash";
            NameError::new("(not shown)", "the hash of a password", rule)
        })
    }
}
checked_conversions!(PasswordHash);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_what_the_routers_compute() {
        let hash = PasswordHash::of("pa:ss", [0xab; 16]);
        let salt = "ab".repeat(16);
        let text = hash.to_string();
        assert_eq!(text.len(), PasswordHash::LENGTH);
        let expected = hex::encode(Sha256::digest(format!("{salt}:pa:ss")));
        assert_eq!(text, format!("sha256:{salt}:{expected}"));
        assert_eq!(text.parse::<PasswordHash>().unwrap(), hash);
        assert!(hash.fits("pa:ss") && !hash.fits("pa:s") && !hash.fits(""));
    }

    #[test]
    fn what_is_no_hash_is_refused_and_not_shown() {
        let good = PasswordHash::of("x", [1; 16]).to_string();
        for bad in [
            "secret",
            "",
            "sha256:secret:secret",
            &good.to_uppercase(),
            &good[..good.len() - 1],
            &format!("{good}0"),
            &format!("{good}\n"),
            &good.replace("sha256", "sha512"),
        ] {
            let error = bad.parse::<PasswordHash>().unwrap_err().to_string();
            assert!(
                error.contains("mayfly access") && !error.contains("secret"),
                "{error}"
            );
        }
    }

    #[test]
    fn users_have_names_that_a_header_and_a_table_can_hold() {
        for good in ["guest", "a", "A.b_c@d-1", "7", &"a".repeat(64)] {
            assert_eq!(good.parse::<UserName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "a b",
            "a:b",
            "a/b",
            "-a",
            ".a",
            "é",
            "a\n",
            "a\"b",
            "a;b",
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<UserName>().is_err(), "{bad:?}");
        }
    }
}

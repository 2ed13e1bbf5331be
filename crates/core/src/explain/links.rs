//! Links and their cookie. A link names an environment in its query (`?mayfly=temp-1`), on any
//! host, and the router's cookie keeps it; a link without a value ends that. Nothing else than the
//! name of an environment that is routed has any effect.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{ErrorAnswer, Walk};
use crate::names::{DnsPrefix, EnvironmentName, HeaderValue, NameError};

/// The parameter, and the cookie.
const KEY: &str = "mayfly";

/// On which hosts a router follows links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareLinks {
    /// On none.
    #[default]
    Off,
    /// On all but those of protected environments.
    Unprotected,
    /// On all.
    All,
}

impl ShareLinks {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Off, Self::Unprotected, Self::All];

    /// Its name on a command line and in the router's configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Unprotected => "unprotected",
            Self::All => "all",
        }
    }
}

impl fmt::Display for ShareLinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ShareLinks {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let found = Self::ALL.into_iter().find(|one| one.as_str() == text);
        found.ok_or_else(|| NameError::new(text, "where to follow links", "`off`, `unprotected` or `all`"))
    }
}

impl<'a> Walk<'a> {
    /// The header value that a link stands for.
    pub(super) fn link(
        &mut self,
        prefix: Option<&DnsPrefix>,
    ) -> Result<Option<&'a HeaderValue>, ErrorAnswer> {
        let Some(said) = in_query(&self.request.query) else {
            return Ok(None);
        };
        if let Some(note) = self.no_links_here(prefix) {
            self.step("link", &said, None, Some(note));
            return Ok(None);
        }
        if said.is_empty() {
            let note = "a link without a value: the cookie ends, and the host decides";
            self.step("link", "", None, Some(note.to_owned()));
            return Ok(None);
        }
        if said.contains(',') {
            self.step("link", &said, None, Some("different values".to_owned()));
            let text = "the parameter mayfly of this link names more than one environment; a link names one.";
            return Err((400, text.to_owned()));
        }
        let said = decoded(&said);
        if let Some(value) = self.named(&said) {
            self.step("link", &said, Some(format!("x-mayfly {value}")), None);
            return Ok(Some(value));
        }
        let name: Option<EnvironmentName> = said.parse().ok();
        let ended = name
            .as_ref()
            .and_then(|name| Some((name, self.routing.ended_name(name)?)));
        if let Some((name, ended)) = ended.filter(|_| is_name(&said)) {
            let words = ended.in_words(name);
            self.step("link", &said, None, Some(words.clone()));
            return Err((410, format!("{words}.")));
        }
        let note = name.and_then(|name| self.index.why_not_routed(&name));
        self.step("link", &said, None, note);
        Err((404, match is_name(&said) {
            true => format!("no environment has the name {said}; ask for the link again, or remove mayfly={said} from it to see what this host shows."),
            false => "the parameter mayfly of this link is not the name of an environment; ask for the link again, or remove the parameter.".to_owned(),
        }))
    }

    /// The header value that the cookie of a link stands for.
    pub(super) fn cookie(&mut self, prefix: Option<&DnsPrefix>) -> Option<&'a HeaderValue> {
        let said = in_cookies(&self.request.cookie)?;
        if let Some(note) = self.no_links_here(prefix) {
            self.step("cookie", &said, None, Some(note));
            return None;
        }
        if in_query(&self.request.query).is_some() {
            let note = "the link takes its place";
            self.step("cookie", &said, None, Some(note.to_owned()));
            return None;
        }
        let value = self.named(&said);
        let found = value.map(|value| format!("x-mayfly {value}"));
        let note = value
            .is_none()
            .then(|| "names no environment, and is cleared".to_owned());
        self.step("cookie", &said, found, note);
        value
    }

    /// Why links have no effect on a host, if they have none.
    fn no_links_here(&self, prefix: Option<&DnsPrefix>) -> Option<String> {
        let protected = prefix.and_then(|prefix| self.routing.protected(prefix));
        match (self.settings.share_links, protected) {
            (ShareLinks::Off, _) => Some("the routers follow no links (--share-links)".to_owned()),
            _ if self.request.host.is_empty() => Some("the request names no host".to_owned()),
            (ShareLinks::Unprotected, Some(name)) => Some(format!(
                "the host is that of {name}, which is protected: links leave it alone (--share-links)"
            )),
            _ => None,
        }
    }

    /// The header value of the environment of a name.
    fn named(&self, said: &str) -> Option<&'a HeaderValue> {
        let name = said.parse().ok().filter(|_| is_name(said))?;
        Some(&self.routing.environment(&name)?.header)
    }
}

/// What the parameters of a query say; nothing where there is none.
fn in_query(query: &str) -> Option<String> {
    one_of(query.split('&').filter_map(|member| {
        let (key, value) = member.split_once('=').unwrap_or((member, ""));
        (decoded(key) == KEY).then_some(value)
    }))
}

/// What cookies say; nothing where there is none.
fn in_cookies(cookies: &str) -> Option<String> {
    one_of(cookies.split(';').filter_map(|member| {
        let (key, value) = member.split_once('=').unwrap_or((member, ""));
        (key.trim_ascii() == KEY).then_some(value.trim_ascii_start())
    }))
}

/// Equal values are one, and an empty one is none beside others; different ones keep a comma
/// between them.
fn one_of<'a>(values: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut values = values.peekable();
    values.peek()?;
    let values: Vec<&str> = values
        .flat_map(|value| value.split(','))
        .filter(|value| !value.is_empty())
        .collect();
    Some(match values.first() {
        Some(first) if values.iter().all(|value| value == first) => (*first).to_owned(),
        _ => values.join(","),
    })
}

/// A text without escapes, as the router decodes it: those of control characters stay.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = (*first == b'%').then(|| after.get(..2)).flatten();
        let value = escape.and_then(|digits| {
            let all_hex = digits.iter().all(u8::is_ascii_hexdigit);
            let digits = std::str::from_utf8(digits).ok().filter(|_| all_hex)?;
            u8::from_str_radix(digits, 16).ok()
        });
        match value.filter(|value| !value.is_ascii_control()) {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a text can be the name of an environment; nothing else is looked up, or shown.
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_a_link_however_its_key_is_spelt() {
        for (query, expected) in [
            ("", None),
            ("a=mayfly&xmayfly=1&mayflyx=2&Mayfly=3&m%61yfl=1", None),
            ("mayfly", Some("")),
            ("mayfly=", Some("")),
            ("mayfly=,,&a", Some("")),
            ("a&&mayfly=t&", Some("t")),
            ("%6Dayf%6cy=t%2d1", Some("t%2d1")),
            ("mayfly=t&mayfly=&mayfly=t", Some("t")),
            ("mayfly=t&mayfly=u", Some("t,u")),
            ("mayfly=a=b", Some("a=b")),
        ] {
            assert_eq!(in_query(query).as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn a_cookie_stands_among_others() {
        for (cookies, expected) in [
            ("", None),
            ("a=1; xmayfly=2; b=mayfly; MAYFLY=1", None),
            ("a=1;mayfly=t; b=2", Some("t")),
            (" mayfly = t", Some("t")),
            ("mayfly=t ", Some("t ")),
            ("mayfly=t; mayfly=t", Some("t")),
            ("mayfly=t; mayfly=u", Some("t,u")),
            ("mayfly", Some("")),
        ] {
            assert_eq!(in_cookies(cookies).as_deref(), expected, "{cookies}");
        }
    }

    #[test]
    fn what_is_no_name_stays_none() {
        for (text, name) in [
            ("temp-1", true),
            ("t%65mp%2D1", true),
            ("temp%2", false),
            ("temp%00", false),
            ("temp%0a", false),
            ("Temp", false),
            ("temp.service", false),
            ("", false),
            ("temp%252D1", false),
        ] {
            assert_eq!(is_name(&decoded(text)), name, "{text}");
        }
    }
}

//! What a request says besides its path: its query, and what it accepts.

use axum::http::{HeaderMap, header};

use crate::problem::Problem;

/// The parameters of a query, each at most once.
#[derive(Debug)]
pub struct Query {
    parameters: Vec<(String, String)>,
}

impl Query {
    /// Reads a query in which only these parameters may occur.
    ///
    /// # Errors
    /// When it has another one, or one of them twice.
    pub fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut parameters: Vec<(String, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            if !known.contains(&&*name) {
                let right = match known {
                    [] => "this call takes none".to_owned(),
                    _ => format!("this call takes {}", known.join(", ")),
                };
                return Err(Problem::bad_request(format!(
                    "there is no parameter {name:?}; {right}"
                )));
            }
            if parameters.iter().any(|(other, _)| *other == name) {
                return Err(Problem::bad_request(format!(
                    "the parameter {name} occurs more than once; send it once"
                )));
            }
            parameters.push((name.into_owned(), value.into_owned()));
        }
        Ok(Self { parameters })
    }

    /// A parameter, if it is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.parameters.iter();
        let (_, value) = all.find(|(other, _)| other == name)?;
        Some(value)
    }

    /// A parameter that is not empty.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// A parameter as a type.
    ///
    /// # Errors
    /// When it is none of it, with what would be right.
    pub fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.filled(name) else {
            return Ok(None);
        };
        let wrong = |error: T::Err| Problem::bad_request(format!("the parameter {name} is wrong: {error}"));
        text.parse().map(Some).map_err(wrong)
    }
}

/// Whether a client takes answers in gzip.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut codings = accepted
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let refused = |part: &str| {
            let quality = part.strip_prefix("q=").or_else(|| part.strip_prefix("Q="));
            quality.is_some_and(|quality| quality.parse::<f32>().is_ok_and(|quality| quality <= 0.0))
        };
        is_gzip && !parts.any(refused)
    })
}

/// Whether a client has an answer with this tag already.
pub fn has_already(headers: &HeaderMap, tag: &str) -> bool {
    let known = headers.get_all(header::IF_NONE_MATCH).iter();
    let mut tags = known
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    tags.any(|known| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_known_parameters_once() {
        let known = ["service", "value"];
        let query = Query::read(Some("service=a%2Bb&value="), &known).unwrap();
        assert_eq!(query.get("service"), Some("a+b"));
        assert_eq!((query.get("value"), query.filled("value")), (Some(""), None));
        for (text, part) in [
            ("servise=a", "takes service, value"),
            ("service=a&service=a", "more than once"),
            ("%00=a", "\"\\0\""),
        ] {
            let problem = Query::read(Some(text), &known).unwrap_err();
            assert_eq!(problem.status.as_u16(), 400);
            assert!(problem.detail.contains(part), "{problem:?}");
        }
        assert!(
            Query::read(Some("x=1"), &[])
                .unwrap_err()
                .detail
                .contains("takes none")
        );
    }

    #[test]
    fn gzip_is_taken_unless_refused() {
        for (accepted, expected) in [
            ("gzip, deflate, br", true),
            ("br, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.000, br", false),
            ("x-gzip", false),
            ("*", false),
        ] {
            let headers = [(header::ACCEPT_ENCODING, accepted.parse().unwrap())];
            assert_eq!(takes_gzip(&HeaderMap::from_iter(headers)), expected, "{accepted}");
        }
    }

    #[test]
    fn a_tag_is_known() {
        for (sent, expected) in [
            ("\"7-a\"", true),
            ("W/\"7-a\"", true),
            ("\"6\", \"7-a\"", true),
            ("\"7\"", false),
            ("*", true),
        ] {
            let headers = [(header::IF_NONE_MATCH, sent.parse().unwrap())];
            assert_eq!(
                has_already(&HeaderMap::from_iter(headers), "\"7-a\""),
                expected,
                "{sent}"
            );
        }
    }
}

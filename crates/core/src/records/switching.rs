//! A new version without a gap. Whoever changes a record notes in it what the environment had
//! before (`life.previous`), so every router decides alike, whenever it was started: while nothing
//! that is chosen now has a live instance, the newest earlier version that has one is used. An
//! environment-registrar removes the note once the new version has answered, so that a later outage
//! does not bring the old version back.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{EnvironmentName, NameError, ServiceName, checked_conversions};
use crate::records::Environment;
use crate::version::Selector;

/// What an environment had of some services, the newest first; `None` stands for what it inherited.
pub type Previous = BTreeMap<ServiceName, Vec<Option<Selector>>>;

/// So many changes in a row that nobody ever saw answered are remembered of a service.
const MOST: usize = 4;

/// When an environment changes to a new version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Switch {
    /// As soon as the new one has a live instance.
    #[default]
    WhenLive,
    /// At once, whether or not anything answers there.
    AtOnce,
}

impl Switch {
    /// Whether it is what an environment does that says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::WhenLive
    }
}

impl FromStr for Switch {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text {
            "when-live" => Ok(Self::WhenLive),
            "at-once" => Ok(Self::AtOnce),
            _ => Err(NameError::new(
                text,
                "a moment to change versions",
                "`when-live` (the new version has a live instance), or `at-once`",
            )),
        }
    }
}

impl std::fmt::Display for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::WhenLive => "when-live",
            Self::AtOnce => "at-once",
        })
    }
}
checked_conversions!(Switch);

/// What is to be noted in the record `now`, which takes the place of `before`. `other` gives the
/// environments that there are, for what was inherited.
pub fn previous<'a>(
    before: &'a Environment,
    now: &Environment,
    other: impl Fn(&EnvironmentName) -> Option<&'a Environment>,
) -> Previous {
    let none = Previous::new();
    let noted = before.life.as_ref().map_or(&none, |life| &life.previous);
    let mut previous = Previous::new();
    for choice in &now.services {
        let older = noted.get(&choice.name).cloned().unwrap_or_default();
        let had = before.services.iter().find(|had| had.name == choice.name);
        let all = match had {
            Some(had) if had.version == choice.version => older,
            Some(had) => std::iter::once(Some(had.version.clone())).chain(older).collect(),
            None if inherits(before, &choice.name, &other) => vec![None],
            None => continue,
        };
        let mut kept: Vec<Option<Selector>> = Vec::new();
        for one in all {
            if one.as_ref() != Some(&choice.version) && !kept.contains(&one) && kept.len() < MOST {
                kept.push(one);
            }
        }
        if !kept.is_empty() {
            previous.insert(choice.name.clone(), kept);
        }
    }
    previous
}

/// Whether an environment has a service from one that it extends.
fn inherits<'a>(
    environment: &'a Environment,
    service: &ServiceName,
    other: impl Fn(&EnvironmentName) -> Option<&'a Environment>,
) -> bool {
    let above = |name: &EnvironmentName| other(name);
    let mut next = environment.extends.as_ref();
    for _ in 0..crate::records::EXTENDS_LIMIT {
        let Some(parent) = next.and_then(above) else {
            return false;
        };
        if parent.services.iter().any(|choice| choice.name == *service) {
            return true;
        }
        next = parent.extends.as_ref();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `orders=1 cart=2` with what is noted: `orders<2,1` (`-` for inherited).
    fn environment(name: &str, text: &str, extends: Option<&str>) -> Environment {
        let mut services = Vec::new();
        let mut previous = serde_json::Map::new();
        for word in text.split_whitespace() {
            if let Some((service, version)) = word.split_once('=') {
                services.push(json!({"name": service, "version": version}));
            } else if let Some((service, had)) = word.split_once('<') {
                let had = had
                    .split(',')
                    .map(|one| if one == "-" { json!(null) } else { json!(one) });
                previous.insert(service.to_owned(), had.collect());
            }
        }
        let life = json!({"registered_at": "2030-01-31T18:00:00Z", "previous": previous});
        serde_json::from_value(json!({
            "name": name, "extends": extends, "prefix": name, "header": name, "services": services, "life": life
        }))
        .unwrap()
    }

    #[track_caller]
    fn check(before: &str, now: &str, expected: &str) {
        let qa = environment("qa", "search=7", None);
        let before = environment("dev", before, Some("qa"));
        let found = previous(&before, &environment("dev", now, Some("qa")), |name| {
            (name.as_str() == "qa").then_some(&qa)
        });
        let text = found.iter().map(|(service, had)| {
            let had = had
                .iter()
                .map(|one| one.as_ref().map_or("-".to_owned(), ToString::to_string));
            format!("{service}<{}", had.collect::<Vec<_>>().join(","))
        });
        assert_eq!(text.collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn what_is_noted() {
        check("orders=1", "orders=1", "");
        check("orders=1", "orders=3", "orders<1");
        check("orders=latest cart=1", "orders=3 cart=1", "orders<latest");
        // 2 has perhaps never answered.
        check("orders=2 orders<1", "orders=3", "orders<2,1");
        check("orders=2 orders<1", "orders=2", "orders<1");
        // Back to what it was.
        check("orders=3 orders<1", "orders=1", "orders<3");
        check("orders=1", "cart=1", "");
        // Inherited so far; and a new one.
        check("orders=1", "orders=1 search=8", "search<-");
        check("search=8 search<-", "search=9", "search<8,-");
        check("orders=6 orders<5,4,3,2", "orders=7", "orders<6,5,4,3");
    }
}

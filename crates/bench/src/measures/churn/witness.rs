//! Checks every answer of a load against what each environment had when: pure, but for reading the log.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};

/// Microseconds since 1970.
pub type Moment = u64;

pub fn now() -> Moment {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

/// The versions that an environment has had of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History(Vec<Period>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Period {
    version: String,
    /// When the change to it was begun.
    from: Moment,
    /// When the change to the next one was seen to have taken effect.
    until: Moment,
}

impl History {
    /// This version, ever since.
    pub fn beginning(version: &str) -> Self {
        Self(vec![Period {
            version: version.to_owned(),
            from: 0,
            until: Moment::MAX,
        }])
    }

    /// A change to another version, begun and seen to have taken effect at these moments.
    pub fn change(&mut self, begun: Moment, seen: Moment, version: &str) {
        if let Some(last) = self.0.last_mut() {
            last.until = seen;
        }
        self.0.push(Period {
            version: version.to_owned(),
            from: begun,
            until: Moment::MAX,
        });
    }

    /// Whether an answer may come from this version, when its question was sent and itself received then.
    fn allows(&self, version: &str, sent: Moment, received: Moment) -> bool {
        // Later periods are asked for more.
        let mut periods = self.0.iter().rev();
        periods.any(|period| period.version == version && period.from <= received && sent <= period.until)
    }
}

#[derive(Debug, Default)]
pub struct Witness {
    choices: BTreeMap<String, BTreeMap<String, History>>,
}

impl Witness {
    /// An environment has had these versions of a service.
    pub fn choose(&mut self, environment: &str, service: &str, history: History) {
        let choices = self.choices.entry(environment.to_owned()).or_default();
        choices.insert(service.to_owned(), history);
    }

    /// Checks a log, a line `<received> <status> <what the origin answers>` for each answer. Adds wrong ones to `wrong`, and says how
    /// many there were in all.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn check(&self, log: &Path, wrong: &mut Vec<String>) -> Result<u64> {
        let file = std::fs::File::open(log).with_context(|| format!("open {}", log.display()))?;
        let mut count = 0;
        for line in BufReader::new(file).lines() {
            let line = line.with_context(|| format!("read {}", log.display()))?;
            count += 1;
            if self.judge(&line).is_none() {
                wrong.push(line);
            }
        }
        Ok(count)
    }

    /// `None` for a wrong answer.
    fn judge(&self, line: &str) -> Option<()> {
        let mut words = line.split(' ');
        let received: Moment = words.next()?.parse().ok()?;
        let (status, backend, _address) = (words.next()?, words.next()?, words.next()?);
        let (host, environment, sent) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
        let (service, version) = backend.split_once('@')?;
        let asked = match host.strip_suffix(".service") {
            Some(asked) => asked == service,
            None => host.strip_prefix("www-")?.strip_suffix(".example.com")? == environment,
        };
        let history = self.choices.get(environment)?.get(service)?;
        (status == "200" && asked && history.allows(version, sent, received)).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn witness() -> Witness {
        let mut history = History::beginning("1");
        history.change(100, 120, "2");
        history.change(200, 220, "1");
        let mut witness = Witness::default();
        witness.choose("qa", "web", history);
        witness
    }

    fn is_right(received: u64, sent: u64, rest: &str, version: &str) -> bool {
        let line = format!("{received} 200 web@{version} 127.0.0.1:1 {rest} {sent}");
        witness().judge(&line).is_some()
    }

    #[test]
    fn a_version_is_right_while_it_may_be_in_force() {
        let edge = "www-qa.example.com qa";
        for (sent, received, version, right) in [
            (10, 11, "1", true),
            (10, 11, "2", false),
            (90, 99, "2", false),
            (105, 106, "1", true),
            (105, 106, "2", true),
            (121, 122, "1", false),
            (119, 150, "1", true),
            (150, 151, "2", true),
            (221, 230, "2", false),
            (221, 230, "1", true),
            (10, 11, "3", false),
        ] {
            assert_eq!(
                is_right(received, sent, edge, version),
                right,
                "{sent} {received} {version}"
            );
        }
    }

    #[test]
    fn another_environment_service_or_status_is_wrong() {
        for (rest, right) in [
            ("web.service qa", true),
            ("other.service qa", false),
            ("web.service -", false),
            ("www-dev.example.com qa", false),
            ("www-qa.example.com dev", false),
        ] {
            assert_eq!(is_right(2, 1, rest, "1"), right, "{rest}");
        }
        assert!(
            witness()
                .judge("2 503 web@1 127.0.0.1:1 web.service qa 1")
                .is_none()
        );
        assert!(witness().judge("2 404 404: no environment").is_none());
    }
}

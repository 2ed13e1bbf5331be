//! How much a container may write into its log: a driver that keeps logs on the engine's disk gets
//! a limit. Any other driver (journald, syslog, a collector) is an operator's decision and is left
//! alone.

use std::collections::HashMap;

use mayfly_daemon::docker::{failed, within};

use super::QUESTION;

/// How large a file of a log gets, and how many there are: the last 20 MB are kept.
const LIMITS: [(&str, &str); 2] = [("max-size", "10m"), ("max-file", "2")];

/// A driver and its limits.
pub(super) type LogDriver = (String, HashMap<String, String>);

/// The engine's driver and its limits, where it is one that takes them; else none, which is the
/// engine's driver as it is.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn limited(client: &bollard::Docker) -> anyhow::Result<Option<LogDriver>> {
    let info = within(QUESTION, client.info()).await;
    let info = info.map_err(failed("ask the engine for its log driver"))?;
    Ok(limits(info.logging_driver))
}

fn limits(driver: Option<String>) -> Option<LogDriver> {
    let driver = driver.filter(|driver| ["json-file", "local"].contains(&driver.as_str()))?;
    let limits = LIMITS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Some((driver, limits.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_on_the_engine_s_disk_has_a_limit() {
        for driver in ["json-file", "local"] {
            let (name, limits) = limits(Some(driver.to_owned())).unwrap();
            assert_eq!((name.as_str(), limits["max-size"].as_str()), (driver, "10m"));
        }
        for driver in ["journald", "none", "fluentd", ""] {
            assert_eq!(limits(Some(driver.to_owned())), None, "{driver}");
        }
    }
}

//! How much a container may write into its log: a driver that keeps logs on the engine's disk is given a limit. One that
//! does something else with them (journald, syslog, a collector) is what an operator has decided on, and is left alone.

use std::collections::HashMap;

use super::connect::{QUESTION, failed, within};

/// How large a file of a log gets, and how many there are: the last 20 MB are kept.
const LIMITS: [(&str, &str); 2] = [("max-size", "10m"), ("max-file", "2")];

/// A driver and its limits.
pub(super) type Limits = (String, HashMap<String, String>);

/// The engine's driver and its limits, where it is one that takes them; else none, which is the engine's driver as it is.
///
/// # Errors
/// When the engine does not answer.
pub(super) async fn limited(client: &bollard::Docker) -> anyhow::Result<Option<Limits>> {
    let info = within(QUESTION, client.info()).await;
    let info = info.map_err(failed("ask the engine for its log driver"))?;
    Ok(limits(info.logging_driver))
}

fn limits(driver: Option<String>) -> Option<Limits> {
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

//! Finds the address to advertise beside the loop: a name that does not resolve holds up no change.

use std::net::IpAddr;
use std::time::Duration;

use mayfly_daemon::own_address::Advertised;
use mayfly_daemon::store::Endpoint;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::advertise::OPTION;

/// How often a name to advertise is looked up again.
const EVERY: Duration = Duration::from_secs(30);

/// At most one search at a time.
pub struct Locating {
    advertised: Advertised,
    /// Where etcd is, to find the interface that leads there.
    endpoints: Vec<Endpoint>,
    ticks: Interval,
    search: Option<JoinHandle<anyhow::Result<IpAddr>>>,
}

impl Locating {
    /// Searches at once, and again and again.
    pub fn new(advertised: Advertised, endpoints: Vec<Endpoint>) -> Self {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            advertised,
            endpoints,
            ticks,
            search: None,
        }
    }

    /// Waits for the end of the next search. Safe in `select!`.
    pub(super) async fn found(&mut self) -> anyhow::Result<IpAddr> {
        loop {
            let Some(search) = &mut self.search else {
                self.ticks.tick().await;
                let (advertised, endpoints) = (self.advertised.clone(), self.endpoints.clone());
                let search = async move { advertised.locate(OPTION, &endpoints, None).await };
                self.search = Some(tokio::spawn(search));
                continue;
            };
            let found = search.await.unwrap_or_else(|error| Err(error.into()));
            self.search = None;
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_search_at_a_time_and_each_is_yielded() {
        let ip = |text: &str| Advertised::Ip(text.parse().unwrap());
        let mut locating = Locating::new(ip("10.0.0.7"), Vec::new());
        assert_eq!(locating.found().await.unwrap().to_string(), "10.0.0.7");
        let begun = tokio::time::Instant::now();
        locating.advertised = ip("10.0.0.8");
        assert_eq!(locating.found().await.unwrap().to_string(), "10.0.0.8");
        locating.advertised = Advertised::Auto;
        let error = locating.found().await.unwrap_err().to_string();
        assert!(error.contains("--etcd names no endpoint"), "{error}");
        assert_eq!(begun.elapsed().as_secs(), 2 * EVERY.as_secs());
    }
}

//! The address of this host, for containers that are reached at published ports: looked up now and then, since a name may
//! lead elsewhere one day.

use std::net::IpAddr;
use std::time::Duration;

use mayfly_core::address::Address;
use mayfly_daemon::args::Endpoint;
use mayfly_daemon::retry::Backoff;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::location::Host;

/// How often it is looked up while all is well.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Stands in for a port: only the address matters.
const ANY_PORT: u16 = 1;

/// Keeps `found` up to date for ever. What cannot be found now stays what it was.
///
/// # Errors
/// None; it ends when nobody listens any more.
pub async fn run(
    host: Host,
    endpoints: Vec<Endpoint>,
    found: watch::Sender<Option<IpAddr>>,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::default();
    let mut last: Option<Address> = None;
    while !found.is_closed() {
        match host.locate(ANY_PORT, &endpoints, last).await {
            Ok(address) => {
                backoff.reset();
                if last.replace(address) != Some(address) {
                    info!("published ports are registered at {}", address.ip());
                    found.send_replace(Some(address.ip()));
                }
                sleep(LOOK_AGAIN).await;
                continue;
            }
            Err(error) if backoff.failures() == 0 => warn!("{error:#}; trying again"),
            Err(error) => debug!("{error:#}; trying again"),
        }
        backoff.rest().await;
    }
    Ok(())
}

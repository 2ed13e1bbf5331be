//! The address of this host, for containers that are reached at published ports. It is looked up
//! again from time to time, since a name may get another address.

use std::net::IpAddr;
use std::time::Duration;

use mayfly_core::address::Address;
use mayfly_daemon::own_address::AddressOption;
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::store::Endpoint;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::location::{self, AdvertisedHost, READERS};

/// How often it is looked up while all is well.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Where the host is set.
const OPTION: AddressOption = AddressOption {
    name: "--host",
    readers: READERS,
};
/// In place of a port: only the address matters.
const ANY_PORT: u16 = 1;

/// Keeps `found` up to date. While the host is not found, the last address stays.
///
/// # Errors
/// None; it ends when the receiver is dropped.
pub async fn run(
    host: AdvertisedHost,
    endpoints: Vec<Endpoint>,
    found: watch::Sender<Option<IpAddr>>,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::default();
    let mut last: Option<Address> = None;
    while !found.is_closed() {
        match host.locate(OPTION, ANY_PORT, &endpoints, last).await {
            Ok(address) => {
                backoff.reset();
                if last.replace(address) != Some(address) {
                    info!("published ports are registered at {}", address.ip());
                    if let Some(doubt) = location::doubt(&"published ports", &address.into(), OPTION) {
                        warn!("{doubt}");
                    }
                    found.send_replace(Some(address.ip()));
                }
                sleep(LOOK_AGAIN).await;
                continue;
            }
            Err(error) if backoff.failures() == 0 => {
                warn!("{error:#}; retrying{}", OPTION.remedy(&error))
            }
            Err(error) => debug!("{error:#}; retrying"),
        }
        backoff.rest().await;
    }
    Ok(())
}

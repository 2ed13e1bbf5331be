//! What the daemon counts of itself.

use mayfly_daemon::metrics::metric;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The metrics of the API. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Requests that were answered, or whose stream began.
    pub requests: Counter,
    /// Requests that were refused, or that failed.
    pub problems: Counter,
    pub streams: Gauge,
    pub waits: Gauge,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            requests: metric(registry, "mayfly_web_requests", "Requests that were answered"),
            problems: metric(
                registry,
                "mayfly_web_problems",
                "Requests that were refused or failed",
            ),
            streams: metric(registry, "mayfly_web_streams", "Streams of changes that are open"),
            waits: metric(
                registry,
                "mayfly_web_waits",
                "Requests that wait for an environment",
            ),
        }
    }
}

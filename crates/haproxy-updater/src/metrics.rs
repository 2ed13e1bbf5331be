//! The numbers of this daemon beside those that all daemons have.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use mayfly_core::lost::Caller;
use mayfly_core::version::BackendId;
use mayfly_daemon::metrics::metric;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::traffic::board::Board;

/// What is counted; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Reloads that this process caused.
    pub reloads: Counter,
    pub refused_reloads: Counter,
    pub drift_repairs: Counter,
    /// Rounds in which HAProxy did not do what it was asked.
    pub failures: Counter,
    /// Seconds from a batch of changes to the last command of its round.
    pub apply_seconds: Histogram,
    pub slots_total: Gauge,
    pub slots_free: Gauge,
    /// Servers that are to be removed and still have connections.
    pub servers_leaving: Gauge,
    pub uses_reported: Counter,
    /// Instances and environments that etcd has lost and the guard keeps.
    pub guard_held: Gauge,
    pub haproxy_up: Gauge,
    /// Environments that lack live instances, their own or inherited ones.
    pub incomplete_environments: Gauge,
    /// Services that lack live instances, each counted where it is chosen.
    pub missing_services: Gauge,
    /// When each certificate ends that is served.
    certificates: Family<OfFile, Gauge>,
    /// Files of certificates that are not served as they are.
    pub certificates_faulty: Gauge,
    /// Calls without an environment from instances of a service at a version.
    lost_headers: Family<OfBackend, Counter>,
    /// Those of which there is a number.
    lost_by: Arc<Mutex<BTreeSet<BackendId>>>,
    /// The same from addresses that several services share.
    lost_headers_shared: Counter,
    /// The requests of each backend.
    pub traffic: Board,
}

/// Of which file a number is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFile {
    file: String,
}

/// Of which backend a number is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfBackend {
    service: String,
    version: String,
}

impl OfBackend {
    fn new(backend: &BackendId) -> Self {
        Self {
            service: backend.service.to_string(),
            version: backend.version.to_string(),
        }
    }
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let incomplete_environments = metric(
            registry,
            "mayfly_incomplete_environments",
            "Environments with a service, own or inherited, that lacks live instances",
        );
        let missing_services = metric(
            registry,
            "mayfly_missing_services",
            "Services that lack live instances, each counted in the environment that chooses it",
        );
        let traffic = Board::default();
        registry.register_collector(Box::new(traffic.clone()));
        let ours = registry.sub_registry_with_prefix("mayfly_haproxy");
        Self {
            reloads: metric(ours, "reloads", "Reloads of HAProxy that haproxy-updater caused"),
            refused_reloads: metric(ours, "refused_reloads", "Reloads that HAProxy refused"),
            drift_repairs: metric(
                ours,
                "drift_repairs",
                "Run-time commands that repaired changes by other programs",
            ),
            failures: metric(ours, "failures", "Rounds in which HAProxy did not apply a change"),
            apply_seconds: {
                let seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 14));
                let help = "Seconds from a batch of changes to its last command";
                ours.register("apply_seconds", help, seconds.clone());
                seconds
            },
            slots_total: metric(ours, "slots", "Slots in the pool"),
            slots_free: metric(ours, "slots_free", "Slots that no backend has"),
            servers_leaving: metric(
                ours,
                "servers_leaving",
                "Servers to be removed that wait for their last connections to end",
            ),
            uses_reported: metric(
                ours,
                "uses_reported",
                "Uses of environments with an idle time that were reported to etcd",
            ),
            guard_held: metric(
                ours,
                "guard_held",
                "Instances and environments that vanished from etcd without deregistering and are kept",
            ),
            haproxy_up: metric(ours, "up", "1 while HAProxy answers"),
            certificates: metric(
                ours,
                "certificate_expires_timestamp_seconds",
                "When a certificate of --edge-certificates ends that is in use, in seconds since 1970",
            ),
            certificates_faulty: metric(
                ours,
                "certificates_faulty",
                "Files of --edge-certificates that are not in use as they are",
            ),
            lost_headers: metric(
                ours,
                "lost_headers",
                "Calls without x-mayfly and baggage from instances of a service at a version",
            ),
            lost_headers_shared: metric(
                ours,
                "lost_headers_shared",
                "Calls without x-mayfly and baggage from addresses with instances of several services",
            ),
            incomplete_environments,
            missing_services,
            traffic,
            lost_by: Arc::default(),
        }
    }

    /// Counts calls without an environment, by who made them.
    pub fn count_lost_calls(&self, new: &[(Caller, u64)]) {
        let mut by = self.lost_by.lock().unwrap_or_else(PoisonError::into_inner);
        for (caller, calls) in new {
            match caller {
                Caller::Address { .. } => drop(self.lost_headers_shared.inc_by(*calls)),
                Caller::Backend { service, version } => {
                    let backend = BackendId {
                        service: service.clone(),
                        version: version.clone(),
                    };
                    let of = OfBackend::new(&backend);
                    self.lost_headers.get_or_create(&of).inc_by(*calls);
                    by.insert(backend);
                }
            }
        }
    }

    /// Forgets the counters of all other backends: their number follows what runs.
    pub fn keep_lost_calls(&self, keep: impl Fn(&BackendId) -> bool) {
        let mut by = self.lost_by.lock().unwrap_or_else(PoisonError::into_inner);
        by.retain(|backend| {
            let stays = keep(backend);
            if !stays {
                self.lost_headers.remove(&OfBackend::new(backend));
            }
            stays
        });
    }

    /// These certificates are served from now on, and no others.
    pub fn certificates_end<'a>(&self, all: impl Iterator<Item = (&'a str, SystemTime)>) {
        self.certificates.clear();
        for (file, end) in all {
            let since = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let file = OfFile {
                file: file.to_owned(),
            };
            let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            self.certificates.get_or_create(&file).set(seconds);
        }
    }
}

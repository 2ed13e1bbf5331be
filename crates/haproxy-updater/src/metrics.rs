//! The numbers of this daemon beside those that all daemons have.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What is counted; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Reloads that this process caused.
    pub reloads: Counter,
    /// Reloads that HAProxy refused.
    pub refused_reloads: Counter,
    /// Commands that repaired what nobody but somebody else can have changed.
    pub drift_repairs: Counter,
    /// Rounds in which HAProxy did not do what it was told.
    pub failures: Counter,
    /// Seconds from a batch of changes to the last command of its round.
    pub apply_seconds: Histogram,
    /// Slots in the pool.
    pub slots_total: Gauge,
    /// Slots that no backend has.
    pub slots_free: Gauge,
    /// Servers that are to go and still have connections.
    pub servers_leaving: Gauge,
    /// Uses of environments with an idle time that etcd was told of.
    pub uses_reported: Counter,
    /// Instances and environments that etcd has lost and the guard keeps.
    pub guard_held: Gauge,
    /// 1 while HAProxy answers.
    pub haproxy_up: Gauge,
    /// Environments that lack live instances, their own or inherited ones.
    pub incomplete_environments: Gauge,
    /// Services that lack live instances, each counted where it is chosen.
    pub missing_services: Gauge,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reloads: Counter::default(),
            refused_reloads: Counter::default(),
            drift_repairs: Counter::default(),
            failures: Counter::default(),
            apply_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            slots_total: Gauge::default(),
            slots_free: Gauge::default(),
            servers_leaving: Gauge::default(),
            uses_reported: Counter::default(),
            guard_held: Gauge::default(),
            haproxy_up: Gauge::default(),
            incomplete_environments: Gauge::default(),
            missing_services: Gauge::default(),
        };
        registry.register(
            "mayfly_incomplete_environments",
            "Environments with a service, own or inherited, that lacks live instances",
            metrics.incomplete_environments.clone(),
        );
        registry.register(
            "mayfly_missing_services",
            "Services that lack live instances, each counted in the environment that chooses it",
            metrics.missing_services.clone(),
        );
        let ours = registry.sub_registry_with_prefix("mayfly_haproxy");
        ours.register(
            "reloads",
            "Reloads of HAProxy that haproxy-updater caused",
            metrics.reloads.clone(),
        );
        ours.register(
            "refused_reloads",
            "Reloads that HAProxy refused",
            metrics.refused_reloads.clone(),
        );
        ours.register(
            "drift_repairs",
            "Run-time commands that repaired foreign changes",
            metrics.drift_repairs.clone(),
        );
        ours.register(
            "failures",
            "Rounds in which HAProxy did not take a change",
            metrics.failures.clone(),
        );
        ours.register(
            "apply_seconds",
            "Time from a batch of changes to its last command",
            metrics.apply_seconds.clone(),
        );
        ours.register("slots", "Slots in the pool", metrics.slots_total.clone());
        ours.register(
            "slots_free",
            "Slots that no backend has",
            metrics.slots_free.clone(),
        );
        ours.register(
            "servers_leaving",
            "Servers that wait for their last connections",
            metrics.servers_leaving.clone(),
        );
        ours.register(
            "uses_reported",
            "Uses of environments with an idle time that etcd was told of",
            metrics.uses_reported.clone(),
        );
        ours.register(
            "guard_held",
            "Instances and environments that etcd has lost without a word and the guard keeps",
            metrics.guard_held.clone(),
        );
        ours.register("up", "1 while HAProxy answers", metrics.haproxy_up.clone());
        metrics
    }
}

//! What HAProxy should have: resolves what etcd says, as far as it is believed, with the addresses
//! of host names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mayfly_core::index::{Index, Shortage};
use mayfly_core::keys::Key;
use mayfly_core::names::Hostname;
use mayfly_core::outside::AddressRule;
use mayfly_core::routing::{Routing, Touched};
use mayfly_core::trust::{Health, Kept};
use mayfly_core::version::BackendId;
use mayfly_daemon::metrics::show;
use mayfly_daemon::watch::{Batch, Change, Watch};

use crate::follow::Follower;
use crate::metrics::Metrics;
use crate::usage::report::UsageReporter;

/// What HAProxy should have, and what follows from it.
pub struct DesiredRouting {
    /// What etcd says, and what is kept although etcd has lost it.
    pub watch: Watch,
    /// All records, and the routing that follows.
    pub index: Index,
    /// The addresses of host names.
    pub follower: Follower,
    metrics: Metrics,
    /// The revision up to which the index knows everything; none before the first listing.
    revision: Option<i64>,
    /// What is kept, as of the last change.
    kept: Kept,
    /// External services of which HAProxy's check finds every server dead.
    unanswered: BTreeSet<BackendId>,
}

impl DesiredRouting {
    pub fn new(watch: Watch, index: Index, follower: Follower, metrics: Metrics) -> Self {
        Self {
            watch,
            index,
            follower,
            metrics,
            revision: None,
            kept: Kept::default(),
            unanswered: BTreeSet::new(),
        }
    }

    /// The routing, as it was resolved last.
    pub fn routing(&self) -> &Routing {
        self.index.routing()
    }

    /// The revision up to which everything is known. `None` before the first listing: what HAProxy
    /// has is better then.
    pub fn revision(&self) -> Option<i64> {
        self.revision
    }

    /// What is routed although etcd has lost it.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// The external services of which HAProxy's check finds every server dead.
    pub fn unanswered(&self) -> &BTreeSet<BackendId> {
        &self.unanswered
    }

    /// Takes what etcd says. Says whether it is the first listing.
    pub fn take(&mut self, batch: Batch, usage: &mut UsageReporter) -> bool {
        let revision = batch.revision;
        if self.revision.is_some_and(|before| revision < before) {
            self.index.age();
        }
        self.index.set_unreadable(batch.set_aside.clone());
        self.pass_on(batch.changes, usage);
        self.revision.replace(revision).is_none()
    }

    /// Takes what HAProxy's checks say of the instances that are kept. Says whether some are let
    /// go.
    pub fn judge(&mut self, health: &BTreeMap<Key, Health>, usage: &mut UsageReporter) -> bool {
        let of = |key: &Key| health.get(key).copied().unwrap_or(Health::Unchecked);
        let gone = self.watch.judge(of);
        let any = !gone.is_empty();
        if any {
            self.pass_on(gone, usage);
        }
        any
    }

    /// Takes which external services HAProxy's checks find dead. Says whether that is something new.
    pub fn set_unanswered(&mut self, unanswered: BTreeSet<BackendId>) -> bool {
        let new = unanswered != self.unanswered;
        if new {
            self.index.set_unanswered(&unanswered);
            self.unanswered = unanswered;
        }
        new
    }

    /// Takes the addresses of a host name.
    pub fn resolved(&mut self, name: &Hostname, addresses: BTreeSet<IpAddr>) {
        self.index.resolved(name, addresses);
    }

    /// Judges addresses by this rule. Says whether it is another.
    pub fn set_rule(&mut self, rule: AddressRule) -> bool {
        let new = *self.index.rule() != rule;
        if new {
            self.index.set_rule(rule);
        }
        new
    }

    /// Passes on to the index what is believed, and what is let go because another instance has its
    /// address.
    fn pass_on(&mut self, changes: Vec<Change>, usage: &mut UsageReporter) {
        self.index_changes(changes, usage);
        let gone = self.watch.let_go(|key| self.index.is_superseded(key));
        self.index_changes(gone, usage);
        self.kept = self.watch.kept().clone();
        show(&self.metrics.guard_held, self.watch.kept_count());
    }

    fn index_changes(&mut self, changes: Vec<Change>, usage: &mut UsageReporter) {
        for change in changes {
            usage.take(&change);
            match change {
                Change::Put(stored) => self.index.put(stored.record, stored.revision),
                Change::Gone(key) => self.index.gone(&key),
                Change::Unreadable(_) => {}
            }
        }
    }

    /// Resolves all that was taken; what is known of host names that are needed now, too.
    pub fn resolve(&mut self) -> Touched {
        let mut touched = self.index.resolve();
        let index = &self.index;
        let known = self
            .follower
            .need(index.host_names(), |name| index.first_to_name(name));
        if !known.is_empty() {
            for (name, addresses) in known {
                self.index.resolved(&name, addresses);
            }
            touched.extend(self.index.resolve());
        }
        touched
    }

    /// What the environments lack, with the first `most` services; the metrics follow.
    pub fn missing(&mut self, most: usize) -> Shortage {
        self.index.settle();
        let missing = self.index.shortage(most);
        show(&self.metrics.incomplete_environments, missing.environments);
        show(&self.metrics.missing_services, missing.services);
        missing
    }
}

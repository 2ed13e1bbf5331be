//! What this router says of itself: the status record, the router record that dns-updater goes by,
//! and whether it is ready.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mayfly_core::haproxy_faults;
use mayfly_core::keys::Key;
use mayfly_core::lost::{self, LostHeader};
use mayfly_core::names::NodeName;
use mayfly_core::records::{self, Router};
use mayfly_core::router_status::RouterStatus;
use mayfly_daemon::admin::Readiness;
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::status::{NOTES, StatusReporter};
use serde_json::json;
use tracing::{info, warn};

use crate::apply::Applier;
use crate::certificates::EdgeCertificates;
use crate::desired::DesiredRouting;

/// How many missing services the status record names at most; it counts them all, and readers find
/// out themselves which there are.
const MOST_MISSING: usize = 20;

/// What is said, and where.
pub struct RouterReport {
    status: StatusReporter,
    advertiser: Advertiser,
    readiness: Readiness,
    node: NodeName,
    /// Where this router is, as last found.
    pub address: Option<IpAddr>,
    /// Whether the router record is in etcd.
    is_advertised: bool,
}

impl RouterReport {
    pub fn new(status: StatusReporter, advertiser: Advertiser, readiness: Readiness, node: NodeName) -> Self {
        Self {
            status,
            advertiser,
            readiness,
            node,
            address: None,
            is_advertised: false,
        }
    }

    /// Renews the status record where it is due.
    pub fn remind(&mut self) {
        self.status.remind();
    }

    /// HAProxy is away, for `long` or just now.
    pub fn away(&mut self, long: bool) {
        self.readiness.set_not_ready();
        if self.is_advertised && long {
            warn!("HAProxy does not answer: this router is deregistered until HAProxy answers");
            self.is_advertised = false;
            self.advertiser.set(Key::Router(self.node.clone()), None);
        }
    }

    /// Says how things are. `problem` is what keeps HAProxy or its files from being as they should
    /// be.
    pub fn publish(
        &mut self,
        desired: &mut DesiredRouting,
        applier: &Applier,
        certificates: Option<&EdgeCertificates>,
        lost: &[LostHeader],
        problem: Option<String>,
    ) {
        let Some(revision) = desired.revision() else {
            return;
        };
        let missing = desired.missing(MOST_MISSING);
        let (index, follower, kept) = (&desired.index, &desired.follower, desired.kept());
        let pool = applier.pool();
        let version = applier.version().unwrap_or_default();
        let failing = follower.failures();
        let failing: BTreeMap<&str, &str> = failing.map(|(name, reason)| (name.as_str(), reason)).collect();
        let mut notes = haproxy_faults::known(version);
        notes.extend(certificates.into_iter().flat_map(EdgeCertificates::notes));
        let refused = index.refused_host_names().into_iter();
        let reported = RouterStatus {
            settings: Some(applier.settings()),
            address_rule: Some(index.rule().clone()),
            not_answering: desired.unanswered().clone(),
            host_names_refused: refused
                .map(|(name, addresses)| (name.clone(), addresses.clone()))
                .collect(),
            host_names_without_address: index.host_names_without_address().cloned().collect(),
            certificates: certificates.map(EdgeCertificates::status),
        };
        let detail = json!({
            "haproxy_version": applier.version(),
            (NOTES): notes,
            "reloads": applier.metrics().reloads.get(),
            "slots_total": pool.total(),
            "slots_used": pool.used(),
            "backends_without_slot": applier.waiting(),
            "host_names": follower.len(),
            "host_names_failing": failing,
            "missing": missing,
            (lost::FIELD): lost,
        });
        if applier.in_sync() {
            self.status.applied(revision, index.set_aside());
            if !self.readiness.is_ready() {
                info!("in sync with etcd at revision {revision}");
                self.readiness.set_ready();
            }
            if let Some(address) = self.address {
                let haproxy_version = version.to_owned();
                let router = Router {
                    address,
                    haproxy_version,
                };
                self.is_advertised = true;
                let value = records::to_json(&router);
                self.advertiser.set(Key::Router(self.node.clone()), Some(value));
            }
        }
        let error = problem
            .or_else(|| kept.alarm.clone())
            .or_else(|| applier.distrust());
        self.status.update(|status| {
            status.error = error;
            if let serde_json::Value::Object(detail) = detail {
                status.detail.extend(detail);
            }
            reported.put(status);
            kept.put(status);
        });
    }
}

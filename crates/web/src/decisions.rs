//! The versions of one service, for consumers of queues: which header value means which version.

use std::collections::BTreeMap;

use mayfly_core::explain::Settings;
use mayfly_core::names::ServiceName;
use mayfly_core::records::lifetime::Moment;
use mayfly_state::state::State;
use serde_json::json;

use crate::pieces::Piece;
use crate::problem::Problem;
use crate::render;

/// The table of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionTable {
    revision: i64,
    /// Since when etcd does not answer: the table is as old as that.
    etcd_unreachable_since: Option<Moment>,
    /// For messages without a value.
    default: Option<String>,
    versions: BTreeMap<String, String>,
}

impl VersionTable {
    /// The table as the state has it, with the settings of the routers.
    pub fn of(state: &State, settings: &Settings, since: Option<Moment>, service: &ServiceName) -> Self {
        let decide = |value: &str| {
            let decision = state.index.decide(settings, service.as_str(), value);
            decision.ok().map(|decision| decision.version)
        };
        let headers = state.index.routing().environments().map(|(_, rows)| &rows.header);
        let versions = headers.filter_map(|header| Some((header.to_string(), decide(header.as_str())?)));
        Self {
            revision: state.revision,
            etcd_unreachable_since: since,
            default: decide(""),
            versions: versions.collect(),
        }
    }

    /// The whole table as an event.
    pub fn event(&self, service: &ServiceName) -> Piece {
        let Self {
            revision,
            etcd_unreachable_since,
            default,
            versions,
        } = self;
        let table = json!({
            "service": service,
            "revision": revision,
            "etcd_unreachable_since": etcd_unreachable_since,
            "default": default,
            "versions": versions,
        });
        event("table", *revision, &table)
    }

    /// What has changed since an earlier one, as an event; `None` where nothing has.
    pub fn change(&self, before: &Self) -> Option<Piece> {
        let changed: BTreeMap<_, _> = self
            .versions
            .iter()
            .filter(|(value, version)| before.versions.get(*value) != Some(version))
            .collect();
        let gone: Vec<_> = before
            .versions
            .keys()
            .filter(|value| !self.versions.contains_key(*value))
            .collect();
        let is_same =
            self.default == before.default && self.etcd_unreachable_since == before.etcd_unreachable_since;
        if changed.is_empty() && gone.is_empty() && is_same {
            return None;
        }
        let revision = &self.revision;
        let change = json!({
            "revision": revision,
            "etcd_unreachable_since": self.etcd_unreachable_since,
            "default": self.default,
            "versions": changed,
            "gone": gone,
        });
        Some(event("change", *revision, &change))
    }
}

fn event(name: &str, revision: i64, data: &serde_json::Value) -> Piece {
    let data = render::json(data);
    Piece::of(&format!("id: {revision}\nevent: {name}\ndata: {data}\n\n"))
}

/// The settings that the routers report. Without them nobody knows the default environment.
///
/// # Errors
/// When no router reports any.
pub fn router_settings(state: &State) -> Result<Settings, Problem> {
    state.settings().ok_or_else(|| {
        Problem::unavailable("no router reports its settings: is a haproxy-updater running on this etcd?")
    })
}

//! What `mayfly status --format json` says, as types; `mayfly status` shows the same as tables.
//! [`ReportBuilder`] makes the report of one environment at a time, so that a daemon need not hold
//! them all. [`idle_ends`] asks etcd for what the state does not have.

use std::collections::BTreeMap;
use std::time::SystemTime;

use mayfly_core::index::{EnvironmentView, Shortage};
use mayfly_core::launching::{Backend, Launching};
use mayfly_core::lost::LostHeader;
use mayfly_core::names::{DnsPrefix, EnvironmentName, HeaderValue};
use mayfly_core::records::lifetime::{Idle, Moment};
use mayfly_core::records::traffic::{BackendTraffic, Traffic};
use mayfly_core::records::{Environment, SetAside, Source};
use mayfly_daemon::store::{LeaseId, Store};
use serde::Serialize;

use crate::launchers::Launchers;
use crate::state::{DaemonView, FailingView, State, kept_out};

/// Services that lack instances that the JSON reports beside the environments.
const MOST_MISSING: usize = 100;
/// Leases that are asked for at most; who has more environments that end when idle sees the span
/// instead.
const MOST_LEASES: usize = 500;

/// The whole report. `E` is its list of environments, or [`LeftOut`].
#[derive(Debug, Serialize)]
#[serde(bound(serialize = "E: Listed"))]
pub struct Report<E = Vec<EnvironmentReport>> {
    /// The revision of etcd that it shows.
    pub revision: i64,
    /// What is wrong with etcd itself.
    pub etcd: Option<&'static str>,
    #[serde(skip_serializing_if = "Listed::is_left_out")]
    pub environments: E,
    /// Names of environments that have ended.
    pub ended: Vec<EnvironmentName>,
    /// The services that lack instances.
    pub shortage: Shortage,
    /// The instances that a check keeps out.
    pub failing: Vec<FailingView>,
    /// Which instances called others without an environment, the most frequent first.
    pub lost_headers: Vec<LostHeader>,
    /// The keys of etcd that are left out.
    pub set_aside: Vec<SetAside>,
    /// The daemons, by kind and node.
    pub daemons: Vec<DaemonView>,
    /// What is registered at a loopback address although others need it.
    pub unreachable: Vec<String>,
    /// What all routers have counted of the busiest backends in the last 10 minutes.
    pub traffic: Vec<BackendTraffic>,
    /// What the container-launcher says that leads, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launching: Option<Launching>,
}

/// What may stand for the environments of a report.
pub trait Listed: Serialize {
    /// Whether the report has no field for them.
    fn is_left_out(&self) -> bool {
        false
    }
}

impl Listed for Vec<EnvironmentReport> {}

/// No environments: who writes them one by one has them elsewhere.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LeftOut;

impl Listed for LeftOut {
    fn is_left_out(&self) -> bool {
        true
    }
}

#[derive(Debug, Serialize)]
pub struct EnvironmentReport {
    /// What it resolves to.
    #[serde(flatten)]
    pub view: EnvironmentView,
    /// The first label of its hosts at the edge.
    pub prefix: DnsPrefix,
    pub header: HeaderValue,
    /// Why it is not complete.
    pub reasons: Vec<String>,
    /// Whether others may not extend or replace it.
    pub protected: bool,
    pub ends_at: Option<Moment>,
    /// How long it lives without requests.
    pub idle: Option<Idle>,
    /// When it ends if nobody uses it.
    pub idle_until: Option<Moment>,
    /// When it was last used, to two minutes, as far as routers know.
    pub last_used_at: Option<Moment>,
    /// What its file says about it.
    pub description: Option<String>,
    /// Who registered it, from which file.
    pub source: Option<Source>,
    /// What the launcher says of those of its backends that are missing or on their way.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub launching: BTreeMap<String, Backend>,
    /// The same in words, and why nothing is done about the rest; not in the JSON, as `launching`
    /// has it.
    #[serde(skip)]
    pub launcher: Vec<String>,
    /// Which instances of its services a check keeps out, and why; not in the JSON, as `failing`
    /// has it.
    #[serde(skip)]
    pub failing: Vec<String>,
}

/// Makes reports of a state.
#[derive(Debug)]
pub struct ReportBuilder<'a> {
    state: &'a State,
    launchers: Launchers,
    failing: Vec<FailingView>,
    idle_ends: &'a BTreeMap<EnvironmentName, Moment>,
    traffic: Traffic,
}

impl<'a> ReportBuilder<'a> {
    /// `idle_ends` is when environments end if nobody uses them, as far as it is known.
    pub fn new(state: &'a State, idle_ends: &'a BTreeMap<EnvironmentName, Moment>) -> Self {
        Self {
            state,
            launchers: state.launchers(),
            failing: state.failing(),
            idle_ends,
            traffic: state.traffic(),
        }
    }

    /// All environments, by name, each made when it is asked for.
    pub fn environments(&self) -> impl Iterator<Item = EnvironmentReport> {
        let all = self.state.index.environments();
        all.filter_map(|environment| self.environment(environment))
    }

    /// One environment; `None` where it is not there any more.
    pub fn environment(&self, environment: &Environment) -> Option<EnvironmentReport> {
        let Self { launchers, .. } = self;
        let view = self.state.index.view(&environment.name)?;
        let services = view.services.iter();
        Some(EnvironmentReport {
            reasons: view.reasons(),
            launching: launchers.unsettled(&view),
            launcher: launchers.reasons(&view),
            failing: services
                .flat_map(|service| kept_out(&self.failing, service))
                .collect(),
            prefix: environment.prefix.clone(),
            header: environment.header.clone(),
            protected: environment.protected,
            ends_at: environment.ends_at(),
            idle: environment.idle,
            idle_until: self.idle_ends.get(&environment.name).copied(),
            last_used_at: self.traffic.used.get(&environment.name).copied(),
            description: environment.description.clone(),
            source: environment.source.clone(),
            view,
        })
    }

    /// The whole report with these environments; those that have ended are filtered by `wanted`.
    pub fn report<E>(&self, environments: E, wanted: impl Fn(&EnvironmentName) -> bool) -> Report<E> {
        let Self { state, .. } = self;
        Report {
            revision: state.revision,
            etcd: None,
            environments,
            ended: state.ended().filter(|name| wanted(name)).cloned().collect(),
            shortage: state.index.shortage(MOST_MISSING),
            failing: self.failing.clone(),
            lost_headers: state.lost_headers(),
            set_aside: state.index.set_aside(),
            daemons: state.daemons(),
            unreachable: state.unreachable(),
            traffic: self.traffic.backends.clone(),
            launching: self
                .launchers
                .leader
                .as_ref()
                .map(|leader| leader.launching.clone()),
        }
    }
}

impl Report {
    /// The report of a state, or of one environment of it.
    pub fn of(
        state: &State,
        only: Option<&EnvironmentName>,
        idle_ends: &BTreeMap<EnvironmentName, Moment>,
    ) -> Self {
        let reporter = ReportBuilder::new(state, idle_ends);
        let wanted = |name: &EnvironmentName| only.is_none_or(|only| only == name);
        let all = state.index.environments();
        let environments = all
            .filter(|environment| wanted(&environment.name))
            .filter_map(|environment| reporter.environment(environment));
        reporter.report(environments.collect(), wanted)
    }
}

/// When environments end if nobody uses them: etcd is asked for what is left of their leases.
pub async fn idle_ends(
    store: &Store,
    state: &State,
    only: Option<&EnvironmentName>,
    now: SystemTime,
) -> BTreeMap<EnvironmentName, Moment> {
    let leases = idle_leases(state, only);
    ends_of(store, leases, now).await
}

/// The leases of environments that end when nobody uses them, as many as are asked for.
pub fn idle_leases(state: &State, only: Option<&EnvironmentName>) -> Vec<(EnvironmentName, LeaseId)> {
    let idle = state
        .index
        .environments()
        .filter(|environment| environment.idle.is_some());
    let wanted = idle.filter(|environment| only.is_none_or(|only| *only == environment.name));
    let leases =
        wanted.filter_map(|environment| Some((environment.name.clone(), state.lease(&environment.name)?)));
    leases.take(MOST_LEASES).collect()
}

/// When these leases run out. One that has just run out, or etcd that has just gone, makes no
/// difference: nothing is known of it then.
pub async fn ends_of(
    store: &Store,
    leases: Vec<(EnvironmentName, LeaseId)>,
    now: SystemTime,
) -> BTreeMap<EnvironmentName, Moment> {
    let mut asking = tokio::task::JoinSet::new();
    for (name, lease) in leases {
        let store = store.clone();
        asking.spawn(async move { Some((name, store.lease_life(lease).await.ok()??.left)) });
    }
    let mut found = BTreeMap::new();
    while let Some(answer) = asking.join_next().await {
        if let Ok(Some((name, left))) = answer {
            found.insert(name, Moment::of(now).after(left));
        }
    }
    found
}

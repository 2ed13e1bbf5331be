//! One module for each group of measures, and the order in which they run: those of one stand together, since bringing one up takes
//! time.

pub mod burst;
pub mod change;
pub mod churn;
pub mod inherit;
pub mod instance;
pub mod start;
pub mod throughput;
pub mod usage;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::arguments::{Arguments, Measure};
use crate::fleet::Scale;
use crate::peers::caddy::Caddy;
use crate::peers::envoy::Envoy;
use crate::results::{Goal, Results};
use crate::stand::Stand;

use throughput::Rounds;

/// The scales of the promises.
const SMALL: Scale = Scale::new(1_000, 20);
const LARGE: Scale = Scale::new(10_000, 50);

/// How much of each measure.
struct Extent {
    changes: usize,
    /// Changes of Envoy and Caddy, which take long for each.
    peer_changes: usize,
    instances: usize,
    rounds: Rounds,
    idle: Duration,
    burst: usize,
    churn: churn::Extent,
}

const WHOLE: Extent = Extent {
    changes: 200,
    peer_changes: 20,
    instances: 60,
    rounds: Rounds {
        count: 3,
        time: Duration::from_secs(2),
    },
    idle: Duration::from_secs(60),
    burst: 1_000,
    churn: churn::Extent {
        environments: 1_000,
        instances: 1_000,
        versions: 200,
        requests: 1_000_000,
    },
};

const QUICK: Extent = Extent {
    changes: 40,
    peer_changes: 3,
    instances: 10,
    rounds: Rounds {
        count: 1,
        time: Duration::from_secs(2),
    },
    idle: Duration::from_secs(10),
    burst: 200,
    churn: churn::Extent {
        environments: 100,
        instances: 60,
        versions: 20,
        requests: 40_000,
    },
};

/// A run under way.
struct Run<'a> {
    arguments: &'a Arguments,
    extent: Extent,
    start: Instant,
    results: &'a mut Results,
}

/// Runs everything that is asked for, one stand after the other.
///
/// # Errors
/// When a process does not start, or a change does not take effect.
pub async fn run(arguments: &Arguments, results: &mut Results) -> Result<()> {
    let mut run = Run {
        arguments,
        extent: if arguments.quick { QUICK } else { WHOLE },
        start: Instant::now(),
        results,
    };
    use Measure::*;
    if [Change, Instance, Inherit, Throughput, Usage, Burst, Churn]
        .iter()
        .any(|measure| arguments.wants(*measure))
    {
        run.small().await?;
    }
    // Ten thousand files take longer to bring in than a quick run has.
    if !arguments.quick
        && [Change, Curve, Throughput, Usage, Start]
            .iter()
            .any(|measure| arguments.wants(*measure))
    {
        run.large().await?;
    }
    run.say("done");
    Ok(())
}

impl Run<'_> {
    fn say(&self, what: &str) {
        eprintln!("==> [{:>4} s] {what}", self.start.elapsed().as_secs());
    }

    fn wants(&self, measure: Measure) -> bool {
        self.arguments.wants(measure)
    }

    async fn small(&mut self) -> Result<()> {
        let one = Scale::new(1, SMALL.services);
        self.say(&format!("starting {one}"));
        let mut stand = Stand::start(one).await?;
        if self.wants(Measure::Throughput) {
            throughput::mayfly(&stand, &self.extent.rounds, self.results).await?;
        }
        self.say(&format!("growing to {SMALL}"));
        stand.grow(SMALL).await?;
        if self.wants(Measure::Usage) {
            self.say("memory, and nothing to do");
            usage::memory(&stand, self.results).await?;
            usage::idle(&stand, self.extent.idle, self.results).await?;
            usage::per_change(&stand, self.extent.changes, self.results).await?;
        }
        if self.wants(Measure::Change) {
            self.say("changes");
            change::mayfly(&stand, self.extent.changes, self.results)?;
            change::bare(&mut stand, self.extent.changes, self.results).await?;
        }
        if self.wants(Measure::Throughput) {
            self.say("throughput");
            throughput::mayfly(&stand, &self.extent.rounds, self.results).await?;
        }
        self.peers(&stand, self.extent.peer_changes).await?;
        if self.wants(Measure::Instance) {
            self.say("instances");
            instance::known_version(&stand, self.extent.instances, self.results).await?;
            instance::new_version(&stand, self.extent.instances, self.results).await?;
        }
        if self.wants(Measure::Churn) {
            self.say("churn");
            churn::run(&stand, self.extent.churn, self.results).await?;
        }
        if self.wants(Measure::Inherit) {
            self.say("inherited changes");
            inherit::run(&stand, self.extent.changes / 5, self.results)?;
        }
        if self.wants(Measure::Burst) {
            self.say("a burst of instances");
            burst::run(&stand, self.extent.burst, self.results).await?;
        }
        Ok(())
    }

    async fn large(&mut self) -> Result<()> {
        let few = Scale::new(100, LARGE.services);
        self.say(&format!("starting {few}"));
        let mut stand = Stand::start(few).await?;
        if self.wants(Measure::Curve) {
            change::mayfly(&stand, self.extent.changes / 2, self.results)?;
            let more = Scale::new(1_000, LARGE.services);
            self.say(&format!("growing to {more}"));
            stand.grow(more).await?;
            change::mayfly(&stand, self.extent.changes / 2, self.results)?;
        }
        self.say(&format!("growing to {LARGE}"));
        let time = stand.grow(LARGE).await?;
        self.say(&format!("grown within {} s", time.as_secs()));
        if self.wants(Measure::Usage) {
            self.say("memory, and nothing to do");
            usage::memory(&stand, self.results).await?;
            usage::idle(&stand, self.extent.idle, self.results).await?;
            usage::per_change(&stand, self.extent.changes / 2, self.results).await?;
        }
        if self.wants(Measure::Change) || self.wants(Measure::Curve) {
            self.say("changes");
            change::mayfly(&stand, self.extent.changes, self.results)?;
            change::curve(few, LARGE, self.results);
            change::bare(&mut stand, self.extent.changes / 5, self.results).await?;
        }
        if self.wants(Measure::Throughput) {
            self.say("throughput");
            throughput::mayfly(&stand, &self.extent.rounds, self.results).await?;
        }
        if self.wants(Measure::Start) {
            self.say("starts");
            start::beside_a_running_haproxy(&mut stand, self.results).await?;
            start::from_nothing(&mut stand, self.results).await?;
        }
        self.peers(&stand, self.extent.peer_changes / 5).await
    }

    /// Envoy and Caddy with the routing of a stand, one after the other.
    async fn peers(&mut self, stand: &Stand, changes: usize) -> Result<()> {
        let (directory, programs) = (stand.world.directory(), &self.arguments.peers);
        if ![Measure::Change, Measure::Throughput, Measure::Usage]
            .iter()
            .any(|measure| self.wants(*measure))
        {
            return Ok(());
        }
        self.say("envoy");
        let mut envoy = Envoy::start(&programs.join("envoy"), directory, stand)?;
        let (id, edge, internal) = (envoy.id(), envoy.edge, envoy.internal);
        self.peer("envoy", &mut envoy, (id, edge, internal), stand, changes)
            .await?;
        drop(envoy);
        self.say("caddy");
        let mut caddy = Caddy::start(&programs.join("caddy"), directory, stand)?;
        let (id, edge, internal) = (caddy.id(), caddy.edge, caddy.internal);
        self.peer("caddy", &mut caddy, (id, edge, internal), stand, changes)
            .await
    }

    async fn peer(
        &mut self,
        name: &str,
        peer: &mut impl change::Changeable,
        (id, edge, internal): (u32, SocketAddr, SocketAddr),
        stand: &Stand,
        changes: usize,
    ) -> Result<()> {
        if self.wants(Measure::Usage) {
            usage::memory_of(name, id, stand.scale, self.results)?;
        }
        if self.wants(Measure::Change) {
            let times = change::changes(peer, stand.scale.environments, changes)?;
            self.results
                .add_times("change", name, stand.scale, &times, (Goal::None, Goal::None));
        }
        if self.wants(Measure::Throughput) {
            let rounds = Rounds {
                count: 1,
                ..self.extent.rounds
            };
            throughput::measure(stand, &[(name, edge, internal)], &rounds, self.results).await?;
        }
        Ok(())
    }
}

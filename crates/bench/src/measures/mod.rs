//! One module for each group of measures, and the order in which they run: those of one Mayfly together, since bringing one up takes
//! time.

pub mod access;
pub mod burst;
pub mod change;
pub mod churn;
pub mod edge;
pub mod inherit;
pub mod instance;
pub mod probe;
pub mod scale;
pub mod start;
pub mod throughput;
pub mod usage;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::arguments::{Arguments, Measure};
use crate::changeable::Changeable;
use crate::fleet::Scale;
use crate::peers::caddy::Caddy;
use crate::peers::envoy::Envoy;
use crate::results::{Goal, Results};
use crate::scaled::ScaledMayfly;

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
    /// Of a router with something beside one without it.
    pairs: Rounds,
    idle: Duration,
    burst: usize,
    churn: churn::Extent,
    probe: probe::Extent,
    scale: scale::Extent,
}

const WHOLE: Extent = Extent {
    changes: 200,
    peer_changes: 20,
    instances: 60,
    rounds: Rounds {
        count: 3,
        time: Duration::from_secs(2),
    },
    // Many short turns: what disturbs the machine then meets both sides alike.
    pairs: Rounds {
        count: 21,
        time: Duration::from_secs(1),
    },
    idle: Duration::from_secs(60),
    burst: 1_000,
    churn: churn::Extent {
        environments: 1_000,
        instances: 1_000,
        versions: 200,
        requests: 1_000_000,
    },
    // As in the public benchmark.
    probe: probe::Extent {
        environments: 5_000,
        routes: 3_000,
    },
    scale: scale::Extent {
        steps: &[10_000, 30_000, 100_000],
        changes: 50,
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
    pairs: Rounds {
        count: 1,
        time: Duration::from_secs(1),
    },
    idle: Duration::from_secs(10),
    burst: 200,
    churn: churn::Extent {
        environments: 100,
        instances: 60,
        versions: 20,
        requests: 40_000,
    },
    probe: probe::Extent {
        environments: 300,
        routes: 200,
    },
    scale: scale::Extent {
        steps: &[100, 300, 1_000],
        changes: 10,
    },
};

struct Run<'a> {
    arguments: &'a Arguments,
    extent: Extent,
    start: Instant,
    results: &'a mut Results,
}

/// Runs everything that is asked for, one Mayfly after the other.
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
    if arguments.names(Edge) || arguments.names(Access) {
        run.edge().await?;
    }
    if arguments.names(Probe) {
        run.probe().await?;
    }
    if arguments.names(Scale) {
        run.say("growing step by step");
        scale::run(run.extent.scale, run.results).await?;
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
        let mut scaled = ScaledMayfly::start(one).await?;
        if self.wants(Measure::Throughput) {
            throughput::of_mayfly(&scaled, &self.extent.rounds, self.results).await?;
        }
        self.say(&format!("growing to {SMALL}"));
        scaled.grow(SMALL).await?;
        if self.wants(Measure::Usage) {
            self.say("memory, and nothing to do");
            scaled.start_web().await?;
            usage::memory(&scaled, self.results).await?;
            usage::idle(&scaled, self.extent.idle, self.results).await?;
            usage::per_change(&scaled, self.extent.changes, self.results).await?;
            scaled.end_web().await?;
        }
        if self.wants(Measure::Change) {
            self.say("changes");
            change::of_mayfly(&scaled, self.extent.changes, self.results)?;
            change::bare(&mut scaled, self.extent.changes, self.results).await?;
        }
        if self.wants(Measure::Throughput) {
            self.say("throughput");
            throughput::of_mayfly(&scaled, &self.extent.rounds, self.results).await?;
        }
        self.peers(&scaled, self.extent.peer_changes).await?;
        if self.wants(Measure::Instance) {
            self.say("instances");
            instance::known_version(&scaled, self.extent.instances, self.results).await?;
            instance::new_version(&scaled, self.extent.instances, self.results).await?;
        }
        if self.wants(Measure::Churn) {
            self.say("churn");
            churn::run(&scaled, self.extent.churn, self.results).await?;
        }
        if self.wants(Measure::Inherit) {
            self.say("inherited changes");
            inherit::run(&scaled, self.extent.changes / 5, self.results)?;
        }
        if self.wants(Measure::Burst) {
            self.say("a burst of instances");
            burst::run(&scaled, self.extent.burst, self.results).await?;
        }
        Ok(())
    }

    async fn large(&mut self) -> Result<()> {
        let few = Scale::new(100, LARGE.services);
        self.say(&format!("starting {few}"));
        let mut scaled = ScaledMayfly::start(few).await?;
        if self.wants(Measure::Curve) {
            change::of_mayfly(&scaled, self.extent.changes / 2, self.results)?;
            let more = Scale::new(1_000, LARGE.services);
            self.say(&format!("growing to {more}"));
            scaled.grow(more).await?;
            change::of_mayfly(&scaled, self.extent.changes / 2, self.results)?;
        }
        self.say(&format!("growing to {LARGE}"));
        let time = scaled.grow(LARGE).await?;
        self.say(&format!("grown within {} s", time.as_secs()));
        if self.wants(Measure::Usage) {
            self.say("memory, and nothing to do");
            usage::memory(&scaled, self.results).await?;
            usage::idle(&scaled, self.extent.idle, self.results).await?;
            usage::per_change(&scaled, self.extent.changes / 2, self.results).await?;
        }
        if self.wants(Measure::Change) || self.wants(Measure::Curve) {
            self.say("changes");
            change::of_mayfly(&scaled, self.extent.changes, self.results)?;
            change::curve(few, LARGE, self.results);
            change::bare(&mut scaled, self.extent.changes / 5, self.results).await?;
        }
        if self.wants(Measure::Throughput) {
            self.say("throughput");
            throughput::of_mayfly(&scaled, &self.extent.rounds, self.results).await?;
        }
        if self.wants(Measure::Start) {
            self.say("starts");
            start::beside_a_running_haproxy(&mut scaled, self.results).await?;
            start::from_nothing(&mut scaled, self.results).await?;
        }
        self.peers(&scaled, self.extent.peer_changes / 5).await
    }

    /// The edge with all that it can be given.
    async fn edge(&mut self) -> Result<()> {
        self.say(&format!("starting {}", edge::SCALE));
        let scaled = ScaledMayfly::start(edge::SCALE).await?;
        if self.arguments.names(Measure::Edge) {
            self.say("parts of the edge");
            let before = self.arguments.before.as_deref();
            edge::run(&scaled, &self.extent.pairs, before, self.results).await?;
        }
        if self.arguments.names(Measure::Access) {
            self.say("changes of access");
            access::run(&scaled, self.extent.changes, self.results)?;
        }
        Ok(())
    }

    /// Routes that are added while everything else changes.
    async fn probe(&mut self) -> Result<()> {
        let probe::Extent { environments, routes } = self.extent.probe;
        let scale = Scale::new(environments, SMALL.services);
        self.say(&format!("starting {scale}"));
        let scaled = ScaledMayfly::start(scale).await?;
        usage::settle(&scaled).await?;
        self.say(&format!("adding {routes} routes"));
        probe::run(&scaled, routes, self.results)
    }

    /// Envoy and Caddy with the routing of a Mayfly, one after the other.
    async fn peers(&mut self, scaled: &ScaledMayfly, changes: usize) -> Result<()> {
        let (directory, programs) = (scaled.mayfly.directory(), &self.arguments.peers);
        if ![Measure::Change, Measure::Throughput, Measure::Usage]
            .iter()
            .any(|measure| self.wants(*measure))
        {
            return Ok(());
        }
        self.say("envoy");
        let mut envoy = Envoy::start(&programs.join("envoy"), directory, scaled)?;
        let (id, edge, internal) = (envoy.id(), envoy.edge, envoy.internal);
        self.peer("envoy", &mut envoy, (id, edge, internal), scaled, changes)
            .await?;
        drop(envoy);
        self.say("caddy");
        let mut caddy = Caddy::start(&programs.join("caddy"), directory, scaled)?;
        let (id, edge, internal) = (caddy.id(), caddy.edge, caddy.internal);
        self.peer("caddy", &mut caddy, (id, edge, internal), scaled, changes)
            .await
    }

    async fn peer(
        &mut self,
        name: &str,
        peer: &mut impl Changeable,
        (id, edge, internal): (u32, SocketAddr, SocketAddr),
        scaled: &ScaledMayfly,
        changes: usize,
    ) -> Result<()> {
        if self.wants(Measure::Usage) {
            usage::memory_of(name, id, scaled.scale, self.results)?;
        }
        if self.wants(Measure::Change) {
            let times = change::changes(peer, scaled.scale.environments, changes)?;
            self.results
                .add_times("change", name, scaled.scale, &times, (Goal::None, Goal::None));
        }
        if self.wants(Measure::Throughput) {
            let rounds = Rounds {
                count: 1,
                ..self.extent.rounds
            };
            throughput::measure(scaled, &[(name, edge, internal)], &rounds, self.results).await?;
            if name == "envoy" {
                let goal = (scaled.scale, "times", Goal::AtLeast(1.3));
                throughput::shares("mayfly", (name, name), goal, self.results);
            }
        }
        Ok(())
    }
}

//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Measures what Mayfly promises, beside its peers. Start it by scripts/bench.sh, which brings what it needs.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// Two minutes: only the smaller scales, and few changes
    #[arg(long)]
    pub quick: bool,
    /// Exit with 1 when a goal is missed
    #[arg(long)]
    pub check: bool,
    /// Where to write the figures
    #[arg(long, default_value = "target/bench/results.json")]
    pub results: PathBuf,
    /// The directory that has `envoy` and `caddy`
    #[arg(long, default_value = "target/bench/venv/bin")]
    pub peers: PathBuf,
    /// A haproxy-updater of an older build, which `edge` measures beside this one
    #[arg(long)]
    pub before: Option<PathBuf>,
    /// Measures only these; by default everything but `edge`, `access`, `probe` and `scale`
    #[arg(value_enum)]
    measures: Vec<Measure>,
}

/// A group of rows of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measure {
    /// From the rename of a file to the first right answer
    Change,
    /// The same at 100, 1,000 and 10,000 environments of 50 services
    Curve,
    /// Instances that come and go, and versions never seen before
    Instance,
    /// A version that a thousand environments inherit
    Inherit,
    /// Requests a second and their latency
    Throughput,
    /// Memory and CPU time
    Usage,
    /// Start of haproxy-updater
    Start,
    /// A thousand instances that register within a second
    Burst,
    /// A million requests while everything changes
    Churn,
    /// What TLS, links, access and large heads cost, each beside a router without it
    Edge,
    /// From the rename of a file with another `access` to the first right answer
    Access,
    /// 3,000 routes added one after the other while 5,000 environments change
    Probe,
    /// Up to 100,000 environments of 20 services
    Scale,
}

impl Arguments {
    /// Whether something is to be measured.
    pub fn wants(&self, measure: Measure) -> bool {
        self.measures.is_empty() || self.names(measure)
    }

    /// Whether it is to be measured, and nobody would by default.
    pub fn names(&self, measure: Measure) -> bool {
        self.measures.contains(&measure)
    }
}

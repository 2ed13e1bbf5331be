//! The benchmark: starts Mayfly and its peers on loopback, measures what the product promises, and says which promise is kept.
//! `scripts/bench.sh` builds and runs it.
//!
//! - [`arguments`]: which measures, how long;
//! - [`fleet`], [`origin`], [`scaled`]: what is routed, where it leads, and Mayfly that routes it;
//! - [`variants`]: further routers of that Mayfly, with other flags;
//! - [`peers`]: the same in Envoy, Caddy and HAProxy alone, with [`changeable`] for what both can;
//! - [`probe`], [`pace`], [`load`], [`usage`]: one question after the other, the load of wrk, and what the kernel counts;
//! - [`measures`]: each group of rows of the table;
//! - [`results`]: the table and `results.json`.

mod arguments;
mod changeable;
mod fleet;
mod load;
mod measures;
mod origin;
mod pace;
mod peers;
mod probe;
mod results;
mod scaled;
mod usage;
mod variants;

use std::process::ExitCode;

use clap::Parser as _;

use arguments::Arguments;
use results::Results;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut results = Results::default();
    let outcome = measures::run(&arguments, &mut results).await;
    // Also after a failure: what was measured before is still true.
    print!("{}", results.table());
    let written = results.write(&arguments.results);
    if let Err(error) = outcome.and(written) {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    let missed = results.missed();
    for figure in &missed {
        eprintln!("missed: {figure}");
    }
    if arguments.check && !missed.is_empty() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

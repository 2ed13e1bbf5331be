//! `mayfly diff`: what differs between two environments. `mayfly_state` compares them; this reads
//! etcd once and prints.

use std::process::ExitCode;

use mayfly_core::names::EnvironmentName;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, Format, complain, printable};
use mayfly_state::diff::diff;
use mayfly_state::state::State;

const EXAMPLES: &str = "\
Examples:
  mayfly diff qa prod                    shows the services that differ
  mayfly diff staging prod --at-most 1   fails if more than one service differs
  mayfly diff qa prod --format json | jq -r '.services[].service'

A service differs if the two environments have different versions of the service, or different public paths to it. The
origin of a version (own, or inherited from another environment) is shown, but does not count as a difference. A range
or `latest` counts as the version to which it resolves now.

JSON: {\"a\", \"b\", \"differing\", \"of\" (services in both together), \"services\": [{\"service\", \"version_differs\",
  \"routes_differ\", \"a\" and \"b\": null, or {\"version\", \"inherited_from\", \"routes\", \"nothing_fits\" (a range without a
  live version), \"awaited\" (the version that takes over when it is live)}}], \"notes\"}

Exit codes: 0 at most --at-most services differ; 1 more services differ, an environment does not exist, or etcd does not
answer; 2 wrong command line.";

/// Shows what differs between two environments: versions and routes of their services
///
/// The command compares what routers do now. Use it before a release, for example to check that an
/// environment differs from production in only one service.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The first environment
    #[arg(value_name = "ENV")]
    pub a: EnvironmentName,

    /// The second environment
    #[arg(value_name = "ENV")]
    pub b: EnvironmentName,

    /// Succeeds if at most this many services differ
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub at_most: usize,

    /// Prints the output in this format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Compares.
///
/// # Errors
/// When there is no such environment, or etcd does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let state = State::read(&common.store()?, 1).await?;
    let difference = diff(&state, &args.a, &args.b)?;
    match args.format {
        Format::Json => output::print(&output::json(&difference)?)?,
        Format::Table => output::print(&difference.text())?,
    }
    for note in &difference.notes {
        complain(&format!("note: {}", printable(note)));
    }
    Ok(match difference.differing <= args.at_most {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

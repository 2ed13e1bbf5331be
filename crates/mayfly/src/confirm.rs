//! `mayfly confirm`: an operator's word that what a guard holds back is meant. The word is a key under a lease, so that it
//! is forgotten by itself where nobody takes it.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use mayfly_core::keys::{Daemon, Key};
use mayfly_core::launching::Confirmation;
use mayfly_core::lifetime::Moment;
use mayfly_core::names::NodeName;
use mayfly_core::records;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, printable};

use crate::launchers::{Launchers, NONE_LEADS};
use crate::state::State;

/// How long the word holds: time enough for a launcher that is just taking over, too short to let a later surprise pass.
const HOLDS: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
Examples:
  mayfly status                        says what is held back
  mayfly confirm container-launcher    the environments were to go, and so are the containers that only they needed
  mayfly confirm haproxy-updater       the instances or environments were to go, and no router needs to keep them

Exit codes: 0 it is confirmed; 1 nothing is held back, or etcd does not answer; 2 the command line is wrong.";

/// Confirm that what a daemon's guard holds back is meant
///
/// container-launcher retires nothing while etcd's list of environments is empty or shrank by half within seconds, since
/// that may be an accident; haproxy-updater keeps what etcd lost without a word. This says what is held back, and lets go of
/// it, on all routers. The word holds for 60 seconds; a guard that
/// comes later needs a new one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Whose guard
    #[arg(value_enum, value_name = "DAEMON")]
    pub daemon: Guarded,
}

/// The daemons that have a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Guarded {
    /// The one that starts and retires containers
    ContainerLauncher,
    /// The one that steers HAProxy
    HaproxyUpdater,
}

/// Gives the word and says what happens.
///
/// # Errors
/// When nothing is held back, or etcd does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let state = State::read(&store, 1).await?;
    let (daemon, held, then) = match args.daemon {
        Guarded::ContainerLauncher => (
            Daemon::ContainerLauncher,
            held_back(&state.launchers())?,
            "it retires what is unused from now on",
        ),
        Guarded::HaproxyUpdater => (
            Daemon::HaproxyUpdater,
            kept(state.guards())?,
            "it goes from the routing",
        ),
    };
    output::print(&format!("{held}\n"))?;
    let word = Confirmation {
        by: common.node()?,
        at: Moment::of(SystemTime::now()),
    };
    let lease = store.grant(HOLDS).await?;
    let key = Key::Confirmation(daemon);
    store
        .put(&key, records::to_json(&word), Some(lease.id))
        .await
        .context("cannot put the confirmation")?;
    output::print(&format!(
        "confirmed: {then}; if {daemon} does not take this word within {}, it is forgotten (`mayfly status`)\n",
        humantime::format_duration(HOLDS)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What is held back, and by whom.
fn held_back(launchers: &Launchers) -> anyhow::Result<String> {
    let Some(leader) = &launchers.leader else {
        if launchers.are_there {
            bail!("{NONE_LEADS}, and nothing is held back");
        }
        bail!("there is no container-launcher: is one running on this etcd, with the same --prefix?");
    };
    let Some(guard) = &leader.launching.guard else {
        bail!("the container-launcher of {} holds nothing back", leader.node);
    };
    Ok(format!(
        "the container-launcher of {} retires nothing: {}",
        leader.node,
        printable(guard)
    ))
}

/// What the routers keep.
fn kept<'a>(guards: impl Iterator<Item = (&'a NodeName, &'a str)>) -> anyhow::Result<String> {
    let lines: Vec<String> = guards
        .map(|(node, guard)| format!("the haproxy-updater of {node}: {}", printable(guard)))
        .collect();
    if lines.is_empty() {
        bail!("no haproxy-updater holds anything back");
    }
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::launchers::Leader;
    use mayfly_core::launching::Launching;

    #[test]
    fn only_what_is_held_back_can_be_confirmed() {
        let mut launchers = Launchers::default();
        let told = |launchers: &Launchers| match held_back(launchers) {
            Ok(held) => held,
            Err(error) => format!("error: {error}"),
        };
        assert!(told(&launchers).starts_with("error: there is no container-launcher"));
        launchers.are_there = true;
        assert!(told(&launchers).starts_with("error: no container-launcher leads"));
        let mut launching = Launching {
            leading: true,
            ..Launching::default()
        };
        for (guard, expected) in [
            (None, "error: the container-launcher of host-1 holds nothing back"),
            (
                Some("4 of 7 environments vanished\n"),
                "the container-launcher of host-1 retires nothing: 4 of 7 environments vanished\\n",
            ),
        ] {
            launching.guard = guard.map(str::to_owned);
            launchers.leader = Some(Leader {
                node: "host-1".parse().unwrap(),
                is_current: true,
                launching: launching.clone(),
            });
            assert_eq!(told(&launchers), expected);
        }
    }

    #[test]
    fn what_several_routers_keep_is_told_of_each() {
        let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
        let guards = [(&one, "etcd has lost 1"), (&two, "etcd has\nlost 2")];
        assert_eq!(
            kept(guards.into_iter()).unwrap(),
            "the haproxy-updater of one: etcd has lost 1\nthe haproxy-updater of two: etcd has\\nlost 2"
        );
        assert!(kept([].into_iter()).is_err());
    }
}

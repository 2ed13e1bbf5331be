//! `mayfly confirm`: an operator's confirmation that withheld deletions were intended. It is a key
//! under a lease, so it lapses by itself if no daemon acts on it.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use mayfly_core::keys::{Daemon, Key};
use mayfly_core::launching::OperatorRequest;
use mayfly_core::names::NodeName;
use mayfly_core::records;
use mayfly_core::records::lifetime::Moment;
use mayfly_core::trust::Kept;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, printable};

use mayfly_state::launchers::Launchers;
use mayfly_state::state::State;

/// How long a confirmation is valid: enough for a launcher that is just taking over, and too short
/// to cover a later loss.
const HOLDS: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
Examples:
  mayfly status                        shows which deletions are withheld
  mayfly confirm container-launcher    retires the containers that only the deleted environments needed
  mayfly confirm haproxy-updater       drops the deleted instances and environments on all routers

Exit codes: 0 confirmed; 1 nothing is withheld, or etcd does not answer; 2 wrong command line.";

/// Tells a daemon to carry out the deletions that it withholds
///
/// Use this command only if the deletions were intended. container-launcher retires nothing while
/// etcd has no environment. It also retires nothing after half of the environments that need
/// launched containers have vanished within the time of --distrust. Both may be accidents.
/// haproxy-updater and dns-updater keep records that vanished from etcd without being deregistered.
/// The command prints the withheld deletions. The daemons then act on them, on all routers and in
/// all names. A confirmation is valid for 60 seconds. Later deletions need a new confirmation.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The daemon that withholds deletions
    #[arg(value_enum, value_name = "DAEMON")]
    pub daemon: Guarded,
}

/// The daemons that have a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Guarded {
    /// The daemon that starts and retires containers
    ContainerLauncher,
    /// The daemon that configures HAProxy; the confirmation also applies to the names of
    /// dns-updater
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
            "the launcher now retires the containers that no environment needs",
        ),
        Guarded::HaproxyUpdater => (
            Daemon::HaproxyUpdater,
            kept(state.kept())?,
            "the vanished keys are removed from the routing and the names",
        ),
    };
    output::print(&format!("{held}\n"))?;
    let word = OperatorRequest {
        by: common.node()?,
        at: Moment::of(SystemTime::now()),
    };
    let lease = store.grant(HOLDS).await?;
    let key = Key::Confirmation(daemon);
    store
        .put(&key, records::to_json(&word), Some(lease.id))
        .await
        .context("cannot write the confirmation")?;
    output::print(&format!(
        "confirmed: {then}; the confirmation expires if {daemon} does not act on it within {} \
         (`mayfly status`)\n",
        humantime::format_duration(HOLDS)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// What is held back, and by whom.
fn held_back(launchers: &Launchers) -> anyhow::Result<String> {
    let leader = launchers.leads()?;
    let Some(guard) = &leader.launching.guard else {
        bail!("the container-launcher of {} withholds nothing", leader.node);
    };
    Ok(format!(
        "the container-launcher of {} retires nothing: {}",
        leader.node,
        printable(guard)
    ))
}

/// What routers and DNS updaters keep.
fn kept<'a>(all: impl Iterator<Item = (Daemon, &'a NodeName, Kept)>) -> anyhow::Result<String> {
    let line = |(daemon, node, kept): (Daemon, &NodeName, Kept)| {
        Some(format!("the {daemon} of {node}: {}", printable(&kept.alarm?)))
    };
    let lines: Vec<String> = all.filter_map(line).collect();
    if lines.is_empty() {
        bail!("no haproxy-updater withholds anything");
    }
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::launching::Launching;
    use mayfly_core::records::Status;
    use mayfly_state::launchers::Leader;

    #[test]
    fn only_what_is_held_back_can_be_confirmed() {
        let mut launchers = Launchers::default();
        let reported = |launchers: &Launchers| match held_back(launchers) {
            Ok(held) => held,
            Err(error) => format!("error: {error}"),
        };
        assert!(reported(&launchers).starts_with("error: there is no container-launcher"));
        launchers.are_there = true;
        assert!(reported(&launchers).starts_with("error: no container-launcher leads"));
        let mut launching = Launching {
            leading: true,
            ..Launching::default()
        };
        for (guard, expected) in [
            (None, "error: the container-launcher of host-1 withholds nothing"),
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
            assert_eq!(reported(&launchers), expected);
        }
    }

    #[test]
    fn what_several_routers_keep_is_reported_for_each() {
        let (one, two) = ("one".parse().unwrap(), "two".parse().unwrap());
        let kept_so = |alarm: &str| {
            let mut status = Status::default();
            status.detail.insert("guard".to_owned(), alarm.into());
            Kept::of(&status)
        };
        let all = [
            (Daemon::HaproxyUpdater, &one, kept_so("1 vanished")),
            (Daemon::DnsUpdater, &two, kept_so("2 have\nvanished")),
        ];
        assert_eq!(
            kept(all.into_iter()).unwrap(),
            "the haproxy-updater of one: 1 vanished\nthe dns-updater of two: 2 have\\nvanished"
        );
        assert!(kept([].into_iter()).is_err());
    }
}

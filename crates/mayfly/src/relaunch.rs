//! `mayfly relaunch`: an operator's request that a container-launcher starts its containers of a
//! backend again from the current image, because CI has pushed another one under the same tag. The
//! request is a key, which the launcher deletes when it is done. If it fails, the launcher first
//! reports why in its status record.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use mayfly_core::keys::Key;
use mayfly_core::launching::{OperatorRequest, Phase};
use mayfly_core::names::ServiceName;
use mayfly_core::nearest::nearest;
use mayfly_core::records;
use mayfly_core::records::lifetime::Moment;
use mayfly_core::version::{BackendId, Version};
use mayfly_daemon::args::{CommonArgs, duration};
use mayfly_daemon::output::{self, complain, printable};
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::store::Store;
use mayfly_daemon::watch::{WatchOptions, watch};
use tokio::time::{Instant, sleep_until};

use mayfly_state::launchers::{self, Launchers};
use mayfly_state::state::State;

/// Backends that a message names.
const MOST_NAMED: usize = 10;

const EXAMPLES: &str = "\
Examples:
  mayfly relaunch backend pr-12                  after CI has pushed another image as backend:pr-12
  mayfly relaunch backend pr-12 --wait 2min      returns when the new containers answer and the old ones are gone
  mayfly status                                  shows the launcher's progress

Exit codes: 0 requested, or with --wait done; 1 no container-launcher runs the version or may start it, the launcher
gave up, the time of --wait is over, or etcd does not answer; 2 wrong command line.";

/// Replaces the containers of a service's version with new containers from its current image
///
/// Use this command after an image was pushed again under the same tag. The container-launcher
/// pulls the image and starts new containers. If it cannot pull the image, it uses the image that
/// its engine has, and reports this. When the new containers answer, the launcher retires the old
/// containers. So no request fails. If the new containers do not answer, the old containers stay.
/// With `--pull never` the launcher uses the image that its engine has. Containers that other
/// programs started are not touched.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The service to start again
    #[arg(value_name = "SERVICE")]
    pub service: ServiceName,

    /// The version of the service, spelled as in environment files
    #[arg(value_name = "VERSION")]
    pub version: Version,

    /// Waits for the new instances, at most this long, such as 2min [default: does not wait]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub wait: Option<Duration>,
}

/// Gives the word, and waits for the deed where that is wanted.
///
/// # Errors
/// When no launcher runs it or may start it, or etcd does not answer.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let backend = BackendId {
        service: args.service.clone(),
        version: args.version.clone(),
    };
    let state = State::read(&store, 1).await?;
    let what = wanted(&backend, &state.launchers(), state.asks_for(&backend))?;
    let word = OperatorRequest {
        by: common.node()?,
        at: Moment::of(SystemTime::now()),
    };
    let revision = store
        .put(&Key::Relaunch(backend.clone()), records::to_json(&word), None)
        .await
        .context("cannot write the request")?;
    output::print(&format!("{what}\n"))?;
    match args.wait {
        Some(limit) => follow(&store, &backend, revision, limit, shutdown).await,
        None => Ok(ExitCode::SUCCESS),
    }
}

/// What is going to happen; else why nothing would.
fn wanted(backend: &BackendId, launchers: &Launchers, is_asked_for: bool) -> anyhow::Result<String> {
    let leader = launchers.leads()?;
    let BackendId { service, version } = backend;
    let said = match leader.launching.backend(backend) {
        Some(said) => said,
        // It may be one of those that the record has no room for.
        None if leader.launching.more > 0 && is_asked_for => {
            return Ok(format!(
                "the container-launcher of {} is asked to launch {backend} again",
                leader.node
            ));
        }
        None => {
            let known: Vec<&str> = leader.launching.backends.keys().map(String::as_str).collect();
            let meant = match (nearest(&backend.to_string(), &known), known.as_slice()) {
                (Some(known), _) => format!("did you mean {}?", known.replacen('@', " ", 1)),
                (None, []) => "it launches nothing".to_owned(),
                (None, known) => {
                    let named = &known[..known.len().min(MOST_NAMED)];
                    let more = if known.len() > named.len() { ", ..." } else { "" };
                    format!("it launches {}{more}", named.join(", "))
                }
            };
            bail!(
                "the container-launcher of {} runs no container of {service} {version}: {}",
                leader.node,
                printable(&meant)
            );
        }
    };
    match &said.phase {
        Phase::NoDefinition => bail!(
            "{service} has no service definition, so the launcher cannot start {service}: add a service definition"
        ),
        Phase::Foreign => bail!(
            "another program started {backend}, and the launcher never touches \
             such containers: replace them with that program"
        ),
        _ if !is_asked_for => bail!(
            "no environment names version {version} of {service}, so the launcher starts no new container \
             of this version"
        ),
        _ => {}
    }
    // None has failed, so it is not even tried. Of a definition that is newer than what the
    // launcher says it may think otherwise.
    if let (0, Some(reason), true) = (said.failures, &said.failure, leader.is_current) {
        bail!(
            "the container-launcher of {} is not allowed to start {backend}: {}",
            leader.node,
            printable(reason)
        );
    }
    Ok(format!(
        "the container-launcher of {} launches {backend} again from its current image; the old \
         container stays until the new container answers (`mayfly status`)",
        leader.node
    ))
}

/// Waits until the launcher has taken the word back, and says whether it is done or given up. What
/// fails meanwhile is reported.
async fn follow(
    store: &Store,
    backend: &BackendId,
    revision: i64,
    limit: Duration,
    shutdown: &Shutdown,
) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + limit;
    let mut following = watch(store, store.keyspace().everything(), WatchOptions::default());
    let mut state = State::new(store.keyspace(), 1);
    let mut last = String::new();
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(ExitCode::from(130)),
            () = sleep_until(deadline) => {
                let limit = humantime::format_duration(limit);
                complain(&format!("error: {backend} was not launched again within {limit}: {last}"));
                let all = state.launchers();
                let output = all.backend(backend).map(|said| (backend.to_string(), said.clone()));
                complain(&launchers::outputs(output.iter().map(|(name, said)| (name, said))));
                return Ok(ExitCode::FAILURE);
            }
            batch = following.next_batch_coalesced() => state.take(batch),
        }
        let all = state.launchers();
        // Another word that came later is waited for as well.
        if state.revision >= revision && !state.is_to_be_relaunched(backend) {
            let leader = all.leader.as_ref();
            let given_up = leader.and_then(|leader| leader.launching.given_up(backend, revision));
            if let Some(reason) = given_up {
                let reason = printable(reason);
                complain(&format!("error: {backend} was not launched again: {reason}"));
                return Ok(ExitCode::FAILURE);
            }
            let not_pulled = all.backend(backend).and_then(|said| said.not_pulled.as_deref());
            output::print(&done(backend, not_pulled))?;
            return Ok(ExitCode::SUCCESS);
        }
        let now = match (all.leader.as_ref(), all.backend(backend)) {
            (None, _) => launchers::NONE_LEADS.to_owned(),
            (_, Some(said)) => launchers::words(said),
            (_, None) => format!("the container-launcher reports nothing about {backend}"),
        };
        if now != last {
            complain(&format!("waiting: {now}"));
            last = now;
        }
    }
}

/// That it is done, and with which image if that may not be the one that was meant.
fn done(backend: &BackendId, not_pulled: Option<&str>) -> String {
    match not_pulled {
        None => format!("{backend} was launched again\n"),
        Some(reason) => format!(
            "{backend} was launched again, from the image that the engine had: {}\n",
            printable(reason)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::launching::{Backend, Launching};
    use mayfly_state::launchers::Leader;

    fn leading(phase: Phase, more: usize) -> Launchers {
        let backend = Backend {
            phase,
            wanted: 1,
            live: 1,
            images: [].into(),
            failures: 0,
            failure: None,
            next_try: None,
            output: Vec::new(),
            not_pulled: None,
        };
        Launchers {
            are_there: true,
            leader: Some(Leader {
                node: "host-1".parse().unwrap(),
                is_current: true,
                launching: Launching {
                    leading: true,
                    backends: [("backend@pr-12".to_owned(), backend)].into(),
                    more,
                    ..Launching::default()
                },
            }),
        }
    }

    #[test]
    fn an_image_that_was_not_pulled_is_named() {
        let done = |reason| done(&"a@1".parse().unwrap(), reason);
        assert_eq!(done(None), "a@1 was launched again\n");
        assert_eq!(
            done(Some("cannot pull image a:1: no such host")),
            "a@1 was launched again, from the image that the engine had: cannot pull image a:1: no such host\n"
        );
    }

    #[test]
    fn only_what_a_launcher_runs_can_be_launched_again() {
        let refused = |backend: &str, launchers: &Launchers, is_asked_for: bool| match wanted(
            &backend.parse().unwrap(),
            launchers,
            is_asked_for,
        ) {
            Ok(what) => what,
            Err(error) => format!("error: {error}"),
        };
        let running = leading(Phase::Running, 0);
        let with_failure = |failures: usize, is_current: bool| {
            let mut launchers = running.clone();
            let leader = launchers.leader.as_mut().unwrap();
            leader.is_current = is_current;
            let said = leader.launching.backends.get_mut("backend@pr-12").unwrap();
            said.failures = failures;
            said.failure = Some("image x is not allowed here\n".to_owned());
            launchers
        };
        for (backend, launchers, is_asked_for, expected) in [
            (
                "backend@pr-12",
                &running,
                true,
                "the container-launcher of host-1 launches backend@pr-12 again",
            ),
            (
                "backend@pr-12",
                &leading(Phase::Starting, 0),
                true,
                "the container-launcher of host-1 launches",
            ),
            (
                "backend@pr-12",
                &running,
                false,
                "error: no environment names version pr-12 of backend",
            ),
            (
                "backend@pr-12",
                &with_failure(0, true),
                true,
                "error: the container-launcher of host-1 is not allowed to start backend@pr-12: \
                 image x is not allowed here\\n",
            ),
            // The definition may be mended by now; and what was tried may be tried again.
            (
                "backend@pr-12",
                &with_failure(0, false),
                true,
                "the container-launcher of host-1 launches",
            ),
            (
                "backend@pr-12",
                &with_failure(2, true),
                true,
                "the container-launcher of host-1 launches",
            ),
            (
                "backend@pr-13",
                &running,
                true,
                "backend pr-13: did you mean backend pr-12?",
            ),
            ("zzz@1", &running, true, "zzz 1: it launches backend@pr-12"),
            (
                "zzz@1",
                &leading(Phase::Running, 7),
                true,
                "host-1 is asked to launch zzz@1 again",
            ),
            (
                "backend@pr-12",
                &leading(Phase::NoDefinition, 0),
                true,
                "error: backend has no service definition",
            ),
            (
                "backend@pr-12",
                &leading(Phase::Foreign, 0),
                true,
                "error: another program started backend@pr-12",
            ),
            (
                "backend@1",
                &Launchers::default(),
                true,
                "error: there is no container-launcher",
            ),
        ] {
            let refused = refused(backend, launchers, is_asked_for);
            assert!(refused.contains(expected), "{refused}");
        }
    }
}

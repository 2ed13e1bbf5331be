//! Reloads HAProxy through its master socket, and finds out whether the new configuration is in
//! force. From HAProxy 2.7 on the answer says so; up to 2.6 the connection is dropped, and `show
//! proc` shows it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use mayfly_daemon::advice::Advised;
use tokio::time::{Instant, sleep};

use crate::haproxy::answers;
use crate::haproxy::sockets::{Socket, Trouble};
use crate::haproxy::tokens::ConfigPath;

/// What a reload led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// A new process serves with the files as they are.
    Done,
    /// HAProxy kept the old process; the reason, if it gave one.
    Refused(String),
}

/// How long HAProxy may take to load its configuration; half a million rows took 0.3 s.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a master may not answer before it counts as gone.
const AWAY_LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);

/// Makes HAProxy load its files again.
///
/// # Errors
/// When the master process cannot be reached, or does not finish the reload in time.
pub async fn reload(socket: &ConfigPath) -> anyhow::Result<Reload> {
    let master = Socket::new(socket);
    let before = first_answer(&master).await?;
    let answer = match master.ask_master("reload\n").await {
        Ok(answer) => answer,
        // The master replaces itself while it reloads.
        Err(Trouble::Broken { .. }) => String::new(),
        Err(away) => return Err(away).context("cannot ask HAProxy's master process to reload"),
    };
    if let Some(reload) = outcome(&answer) {
        return Ok(reload);
    }
    let deadline = Instant::now() + LIMIT;
    loop {
        // While the master replaces itself, it does not answer.
        if let Ok(now) = processes(&master).await {
            if now.reloads > before.reloads && now.settled {
                return Ok(match now.failed {
                    0 => Reload::Done,
                    _ => Reload::Refused("see HAProxy's own log for the reason".to_owned()),
                });
            }
        }
        if Instant::now() > deadline {
            bail!("HAProxy's master process did not finish a reload within {LIMIT:?}");
        }
        sleep(POLL).await;
    }
}

/// Asks the processes that a reload has replaced and that still have connections, and gives their
/// answers by their numbers; those that do not answer are left out.
///
/// # Errors
/// When the master process cannot be reached.
pub async fn ask_old_workers(socket: &ConfigPath, request: &str) -> Result<Vec<(u32, String)>, Trouble> {
    let master = Socket::new(socket);
    let mut answers = Vec::new();
    for pid in old_workers(&master.ask_master("show proc\n").await?) {
        let answer = master.ask_master(&format!("@!{pid} {request}\n")).await;
        answers.extend(answer.map(|answer| (pid, answer)));
    }
    Ok(answers)
}

/// The processes below `# old workers`.
fn old_workers(answer: &str) -> Vec<u32> {
    let lines = answer
        .lines()
        .skip_while(|line| !line.starts_with("# old workers"));
    lines
        .skip(1)
        .take_while(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}

async fn processes(master: &Socket) -> anyhow::Result<Processes> {
    let answer = master.ask_master("show proc\n").await?;
    Processes::read(&answer)
}

/// While a master replaces itself after an earlier reload, it does not answer for a moment.
async fn first_answer(master: &Socket) -> anyhow::Result<Processes> {
    let deadline = Instant::now() + AWAY_LIMIT;
    loop {
        match processes(master).await {
            Err(_) if Instant::now() < deadline => sleep(POLL).await,
            Err(error) => {
                return Err(match error.downcast_ref() {
                    Some(Trouble::Away(path)) => {
                        let failure = format!("no master process of HAProxy listens at {path}");
                        Advised::new(failure, "Start HAProxy with -W -S").into()
                    }
                    _ => error.context("cannot ask HAProxy's master process for its processes"),
                });
            }
            processes => return processes,
        }
    }
}

/// The answer to `reload` from 2.7 on: `Success=1` or `Success=0`, a line `--`, and the log of the
/// start.
fn outcome(answer: &str) -> Option<Reload> {
    if answer.starts_with("Success=1") {
        return Some(Reload::Done);
    }
    let log = answer.strip_prefix("Success=0")?;
    Some(Reload::Refused(answers::alerts(log)))
}

/// What `show proc` says: how often the master reloaded, how many of its last tries failed, and
/// whether a worker is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Processes {
    reloads: u64,
    failed: u64,
    settled: bool,
}

impl Processes {
    fn read(answer: &str) -> anyhow::Result<Self> {
        let master = answer
            .lines()
            .find(|line| line.split_whitespace().nth(1) == Some("master"));
        let master = master.with_context(|| format!("`show proc` shows no master: {answer:.100}"))?;
        let mut words = master.split_whitespace().skip(2);
        let reloads = words
            .next()
            .and_then(|word| word.parse().ok())
            .context("`show proc` shows no number of reloads")?;
        let failed = master
            .split_once("[failed: ")
            .and_then(|(_, rest)| rest.split_once(']'));
        let failed = failed
            .and_then(|(number, _)| number.trim().parse().ok())
            .unwrap_or(0);
        let settled = answer
            .lines()
            .any(|line| line.split_whitespace().nth(1) == Some("worker"));
        Ok(Self {
            reloads,
            failed,
            settled,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_from_2_7_on() {
        assert_eq!(
            outcome("Success=1\n--\n[NOTICE] (1) : Loading success.\n"),
            Some(Reload::Done)
        );
        let refused =
            outcome("Success=0\n--\n[NOTICE] (1) : x\n[ALERT] (1) : config : unknown keyword 'bogus'\n");
        assert_eq!(
            refused,
            Some(Reload::Refused(
                "[ALERT] (1) : config : unknown keyword 'bogus'".into()
            ))
        );
        assert_eq!(outcome(""), None);
    }

    #[test]
    fn processes_that_were_replaced() {
        let answer = "#<PID> <type> <reloads>\n1 master 2\n# workers\n40 worker 0\n# old workers\n38 worker 1\n\
                      39 worker 2\n# programs\n7 x 1\n\n";
        assert_eq!(old_workers(answer), [38, 39]);
        assert_eq!(
            old_workers("#<PID>\n1 master 0\n# workers\n40 worker 0\n"),
            [0u32; 0]
        );
    }

    #[test]
    fn processes_of_2_6() {
        let text = |failed, worker| {
            format!(
                "#<PID>          <type>          <reloads>       <uptime>        <version>\n\
                 25605           master          2 [failed: {failed}]   0d00h11m44s     2.6.12-1+deb12u4\n# workers\n{worker}# programs\n\n"
            )
        };
        let worker = "12857           worker          1               0d00h00m04s     2.6.12-1+deb12u4\n";
        assert_eq!(
            Processes::read(&text(1, worker)).unwrap(),
            Processes {
                reloads: 2,
                failed: 1,
                settled: true
            }
        );
        assert_eq!(
            Processes::read(&text(0, "")).unwrap(),
            Processes {
                reloads: 2,
                failed: 0,
                settled: false
            }
        );
        assert!(Processes::read("Unknown command\n").is_err());
    }

    proptest! {
        /// Whatever the master says: nothing panics, and a reload counts as done only where it says
        /// so.
        #[test]
        fn any_answer_of_the_master_is_read_to_its_end(answer in "(Success=[01]|# old workers|# workers|master|worker|\\[failed: |\\]|[0-9]{1,25}|[ \t\n#<>-]|\\PC){0,40}") {
            let done = outcome(&answer) == Some(Reload::Done);
            prop_assert_eq!(done, answer.starts_with("Success=1"));
            if let Some(Reload::Refused(reason)) = outcome(&answer) {
                prop_assert!(reason.chars().count() <= 1_000);
            }
            let _ = Processes::read(&answer);
            prop_assert!(old_workers(&answer).len() <= answer.lines().count());
        }
    }
}

//! A child process that cannot outlive its test: it is killed, with all of its process group, when dropped, and
//! by the kernel when the test itself is killed. Its output goes to a file, whose end is printed when the test
//! panics.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal as Raw, kill_process, kill_process_group};

/// Lines of a child's output that are shown when a test fails.
const TAIL: usize = 40;

/// The signals that tests send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: asks for an orderly end.
    Term,
    /// SIGINT: as Ctrl-C.
    Int,
    /// SIGKILL: a crash.
    Kill,
    /// SIGSTOP: freezes the process; its connections stay open and silent.
    Stop,
    /// SIGCONT: thaws it.
    Cont,
    Hup,
    /// SIGUSR1: makes HAProxy finish its requests and end.
    Usr1,
    /// SIGUSR2: makes HAProxy's master reload, as systemd's `ExecReload` does.
    Usr2,
}

impl From<Signal> for Raw {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Term => Raw::TERM,
            Signal::Int => Raw::INT,
            Signal::Kill => Raw::KILL,
            Signal::Stop => Raw::STOP,
            Signal::Cont => Raw::CONT,
            Signal::Hup => Raw::HUP,
            Signal::Usr1 => Raw::USR1,
            Signal::Usr2 => Raw::USR2,
        }
    }
}

/// The path of a program of the workspace, in `target/<profile>/` beside the running test.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("find the running test")?;
    // A test is target/<profile>/deps/<test>-<hash>; an example or a binary stands one level higher.
    let directory = test.parent().context("the test's directory")?;
    let directory = if directory.ends_with("deps") {
        directory.parent().context("its parent")?
    } else {
        directory
    };
    let path = directory.join(name);
    ensure!(
        path.exists(),
        "{} does not exist: run `cargo build --workspace` first",
        path.display()
    );
    Ok(path)
}

/// A running (or ended) child process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` (its program, arguments, working directory and variables) with `log` as its output, to
    /// which it appends. Of the test's own environment it sees only PATH.
    ///
    /// The kernel kills the child when the *thread* that started it ends: call this from the test's own thread.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("open the log {}", log.display()))?;
        let program = command.get_program();
        let mut wrapped = clean("setpriv");
        wrapped
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            wrapped.current_dir(directory);
        }
        let child = wrapped
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {name} by setpriv (of util-linux)"))?;
        let pid = Pid::from_child(&child);
        Ok(Self {
            name: name.into(),
            child,
            pid,
            log: log.into(),
            ended: None,
        })
    }

    /// What the test calls this process.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process itself.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if !self.is_running() {
            bail!("send {signal:?} to {}: it has ended: {:?}", self.name, self.ended);
        }
        kill_process(self.pid, signal.into()).with_context(|| format!("send {signal:?} to {}", self.name))?;
        if signal == Signal::Stop {
            wait_until_stopped(self.id()).with_context(|| self.name.clone())?;
        }
        Ok(())
    }
    /// Whether the process has not ended yet.
    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.is_none()
    }

    /// Waits until the process has ended.
    ///
    /// # Errors
    /// When it has not within `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if !self.is_running() {
                return self.ended.context("the end of a process");
            }
            if start.elapsed() > limit {
                bail!("{} has not ended within {limit:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills the process and all of its group (SIGKILL), as a crash would, and waits for its end.
    ///
    /// # Errors
    /// When it has ended before, or does not end.
    pub async fn kill9(&mut self) -> Result<()> {
        if !self.is_running() {
            bail!("kill {}: it has ended: {:?}", self.name, self.ended);
        }
        kill_process_group(self.pid, Raw::KILL).with_context(|| format!("kill {}", self.name))?;
        self.wait(Duration::from_secs(10)).await.map(drop)
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// When it has ended before, or does not end within `limit`.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::Term)?;
        self.wait(limit).await
    }

    /// All that the process has printed so far.
    pub fn output(&self) -> String {
        std::fs::read(&self.log)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    }

    fn end(&mut self) {
        if self.is_running() {
            // A process group that is gone already is what we want.
            let _ = kill_process_group(self.pid, Raw::KILL);
            let _ = self.child.wait();
        }
    }
}

/// Waits until every thread of a process has stopped: SIGSTOP does not stop all of them in the same moment.
///
/// # Errors
/// When they do not within about a second.
pub(crate) fn wait_until_stopped(id: u32) -> Result<()> {
    let tasks = format!("/proc/{id}/task");
    for _ in 0..1000 {
        let mut threads = std::fs::read_dir(&tasks).context("list the threads")?;
        let stopped = threads.all(|thread| {
            let stat = thread.and_then(|thread| std::fs::read_to_string(thread.path().join("stat")));
            // After the program's name, which is in parentheses, stands the state.
            stat.is_ok_and(|stat| stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")))
        });
        if stopped {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("process {id} does not stop")
}

impl Drop for Process {
    fn drop(&mut self) {
        let state = match (self.is_running(), self.ended) {
            (true, _) | (_, None) => "running".into(),
            (_, Some(status)) => match status.signal() {
                Some(signal) => format!("ended by signal {signal}"),
                None => format!("ended, {status}"),
            },
        };
        self.end();
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n    ");
            eprintln!(
                "--- {} (was {state}; last lines of {})\n    {tail}",
                self.name,
                lines.len()
            );
        }
    }
}

/// What a command that ended has left.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Standard output, if the command succeeded.
    ///
    /// # Errors
    /// When the exit code is not 0, with all that was printed.
    pub fn ok(self) -> Result<String> {
        if self.code != Some(0) {
            bail!(
                "exit code {:?}\nstdout: {}\nstderr: {}",
                self.code,
                self.stdout,
                self.stderr
            );
        }
        Ok(self.stdout)
    }
}

/// Runs a command to its end; of the test's own environment it sees only PATH.
///
/// # Errors
/// When it cannot be started or has not ended within `limit` (it is killed then).
pub async fn run(command: &Command, limit: Duration) -> Result<Finished> {
    let mut plain = clean(command.get_program());
    plain.args(command.get_args());
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            plain.env(key, value);
        }
    }
    if let Some(directory) = command.get_current_dir() {
        plain.current_dir(directory);
    }
    plain.stdin(Stdio::null());
    let mut command = tokio::process::Command::from(plain);
    command.kill_on_drop(true);
    let output = tokio::time::timeout(limit, command.output())
        .await
        .with_context(|| format!("{command:?} has not ended within {limit:?}"))?
        .with_context(|| format!("run {command:?}"))?;
    Ok(Finished {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// A command that sees of the environment only PATH: a MAYFLY_* variable of the developer's must not change a test.
fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn a_dropped_process_takes_its_children_along() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let process = Process::spawn("sh", &shell("sleep 300 & echo $!; wait"), &log).unwrap();
        let child: i32 = crate::eventually(Duration::from_secs(5), "the child's id", async || {
            process.output().trim().parse::<i32>()
        })
        .await;
        drop(process);
        crate::eventually(Duration::from_secs(5), "the grandchild is gone", async || {
            // A zombie that init has not reaped yet still has a directory, but no command line.
            std::fs::read(format!("/proc/{child}/cmdline"))
                .unwrap_or_default()
                .is_empty()
        })
        .await;
    }

    #[tokio::test]
    async fn signals_waits_and_output() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
        let mut process = Process::spawn("sh", &shell(script), &log).unwrap();
        assert!(process.wait(Duration::from_millis(20)).await.is_err());
        crate::eventually(Duration::from_secs(5), "ready", async || {
            process.output().contains("ready")
        })
        .await;
        let status = process.terminate(Duration::from_secs(5)).await.unwrap();
        assert_eq!(status.code(), Some(7));
        assert!(process.output().ends_with("bye\n"));
        assert!(process.signal(Signal::Hup).is_err());
    }

    #[tokio::test]
    async fn a_command_runs_in_a_clean_environment() {
        let done = run(
            shell("echo out; echo err >&2; exit 3").env("A", "b"),
            Duration::from_secs(5),
        )
        .await
        .unwrap();
        assert_eq!(
            (done.code, done.stdout.as_str(), done.stderr.as_str()),
            (Some(3), "out\n", "err\n")
        );
        let variables = run(
            &shell("env | cut -d= -f1 | sort | tr '\n' ' '"),
            Duration::from_secs(5),
        )
        .await
        .unwrap();
        assert!(!variables.stdout.contains("CARGO"), "{}", variables.stdout);
        assert!(run(&shell("sleep 5"), Duration::from_millis(20)).await.is_err());
    }
}

//! A real HAProxy in master-worker mode on the configuration that haproxy-updater wrote, with ways to restart,
//! reload and kill it behind the updater's back, and to ask what it holds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::eventually;
use crate::process::{Process, Signal};
use crate::user::User;

/// Limit for one command on a socket, and for a start.
const LIMIT: Duration = Duration::from_secs(10);

/// A running (or killed) HAProxy.
#[derive(Debug)]
pub struct Haproxy {
    config: PathBuf,
    master: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    /// Who runs it, if a test has said so.
    pub user: Option<User>,
    process: Option<Process>,
}

impl Haproxy {
    /// An HAProxy that does not run yet: on `config`, with its master socket at `master`. `socket` is where the
    /// configuration puts the run-time socket; the log goes into `directory`.
    pub fn new(config: &Path, master: &Path, socket: &Path, directory: &Path) -> Self {
        Self {
            config: config.into(),
            master: master.into(),
            socket: socket.into(),
            log: directory.join("haproxy.log"),
            user: None,
            process: None,
        }
    }

    /// Waits until the configuration exists, starts HAProxy and waits until its run-time socket answers.
    ///
    /// # Errors
    /// When it runs already, or the program `haproxy` is missing.
    pub async fn start(&mut self) -> Result<()> {
        ensure!(
            self.process.as_mut().is_none_or(|p| !p.is_running()),
            "HAProxy runs already"
        );
        let config = &self.config;
        eventually(LIMIT, "haproxy-updater has written haproxy.cfg", async || {
            config.exists()
        })
        .await;
        let mut command = Command::new("haproxy");
        command
            .args(["-W", "-db", "-S"])
            .arg(format!("{},mode,660", self.master.display()))
            .arg("-f")
            .arg(&self.config);
        if let Some(user) = self.user {
            let directory = self.log.parent().context("the directory of the log")?;
            command = user.wrap(&command, directory)?;
        }
        let mut process = Process::spawn("haproxy", &command, &self.log)?;
        let this = &*self;
        eventually(LIMIT, "HAProxy's run-time socket answers", async || {
            if !process.is_running() {
                panic!("HAProxy does not start: {}", process.output());
            }
            this.info().await
        })
        .await;
        self.process = Some(process);
        Ok(())
    }

    /// Kills master and workers at once.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill9(&mut self) -> Result<()> {
        self.running()?.kill9().await
    }

    /// Kills HAProxy and starts it again on the files that lie there.
    ///
    /// # Errors
    /// When it does not run or does not start.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill9().await?;
        self.start().await
    }

    /// Reloads behind the updater's back (SIGUSR2 to the master) and waits until a new worker answers.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn reload(&mut self) -> Result<()> {
        let before = self.worker().await?;
        self.running()?.signal(Signal::Usr2)?;
        let this = &*self;
        eventually(LIMIT, "a new worker answers", async || {
            this.worker().await.is_ok_and(|now| now != before)
        })
        .await;
        Ok(())
    }

    fn running(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("HAProxy was never started")
    }

    /// Whether the master runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::is_running)
    }

    /// All that its processes have logged.
    pub fn output(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }

    /// Runs a command on the run-time socket.
    ///
    /// # Errors
    /// When the socket does not answer within 10 s.
    pub async fn ask(&self, command: &str) -> Result<String> {
        ask(&self.socket, command).await
    }

    /// Runs a command on the master's socket.
    ///
    /// # Errors
    /// When the socket does not answer within 10 s.
    pub async fn ask_master(&self, command: &str) -> Result<String> {
        ask(&self.master, command).await
    }

    /// `show info` as pairs.
    ///
    /// # Errors
    /// When the socket does not answer.
    pub async fn info(&self) -> Result<BTreeMap<String, String>> {
        let text = self.ask("show info").await?;
        let info: BTreeMap<_, _> = text
            .lines()
            .filter_map(|l| l.split_once(':'))
            .map(|(k, v)| (k.into(), v.trim().into()))
            .collect();
        ensure!(info.contains_key("Pid"), "no answer to `show info`: {text}");
        Ok(info)
    }

    /// The process id of the worker that answers now; a reload changes it.
    ///
    /// # Errors
    /// When the socket does not answer.
    pub async fn worker(&self) -> Result<u32> {
        self.info().await?["Pid"].parse().context("read the worker's id")
    }

    /// The rows of a map file, as the running process has them.
    ///
    /// # Errors
    /// When there is no such map.
    pub async fn map(&self, file: &Path) -> Result<BTreeMap<String, String>> {
        let text = self.ask(&format!("show map {}", file.display())).await?;
        if text.starts_with("Unknown map") {
            bail!("HAProxy has no map {}", file.display());
        }
        let rows = text.lines().filter(|line| !line.is_empty());
        // Each row: an address in memory, the key, the value.
        Ok(rows
            .filter_map(|row| {
                let mut words = row.split_whitespace().skip(1);
                Some((words.next()?.to_owned(), words.collect::<Vec<_>>().join(" ")))
            })
            .collect())
    }

    /// Whether every server at this address is up by its check.
    ///
    /// # Errors
    /// When the socket does not answer, or there is no such server.
    pub async fn is_up(&self, address: &str) -> Result<bool> {
        let text = self.ask("show stat -1 4 -1").await?;
        let columns = text.lines().next().context("the names of columns")?;
        let column = |name: &str| {
            columns
                .trim_start_matches("# ")
                .split(',')
                .position(|c| c == name)
        };
        let (at, status) = (
            column("addr").context("addr")?,
            column("status").context("status")?,
        );
        let rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let mut states = rows
            .filter(|row| row.get(at) == Some(&address))
            .map(|row| row[status])
            .peekable();
        ensure!(states.peek().is_some(), "no server is at {address}");
        Ok(states.all(|state| state.starts_with("UP")))
    }

    /// Every server that the running process has: `slot/server` to `address:port`.
    ///
    /// # Errors
    /// When the socket does not answer.
    pub async fn servers(&self) -> Result<BTreeMap<String, String>> {
        let all = self.server_states().await?.into_iter();
        Ok(all.map(|(name, address, _)| (name, address)).collect())
    }

    /// Whether requests are sent to an address: its server is there, and no check has found it dead.
    ///
    /// # Errors
    /// When the socket does not answer.
    pub async fn sends_to(&self, address: SocketAddr) -> Result<bool> {
        let (all, address) = (self.server_states().await?, address.to_string());
        Ok(all.iter().any(|(_, at, takes)| *at == address && *takes))
    }

    /// The servers by name and address, and whether each takes requests.
    async fn server_states(&self) -> Result<Vec<(String, String, bool)>> {
        let text = self.ask("show servers state").await?;
        // Fields of format 1: be_id be_name srv_id srv_name srv_addr op_state admin_state weight ... srv_port (the 19th).
        let lines = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let rows = lines.filter(|words| words.len() > 18 && words[0].parse::<u32>().is_ok());
        Ok(rows
            .map(|words| {
                let takes = words[5] != "0" && words[6] == "0" && words[7] != "0";
                (
                    format!("{}/{}", words[1], words[3]),
                    format!("{}:{}", words[4], words[18]),
                    takes,
                )
            })
            .collect())
    }
}

pub(crate) async fn ask(socket: &Path, command: &str) -> Result<String> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(LIMIT, exchange)
        .await
        .with_context(|| format!("no answer within {LIMIT:?}"))
        .and_then(|result| result.map_err(Into::into))
        .with_context(|| format!("run `{command}` at {}", socket.display()))
}

//! HAProxy's run-time socket: one connection per request, so that the end of the answer is the end
//! of the connection and a request always reaches the newest process. The errors distinguish that
//! HAProxy is away, refuses, or breaks off.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use mayfly_core::names::EnvironmentName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::haproxy::answers::{self, Info, LeavingServer, MapRows, Process};
use crate::haproxy::calls::{self, CallTable};
use crate::haproxy::commands::{self, Command, RuntimeRequest};
use crate::haproxy::counters::{self, ProcessCounters};
use crate::haproxy::maps::Map;
use crate::haproxy::servers::{ActualServers, Admin};
use crate::haproxy::simulated;
use crate::haproxy::tokens::{ConfigPath, ServerName, Slot, Word};

/// Why HAProxy did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// No process listens at the socket.
    #[error("HAProxy does not listen at {0}")]
    Away(String),
    /// It did not answer, or not to the end.
    #[error("HAProxy's answer at {path} is incomplete: {reason}")]
    Broken { path: String, reason: String },
    /// It answered something else than was expected.
    #[error("HAProxy refused a command: {0}")]
    Refused(String),
}

/// How long an answer may take; showing a map of half a million rows takes a second.
const LIMIT: Duration = Duration::from_secs(20);

/// How long an answer may be, in bytes: five times what HAProxy says of half a million rows.
const LONGEST: u64 = 1 << 28;

#[derive(Debug, Clone)]
pub struct Socket {
    path: PathBuf,
}

impl Socket {
    /// The socket at a path; nothing is opened yet.
    pub fn new(path: &ConfigPath) -> Self {
        Self {
            path: path.as_path().to_owned(),
        }
    }

    /// Sends a request and reads the answer to its end.
    ///
    /// # Errors
    /// When HAProxy is away or breaks off.
    pub async fn ask(&self, request: &str) -> Result<String, Trouble> {
        self.talk(request, false).await
    }

    /// As [`Socket::ask`], and says at once that nothing will follow: a master process up to 2.6
    /// answers only then.
    ///
    /// # Errors
    /// When HAProxy is away or breaks off.
    pub async fn ask_master(&self, request: &str) -> Result<String, Trouble> {
        self.talk(request, true).await
    }

    async fn talk(&self, request: &str, close: bool) -> Result<String, Trouble> {
        let path = || self.path.display().to_string();
        let broken = |reason: String| Trouble::Broken { path: path(), reason };
        let unconnected = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => Trouble::Away(path()),
            _ => broken(error.to_string()),
        };
        if let Some(other) = simulated::at(&self.path) {
            return other.answer(request.to_owned()).await.map_err(unconnected);
        }
        let talk = async {
            let mut stream = UnixStream::connect(&self.path).await.map_err(unconnected)?;
            let mut answer = Vec::new();
            let exchange = async {
                stream.write_all(request.as_bytes()).await?;
                if close {
                    stream.shutdown().await?;
                }
                stream.take(LONGEST + 1).read_to_end(&mut answer).await
            };
            exchange.await.map_err(|error| broken(error.to_string()))?;
            if answer.len() as u64 > LONGEST {
                return Err(broken(format!("the answer has more than {LONGEST} bytes")));
            }
            // Not copied where it is text already: that of a large map has tens of megabytes.
            Ok(String::from_utf8(answer)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
        };
        timeout(LIMIT, talk)
            .await
            .map_err(|_| broken(format!("the answer took longer than {LIMIT:?}")))?
    }
}

/// What a process has, as far as that is cheap to ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// How many rows each map has that Mayfly fills.
    pub rows: BTreeMap<Map, u64>,
    pub servers: BTreeMap<Slot, ActualServers>,
}

/// A running HAProxy, through its run-time socket.
#[derive(Debug, Clone)]
pub struct Runtime {
    socket: Socket,
    maps: ConfigPath,
}

impl Runtime {
    /// HAProxy at a socket, with its maps in a directory.
    pub fn new(socket: &ConfigPath, maps: ConfigPath) -> Self {
        Self {
            socket: Socket::new(socket),
            maps,
        }
    }

    /// Which HAProxy it is.
    ///
    /// # Errors
    /// When HAProxy is away, or the answer cannot be understood; so too for all below.
    pub async fn info(&self) -> Result<Info, Trouble> {
        understand(answers::info(&self.socket.ask("show info\n").await?))
    }

    /// The servers in the slots.
    ///
    /// # Errors
    /// As above.
    pub async fn servers(&self) -> Result<BTreeMap<Slot, ActualServers>, Trouble> {
        understand(answers::servers(&self.socket.ask("show servers state\n").await?))
    }

    /// The files with authorities that are loaded.
    ///
    /// # Errors
    /// As above.
    pub async fn ca_files(&self) -> Result<BTreeSet<String>, Trouble> {
        Ok(answers::ca_files(&self.socket.ask("show ssl ca-file\n").await?))
    }

    /// The rows of a map; `None` of an optional one that the configuration does not look into.
    ///
    /// # Errors
    /// As above.
    pub async fn map(&self, map: Map) -> Result<Option<MapRows>, Trouble> {
        let request = format!("show map {}\n", map.path(&self.maps));
        match answers::map(&self.socket.ask(&request).await?) {
            Err(_) if map.is_optional() => Ok(None),
            rows => understand(rows.context(request.trim().to_owned())).map(Some),
        }
    }

    /// The servers, and how many rows there are.
    ///
    /// # Errors
    /// As above.
    pub async fn sample(&self) -> Result<Sample, Trouble> {
        let servers = self.servers().await?;
        let counts = understand(answers::counts(&self.socket.ask("show map\n").await?))?;
        let ours = Map::ALL
            .into_iter()
            .filter(|map| !matches!(map, Map::Uses | Map::Witness));
        let rows = ours.filter_map(|map| Some((map, *counts.get(&map.path(&self.maps))?)));
        Ok(Sample {
            rows: rows.collect(),
            servers,
        })
    }

    /// Runs commands in order. Stops at the first that HAProxy does not take; what it has is then
    /// in doubt.
    ///
    /// # Errors
    /// As above, and when HAProxy refuses a command.
    pub async fn run(&self, commands: &[Command]) -> Result<(), Trouble> {
        for request in commands::requests(commands, &self.maps) {
            match request {
                RuntimeRequest::Plain(text) => self.expect_taken(&text).await?,
                RuntimeRequest::Replace { path, payloads } => self.replace(&path, &payloads).await?,
            }
        }
        Ok(())
    }

    async fn replace(&self, path: &str, payloads: &[String]) -> Result<(), Trouble> {
        let answer = self.socket.ask(&format!("prepare map {path}\n")).await?;
        let version = answer
            .trim()
            .strip_prefix("New version created: ")
            .and_then(|number| number.parse::<u64>().ok());
        let Some(version) = version else {
            return Err(refused(&format!("prepare map {path}"), &answer));
        };
        for payload in payloads {
            self.expect_taken(&format!("add map @{version} {path} <<\n{payload}\n"))
                .await?;
        }
        self.expect_taken(&format!("commit map @{version} {path}\n"))
            .await
    }

    async fn expect_taken(&self, request: &str) -> Result<(), Trouble> {
        let answer = self.socket.ask(request).await?;
        let complaint = commands::complaint(&answer);
        if complaint.is_empty() {
            return Ok(());
        }
        let first: String = request
            .lines()
            .next()
            .unwrap_or_default()
            .chars()
            .take(120)
            .collect();
        Err(refused(&format!("{first}..."), &complaint))
    }

    /// How many slots the process has.
    ///
    /// # Errors
    /// As above.
    pub async fn slots(&self) -> Result<u32, Trouble> {
        let answer = self.socket.ask("show backend\n").await?;
        let slots = answer.lines().filter_map(|line| line.trim().parse::<Slot>().ok());
        Ok(slots.map(|slot| slot.0).max().unwrap_or(0))
    }

    /// Whether this process was given `token`.
    ///
    /// # Errors
    /// As above.
    pub async fn knows(&self, token: &Word) -> Result<bool, Trouble> {
        let request = format!("show map {}", Map::Witness.path(&self.maps));
        let answer = self.socket.ask(&format!("{request}\n")).await?;
        Ok(understand(answers::map(&answer).context(request))?
            .rows
            .contains_key(token.as_str()))
    }

    /// Gives the process `token`, to recognize it later.
    ///
    /// # Errors
    /// As above.
    pub async fn mark(&self, token: &Word) -> Result<(), Trouble> {
        let path = Map::Witness.path(&self.maps);
        self.expect_taken(&format!("add map {path} {token} 1\n")).await
    }

    /// The environments that requests came for since they were last forgotten; `None` when the
    /// configuration, made from a template of the operator's, does not note it.
    ///
    /// # Errors
    /// As above.
    pub async fn uses(&self) -> Result<Option<BTreeSet<EnvironmentName>>, Trouble> {
        let request = format!("{}\n", self.uses_request());
        Ok(answers::uses(&self.socket.ask(&request).await?))
    }

    /// The command that shows the uses, as for [`crate::haproxy::master::ask_old_workers`].
    pub fn uses_request(&self) -> String {
        format!("show map {}", Map::Uses.path(&self.maps))
    }

    /// Forgets that requests came for these environments.
    ///
    /// # Errors
    /// As above.
    pub async fn forget_uses(&self, names: &BTreeSet<EnvironmentName>) -> Result<(), Trouble> {
        let words = names.iter().filter_map(|name| name.as_str().parse().ok());
        let commands: Vec<Command> = words
            .map(|key| Command::DeleteRow { map: Map::Uses, key })
            .collect();
        for request in commands::requests(&commands, &self.maps) {
            if let RuntimeRequest::Plain(text) = request {
                // A process that was started since has no such row, and says so.
                self.socket.ask(&text).await?;
            }
        }
        Ok(())
    }

    /// The calls without an environment that the process has counted, and which process that is;
    /// `None` when the configuration, made from a template of the operator's, does not count them.
    ///
    /// # Errors
    /// As above.
    pub async fn lost_calls(&self) -> Result<Option<(Process, CallTable)>, Trouble> {
        let answer = self.socket.ask(&format!("show info; {}\n", calls::SHOW)).await?;
        // `show info` ends with an empty line.
        let (info, table) = answer.split_once("\n\n").unwrap_or((answer.as_str(), ""));
        let Some(counted) = understand(calls::table(table))? else {
            return Ok(None);
        };
        Ok(Some((understand(answers::process(info))?, counted)))
    }

    /// What the process has counted.
    ///
    /// # Errors
    /// As above.
    pub async fn counters(&self) -> Result<ProcessCounters, Trouble> {
        let answer = self.socket.ask(&format!("{}\n", counters::ALL)).await?;
        understand(counters::reading(&answer))
    }

    /// The mean time of some slots, as their servers have counted it.
    ///
    /// # Errors
    /// As above.
    pub async fn means_of_servers(&self, slots: &[Slot]) -> Result<BTreeMap<Slot, u64>, Trouble> {
        let commands: Vec<String> = slots
            .iter()
            .map(|slot| format!("show stat {slot} 4 -1"))
            .collect();
        let answer = self.socket.ask(&format!("{}\n", commands.join(";"))).await?;
        understand(counters::means_of_servers(&answer))
    }

    /// What decides whether the leaving servers of a slot can be removed.
    ///
    /// # Errors
    /// As above.
    pub async fn leaving(&self, slot: Slot) -> Result<BTreeMap<ServerName, LeavingServer>, Trouble> {
        let connections = self.socket.ask(&format!("show servers conn {slot}\n")).await?;
        let state = self.socket.ask(&format!("show servers state {slot}\n")).await?;
        understand(answers::leaving(&connections, &state))
    }

    /// The servers that are checked, and whether they were found dead.
    ///
    /// # Errors
    /// As above.
    pub async fn found_dead(&self) -> Result<BTreeMap<(Slot, ServerName), bool>, Trouble> {
        understand(answers::found_dead(
            &self.socket.ask("show servers state\n").await?,
        ))
    }

    /// The same of some slots alone, unless they are many.
    ///
    /// # Errors
    /// As above.
    pub async fn found_dead_in(
        &self,
        slots: &BTreeSet<Slot>,
    ) -> Result<BTreeMap<(Slot, ServerName), bool>, Trouble> {
        /// To ask for each alone costs a connection.
        const MANY: usize = 50;
        if slots.len() > MANY {
            return self.found_dead().await;
        }
        let mut found = BTreeMap::new();
        for slot in slots {
            let answer = self.socket.ask(&format!("show servers state {slot}\n")).await?;
            found.extend(understand(answers::found_dead(&answer))?);
        }
        Ok(found)
    }

    /// Disables a server.
    ///
    /// # Errors
    /// As above.
    pub async fn disable(&self, slot: Slot, name: &ServerName) -> Result<(), Trouble> {
        let disable = Command::SetState {
            slot,
            name: name.clone(),
            admin: Admin::Maint,
        };
        self.answers(&[disable]).await.map(drop)
    }

    /// Ends the requests that a server has, also those that are about to reach it.
    ///
    /// # Errors
    /// As above.
    pub async fn end_requests(&self, slot: Slot, name: &ServerName) -> Result<(), Trouble> {
        let end = Command::ShutdownSessions {
            slot,
            name: name.clone(),
        };
        self.answers(&[end]).await.map(drop)
    }

    /// Deletes a disabled server if it has no connection left, and says whether it did.
    ///
    /// # Errors
    /// As above.
    pub async fn delete(&self, slot: Slot, name: &ServerName) -> Result<bool, Trouble> {
        let command = Command::DeleteServer {
            slot,
            name: name.clone(),
        };
        let answer = self.answers(&[command]).await?;
        if answer.contains("Server deleted.") || answer.contains("No such server.") {
            return Ok(true);
        }
        if answer.contains("still has") || answer.contains("not removable") {
            return Ok(false);
        }
        Err(refused(&format!("del server {slot}/{name}"), &answer))
    }

    async fn answers(&self, commands: &[Command]) -> Result<String, Trouble> {
        let mut answer = String::new();
        for request in commands::requests(commands, &self.maps) {
            if let RuntimeRequest::Plain(text) = request {
                answer.push_str(&self.socket.ask(&text).await?);
            }
        }
        Ok(answer)
    }
}

fn understand<T>(read: anyhow::Result<T>) -> Result<T, Trouble> {
    read.map_err(|error| Trouble::Refused(without_stop(&format!("{error:#}"))))
}

fn refused(command: &str, answer: &str) -> Trouble {
    Trouble::Refused(format!("{command}: {}", without_stop(answer)))
}

/// Some of HAProxy's answers are sentences; messages are none.
fn without_stop(answer: &str) -> String {
    answer.trim().trim_end_matches('.').to_owned()
}

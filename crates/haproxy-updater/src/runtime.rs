//! HAProxy's run-time socket: one connection per request, so that the end of the answer is the end of the connection
//! and a request always reaches the newest process. Whether HAProxy is away, refuses, or breaks off are different things.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use mayfly_core::names::EnvironmentName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::command::{self, Command, Request};
use crate::engine::glance::Glance;
use crate::model::{Actual, Admin, Map};
use crate::read::{self, Info, Leaving};
use crate::text::{ConfigPath, ServerName, Slot, Word};

/// Why HAProxy did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Nobody listens at the socket.
    #[error("haproxy does not listen at {0}")]
    Away(String),
    /// It did not answer, or not to the end.
    #[error("haproxy gave no whole answer at {path}: {reason}")]
    Broken {
        /// The socket.
        path: String,
        /// What happened.
        reason: String,
    },
    /// It answered something else than was expected.
    #[error("haproxy refused a command: {0}")]
    Refused(String),
}

/// How long an answer may take; showing a map of half a million rows takes a second.
const LIMIT: Duration = Duration::from_secs(20);

/// How long an answer may be, in octets: five times what HAProxy says of half a million rows.
const LONGEST: u64 = 1 << 28;

/// A socket of HAProxy.
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

    /// As [`Socket::ask`], and says at once that nothing will follow: a master process up to 2.6 answers only then.
    ///
    /// # Errors
    /// When HAProxy is away or breaks off.
    pub async fn ask_master(&self, request: &str) -> Result<String, Trouble> {
        self.talk(request, true).await
    }

    async fn talk(&self, request: &str, close: bool) -> Result<String, Trouble> {
        let path = || self.path.display().to_string();
        let broken = |reason: String| Trouble::Broken { path: path(), reason };
        let talk = async {
            let mut stream = UnixStream::connect(&self.path)
                .await
                .map_err(|error| match error.kind() {
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused => Trouble::Away(path()),
                    _ => broken(error.to_string()),
                })?;
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
                return Err(broken(format!("it has more than {LONGEST} octets")));
            }
            // Not copied where it is text already: that of a large map has tens of megabytes.
            Ok(String::from_utf8(answer)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
        };
        timeout(LIMIT, talk)
            .await
            .map_err(|_| broken(format!("nothing within {LIMIT:?}")))?
    }
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
        understand(read::info(&self.socket.ask("show info\n").await?))
    }

    /// Reads all that HAProxy has.
    ///
    /// # Errors
    /// As above.
    pub async fn read(&self) -> Result<Actual, Trouble> {
        let servers = understand(read::servers(&self.socket.ask("show servers state\n").await?))?;
        let ca_files = read::ca_files(&self.socket.ask("show ssl ca-file\n").await?);
        let mut actual = Actual {
            servers,
            ca_files,
            ..Actual::default()
        };
        // What HAProxy notes by itself is not ours to repair.
        for map in Map::ALL.into_iter().filter(|map| *map != Map::Uses) {
            let answer = self
                .socket
                .ask(&format!("show map {}\n", map.path(&self.maps)))
                .await?;
            let rows = match read::map(&answer) {
                Err(_) if map.is_optional() => continue,
                rows => understand(rows)?,
            };
            if rows.foreign {
                actual.foreign.insert(map);
            }
            if !rows.rows.is_empty() {
                actual.rows.insert(map, rows.rows);
            }
        }
        Ok(actual)
    }

    /// The servers, and how many rows there are.
    ///
    /// # Errors
    /// As above.
    pub async fn glance(&self) -> Result<Glance, Trouble> {
        let servers = understand(read::servers(&self.socket.ask("show servers state\n").await?))?;
        let counts = understand(read::counts(&self.socket.ask("show map\n").await?))?;
        let ours = Map::ALL
            .into_iter()
            .filter(|map| !matches!(map, Map::Uses | Map::Witness));
        let rows = ours.filter_map(|map| Some((map, *counts.get(&map.path(&self.maps))?)));
        Ok(Glance {
            rows: rows.collect(),
            servers,
        })
    }

    /// Runs commands in order, and plays each on `actual` when HAProxy has taken it. Stops at the first that it
    /// does not take; `actual` is then in doubt.
    ///
    /// # Errors
    /// As above, and when HAProxy refuses a command.
    pub async fn run(&self, commands: &[Command], actual: &mut Actual) -> Result<(), Trouble> {
        for request in command::requests(commands, &self.maps) {
            match request {
                Request::Plain(text) => self.expect_taken(&text).await?,
                Request::Replace { path, payloads } => self.replace(&path, &payloads).await?,
            }
        }
        commands.iter().for_each(|command| actual.play(command));
        Ok(())
    }

    async fn replace(&self, path: &str, payloads: &[String]) -> Result<(), Trouble> {
        let answer = self.socket.ask(&format!("prepare map {path}\n")).await?;
        let version = answer
            .trim()
            .strip_prefix("New version created: ")
            .and_then(|number| number.parse::<u64>().ok());
        let Some(version) = version else {
            return Err(Trouble::Refused(format!("prepare map: {}", answer.trim())));
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
        let complaint = command::complaint(&answer);
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
        Err(Trouble::Refused(format!("{complaint} ({first}...)")))
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

    /// Whether this is a process that was told `token`.
    ///
    /// # Errors
    /// As above.
    pub async fn knows(&self, token: &Word) -> Result<bool, Trouble> {
        let answer = self
            .socket
            .ask(&format!("show map {}\n", Map::Witness.path(&self.maps)))
            .await?;
        Ok(understand(read::map(&answer))?.rows.contains_key(token.as_str()))
    }

    /// Tells the process `token`, to know it again.
    ///
    /// # Errors
    /// As above.
    pub async fn tell(&self, token: &Word) -> Result<(), Trouble> {
        let path = Map::Witness.path(&self.maps);
        self.expect_taken(&format!("add map {path} {token} 1\n")).await
    }

    /// The environments that requests came for since they were last forgotten; `None` when the configuration, made from
    /// a template of the operator's, does not note it.
    ///
    /// # Errors
    /// As above.
    pub async fn uses(&self) -> Result<Option<BTreeSet<EnvironmentName>>, Trouble> {
        let request = format!("{}\n", self.uses_request());
        Ok(read::uses(&self.socket.ask(&request).await?))
    }

    /// The command that shows the uses, as for [`crate::master::ask_old_workers`].
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
        for request in command::requests(&commands, &self.maps) {
            if let Request::Plain(text) = request {
                // A process that was started since has no such row, and says so.
                self.socket.ask(&text).await?;
            }
        }
        Ok(())
    }

    /// What the servers of a slot are about.
    ///
    /// # Errors
    /// As above.
    pub async fn leaving(&self, slot: Slot) -> Result<BTreeMap<ServerName, Leaving>, Trouble> {
        let connections = self.socket.ask(&format!("show servers conn {slot}\n")).await?;
        let state = self.socket.ask(&format!("show servers state {slot}\n")).await?;
        understand(read::leaving(&connections, &state))
    }

    /// The servers that are checked, and whether they were found dead.
    ///
    /// # Errors
    /// As above.
    pub async fn found_dead(&self) -> Result<BTreeMap<(Slot, ServerName), bool>, Trouble> {
        understand(read::found_dead(&self.socket.ask("show servers state\n").await?))
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
            found.extend(understand(read::found_dead(&answer))?);
        }
        Ok(found)
    }

    /// Disables a server; the requests of a dead one are ended.
    ///
    /// # Errors
    /// As above.
    pub async fn disable(&self, slot: Slot, name: &ServerName, dead: bool) -> Result<(), Trouble> {
        let name = || name.clone();
        let mut commands = vec![Command::SetState {
            slot,
            name: name(),
            admin: Admin::Maint,
        }];
        if dead {
            commands.push(Command::ShutdownSessions { slot, name: name() });
        }
        self.answers(&commands).await.map(drop)
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
        Err(Trouble::Refused(format!(
            "del server {slot}/{name}: {}",
            answer.trim()
        )))
    }

    async fn answers(&self, commands: &[Command]) -> Result<String, Trouble> {
        let mut answer = String::new();
        for request in command::requests(commands, &self.maps) {
            if let Request::Plain(text) = request {
                answer.push_str(&self.socket.ask(&text).await?);
            }
        }
        Ok(answer)
    }
}

fn understand<T>(read: anyhow::Result<T>) -> Result<T, Trouble> {
    read.map_err(|error| Trouble::Refused(format!("{error:#}")))
}

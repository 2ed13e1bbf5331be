//! The files that HAProxy starts from: its configuration and its maps, always a state that it can be started with.
//! A new configuration is checked by a haproxy binary, where there is one, before it replaces the good one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use mayfly_core::records::InstanceState;
use mayfly_core::routing::{Routing, Table, Touched};
use mayfly_core::version::BackendId;
use mayfly_daemon::file::{write_atomically, write_if_different};
use tracing::info;

use crate::command::server_options;
use crate::model::Map;
use crate::plan::{Wanted, each_row};
use crate::render::{Renderer, ServerLine, SlotServers};
use crate::text::{ConfigPath, ServerName, Slot};

/// HAProxy may run as somebody else in the same group.
const MODE: u32 = 0o644;
const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// Which files differ from what they should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stale {
    /// The configuration, because of servers or settings.
    pub config: bool,
    /// Maps.
    pub maps: BTreeSet<Map>,
}

impl Stale {
    /// All of them.
    pub fn all() -> Self {
        Self {
            config: true,
            maps: Map::ALL.into(),
        }
    }

    /// Adds the files that these changes reach.
    pub fn note(&mut self, touched: &Touched) {
        let tables = touched.tables();
        self.maps.extend(tables.iter().copied().map(Map::Table));
        if tables.contains(&Table::Headers) {
            self.maps.insert(Map::Default);
        }
        if !touched.backends.is_empty() {
            self.config = true;
            self.maps.insert(Map::Slots);
        }
    }
}

/// The texts of one state, as far as they are asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Texts {
    /// haproxy.cfg.
    pub config: Option<String>,
    /// The maps.
    pub maps: BTreeMap<Map, MapText>,
}

/// The text of a map. Half a million rows take some time to become one: that is left to the thread that writes it.
#[derive(Debug, Clone, PartialEq)]
pub enum MapText {
    /// The rows of a table.
    Rows(Table, Routing),
    /// Another map's text.
    Text(String),
}

impl MapText {
    /// The text, a line for each row.
    pub fn render(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Rows(table, rows) => {
                let mut text = String::new();
                rows.each(table, |key, value| push_row(&mut text, key, value));
                text
            }
        }
    }
}

fn push_row(text: &mut String, key: &str, value: &str) {
    for part in [key, " ", value, "\n"] {
        text.push_str(part);
    }
}

/// A state for the disk, with its place in the order of states: an older one never replaces a newer one. States are
/// written one after the other, but one that a reload brings may pass another; it brings all files.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// Higher is newer.
    pub number: u64,
    /// All texts.
    pub texts: Texts,
}

/// Makes the texts of what is wanted, for the stale files: a pure function. Without `tls` the servers behind TLS are left
/// out: where the system has no authorities, HAProxy would not start with them.
///
/// # Errors
/// When the template cannot be rendered.
pub fn texts(renderer: &Renderer, wanted: &Wanted<'_>, stale: &Stale, tls: bool) -> anyhow::Result<Texts> {
    let config = match stale.config {
        true => Some(
            renderer
                .render(wanted.pool.total(), &server_lines(wanted, tls))?
                .text,
        ),
        false => None,
    };
    let text = |map: &Map| {
        let text = match map {
            Map::Table(table) => MapText::Rows(*table, wanted.routing.only(*table)),
            _ => {
                let mut text = String::new();
                each_row(*map, wanted, |key, value| push_row(&mut text, key, value));
                MapText::Text(text)
            }
        };
        (*map, text)
    };
    Ok(Texts {
        config,
        maps: stale.maps.iter().map(text).collect(),
    })
}

fn server_lines(wanted: &Wanted<'_>, tls: bool) -> SlotServers {
    let mut lines = SlotServers::new();
    for (backend, slot) in wanted.pool.assigned() {
        let servers = wanted
            .routing
            .servers(backend)
            .into_iter()
            .flatten()
            .filter(|(id, _)| tls || id.tls.is_none())
            .map(|(id, state)| {
                // A server of weight 0 takes no requests: what `drain` is at run time.
                let weight = match state.state {
                    InstanceState::Up => state.weight.into(),
                    InstanceState::Draining => 0,
                };
                ServerLine {
                    name: ServerName::from(id),
                    address: id.address.to_string(),
                    options: server_options(id, weight, wanted.ca_file),
                }
            });
        let servers: Vec<ServerLine> = servers.collect();
        if !servers.is_empty() {
            lines.insert(slot, servers);
        }
    }
    lines
}

/// The directory that haproxy-updater and HAProxy share.
#[derive(Debug, Clone)]
pub struct Files {
    dir: ConfigPath,
    haproxy: Option<PathBuf>,
    /// The newest state that was to be written. Held while files are written, so that one state is written at a time.
    newest: Arc<Mutex<u64>>,
}

impl Files {
    /// Makes the directory where it is missing, and looks for the haproxy binary that checks configurations.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn open(dir: &ConfigPath, haproxy: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        for directory in [dir.clone(), dir.join("maps"), dir.join("run")] {
            let path = directory.as_path();
            if !path.is_dir() {
                std::fs::create_dir_all(path)
                    .with_context(|| format!("cannot make the directory {path:?} (--dir)"))?;
                // HAProxy makes its sockets in `run`, perhaps as another user of the group.
                let mode = std::fs::Permissions::from_mode(if directory == dir.join("run") {
                    0o770
                } else {
                    0o755
                });
                std::fs::set_permissions(path, mode)
                    .with_context(|| format!("cannot set the mode of {path:?}"))?;
            }
        }
        let found = find(haproxy);
        match &found {
            Some(path) => info!(
                "{} checks each configuration before it is put in place",
                path.display()
            ),
            None => info!(
                "no haproxy binary at {haproxy:?} (--haproxy): configurations are not checked beforehand"
            ),
        }
        Ok(Self {
            dir: dir.clone(),
            haproxy: found,
            newest: Arc::default(),
        })
    }

    /// Where the configuration lies.
    pub fn config(&self) -> ConfigPath {
        self.dir.join("haproxy.cfg")
    }

    /// The configuration as it is on disk.
    pub fn present_config(&self) -> Option<String> {
        std::fs::read_to_string(self.config().as_path()).ok()
    }

    /// The slots as they are on disk; lines that are none are passed over.
    pub fn present_slots(&self) -> Vec<(BackendId, Slot)> {
        let path = Map::Slots.path(&self.dir.join("maps"));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(slot_row).collect()
    }

    /// How many slots the configuration on disk has; 0 when there is none.
    pub fn present_total(&self) -> u32 {
        let text = self.present_config().unwrap_or_default();
        let names = text
            .lines()
            .filter_map(|line| line.strip_prefix("backend ")?.split_whitespace().next());
        names
            .filter_map(|name| name.parse::<Slot>().ok())
            .map(|slot| slot.0)
            .max()
            .unwrap_or(0)
    }

    /// Puts a state in place. The configuration goes first: a slot without a row harms nobody, a row without its slot
    /// does. Where there was none it goes last: HAProxy is started as soon as it is there, and reads the maps then.
    /// Blocks; call it where that is allowed.
    ///
    /// # Errors
    /// When a file cannot be written, or the check finds the configuration faulty, which then does not replace the
    /// good one.
    pub fn write(&self, version: Version) -> anyhow::Result<()> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if version.number < *newest {
            return Ok(());
        }
        *newest = version.number;
        let texts = version.texts;
        let maps = self.dir.join("maps");
        for map in Map::ALL {
            let path = map.path(&maps);
            if !Path::new(&path).exists() {
                write_atomically(path.as_ref(), b"", MODE)?;
            }
        }
        let present = self.present_config();
        let mut config = texts.config.filter(|config| present.as_ref() != Some(config));
        if let Some(config) = &config {
            self.check(config)?;
        }
        let place = |config: String| write_atomically(self.config().as_path(), config.as_bytes(), MODE);
        if self.config().as_path().exists() {
            config.take().map_or(Ok(()), place)?;
        }
        for (map, text) in texts.maps {
            write_if_different(map.path(&maps).as_ref(), text.render().as_bytes(), MODE)?;
        }
        config.map_or(Ok(()), place)
    }

    /// Puts a configuration back that was good.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn restore(&self, config: &str) -> anyhow::Result<()> {
        let _one_at_a_time = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        write_atomically(self.config().as_path(), config.as_bytes(), MODE)
    }

    /// Lets haproxy read a configuration without starting.
    fn check(&self, config: &str) -> anyhow::Result<()> {
        let Some(haproxy) = &self.haproxy else {
            return Ok(());
        };
        let candidate = self.dir.join("haproxy.cfg.candidate");
        write_atomically(candidate.as_path(), config.as_bytes(), MODE)?;
        let checked = run_check(haproxy, candidate.as_path());
        let _ = std::fs::remove_file(candidate.as_path());
        checked
    }
}

/// Runs `haproxy -c` on a file.
///
/// # Errors
/// When it finds a fault (the message has it), or does not end in time.
pub fn run_check(haproxy: &Path, config: &Path) -> anyhow::Result<()> {
    use std::process::{Command, Stdio};
    let mut child = Command::new(haproxy)
        .arg("-c")
        .arg("-f")
        .arg(config)
        // A configuration can name variables, and this one is nobody else's.
        .env_remove("MAYFLY_ETCD_PASSWORD")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", haproxy.display()))?;
    // haproxy says little; should it say more than a pipe holds, a thread reads it.
    let mut stderr = child.stderr.take();
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        let _ = stderr
            .as_mut()
            .map(|pipe| std::io::Read::read_to_string(pipe, &mut said));
        said
    });
    let deadline = std::time::Instant::now() + CHECK_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait for haproxy -c")? {
            break status;
        }
        if std::time::Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("haproxy -c did not end within {CHECK_LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    if status.success() {
        return Ok(());
    }
    let said = reader.join().unwrap_or_default();
    let alerts: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("[ALERT]"))
        .map(str::trim)
        .collect();
    let reason: String = alerts.join("; ").chars().take(1000).collect();
    bail!("haproxy -c finds the configuration faulty: {reason}")
}

/// A row of the map of slots.
pub fn slot_row(line: &str) -> Option<(BackendId, Slot)> {
    let (backend, slot) = line.split_once(' ')?;
    Some((backend.parse().ok()?, slot.trim().parse().ok()?))
}

/// The program at a path, or of a name in PATH.
fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    // A daemon's PATH often lacks sbin, where Debian has haproxy.
    let more = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
    let mut directories = std::env::split_paths(&path).chain(more);
    directories.find_map(|directory| Some(directory.join(program)).filter(|path| path.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir) -> Files {
        let path = dir.path().join("shared");
        let path = path
            .to_str()
            .expect("a path of ASCII")
            .parse()
            .expect("a path for haproxy.cfg");
        Files::open(&path, "/no/such/haproxy".as_ref()).expect("a directory")
    }

    fn version(number: u64, config: &str, edge: &str) -> Version {
        let maps = BTreeMap::from([(Map::Table(Table::Edge), MapText::Text(edge.to_owned()))]);
        let config = Some(config.to_owned());
        Version {
            number,
            texts: Texts { config, maps },
        }
    }

    #[test]
    fn every_map_is_there_from_the_first_state_on_and_an_older_state_changes_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = open(&dir);
        assert_eq!((files.present_total(), files.present_slots()), (0, vec![]));
        files
            .write(version(
                2,
                "backend slot-1\nbackend slot-12 from slots\n",
                "www prod\n",
            ))
            .expect("written");
        files.write(version(1, "old", "old\n")).expect("passed over");
        assert_eq!(files.present_total(), 12);
        let read = |map: Map| std::fs::read_to_string(map.path(&files.dir.join("maps"))).expect("a map");
        assert_eq!(read(Map::Table(Table::Edge)), "www prod\n");
        assert!(
            Map::ALL
                .into_iter()
                .filter(|map| *map != Map::Table(Table::Edge))
                .all(|map| read(map).is_empty())
        );
        files.restore("good").expect("restored");
        assert_eq!(files.present_config().as_deref(), Some("good"));
    }

    #[test]
    fn the_first_configuration_waits_for_the_maps_and_no_other_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = open(&dir);
        let edge = PathBuf::from(Map::Table(Table::Edge).path(&files.dir.join("maps")));
        std::fs::create_dir_all(edge.join("in the way")).expect("a directory");
        files
            .write(version(1, "first", ""))
            .expect_err("a map that cannot be written");
        assert_eq!(files.present_config(), None);
        files.restore("earlier").expect("written");
        files
            .write(version(2, "later", ""))
            .expect_err("a map that cannot be written");
        assert_eq!(files.present_config().as_deref(), Some("later"));
    }

    #[test]
    fn slots_are_read_from_their_map() {
        assert_eq!(
            slot_row("a@0.0.1 slot-7"),
            Some(("a@0.0.1".parse().expect("a backend"), Slot(7)))
        );
        for bad in ["", "a@0.0.1", "a slot-7", "a@1 slot-x", "# a@1 slot-7"] {
            assert_eq!(slot_row(bad), None, "{bad}");
        }
    }

    #[test]
    fn programs_are_found_by_path_or_name() {
        assert_eq!(find("/bin/sh".as_ref()), Some("/bin/sh".into()));
        assert!(find("sh".as_ref()).is_some());
        assert_eq!(find("/bin/no-such-program".as_ref()), None);
        assert_eq!(find("no-such-program".as_ref()), None);
    }
}

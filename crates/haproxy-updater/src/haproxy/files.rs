//! The files that HAProxy starts from: its configuration and its maps, always a state that it can
//! be started with. A new configuration is checked by a haproxy binary, where there is one, before
//! it replaces the good one.

mod check;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use mayfly_core::records::InstanceState;
use mayfly_core::routing::{Routing, Table, Touched};
use mayfly_core::version::BackendId;
use mayfly_daemon::file::{is_as, write_atomically, write_if_different};
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::haproxy::commands::server_options;
use crate::haproxy::maps::Map;
use crate::haproxy::render::{Renderer, ServerLine, SlotServers};
use crate::haproxy::rows::{self, each_row, slot_row};
use crate::haproxy::stamp::Stamp;
use crate::haproxy::tokens::{ConfigPath, ServerName, Slot};
use crate::haproxy::wanted::Wanted;

use check::find;
pub use check::run_check;

/// HAProxy may run as another user of the same group.
const MODE: u32 = 0o644;

/// Which files are out of date.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stale {
    /// The configuration, because of servers or settings.
    pub config: bool,
    pub maps: BTreeSet<Map>,
}

impl Stale {
    pub fn all() -> Self {
        Self {
            config: true,
            maps: Map::ALL.into(),
        }
    }

    pub fn is_empty(&self) -> bool {
        !self.config && self.maps.is_empty()
    }

    pub fn extend(&mut self, others: Self) {
        self.config |= others.config;
        self.maps.extend(others.maps);
    }

    /// Adds the files that these changes reach.
    pub fn note(&mut self, touched: &Touched, routing: &Routing) {
        let tables = touched.tables(routing);
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
    pub config: Option<String>,
    pub maps: BTreeMap<Map, MapText>,
}

/// The text of a map. Half a million rows take some time to become one: that is left to the thread
/// that writes it.
///
/// There is one for each map, so its size does not matter.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum MapText {
    /// The rows of a table, in a routing that has no others.
    Rows(Table, Routing),
    Text(String),
}

impl MapText {
    /// The text, a line for each row.
    pub fn render(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Rows(table, routing) => {
                let (mut text, mut row) = (String::new(), rows::RowText::default());
                for each in routing.rows(table) {
                    row.write(&each);
                    push_row(&mut text, &row.key, &row.value);
                }
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

/// A state for the disk, with its place in the order of states: an older one never replaces a newer
/// one. States are written one after the other, but one that a reload brings may pass another; it
/// brings all files.
#[derive(Debug, Clone, PartialEq)]
pub struct FilesVersion {
    /// Higher is newer.
    pub number: u64,
    pub texts: Texts,
}

/// Makes the texts of what is wanted, for the stale files: a pure function. Without `tls` the
/// servers behind TLS are left out: where the system has no authorities, HAProxy would not start
/// with them.
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
pub struct HaproxyFiles {
    dir: ConfigPath,
    haproxy: Option<PathBuf>,
    /// Held while files are written, so that one state is written at a time.
    placed: Arc<Mutex<PlacedFiles>>,
}

/// What was put in place.
#[derive(Debug, Default)]
struct PlacedFiles {
    /// The newest state that was to be written.
    newest: u64,
    /// What each file was like right after it was written.
    stamps: BTreeMap<PathBuf, Stamp>,
}

impl PlacedFiles {
    /// The files that another program has changed since, and how.
    fn damage(&self) -> BTreeMap<PathBuf, String> {
        let changed = |(path, stamp): (&PathBuf, &Stamp)| Some((path.clone(), stamp.difference(path)?));
        self.stamps.iter().filter_map(changed).collect()
    }

    /// Notes the metadata of a file that is as it should be, and logs what was repaired.
    fn note(&mut self, path: &Path, repaired: Option<String>) {
        if let Some(what) = repaired {
            warn!("{what}; wrote it again");
        }
        if let Some(stamp) = Stamp::of(path) {
            self.stamps.insert(path.to_owned(), stamp);
        }
    }
}

impl HaproxyFiles {
    /// Makes the directory where it is missing, and looks for the haproxy binary that checks
    /// configurations.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn open(dir: &ConfigPath, haproxy: &Path) -> anyhow::Result<Self> {
        make_directories(dir)?;
        let found = find(haproxy);
        match &found {
            Some(path) => info!(
                "`{}` checks each configuration before HAProxy uses it",
                path.display()
            ),
            None => info!(
                "there is no program {haproxy:?} (--haproxy): configurations are not checked \
                 before HAProxy uses them"
            ),
        }
        Ok(Self {
            dir: dir.clone(),
            haproxy: found,
            placed: Arc::default(),
        })
    }

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
        let rows = text.lines().filter_map(|line| line.split_once(' '));
        rows.filter_map(|(key, value)| slot_row(key, value.trim()))
            .collect()
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

    /// The files that another program has changed since they were written, by their metadata alone:
    /// that takes some microseconds, however large they are. Only a comparison shows whether the
    /// content differs. Blocks.
    pub fn damage(&self) -> Stale {
        self.stale(&self.lock().damage())
    }

    fn stale(&self, damage: &BTreeMap<PathBuf, String>) -> Stale {
        let maps = self.dir.join("maps");
        let has = |map: &Map| damage.contains_key(Path::new(&map.path(&maps)));
        Stale {
            config: damage.contains_key(self.config().as_path()),
            maps: Map::ALL.into_iter().filter(has).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, PlacedFiles> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a state. The configuration goes first: a slot without a row does no harm, a row
    /// without its slot does. The very first configuration goes last: HAProxy is started as soon as
    /// it exists, and then reads the maps. Returns which other files are damaged. Blocks; call it
    /// where that is allowed.
    ///
    /// # Errors
    /// When a file cannot be written, or the check finds the configuration faulty, which then does
    /// not replace the good one.
    pub fn write(&self, version: FilesVersion) -> anyhow::Result<Stale> {
        let mut placed = self.lock();
        if version.number < placed.newest {
            return Ok(Stale::default());
        }
        placed.newest = version.number;
        make_directories(&self.dir)?;
        let mut damage = placed.damage();
        let maps = self.dir.join("maps");
        let mut texts = version.texts;
        // Without a map, or with one that it cannot read, HAProxy takes no configuration, and
        // checks none.
        let mut replaced = BTreeSet::new();
        for map in Map::ALL {
            let path = PathBuf::from(map.path(&maps));
            let is_readable = || std::fs::File::open(&path).is_ok();
            // One of another mode still has its rows.
            if !is_readable() {
                let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(MODE));
            }
            if !is_readable() {
                let text = texts.maps.get(&map).cloned();
                if text.is_none() && map == Map::Table(Table::Access) {
                    // Without its rows all environments are open: none is there until they are.
                    for map in [Map::Table(Table::Headers), Map::Default] {
                        let path = PathBuf::from(map.path(&maps));
                        texts.maps.remove(&map);
                        if write_if_different(&path, b"", MODE)? {
                            let what =
                                format!("emptied `{}` while the map `access` was missing", path.display());
                            damage.insert(path, what);
                        }
                    }
                }
                let text = text.map(MapText::render).unwrap_or_default();
                write_atomically(&path, text.as_bytes(), MODE)?;
                replaced.insert(path);
            }
        }
        let config_path = self.config();
        let config_path = config_path.as_path();
        let mut config = texts.config;
        if let Some(text) = &config {
            if is_as(config_path, text.as_bytes(), MODE) {
                damage.remove(config_path);
                placed.note(config_path, None);
                config = None;
            } else {
                self.check(text)?;
            }
        }
        let mut config_damage = config.as_ref().and_then(|_| damage.remove(config_path));
        let mut place = |placed: &mut PlacedFiles, config: String| -> anyhow::Result<()> {
            write_atomically(config_path, config.as_bytes(), MODE)?;
            placed.note(config_path, config_damage.take());
            Ok(())
        };
        if config_path.exists() {
            config
                .take()
                .map_or(Ok(()), |config| place(&mut placed, config))?;
        }
        for (map, text) in texts.maps {
            let path = PathBuf::from(map.path(&maps));
            let written = write_if_different(&path, text.render().as_bytes(), MODE)?;
            let what = damage.remove(&path);
            placed.note(&path, what.filter(|_| written || replaced.contains(&path)));
        }
        config.map_or(Ok(()), |config| place(&mut placed, config))?;
        Ok(self.stale(&damage))
    }

    /// Puts a configuration back that was good.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn restore(&self, config: &str) -> anyhow::Result<()> {
        let mut placed = self.lock();
        let path = self.config();
        write_atomically(path.as_path(), config.as_bytes(), MODE)?;
        placed.note(path.as_path(), None);
        Ok(())
    }

    /// Lets haproxy read a configuration without starting.
    fn check(&self, config: &str) -> anyhow::Result<()> {
        let Some(haproxy) = &self.haproxy else {
            return Ok(());
        };
        let candidate = self.dir.join("haproxy.cfg.candidate");
        write_atomically(candidate.as_path(), config.as_bytes(), MODE)?;
        // Files are written on a thread that may block.
        let checked = Handle::current().block_on(run_check(haproxy, candidate.as_path()));
        let _ = std::fs::remove_file(candidate.as_path());
        checked
    }
}

/// Makes those that are missing.
fn make_directories(dir: &ConfigPath) -> anyhow::Result<()> {
    for directory in [dir.clone(), dir.join("maps"), dir.join("run")] {
        let path = directory.as_path();
        if !path.is_dir() {
            std::fs::create_dir_all(path)
                .with_context(|| format!("cannot create the directory {path:?} (--dir)"))?;
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
    Ok(())
}

#[cfg(test)]
mod tests;

//! Follows the host names of servers: resolves a new one at once and each again from time to time,
//! and yields only changes. A name that fails for a while keeps its last addresses. A file keeps
//! them for the next haproxy-updater, so a restart removes no server.
//!
//! Anyone who may push a file chooses names, and with them name servers. No name holds up another
//! for long: environments take turns ([`turns`]), a lookup that takes longer than a second gives up
//! its place while it goes on, and a name that fails or is slow is asked less and less often.

mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mayfly_core::names::{EnvironmentName, Hostname};
use mayfly_daemon::file::write_if_different;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::haproxy::stamp::Stamp;

/// How long an answer may take until it counts as a failure; a later answer is still used.
const LIMIT: Duration = Duration::from_secs(5);
/// How many names are asked for at the same time,
const AT_ONCE: usize = 16;
/// but for those that take longer than this,
const SLOW: Duration = Duration::from_secs(1);
/// of which there may be some more: each is a thread that waits.
const MOST_AT_ONCE: usize = 128;
/// How long a name that fails or is slow waits at most until it is asked for again.
const LONGEST: Duration = Duration::from_secs(300);
/// How many addresses of one name are used: HAProxy checks each of them every other second, and a
/// name server may answer anything.
const MOST_ADDRESSES: usize = 8;

pub type ResolvedAddresses = BTreeMap<Hostname, BTreeSet<IpAddr>>;
type LookupAnswer = (Hostname, io::Result<BTreeSet<IpAddr>>);

/// How a name is looked up; tests have another way.
type Resolve = Arc<dyn Fn(&Hostname) -> io::Result<BTreeSet<IpAddr>> + Send + Sync>;

/// Follows the names that are needed.
pub struct Follower {
    every: Duration,
    resolve: Resolve,
    names: BTreeMap<Hostname, Followed>,
    lookups: JoinSet<LookupAnswer>,
    file: PathBuf,
    /// What the file said, until it is known which names are needed.
    remembered: ResolvedAddresses,
    /// Something has changed that the file does not say.
    unsaved: bool,
    saving: JoinSet<anyhow::Result<Option<Stamp>>>,
    /// What the file was like right after it was written.
    stamp: Option<Stamp>,
    /// Saving failed the last time, and that was logged.
    save_failed: bool,
}

#[derive(Debug)]
struct Followed {
    /// Whose turn it takes.
    owner: Option<EnvironmentName>,
    addresses: BTreeSet<IpAddr>,
    /// Why it could not be resolved the last time.
    failure: Option<String>,
    /// How often in a row it has failed, or was slow.
    troubles: u32,
    state: LookupState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LookupState {
    /// To be asked for at this moment.
    Due(Instant),
    /// Being asked for since then.
    Asked(Instant),
    /// So, and too long.
    Overdue,
}

impl Follower {
    /// Asks for each name again after `every`. The file is read now, and written whenever something
    /// changes.
    pub fn new(file: &Path, every: Duration) -> Self {
        Self::with(file, every, Arc::new(ask))
    }

    fn with(file: &Path, every: Duration, resolve: Resolve) -> Self {
        let remembered = match std::fs::read(file) {
            // Whatever is wrong with it: the names are resolved in a moment anyway.
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                warn!(
                    "cannot read the saved addresses of host names in `{}`: {error}; resolving all \
                     host names again",
                    file.display()
                );
                ResolvedAddresses::new()
            }),
            Err(_) => ResolvedAddresses::new(),
        };
        Self {
            every,
            resolve,
            names: BTreeMap::new(),
            lookups: JoinSet::new(),
            file: file.to_owned(),
            remembered,
            unsaved: false,
            saving: JoinSet::new(),
            stamp: None,
            save_failed: false,
        }
    }

    /// Says which names are needed from now on, and of new ones which environment is to wait for
    /// its turn. Returns the last addresses of new ones that are remembered.
    pub fn need<'a, 'b>(
        &mut self,
        names: impl Iterator<Item = &'a Hostname> + Clone,
        owner: impl Fn(&Hostname) -> Option<&'b EnvironmentName>,
    ) -> ResolvedAddresses {
        let remembered = std::mem::take(&mut self.remembered);
        if names.clone().eq(self.names.keys()) {
            return ResolvedAddresses::new();
        }
        self.unsaved = true;
        let mut known = ResolvedAddresses::new();
        let mut old = std::mem::take(&mut self.names);
        for name in names {
            let followed = old.remove(name).unwrap_or_else(|| {
                let addresses = remembered.get(name).cloned().unwrap_or_default();
                if !addresses.is_empty() {
                    known.insert(name.clone(), addresses.clone());
                }
                Followed {
                    owner: owner(name).cloned(),
                    addresses,
                    failure: None,
                    troubles: 0,
                    state: LookupState::Due(Instant::now()),
                }
            });
            self.names.insert(name.clone(), followed);
        }
        known
    }

    fn save(&mut self) {
        if !self.unsaved || !self.saving.is_empty() {
            return;
        }
        self.unsaved = false;
        let resolved = self
            .names
            .iter()
            .filter(|(_, followed)| !followed.addresses.is_empty());
        let all: ResolvedAddresses = resolved
            .map(|(name, followed)| (name.clone(), followed.addresses.clone()))
            .collect();
        let file = self.file.clone();
        let damage = self.stamp.and_then(|stamp| stamp.difference(&file));
        self.saving.spawn_blocking(move || {
            let text = serde_json::to_vec(&all)?;
            let written = write_if_different(&file, &text, 0o644)?;
            if let Some(what) = damage.filter(|_| written) {
                warn!("{what}; wrote it again");
            }
            Ok(Stamp::of(&file))
        });
    }

    /// Writes the file again if another program has changed it, or if the last write failed.
    pub fn look_at_file(&mut self) {
        let now = Stamp::of(&self.file);
        let is_other = self.stamp.is_some_and(|stamp| Some(stamp) != now);
        if self.saving.is_empty() && (is_other || self.save_failed) {
            self.unsaved = true;
        }
    }

    fn saved(&mut self, result: anyhow::Result<Option<Stamp>>) {
        match result {
            Ok(stamp) => {
                self.stamp = stamp;
                self.save_failed = false;
            }
            Err(error) if !self.save_failed => {
                warn!("cannot save the addresses of host names: {error:#}; retrying");
                self.save_failed = true;
            }
            Err(_) => {}
        }
    }

    /// How many names are followed.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The names that could not be resolved the last time, with the reason.
    pub fn failures(&self) -> impl Iterator<Item = (&Hostname, &str)> {
        self.names
            .iter()
            .filter_map(|(name, followed)| Some((name, followed.failure.as_deref()?)))
    }

    /// Waits until a name has other addresses, or begins or ceases to fail (then `None` for the
    /// addresses). Safe in `select!`.
    pub async fn next(&mut self) -> (Hostname, Option<BTreeSet<IpAddr>>) {
        loop {
            self.ask_what_is_due();
            self.save();
            // While as many are asked for as may be, what is due has to wait for one to end or
            // become slow.
            let now = Instant::now();
            let has_room = self.room(now) > 0;
            let next = self.names.values().filter_map(|followed| match followed.state {
                LookupState::Due(at) => has_room.then_some(at),
                LookupState::Asked(at) if at + SLOW > now => Some(at + SLOW),
                LookupState::Asked(at) => Some(at + LIMIT),
                LookupState::Overdue => None,
            });
            let next = next.min();
            tokio::select! {
                Some(saved) = self.saving.join_next() => {
                    self.saved(saved.unwrap_or_else(|error| Err(error.into())));
                }
                Some(ended) = self.lookups.join_next() => {
                    // A lookup does not panic. If it did, its name would be resolved when it is
                    // needed the next time.
                    let Ok((name, result)) = ended else { continue };
                    if let Some(change) = self.take(&name, result) {
                        return (name, change);
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if let Some(name) = self.overdue() {
                        return (name, None);
                    }
                }
                else => std::future::pending().await,
            }
        }
    }

    /// How many more names may be asked for now.
    fn room(&self, now: Instant) -> usize {
        let fresh =
            |followed: &&Followed| matches!(followed.state, LookupState::Asked(at) if at + SLOW > now);
        let fresh = self.names.values().filter(fresh).count();
        let all = MOST_AT_ONCE.saturating_sub(self.lookups.len());
        all.min(AT_ONCE.saturating_sub(fresh))
    }

    /// Asks for what is due, by turns.
    fn ask_what_is_due(&mut self) {
        let now = Instant::now();
        let room = self.room(now);
        if room == 0 {
            return;
        }
        let (mut due, mut asked) = (Vec::new(), Vec::new());
        for (name, followed) in &self.names {
            let owner = followed.owner.as_ref();
            match followed.state {
                LookupState::Due(since) if since <= now => due.push(turns::Due {
                    name,
                    owner,
                    is_new: followed.is_new(),
                    since,
                }),
                LookupState::Due(_) => {}
                LookupState::Asked(_) | LookupState::Overdue => asked.extend(owner),
            }
        }
        let chosen: Vec<Hostname> = turns::choose(due, &asked, room).into_iter().cloned().collect();
        for name in chosen {
            if let Some(followed) = self.names.get_mut(&name) {
                followed.state = LookupState::Asked(now);
            }
            let resolve = self.resolve.clone();
            self.lookups.spawn_blocking(move || {
                let found = resolve(&name);
                (name, found)
            });
        }
    }

    /// A name whose answer has just begun to be late, if it did not fail before.
    fn overdue(&mut self) -> Option<Hostname> {
        let now = Instant::now();
        for (name, followed) in &mut self.names {
            if matches!(followed.state, LookupState::Asked(at) if at + LIMIT <= now) {
                followed.state = LookupState::Overdue;
                followed.troubles = followed.troubles.saturating_add(1);
                if followed.fail(name, format!("no answer within {LIMIT:?}"), self.every) {
                    return Some(name.clone());
                }
            }
        }
        None
    }

    /// Takes an answer; `Some` when it changes anything.
    fn take(
        &mut self,
        name: &Hostname,
        result: io::Result<BTreeSet<IpAddr>>,
    ) -> Option<Option<BTreeSet<IpAddr>>> {
        let followed = self.names.get_mut(name)?;
        let now = Instant::now();
        let is_slow = match followed.state {
            LookupState::Asked(at) => at + SLOW <= now,
            // That was counted when it was overdue.
            LookupState::Due(_) | LookupState::Overdue => false,
        };
        let is_overdue = followed.state == LookupState::Overdue;
        let found = match result {
            Ok(found) if found.is_empty() => Err("it has no address".to_owned()),
            Ok(found) => Ok(found),
            Err(error) => Err(error.to_string()),
        };
        followed.troubles = match is_slow || found.is_err() {
            _ if is_overdue => followed.troubles,
            true => followed.troubles.saturating_add(1),
            false => 0,
        };
        followed.state = LookupState::Due(now + followed.pause(self.every));
        let found = match found {
            Ok(found) => found,
            Err(reason) => return followed.fail(name, reason, self.every).then_some(None),
        };
        let recovered = followed.failure.take().is_some();
        if found == followed.addresses {
            if recovered {
                info!(
                    "host name `{name}` resolves again, to the same addresses as before: {}",
                    list(&found)
                );
            }
            return recovered.then_some(None);
        }
        if followed.addresses.is_empty() {
            info!("host name `{name}` resolves to {}", list(&found));
        } else {
            info!(
                "host name `{name}` resolves to {}, no longer to {}",
                list(&found),
                list(&followed.addresses)
            );
        }
        followed.addresses.clone_from(&found);
        self.unsaved = true;
        Some(Some(found))
    }
}

impl Followed {
    /// Whether nothing is known of it yet.
    fn is_new(&self) -> bool {
        self.addresses.is_empty() && self.troubles == 0
    }

    /// How long to wait until it is asked for again: longer with each trouble in a row.
    fn pause(&self, every: Duration) -> Duration {
        let doubled = self.troubles.saturating_sub(1).min(16);
        every.saturating_mul(1 << doubled).min(LONGEST.max(every))
    }

    /// Says that it fails, once; whether this is something new.
    fn fail(&mut self, name: &Hostname, reason: String, every: Duration) -> bool {
        let is_new = self.failure.is_none();
        if is_new {
            let next = if self.addresses.is_empty() {
                "requests to this host get a 503 until its name resolves".to_owned()
            } else {
                format!("its last known addresses stay in use ({})", list(&self.addresses))
            };
            warn!(
                "cannot resolve host name `{name}`: {reason}; {next}; retrying in {every:?}, then at growing intervals of up to {:?}",
                LONGEST.max(every)
            );
        }
        self.failure = Some(reason);
        is_new
    }
}

fn list(addresses: &BTreeSet<IpAddr>) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}

/// Asks the system's resolver. IPv4 addresses win over IPv6 ones, as in container-registrar: many
/// hosts have IPv6 in name only.
fn ask(name: &Hostname) -> io::Result<BTreeSet<IpAddr>> {
    let found = (name.as_str(), 0).to_socket_addrs()?;
    let all: BTreeSet<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
    let (four, six): (BTreeSet<_>, BTreeSet<_>) = all.into_iter().partition(IpAddr::is_ipv4);
    let chosen = if four.is_empty() { six } else { four };
    Ok(chosen.into_iter().take(MOST_ADDRESSES).collect())
}

#[cfg(test)]
mod tests;

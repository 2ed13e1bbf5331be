//! Follows host names: asks the system's resolver for those that servers stand under, at once for a new one and again
//! from time to time, and tells only what has changed. A name that cannot be resolved for a while keeps its last
//! addresses, and a file remembers them for the next haproxy-updater: a restart takes no server away.
//!
//! Names are anybody's who may push a file, and so are their name servers. None holds up another for long: what has been
//! due longest is asked first; a lookup that takes longer than a second gives its place to another, and goes on aside; and a
//! name that fails or is slow is asked less and less often. So 64 names that never answer cost others nothing, and
//! those of a whole router at once ([`MOST`](mayfly_core::outside::MOST)) a minute, once.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mayfly_core::names::Hostname;
use mayfly_daemon::file::write_if_different;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// How long an answer may take until it counts as a failure; one that comes later is taken all the same.
const LIMIT: Duration = Duration::from_secs(5);
/// How many names are asked for at the same time,
const AT_ONCE: usize = 16;
/// but for those that take longer than this,
const SLOW: Duration = Duration::from_secs(1);
/// of which there may be some more: each is a thread that waits.
const MOST_AT_ONCE: usize = 128;
/// How long a name that fails or is slow waits at most until it is asked for again.
const LONGEST: Duration = Duration::from_secs(300);
/// How many addresses of one name are taken: a guard against a name server that says anything. HAProxy checks each of them
/// every other second.
const MOST_ADDRESSES: usize = 8;

/// What names lead to.
pub type Addresses = BTreeMap<Hostname, BTreeSet<IpAddr>>;
type Found = (Hostname, io::Result<BTreeSet<IpAddr>>);

/// How a name is looked up; tests have another way.
type Resolve = Arc<dyn Fn(&Hostname) -> io::Result<BTreeSet<IpAddr>> + Send + Sync>;

/// Follows the names that are needed.
pub struct Follower {
    every: Duration,
    resolve: Resolve,
    names: BTreeMap<Hostname, Followed>,
    lookups: JoinSet<Found>,
    file: PathBuf,
    /// What the file said, until it is known which names are needed.
    remembered: Addresses,
    /// Something has changed that the file does not say.
    unsaved: bool,
    saving: JoinSet<anyhow::Result<()>>,
    /// Saving failed the last time, and that was told.
    save_failed: bool,
}

/// One name.
#[derive(Debug)]
struct Followed {
    /// What was told last.
    addresses: BTreeSet<IpAddr>,
    /// Why it could not be resolved the last time.
    failure: Option<String>,
    /// How often in a row it has failed, or was slow.
    troubles: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be asked for at this moment.
    Due(Instant),
    /// Being asked for since then.
    Asked(Instant),
    /// So, and too long.
    Overdue,
}

impl Follower {
    /// Asks for each name again after `every`. The file is read now, and written whenever something changes.
    pub fn new(file: &Path, every: Duration) -> Self {
        Self::with(file, every, Arc::new(ask))
    }

    fn with(file: &Path, every: Duration, resolve: Resolve) -> Self {
        let remembered = match std::fs::read(file) {
            // Whatever is wrong with it: the names are asked for anew in a moment.
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                warn!(
                    "cannot read {}: {error}; resolving all host names anew",
                    file.display()
                );
                Addresses::new()
            }),
            Err(_) => Addresses::new(),
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
            save_failed: false,
        }
    }

    /// Says which names are needed from now on. Returns the last addresses of new ones that are remembered.
    pub fn need<'a>(&mut self, names: impl Iterator<Item = &'a Hostname> + Clone) -> Addresses {
        let remembered = std::mem::take(&mut self.remembered);
        if names.clone().eq(self.names.keys()) {
            return Addresses::new();
        }
        self.unsaved = true;
        let mut known = Addresses::new();
        let mut old = std::mem::take(&mut self.names);
        for name in names {
            let followed = old.remove(name).unwrap_or_else(|| {
                let addresses = remembered.get(name).cloned().unwrap_or_default();
                if !addresses.is_empty() {
                    known.insert(name.clone(), addresses.clone());
                }
                Followed {
                    addresses,
                    failure: None,
                    troubles: 0,
                    state: State::Due(Instant::now()),
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
        let all: Addresses = resolved
            .map(|(name, followed)| (name.clone(), followed.addresses.clone()))
            .collect();
        let file = self.file.clone();
        self.saving.spawn_blocking(move || {
            let text = serde_json::to_vec(&all)?;
            write_if_different(&file, &text, 0o644).map(drop)
        });
    }

    fn saved(&mut self, result: anyhow::Result<()>) {
        match result {
            Ok(()) => self.save_failed = false,
            Err(error) if !self.save_failed => {
                warn!(
                    "cannot remember what host names lead to: {error:#}; trying again when something changes"
                );
                self.save_failed = true;
            }
            Err(_) => {}
        }
    }

    /// How many names are followed.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether no name is followed.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names that could not be resolved the last time, with the reason.
    pub fn failures(&self) -> impl Iterator<Item = (&Hostname, &str)> {
        self.names
            .iter()
            .filter_map(|(name, followed)| Some((name, followed.failure.as_deref()?)))
    }

    /// Waits until a name leads elsewhere or begins or ceases to fail, and says so: `None` for the addresses when only
    /// that has changed. May be dropped at any moment.
    pub async fn next(&mut self) -> (Hostname, Option<BTreeSet<IpAddr>>) {
        loop {
            self.ask_what_is_due();
            self.save();
            // While as many are asked for as may be, what is due has to wait for one to end or become slow.
            let now = Instant::now();
            let has_room = self.room(now) > 0;
            let next = self.names.values().filter_map(|followed| match followed.state {
                State::Due(at) => has_room.then_some(at),
                State::Asked(at) if at + SLOW > now => Some(at + SLOW),
                State::Asked(at) => Some(at + LIMIT),
                State::Overdue => None,
            });
            let next = next.min();
            tokio::select! {
                Some(saved) = self.saving.join_next() => {
                    self.saved(saved.unwrap_or_else(|error| Err(error.into())));
                }
                Some(ended) = self.lookups.join_next() => {
                    // A lookup does not panic; if it did, its name would be asked for again once it is needed anew.
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
        let fresh = |followed: &&Followed| matches!(followed.state, State::Asked(at) if at + SLOW > now);
        let fresh = self.names.values().filter(fresh).count();
        let all = MOST_AT_ONCE.saturating_sub(self.lookups.len());
        all.min(AT_ONCE.saturating_sub(fresh))
    }

    /// Asks for what is due, what has been so longest first.
    fn ask_what_is_due(&mut self) {
        let now = Instant::now();
        let mut due: Vec<(Instant, &Hostname, &mut Followed)> = Vec::new();
        let room = self.room(now);
        for (name, followed) in &mut self.names {
            match followed.state {
                State::Due(at) if at <= now => due.push((at, name, followed)),
                _ => {}
            }
        }
        due.sort_by_key(|(at, ..)| *at);
        for (_, name, followed) in due.into_iter().take(room) {
            followed.state = State::Asked(now);
            let (name, resolve) = (name.clone(), self.resolve.clone());
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
            if matches!(followed.state, State::Asked(at) if at + LIMIT <= now) {
                followed.state = State::Overdue;
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
            State::Asked(at) => at + SLOW <= now,
            // That was counted when it was overdue.
            State::Due(_) | State::Overdue => false,
        };
        let is_overdue = followed.state == State::Overdue;
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
        followed.state = State::Due(now + followed.pause(self.every));
        let found = match found {
            Ok(found) => found,
            Err(reason) => return followed.fail(name, reason, self.every).then_some(None),
        };
        let recovered = followed.failure.take().is_some();
        if found == followed.addresses {
            if recovered {
                info!("host name {name} can be resolved again: still {}", list(&found));
            }
            return recovered.then_some(None);
        }
        if followed.addresses.is_empty() {
            info!("host name {name} leads to {}", list(&found));
        } else {
            info!(
                "host name {name} leads to {} now, no longer to {}",
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
                "requests for it get a 503 until it can".to_owned()
            } else {
                format!("staying with {}", list(&self.addresses))
            };
            warn!(
                "cannot resolve host name {name}: {reason}; {next}; trying again in {every:?}, then less and less often, but every {:?}",
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

/// Asks the system. Where a name has addresses of both kinds, those of IPv4 are taken, as container-registrar does: many
/// a host has IPv6 by name only.
fn ask(name: &Hostname) -> io::Result<BTreeSet<IpAddr>> {
    let found = (name.as_str(), 0).to_socket_addrs()?;
    let all: BTreeSet<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
    let (four, six): (BTreeSet<_>, BTreeSet<_>) = all.into_iter().partition(IpAddr::is_ipv4);
    let chosen = if four.is_empty() { six } else { four };
    Ok(chosen.into_iter().take(MOST_ADDRESSES).collect())
}

#[cfg(test)]
mod tests;

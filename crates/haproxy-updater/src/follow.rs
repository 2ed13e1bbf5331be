//! Follows host names: asks the system's resolver for those that servers stand under, at once for a new one and again
//! from time to time, and tells only what has changed. A name that cannot be resolved for a while keeps its last
//! addresses; a resolver that hangs holds up nobody, since it is waited for on threads of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use mayfly_core::names::Hostname;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// How long an answer may take until it counts as a failure; one that comes later is taken all the same.
const LIMIT: Duration = Duration::from_secs(5);
/// How many names are asked for at the same time.
const AT_ONCE: usize = 16;
/// How many addresses of one name are taken: a guard against a name server that says anything.
const MOST_ADDRESSES: usize = 32;

type Found = (Hostname, io::Result<BTreeSet<IpAddr>>);

/// How a name is looked up; tests have another way.
type Resolve = Arc<dyn Fn(&Hostname) -> io::Result<BTreeSet<IpAddr>> + Send + Sync>;

/// Follows the names that are needed.
pub struct Follower {
    every: Duration,
    resolve: Resolve,
    names: BTreeMap<Hostname, Followed>,
    lookups: JoinSet<Found>,
}

/// One name.
#[derive(Debug)]
struct Followed {
    /// What was told last.
    addresses: BTreeSet<IpAddr>,
    /// Why it could not be resolved the last time.
    failure: Option<String>,
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
    /// Asks for each name again after `every`.
    pub fn new(every: Duration) -> Self {
        Self::with(every, Arc::new(ask))
    }

    fn with(every: Duration, resolve: Resolve) -> Self {
        Self {
            every,
            resolve,
            names: BTreeMap::new(),
            lookups: JoinSet::new(),
        }
    }

    /// Says which names are needed from now on.
    pub fn need<'a>(&mut self, names: impl Iterator<Item = &'a Hostname> + Clone) {
        if names.clone().eq(self.names.keys()) {
            return;
        }
        let mut old = std::mem::take(&mut self.names);
        for name in names {
            let followed = old.remove(name).unwrap_or_else(|| Followed {
                addresses: BTreeSet::new(),
                failure: None,
                state: State::Due(Instant::now()),
            });
            self.names.insert(name.clone(), followed);
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
            let next = self.names.values().filter_map(|followed| match followed.state {
                State::Due(at) => Some(at),
                State::Asked(at) => Some(at + LIMIT),
                State::Overdue => None,
            });
            // While all lookups are under way, what is due has to wait for one to end.
            let next = next
                .min()
                .filter(|at| self.lookups.len() < AT_ONCE || *at > Instant::now());
            tokio::select! {
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

    fn ask_what_is_due(&mut self) {
        let now = Instant::now();
        let is_due = |followed: &Followed| matches!(followed.state, State::Due(at) if at <= now);
        for (name, followed) in self.names.iter_mut().filter(|(_, followed)| is_due(followed)) {
            if self.lookups.len() >= AT_ONCE {
                break;
            }
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
        followed.state = State::Due(Instant::now() + self.every);
        let found = match result {
            Ok(found) if found.is_empty() => Err("it has no address".to_owned()),
            Ok(found) => Ok(found),
            Err(error) => Err(error.to_string()),
        };
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
        Some(Some(found))
    }
}

impl Followed {
    /// Says that it fails, once; whether this is something new.
    fn fail(&mut self, name: &Hostname, reason: String, every: Duration) -> bool {
        let is_new = self.failure.is_none();
        if is_new {
            let next = if self.addresses.is_empty() {
                "requests for it get a 503 until it can".to_owned()
            } else {
                format!("staying with {}", list(&self.addresses))
            };
            warn!("cannot resolve host name {name}: {reason}; {next}; trying again every {every:?}");
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
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    /// A resolver that answers what the test wants: addresses, nothing, or an error.
    #[derive(Default)]
    struct Zone {
        answers: Mutex<BTreeMap<String, Option<Vec<&'static str>>>>,
        asked: Mutex<u32>,
        /// While it is true, no answer comes.
        held: (Mutex<bool>, Condvar),
    }

    impl Zone {
        fn set(&self, name: &str, answer: Option<&[&'static str]>) {
            let answer = answer.map(<[_]>::to_vec);
            self.answers.lock().unwrap().insert(name.to_owned(), answer);
        }

        fn hold(&self, held: bool) {
            *self.held.0.lock().unwrap() = held;
            self.held.1.notify_all();
        }

        fn follower(self: &Arc<Self>) -> Follower {
            let zone = self.clone();
            let resolve = move |name: &Hostname| {
                *zone.asked.lock().unwrap() += 1;
                let held = zone.held.0.lock().unwrap();
                drop(zone.held.1.wait_while(held, |held| *held).unwrap());
                match zone.answers.lock().unwrap().get(name.as_str()) {
                    Some(Some(ips)) => Ok(ips.iter().map(|ip| ip.parse().unwrap()).collect()),
                    _ => Err(io::Error::other("no such name")),
                }
            };
            Follower::with(EVERY, Arc::new(resolve))
        }
    }

    fn names(texts: &[&str]) -> BTreeSet<Hostname> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    async fn next(follower: &mut Follower) -> (String, Option<Vec<String>>) {
        let (name, addresses) = follower.next().await;
        let texts = addresses.map(|all| all.iter().map(IpAddr::to_string).collect());
        (name.to_string(), texts)
    }

    fn leads(name: &str, to: &[&str]) -> (String, Option<Vec<String>>) {
        (
            name.to_owned(),
            Some(to.iter().map(ToString::to_string).collect()),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_name_is_asked_for_at_once_and_only_differences_are_told() {
        let zone = Arc::new(Zone::default());
        let mut follower = zone.follower();
        zone.set("a", Some(&["10.0.0.1"]));
        follower.need(names(&["a"]).iter());
        let start = Instant::now();
        assert_eq!(next(&mut follower).await, leads("a", &["10.0.0.1"]));
        assert_eq!(start.elapsed().as_secs(), 0);
        // Nothing is told until something is different, and that is seen at the next time of asking.
        assert!(tokio::time::timeout(EVERY * 5, follower.next()).await.is_err());
        assert!(*zone.asked.lock().unwrap() >= 5);
        zone.set("a", Some(&["10.0.0.2", "10.0.0.1"]));
        let start = Instant::now();
        assert_eq!(next(&mut follower).await, leads("a", &["10.0.0.1", "10.0.0.2"]));
        assert!(start.elapsed() <= EVERY);
        zone.set("b", Some(&["10.0.0.3"]));
        follower.need(names(&["a", "b"]).iter());
        let start = Instant::now();
        assert_eq!(next(&mut follower).await, leads("b", &["10.0.0.3"]));
        assert_eq!(start.elapsed().as_secs(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_told_once_and_takes_no_address_away() {
        let zone = Arc::new(Zone::default());
        let mut follower = zone.follower();
        zone.set("a", Some(&["10.0.0.1"]));
        follower.need(names(&["a"]).iter());
        next(&mut follower).await;
        for broken in [None, Some(&[][..])] {
            zone.set("a", broken);
            assert_eq!(next(&mut follower).await, ("a".to_owned(), None));
            assert_eq!(follower.failures().count(), 1);
            assert!(tokio::time::timeout(EVERY * 3, follower.next()).await.is_err());
            zone.set("a", Some(&["10.0.0.1"]));
            assert_eq!(next(&mut follower).await, ("a".to_owned(), None));
            assert_eq!(follower.failures().count(), 0);
        }
        follower.need([].iter());
        assert!(follower.is_empty());
    }

    #[tokio::test]
    async fn an_answer_that_hangs_is_a_failure_and_is_taken_when_it_comes() {
        let zone = Arc::new(Zone::default());
        let mut follower = zone.follower();
        zone.set("a", Some(&["10.0.0.1"]));
        zone.hold(true);
        follower.need(names(&["a"]).iter());
        follower.ask_what_is_due();
        mayfly_e2e::eventually(LIMIT, "the resolver is asked", async || {
            *zone.asked.lock().unwrap() == 1
        })
        .await;
        // The clock is not the test's while a thread is at work, so the beginning is put back.
        let begun = Instant::now().checked_sub(LIMIT).unwrap();
        follower.names.values_mut().next().unwrap().state = State::Asked(begun);
        assert_eq!(next(&mut follower).await, ("a".to_owned(), None));
        assert_eq!(follower.failures().next().unwrap().1, "no answer within 5s");
        assert_eq!(*zone.asked.lock().unwrap(), 1, "nor is it asked for again");
        zone.hold(false);
        assert_eq!(next(&mut follower).await, leads("a", &["10.0.0.1"]));
    }

    #[tokio::test(start_paused = true)]
    async fn many_names_are_asked_for_some_at_a_time() {
        let zone = Arc::new(Zone::default());
        let mut follower = zone.follower();
        let all: Vec<String> = (0..100).map(|number| format!("n{number}")).collect();
        all.iter().for_each(|name| zone.set(name, Some(&["10.0.0.1"])));
        follower.need(names(&all.iter().map(String::as_str).collect::<Vec<_>>()).iter());
        for _ in 0..100 {
            assert!(next(&mut follower).await.1.is_some());
            assert!(follower.lookups.len() <= AT_ONCE);
        }
    }

    #[test]
    fn the_system_knows_localhost() {
        assert_eq!(
            ask(&"localhost".parse().unwrap()).unwrap(),
            ["127.0.0.1".parse().unwrap()].into()
        );
        assert!(ask(&"no-such-name.invalid".parse().unwrap()).is_err());
    }
}

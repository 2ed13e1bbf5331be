//! Which deletions are believed. etcd can lose keys that nobody deleted: a lease runs out in an
//! outage, a registry is emptied by mistake, the data of etcd is lost. [`Trust`] stands between a
//! watch and its consumer, passes on what is believed, and withholds the other ends until a time,
//! the verdict of a check, or an operator's confirmation. A [`Policy`] says what a daemon
//! withholds. `docs/concepts/trust.md` has the rules in words.
//!
//! Two layers: [`census`] knows which keys are there, and this file decides. [`meant`] knows which
//! ends of environments were announced by a note. [`retiring`] is the
//! rule of a daemon that retires what nobody needs: it does not withhold anything, and stops
//! retiring while many environments are missing.

mod census;
mod kept;
mod meant;
mod retiring;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use crate::keys::{Daemon, Key, Kind};
use crate::records::ended::Why;
use census::Census;
pub use kept::Kept;
pub use meant::MeantEnds;
pub use retiring::Retiring;

/// How long after an outage the end of a leased key is withheld: time enough to notice that the
/// lease is lost, and to register again.
pub const AFTERMATH: Duration = Duration::from_secs(20);

/// One lost instance, or one lost environment, is never a mass: to lose one is daily life.
const LEAST_LOSS: usize = 2;

/// Whether half of what there was is lost.
fn is_mass(lost: usize, left: usize) -> bool {
    lost >= LEAST_LOSS && lost >= left
}

/// What a daemon withholds. The default believes everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policy {
    /// Losses within this time count together, and what nothing vouches for is withheld for so
    /// long; zero: everything is believed.
    window: Duration,
    /// Whose confirmation lets go of what is withheld.
    confirmed_by: Option<Daemon>,
    /// Whether environments that are lost together are withheld until they are back, rather than
    /// for the window.
    keeps_environments: bool,
    /// Whether a check vouches for instances. Then each instance counts; else only the loss of all.
    has_witness: bool,
}

impl Policy {
    /// A router: keeps environments until they are back, and an instance while it answers HAProxy's
    /// check.
    pub fn routing(window: Duration) -> Self {
        Self {
            window,
            confirmed_by: Some(Daemon::HaproxyUpdater),
            keeps_environments: true,
            has_witness: true,
        }
    }

    /// Names that resolve to routers: keeps environments as routers do.
    pub fn naming(window: Duration) -> Self {
        Self {
            has_witness: false,
            ..Self::routing(window)
        }
    }

    /// A launcher: goes on for the window. [`Retiring`] has the rest.
    pub fn launching(window: Duration) -> Self {
        Self {
            window,
            confirmed_by: Some(Daemon::ContainerLauncher),
            ..Self::default()
        }
    }

    fn believes_everything(self) -> bool {
        self.window.is_zero()
    }
}

/// What is known of a key that is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyState {
    /// It ends by itself some day: it has a lease.
    pub leased: bool,
    /// Of an instance: it has announced that it leaves.
    pub draining: bool,
    /// Of the note of an environment's end: why it ended.
    pub why: Option<Why>,
    /// The revision at which the value was put.
    pub changed: i64,
}

/// What a change says of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyEvent {
    /// The key is there.
    Put(Key, KeyState),
    /// The key is there, and nothing new is known of it.
    Unreadable(Key),
    /// The key is gone.
    Gone(Key),
}

/// A change that a consumer takes.
pub trait TrustChange {
    /// What it says.
    fn event(&self) -> KeyEvent;
    /// The end of a key, which is believed now.
    fn end(key: Key) -> Self;
}

/// What a check says of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It is not found dead.
    Answers,
    /// It is found dead.
    Fails,
    /// Nothing checks it.
    Unchecked,
}

/// Until when an end is withheld.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// Until this time, after an outage; then it counts as lost at that time.
    Renewed(Instant),
    /// Until this time.
    Then(Instant),
    /// As long as the check of the instance passes; withheld since this time.
    Fails(Instant),
    /// Until the key is back, or an operator confirms the loss.
    Back,
}

/// Decides which ends of keys are believed.
#[derive(Debug)]
pub struct Trust {
    policy: Policy,
    /// Every key that the consumer knows of, those included whose end is withheld.
    census: Census,
    withheld: BTreeMap<Key, Until>,
    /// When instances went unannounced that were let go.
    losses: VecDeque<Instant>,
    /// Until when the end of a leased key is withheld.
    aftermath: Option<Instant>,
    /// etcd's newest revision. It goes back only when etcd has lost its data.
    revision: i64,
}

/// What the ends of one message have in common.
#[derive(Debug, Clone, Copy, Default)]
struct LossContext {
    listed: bool,
    data_lost: bool,
}

impl Trust {
    /// Nothing is known yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            census: Census::default(),
            withheld: BTreeMap::new(),
            losses: VecDeque::new(),
            aftermath: None,
            revision: 0,
        }
    }

    /// Notes that an outage has just ended, in which no lease could be renewed.
    pub fn outage_ended(&mut self, now: Instant) {
        let aftermath = now + AFTERMATH;
        self.aftermath = Some(aftermath);
        for until in self.withheld.values_mut() {
            if let Until::Then(at) = until {
                *at = aftermath.max(*at);
            }
        }
    }

    /// Takes the changes of one message, or of one listing, and gives those that are believed.
    pub fn take<C: TrustChange>(
        &mut self,
        revision: i64,
        listed: bool,
        changes: Vec<C>,
        now: Instant,
    ) -> Vec<C> {
        if self.policy.believes_everything() {
            return changes;
        }
        let message = LossContext {
            listed,
            data_lost: revision < self.revision,
        };
        self.revision = revision;
        let mut believed = Vec::with_capacity(changes.len());
        // What happens to one lost key depends on the others.
        let (mut lost, mut ended) = (BTreeSet::new(), BTreeSet::new());
        for change in changes {
            match change.event() {
                KeyEvent::Gone(key) if self.census.would_surprise(&key) => {
                    if !self.withheld.contains_key(&key) {
                        lost.insert(key);
                    }
                    continue;
                }
                KeyEvent::Gone(key) => {
                    ended.remove(&key);
                    self.forget(&key);
                }
                KeyEvent::Unreadable(key) => {
                    for known in [&mut lost, &mut ended] {
                        known.remove(&key);
                    }
                    self.withheld.remove(&key);
                }
                KeyEvent::Put(key, state) => {
                    for known in [&mut lost, &mut ended] {
                        known.remove(&key);
                    }
                    self.withheld.remove(&key);
                    self.census.put(&key, state);
                    ended.extend(self.announced_by(&key, &mut lost));
                }
            }
            believed.push(change);
        }
        ended.extend(self.judge_lost(lost, message, now));
        believed.extend(ended.into_iter().map(C::end));
        believed
    }

    /// The ends of which the time is over.
    pub fn expire(&mut self, now: Instant) -> Vec<Key> {
        let (mut lost, mut ended) = (BTreeSet::new(), Vec::new());
        for (key, until) in &self.withheld {
            match until {
                Until::Renewed(until) if *until <= now => drop(lost.insert(key.clone())),
                Until::Then(until) if *until <= now => ended.push(key.clone()),
                _ => {}
            }
        }
        self.release(&ended);
        ended.extend(self.judge_lost(lost, LossContext::default(), now));
        ended
    }

    /// When [`Trust::expire`] has something to do.
    pub fn next_expiry(&self) -> Option<Instant> {
        let times = self.withheld.values().filter_map(|until| match until {
            Until::Renewed(until) | Until::Then(until) => Some(*until),
            Until::Fails(_) | Until::Back => None,
        });
        times.min()
    }

    /// Lets go of instances that the check finds dead; and after the window, of those that nothing
    /// checks or whose backend has another instance. While etcd is away (not `ages`) nobody could
    /// have brought one back, so only the check counts. In the seconds after an outage, only one
    /// that is dead and whose backend has another instance goes: a proxy that starts anew would ask
    /// it first, and many of them together would answer for none.
    pub fn judge(&mut self, health: impl Fn(&Key) -> Health, ages: bool, now: Instant) -> Vec<Key> {
        self.forget_losses(now);
        let mass = self.is_mass_loss();
        let goes = |(key, until): (&Key, &Until)| {
            let since = match until {
                Until::Fails(since) => since,
                Until::Renewed(_) => {
                    let goes =
                        self.is_checked(key, until) && health(key) == Health::Fails && self.has_sibling(key);
                    return goes.then(|| key.clone());
                }
                Until::Then(_) | Until::Back => return None,
            };
            let old = ages && now.saturating_duration_since(*since) >= self.policy.window;
            let goes = match health(key) {
                Health::Fails => true,
                Health::Unchecked => old,
                Health::Answers => old && !mass && self.has_sibling(key),
            };
            goes.then(|| key.clone())
        };
        let gone: Vec<Key> = self.withheld.iter().filter_map(goes).collect();
        self.release(&gone);
        gone
    }

    /// Lets go of instances whose address belongs to another backend by now: an answer there proves
    /// nothing.
    pub fn let_go(&mut self, is_superseded: impl Fn(&Key) -> bool) -> Vec<Key> {
        let gone: Vec<Key> = self
            .vouched_for()
            .filter(|key| is_superseded(key))
            .cloned()
            .collect();
        self.release(&gone);
        gone
    }

    /// The instances of which [`Trust::judge`] asks what the check says.
    pub fn checked(&self) -> impl Iterator<Item = &Key> {
        let all = self.withheld.iter();
        all.filter_map(|(key, until)| self.is_checked(key, until).then_some(key))
    }

    fn is_checked(&self, key: &Key, until: &Until) -> bool {
        match until {
            Until::Fails(_) => true,
            Until::Renewed(_) => self.policy.has_witness && key.kind() == Kind::Instance,
            Until::Then(_) | Until::Back => false,
        }
    }

    /// The instances that are withheld while they answer their check.
    fn vouched_for(&self) -> impl Iterator<Item = &Key> {
        let vouched = |until: &Until| matches!(until, Until::Fails(_));
        let all = self.withheld.iter();
        all.filter_map(move |(key, until)| vouched(until).then_some(key))
    }

    /// Whose confirmation lets go of what is withheld.
    pub fn confirmed_by(&self) -> Option<Daemon> {
        self.policy.confirmed_by
    }

    /// Every end that is withheld, and until when.
    pub fn withheld(&self) -> &BTreeMap<Key, Until> {
        &self.withheld
    }

    /// The keys that count as lost. In the seconds after an outage it is too early to say so of a
    /// leased key.
    fn lost(&self) -> impl Iterator<Item = &Key> {
        let counts = |until: &Until| !matches!(until, Until::Renewed(_));
        let all = self.withheld.iter();
        all.filter_map(move |(key, until)| counts(until).then_some(key))
    }

    /// The ends that a put announces: of an instance that is drained, of an environment whose end is
    /// noted, or of all by an operator's confirmation.
    fn announced_by(&mut self, key: &Key, lost: &mut BTreeSet<Key>) -> Vec<Key> {
        let ended = match key {
            Key::Drain(backend, instance) => {
                let key = Key::Instance(backend.clone(), instance.clone());
                let is_lost = lost.remove(&key) || self.withheld.contains_key(&key);
                is_lost.then_some(key).into_iter().collect()
            }
            Key::Ended(name) => {
                let key = Key::Environment(name.clone());
                let is_meant = !self.census.would_surprise(&key);
                let is_lost = is_meant && (lost.remove(&key) || self.withheld.contains_key(&key));
                is_lost.then_some(key).into_iter().collect()
            }
            Key::Confirmation(daemon) if Some(*daemon) == self.policy.confirmed_by => {
                let all: Vec<Key> = self.lost().cloned().collect();
                all.into_iter().chain(std::mem::take(lost)).collect()
            }
            _ => Vec::new(),
        };
        self.release(&ended);
        ended
    }

    /// Withholds what is lost, and gives what is believed to be gone.
    fn judge_lost(&mut self, lost: BTreeSet<Key>, message: LossContext, now: Instant) -> Vec<Key> {
        if lost.is_empty() {
            return Vec::new();
        }
        let mut ended = Vec::new();
        let mut by_kind: BTreeMap<Kind, Vec<Key>> = BTreeMap::new();
        for key in lost {
            by_kind.entry(key.kind()).or_default().push(key);
        }
        for (kind, keys) in by_kind {
            let until = if kind == Kind::Environment {
                self.doubts_environments(&keys, message)
                    .then_some(match self.policy.keeps_environments {
                        true => Until::Back,
                        false => Until::Then(now + self.policy.window),
                    })
            } else {
                self.doubts_leased(kind, &keys, message, now)
            };
            let Some(until) = until else {
                ended.extend(keys);
                continue;
            };
            self.withheld.extend(keys.iter().map(|key| (key.clone(), until)));
            if let Until::Fails(_) = until {
                ended.extend(self.spare(keys, now));
            }
        }
        self.release(&ended);
        ended
    }

    /// Whether these environments are withheld: all are gone at a stroke, or etcd has lost its
    /// data. Some are deleted every day, and those with a lease end by themselves, often together.
    fn doubts_environments(&self, lost: &[Key], message: LossContext) -> bool {
        let endless = lost.iter().filter(|key| !self.census.is_leased(key)).count();
        let at_a_stroke = message.listed || (self.policy.keeps_environments && endless >= LEAST_LOSS);
        message.data_lost || (at_a_stroke && self.left(Kind::Environment, lost) == 0)
    }

    /// Until when these instances or routers are withheld.
    fn doubts_leased(&self, kind: Kind, lost: &[Key], message: LossContext, now: Instant) -> Option<Until> {
        let has_witness = self.policy.has_witness && kind == Kind::Instance;
        let all_gone = message.listed && self.left(kind, lost) == 0;
        let aftermath = self.aftermath.filter(|until| now < *until);
        if !has_witness && (all_gone || message.data_lost) {
            let window = now + self.policy.window;
            return Some(Until::Then(aftermath.map_or(window, |until| until.max(window))));
        }
        aftermath
            .map(Until::Renewed)
            .or(has_witness.then_some(Until::Fails(now)))
    }

    /// How many keys of a kind are there but for these and those that are withheld.
    fn left(&self, kind: Kind, lost: &[Key]) -> usize {
        let withheld = self.withheld.keys().filter(|key| key.kind() == kind).count();
        self.census.count(kind).saturating_sub(withheld + lost.len())
    }

    /// Of instances that were lost just now, those that are let go at once: their backend has
    /// another one, and half of all are not missing.
    fn spare(&mut self, lost: Vec<Key>, now: Instant) -> Vec<Key> {
        self.forget_losses(now);
        if self.is_mass_loss() {
            return Vec::new();
        }
        let spared = lost.into_iter().filter(|key| self.has_sibling(key));
        let spared: Vec<Key> = spared.collect();
        self.losses.extend(spared.iter().map(|_| now));
        spared
    }

    /// Whether half of all instances went unannounced within the window, or are withheld.
    fn is_mass_loss(&self) -> bool {
        let withheld = self.vouched_for().count();
        let left = self.census.count(Kind::Instance).saturating_sub(withheld);
        is_mass(withheld + self.losses.len(), left)
    }

    /// Whether the backend of an instance has another one that is there.
    fn has_sibling(&self, key: &Key) -> bool {
        let is_there = |other: &Key| other != key && !self.withheld.contains_key(other);
        self.census.siblings(key).any(|other| is_there(&other))
    }

    fn forget_losses(&mut self, now: Instant) {
        let window = self.policy.window;
        self.losses
            .retain(|at| now.saturating_duration_since(*at) < window);
    }

    fn release(&mut self, keys: &[Key]) {
        for key in keys {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: &Key) {
        self.withheld.remove(key);
        self.census.remove(key);
    }
}

#[cfg(test)]
mod tests;

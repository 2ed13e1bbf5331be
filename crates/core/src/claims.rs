//! Which environment has a name, prefix or header that several claim. Exactly one has it. The
//! registrar, `lint`, `mayfly apply` and the routers' index ask here, so that they all blame the
//! same one.
//!
//! - An environment has all that it claims, or nothing.
//! - An environment keeps what it had before and still claims, whatever else changes in it. If
//!   several had it, the first by rank keeps it.
//! - Anything else goes to the first by rank that gets all of its claims. In etcd the rank is the
//!   revision of the registration; for a file it is [`rank`].
//!
//! Each caller words the outcome itself.
//!
//! [`Claims`] decides the whole and a change alike: after a change it looks again only at those
//! that come after it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use crate::names::{DnsPrefix, EnvironmentName, HeaderValue};
use crate::records::Environment;

/// What only one environment can have.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Claim {
    /// A name, which claimants in etcd have by their key.
    Name(EnvironmentName),
    /// A prefix.
    Prefix(DnsPrefix),
    /// A header.
    Header(HeaderValue),
}

impl Claim {
    /// The prefix and the header of an environment.
    pub fn keys_of(environment: &Environment) -> [Self; 2] {
        let Environment { prefix, header, .. } = environment;
        [Self::Prefix(prefix.clone()), Self::Header(header.clone())]
    }

    /// The name too, and that first: without it, the others mean nothing.
    pub fn all_of(environment: &Environment) -> [Self; 3] {
        let [prefix, header] = Self::keys_of(environment);
        [Self::Name(environment.name.clone()), prefix, header]
    }

    /// Whether an environment claims it, too.
    pub fn is_of(&self, environment: &Environment) -> bool {
        match self {
            Self::Name(name) => environment.name == *name,
            Self::Prefix(prefix) => environment.prefix == *prefix,
            Self::Header(header) => environment.header == *header,
        }
    }

    /// What it is, as files call it.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Name(_) => "name",
            Self::Prefix(_) => "prefix",
            Self::Header(_) => "header",
        }
    }

    /// Its text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Name(name) => name.as_str(),
            Self::Prefix(prefix) => prefix.as_str(),
            Self::Header(header) => header.as_str(),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field(), self.as_str())
    }
}

/// How senior the claims of an environment of a file are, the most senior first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seniority {
    /// It is there whatever the files say.
    Beside,
    /// It had its prefix and header before, from the same file.
    Kept,
    /// It comes from the same file with another prefix or header.
    Changed,
    /// It comes from another file.
    Moved,
    /// It is new.
    New,
}

impl Seniority {
    /// The seniority of an environment of a file; `before` is what was there of that name, with its
    /// file.
    pub fn of(before: Option<(&str, &Environment)>, file: &str, environment: &Environment) -> Self {
        match before {
            None => Self::New,
            Some((home, _)) if home != file => Self::Moved,
            Some((_, had)) if Claim::keys_of(environment).iter().all(|it| it.is_of(had)) => Self::Kept,
            Some(_) => Self::Changed,
        }
    }
}

/// The place of an environment of a file in the order in which claims count, the first first.
///
/// Of new ones a protected one comes first: a rival that waited in vain must not have production's
/// prefix after a loss of data. Then the name of the file decides. The age of a file would not: an
/// edit makes it new, a checkout makes all equally old, and a check of the same files elsewhere
/// would come to another result.
pub fn rank<'a>(
    seniority: Seniority,
    environment: &Environment,
    file: &'a str,
) -> (Seniority, bool, &'a str) {
    (
        seniority,
        seniority == Seniority::New && !environment.protected,
        file,
    )
}

/// A claimant in the queue for a claim: whether it is new to it, its rank, and who it is.
pub type ClaimPlace<I, R> = (bool, R, I);

/// The claimants of each claim, the most senior first.
#[derive(Debug, Clone, PartialEq, Eq)]
// Most claims have one claimant, for which a set would be large.
pub struct Queues<I, R>(HashMap<Claim, Vec<ClaimPlace<I, R>>>);

impl<I, R> Default for Queues<I, R> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<I: Ord, R: Ord> Queues<I, R> {
    /// Takes a claimant in.
    pub fn enter(&mut self, claim: Claim, place: ClaimPlace<I, R>) {
        let queue = self.0.entry(claim).or_default();
        if let Err(at) = queue.binary_search(&place) {
            queue.reserve_exact(usize::from(queue.is_empty()));
            queue.insert(at, place);
        }
    }

    /// Takes a claimant out.
    pub fn leave(&mut self, claim: &Claim, place: &ClaimPlace<I, R>) {
        if let Some(queue) = self.0.get_mut(claim) {
            if let Ok(at) = queue.binary_search(place) {
                queue.remove(at);
            }
            if queue.is_empty() {
                self.0.remove(claim);
            }
        }
    }

    /// All who claim this.
    pub fn of(&self, claim: &Claim) -> &[ClaimPlace<I, R>] {
        self.0.get(claim).map_or(&[], Vec::as_slice)
    }
}

/// What claimants claim, and who has it.
#[derive(Debug)]
pub struct Claims<I, R> {
    claimants: BTreeMap<I, Claimant<R>>,
    queues: Queues<I, R>,
    /// Those to be decided again, in the order of their rank.
    unsettled: BTreeSet<(R, I)>,
}

#[derive(Debug)]
struct Claimant<R> {
    rank: R,
    claims: Vec<(Claim, bool)>,
    /// Whether it has all that it claims, as of the last [`Claims::settle`].
    is_accepted: bool,
}

impl<I, R> Default for Claims<I, R> {
    fn default() -> Self {
        Self {
            claimants: BTreeMap::new(),
            queues: Queues::default(),
            unsettled: BTreeSet::new(),
        }
    }
}

impl<I: Ord + Clone, R: Ord + Clone> Claims<I, R> {
    /// Takes what a claimant claims now, and which of that it had before. Of equal rank the lower
    /// claimant is first.
    pub fn put(&mut self, id: I, rank: R, claims: impl IntoIterator<Item = (Claim, bool)>) {
        let claims: Vec<_> = claims.into_iter().collect();
        self.unsettled.insert((rank.clone(), id.clone()));
        let same = |it: &&Claimant<R>| it.rank == rank && it.claims == claims;
        if self.claimants.get(&id).filter(same).is_some() {
            return;
        }
        let is_accepted = self.take_out(&id);
        for (claim, had) in &claims {
            self.queues.enter(claim.clone(), (!had, rank.clone(), id.clone()));
        }
        let claimant = Claimant {
            rank,
            claims,
            is_accepted,
        };
        self.unsettled.extend(self.behind(&id, &claimant));
        self.claimants.insert(id, claimant);
    }

    /// Takes back all that a claimant claims.
    pub fn remove(&mut self, id: &I) {
        self.take_out(id);
    }

    /// Decides about those that changes may affect; gives them, and whether that differs from
    /// before.
    pub fn settle(&mut self) -> BTreeMap<I, bool> {
        let mut settled = BTreeMap::new();
        while let Some((_, id)) = self.unsettled.pop_first() {
            let Some(claimant) = self.claimants.get(&id) else {
                continue;
            };
            let is_accepted = self.rivals(&id).next().is_none();
            let differs = is_accepted != claimant.is_accepted;
            if differs {
                self.unsettled.extend(self.behind(&id, claimant));
                if let Some(claimant) = self.claimants.get_mut(&id) {
                    claimant.is_accepted = is_accepted;
                }
            }
            *settled.entry(id).or_insert(false) |= differs;
        }
        settled
    }

    /// Whether a claimant has all that it claims.
    pub fn is_accepted(&self, id: &I) -> bool {
        self.claimants.get(id).is_some_and(|it| it.is_accepted)
    }

    /// Each claim of a claimant that is another one's, with that one.
    pub fn rivals<'a>(&'a self, id: &'a I) -> impl Iterator<Item = (&'a Claim, &'a I)> {
        let claimant = self.claimants.get(id);
        claimant.into_iter().flat_map(move |claimant| {
            claimant.claims.iter().filter_map(move |(claim, had)| {
                let own = (!had, &claimant.rank, id);
                let queue = self.queues.of(claim).iter();
                let mut earlier = queue.take_while(|(new, rank, other)| (*new, rank, other) < own);
                let (_, _, other) = earlier.find(|(new, _, other)| !new || self.is_accepted(other))?;
                Some((claim, other))
            })
        })
    }

    /// Those behind a claimant in the queues for its claims.
    fn behind(&self, id: &I, claimant: &Claimant<R>) -> Vec<(R, I)> {
        let behind = claimant.claims.iter().flat_map(|(claim, had)| {
            let (queue, own) = (self.queues.of(claim), (!had, &claimant.rank, id));
            let place = queue.partition_point(|(new, rank, other)| (*new, rank, other) <= own);
            &queue[place..]
        });
        behind
            .map(|(_, rank, other)| (rank.clone(), other.clone()))
            .collect()
    }

    /// Takes a claimant out of all queues; says whether it had what it claimed.
    fn take_out(&mut self, id: &I) -> bool {
        let Some(claimant) = self.claimants.remove(id) else {
            return false;
        };
        self.unsettled.extend(self.behind(id, &claimant));
        for (claim, had) in &claimant.claims {
            self.queues
                .leave(claim, &(!had, claimant.rank.clone(), id.clone()));
        }
        claimant.is_accepted
    }
}

#[cfg(test)]
mod tests;

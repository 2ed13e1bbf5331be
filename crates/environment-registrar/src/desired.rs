//! What should be in etcd: what each file says ([`files`]), merged with what etcd holds already
//! ([`merge`] for environments, [`crate::definitions`] for service definitions).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::str::FromStr;
use std::time::SystemTime;

use mayfly_core::names::EnvironmentName;
use mayfly_core::pattern::NamePattern;
use mayfly_core::yaml::Mark;

use crate::actual::{Actual, Held};
use crate::changes::Changes;
use crate::desired::files::Files;
use crate::resource::{Name, Resource, SharedRecord};

pub mod copies;
pub mod files;
pub mod merge;

/// What a merge and a plan depend on besides files and etcd.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The time of the clock.
    pub now: SystemTime,
    /// Whether a protected environment is deleted when no file names it.
    pub force: bool,
    /// How much the accepted environments may take of etcd.
    pub quota: Quota,
}

/// How much of etcd the records of one kind may take together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// How many there may be.
    pub environments: usize,
    /// How many bytes of etcd they may take.
    pub bytes: usize,
    /// How many environments each source may have; the first that means an environment counts.
    pub sources: &'static [SourceLimit],
}

/// How many environments each source may have: a repository, say, or a person, whose environments
/// all have names that begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLimit {
    /// The environments; the text before the last `*` tells one source from another.
    pub pattern: NamePattern,
    /// How many there may be of one source.
    pub environments: usize,
}

impl FromStr for SourceLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let right = || "a pattern of names with a `*`, and a number, as pr-*=20".to_owned();
        let (pattern, environments) = text.split_once('=').ok_or_else(right)?;
        let pattern: NamePattern = pattern.parse().map_err(|_| right())?;
        let environments = environments.parse().map_err(|_| right())?;
        match pattern.is_open() {
            true => Ok(Self {
                pattern,
                environments,
            }),
            false => Err(right()),
        }
    }
}

impl Quota {
    /// The place of the limit that an environment counts for, and its source.
    pub fn source_of<'a>(&self, name: &'a EnvironmentName) -> Option<(usize, &'a str)> {
        let mut limits = self.sources.iter().enumerate();
        limits.find_map(|(at, limit)| Some((at, limit.pattern.source_of(name)?)))
    }
}

impl Default for Quota {
    /// 20,000 environments and 256 MiB. 10,000 of 50 services take some 50 MB, and etcd stops at 2
    /// GiB by default.
    fn default() -> Self {
        Self {
            environments: 20_000,
            bytes: 256 << 20,
            sources: &[],
        }
    }
}

/// What has to be planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope<Name> {
    /// These; all else is as it was planned before.
    Only(BTreeSet<Name>),
    Everything,
}

/// What should be in etcd.
pub trait Desired<K: Resource>: Default + Debug + Send {
    /// Brings this in sync with files and etcd: all of it, or, where that leads to the same, what
    /// has changed.
    fn merge(
        &mut self,
        files: &Files<K>,
        actual: &Actual<K>,
        changes: &Changes<K>,
        terms: Terms,
    ) -> Scope<K::Name>;

    /// The records that should be there.
    fn accepted(&self) -> &BTreeMap<K::Name, SharedRecord<K>>;

    /// What should not be there, although a file says it.
    fn refused(&self) -> impl Iterator<Item = Refused<'_, K>>;

    /// Those that have what this one has, and only one may have.
    fn holders(&self, _record: &K::Record) -> impl Iterator<Item = &K::Name> {
        std::iter::empty()
    }

    /// The records of others that claim what one of ours had before them, with a word about that.
    fn latecomers(&self) -> impl Iterator<Item = (&K::Name, &String)> {
        std::iter::empty()
    }

    /// The life of a record that is to be put in the place of what etcd holds.
    fn life(
        &self,
        record: &SharedRecord<K>,
        held: Option<&Held<K>>,
        actual: &Actual<K>,
        now: SystemTime,
    ) -> K::Life;

    /// Whether one is to be put although another writer has registered it.
    fn is_takeover(&self, _name: &K::Name) -> bool {
        false
    }
}

/// A record that is not registered as a file says: file and name, the place in the file if it is
/// there, and why.
pub type Refused<'a, K> = (&'a str, &'a Name<K>, Option<Mark>, &'a str);

//! What has changed, in files and in etcd.

use std::collections::BTreeSet;

use crate::environments::Environments;
use crate::resource::{Name, Resource, SharedRecord};

#[derive(Debug, Default)]
pub struct Changes<K: Resource = Environments> {
    pub all: bool,
    pub files: BTreeSet<String>,
    /// What is new in etcd.
    pub names: BTreeSet<Name<K>>,
    /// The records of others in etcd that came or went.
    pub others: Vec<SharedRecord<K>>,
    /// The records that have ended, and not by us.
    pub ended: Vec<Name<K>>,
}

impl<K: Resource> Changes<K> {
    #[cfg(test)]
    pub fn all() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    pub fn is_empty(&self) -> bool {
        !self.all && self.files.is_empty() && self.names.is_empty()
    }

    /// Adds what is new in etcd, but for what has ended.
    pub fn add(&mut self, news: &mut Self) {
        self.all |= news.all;
        self.names.append(&mut news.names);
        self.others.append(&mut news.others);
        if self.all {
            // Everything is looked at anyway, and that may not be soon.
            self.others.clear();
        }
    }
}

//! What is left out because it cannot be read, with the reason.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An entry that is left out, so that it harms nobody else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SetAside {
    /// The etcd key, or the file and environment.
    pub key: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

/// The keys of etcd whose newest value cannot be read. Cheap to clone, and a copy that differs
/// shares its texts: a batch that waits for a slow consumer holds one, however many keys are
/// spoilt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAsides(Arc<BTreeMap<Arc<str>, Arc<str>>>);

impl SetAsides {
    /// Sets the key of a text aside.
    pub fn insert(&mut self, text: String, reason: String) {
        if self.reason(&text) != Some(&reason) {
            Arc::make_mut(&mut self.0).insert(text.into(), reason.into());
        }
    }

    /// Notes that the key of a text can be read, or is gone.
    pub fn remove(&mut self, text: &str) {
        if self.0.contains_key(text) {
            Arc::make_mut(&mut self.0).remove(text);
        }
    }

    /// Why the key of a text is set aside, if it is.
    pub fn reason(&self, text: &str) -> Option<&str> {
        self.0.get(text).map(|reason| &**reason)
    }

    /// All of them, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = SetAside> {
        self.0.iter().map(|(key, reason)| SetAside {
            key: key.to_string(),
            reason: reason.to_string(),
        })
    }
}

//! What happens, line by line with its time: printed on request, so that two runs can be compared.
//! Otherwise only the times are hashed: the texts cost more than what they are about.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// The trace. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Trace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: Instant,
    is_printed: bool,
    /// A text that differs from run to run.
    hidden: String,
    hasher: Mutex<(DefaultHasher, u64)>,
}

impl Trace {
    /// A trace that begins now.
    pub fn new(is_printed: bool) -> Self {
        Self::of(is_printed, String::new())
    }

    /// The same, without a text that differs from run to run.
    pub fn hiding(self, text: &str) -> Self {
        Self::of(self.0.is_printed, text.to_owned())
    }

    fn of(is_printed: bool, hidden: String) -> Self {
        Self(Arc::new(Inner {
            begun: Instant::now(),
            is_printed,
            hidden,
            // Its keys are always the same.
            hasher: Mutex::new((DefaultHasher::new(), 0)),
        }))
    }

    /// Whether somebody reads it.
    pub fn is_printed(&self) -> bool {
        self.0.is_printed
    }

    /// Notes what happens now.
    pub fn note(&self, what: impl FnOnce() -> String) {
        let at = self.0.begun.elapsed();
        if self.0.is_printed {
            let mut line = what();
            if !self.0.hidden.is_empty() {
                line = line.replace(&self.0.hidden, "");
            }
            println!("{:>14.9} {line}", at.as_secs_f64());
        }
        let mut hasher = self.0.hasher.lock().unwrap_or_else(PoisonError::into_inner);
        at.hash(&mut hasher.0);
        hasher.1 += 1;
    }

    /// The hash of the times until now, and how many lines that is.
    pub fn hash(&self) -> (u64, u64) {
        let hasher = self.0.hasher.lock().unwrap_or_else(PoisonError::into_inner);
        (hasher.0.finish(), hasher.1)
    }
}

//! What is measured alike of Mayfly and of its peers: a change, and when it takes effect.

use anyhow::Result;

use crate::probe::Probe;

/// Anything that can be told that an environment uses another version of its first service.
pub trait Changeable {
    /// Prepares the change, so that [`Changeable::commit`] is the last step only.
    ///
    /// # Errors
    /// When a file cannot be written.
    fn prepare(&mut self, environment: usize, version: usize) -> Result<()>;

    /// Makes the change.
    ///
    /// # Errors
    /// When it is refused.
    fn commit(&mut self) -> Result<()>;

    /// A probe that comes from outside.
    fn probe(&self, environment: usize) -> Probe;
}

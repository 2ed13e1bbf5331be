//! HAProxies that are values of a test: the simulation puts one at the path of a socket, and it
//! answers in place of what listens there. No program does that.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

/// What answers at a socket.
pub trait Simulated: Send + Sync {
    /// Answers a request. Fails as a connection does.
    fn answer(&self, request: String) -> Pin<Box<dyn Future<Output = io::Result<String>> + Send + '_>>;
}

static SIMULATED: Mutex<BTreeMap<PathBuf, Arc<dyn Simulated>>> = Mutex::new(BTreeMap::new());

/// From now on, this answers at the socket of a path.
pub fn put(path: PathBuf, answers: Arc<dyn Simulated>) {
    let mut all = SIMULATED.lock().unwrap_or_else(PoisonError::into_inner);
    all.insert(path, answers);
}

/// What answers in place of the socket of a path, if anything does.
pub(super) fn at(path: &Path) -> Option<Arc<dyn Simulated>> {
    let all = SIMULATED.lock().unwrap_or_else(PoisonError::into_inner);
    all.get(path).cloned()
}

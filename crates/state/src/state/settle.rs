//! A look at everything that gives daemons a moment to catch up. A change needs some milliseconds
//! to reach every daemon, and a daemon some more to report it. A daemon that is behind for that
//! long only needs no attention.

use std::time::Duration;

use mayfly_daemon::store::Store;
use mayfly_daemon::watch::{WatchOptions, watch};
use tokio::time::{Instant, timeout_at};

use super::State;

/// How long a daemon may be behind before a command says so. A daemon reports at most five times a
/// second, so a busy host needs some of these turns; a person can wait as long.
const SETTLES_WITHIN: Duration = Duration::from_secs(2);

impl State {
    /// Reads everything; while a daemon is behind, follows etcd for up to two seconds.
    ///
    /// # Errors
    /// When etcd does not answer, or has nothing of Mayfly.
    pub async fn read_settled(store: &Store, least: usize) -> anyhow::Result<Self> {
        let read = Self::read(store, least).await?;
        if !read.is_behind() {
            return Ok(read);
        }
        let deadline = Instant::now() + SETTLES_WITHIN;
        let mut following = watch(store, store.keyspace().everything(), WatchOptions::default());
        let mut state = Self::new(store.keyspace(), least);
        while let Ok(batch) = timeout_at(deadline, following.next_batch_coalesced()).await {
            state.take(batch);
            if !state.is_behind() {
                return Ok(state);
            }
        }
        // Nothing was followed where etcd stopped answering in between.
        Ok(if state.revision == 0 { read } else { state })
    }

    /// Whether a daemon that has been in sync is behind now.
    fn is_behind(&self) -> bool {
        self.daemons().iter().any(|daemon| daemon.ready && daemon.lag > 0)
    }
}

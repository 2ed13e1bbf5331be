//! Background tasks that may not die in silence: when one of them ends, fails or panics, the daemon
//! ends with an error that names it, and whatever supervises the daemon starts it again.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::anyhow;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinError, JoinHandle};

/// Whether blocking work is done by the thread that asks for it.
static INLINE: AtomicBool = AtomicBool::new(false);

/// From now on, blocking work is done by the thread that asks for it: for the simulation, which
/// decides the order of everything. No daemon may do that.
pub fn block_inline() {
    INLINE.store(true, Ordering::Relaxed);
}

/// Does work that may block on a thread where that is allowed.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match INLINE.load(Ordering::Relaxed) {
        true => tokio::spawn(async move { work() }),
        false => tokio::task::spawn_blocking(work),
    }
}

/// The background tasks of one daemon. All are aborted when it is dropped.
#[derive(Debug)]
pub struct Tasks {
    ended: mpsc::UnboundedSender<anyhow::Error>,
    ends: tokio::sync::Mutex<mpsc::UnboundedReceiver<anyhow::Error>>,
    running: Mutex<Vec<AbortHandle>>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        let (ended, ends) = mpsc::unbounded_channel();
        Self {
            ended,
            ends: tokio::sync::Mutex::new(ends),
            running: Mutex::default(),
        }
    }

    /// Starts a task that is meant to run as long as the daemon does. `name` stands in the error.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let inner = tokio::spawn(task);
        let mut running = self.running();
        running.retain(|handle| !handle.is_finished());
        running.push(inner.abort_handle());
        let ended = self.ended.clone();
        tokio::spawn(async move {
            if let Some(error) = reason(name, inner.await) {
                // Nobody listens any more only when the daemon is already on its way out.
                let _ = ended.send(error);
            }
        });
    }

    /// Waits until one of the tasks has ended and says why. Waits for ever while all run. Safe in
    /// `select!`.
    pub async fn ended(&self) -> anyhow::Error {
        match self.ends.lock().await.recv().await {
            Some(error) => error,
            // `self` holds a sender, so the channel cannot close.
            None => std::future::pending().await,
        }
    }

    /// Runs `work` to its end, or until one of the tasks ends.
    ///
    /// # Errors
    /// Those of `work`, or the end of a task.
    pub async fn supervise<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            biased;
            result = work => result,
            error = self.ended() => Err(error),
        }
    }

    fn running(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for handle in self.running().drain(..) {
            handle.abort();
        }
    }
}

fn reason(name: &str, end: Result<anyhow::Result<()>, JoinError>) -> Option<anyhow::Error> {
    match end {
        Ok(Ok(())) => Some(anyhow!("background task '{name}' ended unexpectedly")),
        Ok(Err(error)) => Some(error.context(format!("background task '{name}' failed"))),
        Err(error) if error.is_cancelled() => None,
        Err(error) => {
            let panic = error.into_panic();
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "no message".to_owned());
            Some(anyhow!("background task '{name}' panicked: {text}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn end_of<F>(task: F) -> String
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let tasks = Tasks::new();
        tasks.spawn("pump", task);
        let error = tasks
            .supervise(std::future::pending::<anyhow::Result<()>>())
            .await
            .unwrap_err();
        format!("{error:#}")
    }

    #[tokio::test]
    async fn an_end_a_failure_and_a_panic_end_the_work() {
        assert_eq!(
            end_of(async { Ok(()) }).await,
            "background task 'pump' ended unexpectedly"
        );
        let failed = end_of(async { Err(anyhow!("no water")) }).await;
        assert_eq!(failed, "background task 'pump' failed: no water");
        let panicked = end_of(async { panic!("burst") }).await;
        assert_eq!(panicked, "background task 'pump' panicked: burst");
    }

    #[tokio::test]
    async fn work_that_ends_wins_and_dropping_aborts_the_rest() {
        let tasks = Tasks::new();
        let (alive, gone) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn("holder", async move {
            let _alive = alive;
            std::future::pending().await
        });
        assert_eq!(tasks.supervise(async { Ok(7) }).await.unwrap(), 7);
        drop(tasks);
        assert!(gone.await.is_err(), "the task must be dropped with its owner");
    }
}

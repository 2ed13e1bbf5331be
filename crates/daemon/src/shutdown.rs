//! SIGTERM, SIGINT and SIGHUP become a [`Shutdown`] that is passed into everything that runs, so a
//! test can end a daemon the same way. A second signal aborts the process: whoever asks twice does
//! not want to wait. SIGHUP means that the terminal was closed; files are followed without it.
//!
//! A command that comes to its end by itself asks for no shutdown. Then the first signal ends the
//! process at once, even while it reads its standard input: see [`Signals`].

use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{logs, systemd};

/// The signals of this process. Until [`Signals::shutdown`] is called, the first one ends the
/// process, as it ends a program that knows nothing of signals. Such an end leaves what a kill at
/// that moment leaves, so no command may rely on being asked first.
#[derive(Debug)]
pub struct Signals {
    /// What a test or a part of a program has in place of signals.
    given: Option<Shutdown>,
    is_followed: Arc<AtomicBool>,
}

impl Signals {
    /// Those of the whole process.
    ///
    /// The kernel ends the process at a signal by itself: then a shell sees that the signal was the
    /// reason, and ends its script as well. Only for process 1, as in a container, the kernel drops
    /// every signal without a handler. There a thread of its own waits for the signal, since the
    /// others may be in a read that nothing can interrupt.
    pub(crate) fn of_process() -> Self {
        let is_followed = Arc::new(AtomicBool::new(false));
        if std::process::id() == 1 {
            let is_followed = is_followed.clone();
            std::thread::spawn(move || end_at_first(&is_followed));
        }
        Self {
            given: None,
            is_followed,
        }
    }

    /// From now on, the first signal begins this shutdown, and the second one ends the process.
    /// Needs a running tokio runtime.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn shutdown(self) -> anyhow::Result<Shutdown> {
        if let Some(shutdown) = self.given {
            return Ok(shutdown);
        }
        // First: a signal from here on is one of the shutdown.
        self.is_followed.store(true, Ordering::SeqCst);
        let shutdown = Shutdown::on_signals()?;
        let ending = shutdown.clone();
        tokio::spawn(async move {
            ending.begun().await;
            systemd::stopping();
        });
        Ok(shutdown)
    }
}

impl From<Shutdown> for Signals {
    /// No signal, but this shutdown.
    fn from(shutdown: Shutdown) -> Self {
        Self {
            given: Some(shutdown),
            is_followed: Arc::default(),
        }
    }
}

/// Ends the process at the first signal, unless signals begin a shutdown by then.
fn end_at_first(is_followed: &AtomicBool) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    // Without them, signals have no effect, and a kill is left.
    let number = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let (_, number) = Listeners::new()?.next().await;
            Ok::<_, io::Error>(number)
        })
    });
    if let Some(number) = number.ok().filter(|_| !is_followed.load(Ordering::SeqCst)) {
        std::process::exit(128 + number);
    }
}

/// Handlers of the signals that end a program.
struct Listeners {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Option<Signal>,
}

impl Listeners {
    /// A SIGHUP that the process was told to ignore when it was started, as by `nohup`, stays
    /// ignored.
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: match ignores_hang_up() {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// The name and the number of the next signal.
    async fn next(&mut self) -> (&'static str, i32) {
        let Self {
            terminate,
            interrupt,
            hang_up,
        } = self;
        tokio::select! {
            _ = terminate.recv() => ("SIGTERM", 15),
            _ = interrupt.recv() => ("SIGINT", 2),
            _ = async { hang_up.as_mut()?.recv().await }, if hang_up.is_some() => ("SIGHUP", 1),
        }
    }
}

/// Tells every part of a daemon that it has to come to an end. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::begin`] begins; for tests and for parts of a daemon.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that begins with the first SIGTERM, SIGINT or SIGHUP. The second one ends the
    /// process with 128 + the signal's number (130 for SIGINT, 143 for SIGTERM).
    fn on_signals() -> anyhow::Result<Self> {
        let shutdown = Self::new();
        let mut signals = Listeners::new().context("cannot listen for signals")?;
        let begun = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let (name, number) = signals.next().await;
                if begun.has_begun() {
                    warn!("received {name} during the shutdown: aborting");
                    logs::flush();
                    std::process::exit(128 + number);
                }
                info!("received {name}: shutting down (a second signal aborts)");
                begun.begin();
            }
        });
        Ok(shutdown)
    }

    /// Begins the shutdown. Doing it again changes nothing.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether the shutdown has begun.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the shutdown begins; returns at once if it has. Safe in `select!`.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }
}

/// Whether whoever started this process wants it to outlive its terminal.
fn ignores_hang_up() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A set of bits, that of signal 1 the lowest.
    ignored.is_some_and(|bits| u64::from_str_radix(bits.trim(), 16).is_ok_and(|bits| bits & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_learns_of_it() {
        let shutdown = Shutdown::new();
        let clone = shutdown.clone();
        assert!(!clone.has_begun());
        shutdown.begin();
        clone.begun().await;
        assert!(clone.has_begun());
    }
}

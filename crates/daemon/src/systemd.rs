//! Readiness for systemd's `Type=notify`: says READY=1 and STOPPING=1 where NOTIFY_SOCKET is set,
//! and does nothing elsewhere.

use sd_notify::NotifyState;
use tracing::debug;

/// Tells systemd that the first full sync is done.
pub fn ready() {
    notify(NotifyState::Ready);
}

/// Tells systemd that the daemon is on its way out.
pub fn stopping() {
    notify(NotifyState::Stopping);
}

fn notify(state: NotifyState<'_>) {
    // A service manager that cannot be notified is no reason to stop routing.
    if let Err(error) = sd_notify::notify(&[state]) {
        debug!("cannot notify systemd: {error}");
    }
}

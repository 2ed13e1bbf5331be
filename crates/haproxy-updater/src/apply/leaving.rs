//! Servers whose instance is gone but whose connections are not: they take no new requests. A
//! server without a connection is disabled, and deleted only when no request can point to it any
//! more. A long WebSocket lives on meanwhile, and no other change waits for it. The requests of a
//! dead server are ended at last, when those that can still go elsewhere have done so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::Applier;
use crate::haproxy::commands::Command;
use crate::haproxy::servers::Admin;
use crate::haproxy::sockets::Trouble;
use crate::haproxy::tokens::{ServerName, Slot};

/// Servers that are to be removed, and which of them are disabled.
pub(super) type LeavingServers = BTreeMap<(Slot, ServerName), Option<Disabled>>;

/// A server that takes no requests at all any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disabled {
    since: Instant,
    /// The checks had found it dead: in maintenance there are none.
    dead: bool,
}

/// How long a disabled server stays. A request whose connection attempt failed still points to the
/// server until its next try, and HAProxy 2.6 crashes when the server is deleted before: an attempt
/// takes at most the connection timeout, the pause after it the same time or a second, whichever is
/// shorter. That pause is counted twice for safety.
fn rest(connect_timeout: Duration) -> Duration {
    connect_timeout + 2 * connect_timeout.min(Duration::from_secs(1))
}

impl Applier {
    /// Whether servers wait for the end of their connections.
    pub fn has_leaving(&self) -> bool {
        self.is_known() && !self.leaving.is_empty()
    }

    /// Disables the leaving servers whose last connection has ended, and deletes those that have
    /// been disabled for long enough. The requests of a server that its health checks found dead are
    /// ended after that time, since no answer will ever come. A request whose connection was still
    /// being opened has gone to another server by then: HAProxy would end it unanswered. The server
    /// then waits once more. Says whether any was deleted.
    ///
    /// # Errors
    /// When HAProxy is away or did not do what it was asked; everything is then in doubt.
    pub async fn remove_leaving(&mut self, now: Instant) -> Result<bool, Trouble> {
        let before = self.leaving.len();
        let result = self.try_remove_leaving(now).await;
        if result.is_err() {
            self.doubt();
        }
        self.parts.metrics.servers_leaving.set(self.leaving.len() as i64);
        result.map(|()| self.leaving.len() < before)
    }

    async fn try_remove_leaving(&mut self, now: Instant) -> Result<(), Trouble> {
        let rest = rest(self.parts.renderer.settings().connect_timeout.into());
        let slots: BTreeSet<Slot> = self.leaving.keys().map(|(slot, _)| *slot).collect();
        for slot in slots {
            let servers = self.parts.runtime.leaving(slot).await?;
            let here = self.leaving.iter().filter(|((other, _), _)| *other == slot);
            let here: Vec<_> = here
                .map(|((_, name), disabled)| (name.clone(), *disabled))
                .collect();
            for (name, disabled) in here {
                let gone = match (servers.get(&name), disabled) {
                    (None, _) => true,
                    (Some(server), None) => {
                        if server.used == 0 || server.dead {
                            let dead = server.dead;
                            self.disable(slot, &name, Disabled { since: now, dead }).await?;
                        }
                        false
                    }
                    (Some(server), Some(disabled)) if now >= disabled.since + rest => {
                        // A request that is ended may still point to the server for a moment.
                        if disabled.dead && server.used > 0 {
                            self.parts.runtime.end_requests(slot, &name).await?;
                            let again = Disabled {
                                since: now,
                                ..disabled
                            };
                            self.leaving.insert((slot, name), Some(again));
                            continue;
                        }
                        self.parts.runtime.delete(slot, &name).await?
                    }
                    (Some(_), Some(_)) => false,
                };
                if gone {
                    self.actual.play(&Command::DeleteServer {
                        slot,
                        name: name.clone(),
                    });
                    self.leaving.remove(&(slot, name));
                }
            }
        }
        Ok(())
    }

    async fn disable(&mut self, slot: Slot, name: &ServerName, disabled: Disabled) -> Result<(), Trouble> {
        self.parts.runtime.disable(slot, name).await?;
        self.actual.play(&Command::SetState {
            slot,
            name: name.clone(),
            admin: Admin::Maint,
        });
        self.leaving.insert((slot, name.clone()), Some(disabled));
        Ok(())
    }

    /// Takes over which servers of the planned slots leave. One that is still disabled keeps its
    /// time.
    pub(super) fn note_leaving(&mut self, slots: &BTreeSet<Slot>, leaving: BTreeSet<(Slot, ServerName)>) {
        let mut before = std::mem::take(&mut self.leaving);
        let kept = before.iter().filter(|((slot, _), _)| !slots.contains(slot));
        self.leaving = kept
            .map(|(server, disabled)| (server.clone(), *disabled))
            .collect();
        for server in leaving {
            let disabled = before.remove(&server).flatten();
            let is_disabled = |found: &crate::haproxy::servers::ActualServer| found.admin == Admin::Maint;
            let found = self.actual.servers.get(&server.0);
            let found = found.and_then(|servers| servers.get(&server.1));
            self.leaving
                .insert(server, disabled.filter(|_| found.is_some_and(is_disabled)));
        }
        self.parts.metrics.servers_leaving.set(self.leaving.len() as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_outlasts_an_attempt_and_its_pause() {
        for (timeout, expected) in [(50, 150), (1_000, 3_000), (5_000, 7_000)] {
            let millis = Duration::from_millis;
            assert_eq!(rest(millis(timeout)), millis(expected));
        }
    }
}

//! Servers whose instance is gone but whose connections are not: they take no new requests, and each is taken away
//! when its last connection has ended. A long WebSocket lives on meanwhile, and no other change waits for it.

use std::collections::BTreeSet;

use super::Engine;
use crate::command::Command;
use crate::runtime::Trouble;
use crate::text::{ServerName, Slot};

impl Engine {
    /// Whether servers wait for the end of their connections.
    pub fn has_leaving(&self) -> bool {
        self.known && !self.leaving.is_empty()
    }

    /// Takes away the leaving servers whose last connection has ended. A server that its health checks found dead is
    /// taken away with its connections: nobody will ever answer on them. Says whether any went.
    ///
    /// # Errors
    /// When HAProxy is away or did not do what it was told; everything is then in doubt.
    pub async fn see_off(&mut self) -> Result<bool, Trouble> {
        let before = self.leaving.len();
        let result = self.try_see_off().await;
        if result.is_err() {
            self.known = false;
        }
        self.parts.metrics.servers_leaving.set(self.leaving.len() as i64);
        result.map(|()| self.leaving.len() < before)
    }

    async fn try_see_off(&mut self) -> Result<(), Trouble> {
        let slots: BTreeSet<Slot> = self.leaving.iter().map(|(slot, _)| *slot).collect();
        for slot in slots {
            let servers = self.parts.runtime.leaving(slot).await?;
            let here = self.leaving.iter().filter(|(other, _)| *other == slot);
            let names: Vec<ServerName> = here.map(|(_, name)| name.clone()).collect();
            for name in names {
                let gone = match servers.get(&name) {
                    None => true,
                    Some(server) if server.used == 0 || server.dead => {
                        self.parts.runtime.remove(slot, &name, server.dead).await?
                    }
                    Some(_) => false,
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
}

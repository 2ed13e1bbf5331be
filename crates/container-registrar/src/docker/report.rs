//! The status record of this registrar: what is set aside, and whether the engine is followed.

use mayfly_core::records::SetAside;

use super::run::DockerRegistrar;

impl DockerRegistrar {
    /// Puts into the status record what has changed.
    pub(super) fn report(&self) {
        let entries = self.set_aside.values().map(|(name, reason)| SetAside {
            key: format!("container {name}"),
            reason: reason.clone(),
        });
        self.status
            .set_aside(entries.chain(self.misplaced.iter().cloned()).collect());
        let connected = self.connected.get() == 1;
        self.status.update(|status| {
            status
                .detail
                .insert("engine".to_owned(), self.origin.engine.clone().into());
            status
                .detail
                .insert("engine_connected".to_owned(), connected.into());
            status.error.clone_from(&self.error);
        });
    }
}

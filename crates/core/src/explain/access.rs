//! Who is let into an environment at the edge: the users and networks of its `access`, or of the
//! one that it inherits from.

use super::{ErrorAnswer, Walk};
use crate::names::EnvironmentName;
use crate::routing::{AccessKind, EnvironmentRows};

/// By what a request says who sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password; the right one where nothing is given.
    pub password: Option<String>,
}

impl Walk<'_> {
    /// Whether the environment is open to this request.
    pub(super) fn admit(&mut self, environment: &EnvironmentName) -> Result<(), ErrorAnswer> {
        let rows = self.routing.environment(environment);
        let Some(admission) = rows.and_then(|rows| rows.admission.as_ref()) else {
            return Ok(());
        };
        let (owner, kind) = (&admission.owner, admission.kind);
        let may = self.index.access(environment).map(|access| access.in_words());
        let whose = (owner != environment).then(|| format!("inherited from {owner}"));
        if kind == AccessKind::Unknown {
            self.step("access", environment.as_str(), None, may);
            return Err((
                403,
                format!(
                    "who may use the environment {environment} is not known, since it inherits that from {owner}, which cannot be extended; correct `extends`, or give it an `access` of its own."
                ),
            ));
        }
        let owners = self.routing.environment(owner);
        if let Some(who) = owners.and_then(|rows| self.is_among(rows)) {
            self.step("access", environment.as_str(), Some(who), whose);
            return Ok(());
        }
        let notes: Vec<String> = may
            .map(|may| format!("open to {may}"))
            .into_iter()
            .chain(whose)
            .collect();
        self.step("access", environment.as_str(), None, Some(notes.join("; ")));
        Err(match kind {
            AccessKind::Users | AccessKind::Both => (
                401,
                format!("the environment {environment} asks for a user and a password of {owner}."),
            ),
            AccessKind::Networks | AccessKind::Unknown => (
                403,
                format!("the environment {environment} does not admit the address of this client."),
            ),
        })
    }

    /// As whom a request is let in.
    fn is_among(&self, rows: &EnvironmentRows) -> Option<String> {
        let from = self.request.from.map(|ip| ip.to_canonical());
        if let Some(ip) = from.filter(|ip| rows.networks.iter().any(|network| network.contains(*ip))) {
            return Some(format!("the address {ip}"));
        }
        let Login { user, password } = self.request.login.as_ref()?;
        let (_, hash) = rows.users.iter().find(|(name, _)| name.as_str() == user)?;
        let fits = password.as_ref().is_none_or(|password| hash.fits(password));
        fits.then(|| format!("the user {user}"))
    }
}

//! Why a call to etcd failed, in the terms that a caller can act on.

use std::time::Duration;

use super::Endpoint;
use super::access::EtcdAccess;
use crate::advice::before_advice;

/// A call to etcd that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {cause}")]
pub struct StoreError {
    action: String,
    cause: Cause,
}

impl StoreError {
    pub(crate) fn new(action: String, cause: Cause) -> Self {
        Self { action, cause }
    }

    /// What the failure comes from.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// The message, with what follows from it before the advice to the operator.
    pub fn and(&self, follows: &str) -> String {
        before_advice(&self.to_string(), self.cause.advice(), follows)
    }

    /// The message about a call that is tried again.
    pub fn retrying(&self) -> String {
        self.and("retrying")
    }

    /// Whether etcd does not know the lease (any more).
    pub fn is_lease_lost(&self) -> bool {
        matches!(self.cause, Cause::LeaseLost)
    }

    /// What it is about: while somebody tries again and again, people want to hear of each once.
    pub(crate) fn topic(&self) -> Topic {
        match self.cause {
            Cause::Late { .. } | Cause::LoginLate { .. } | Cause::Unreachable { .. } => Topic::Away,
            Cause::Untrusted { .. }
            | Cause::Unprepared(_)
            | Cause::LoginRefused { .. }
            | Cause::LoginEnded(_)
            | Cause::NoUser
            | Cause::Denied { .. } => Topic::Access,
            Cause::LeaseLost
            | Cause::Compacted
            | Cause::Ended(_)
            | Cause::Refused(_)
            | Cause::TooLarge
            | Cause::Full => Topic::Answer,
        }
    }

    /// Whether etcd answered that it will not do this: something else it may do all the same.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self.cause,
            Cause::Refused(_) | Cause::TooLarge | Cause::Full | Cause::NoUser | Cause::Denied { .. }
        )
    }

    /// Whether the user's roles do not cover it.
    pub fn is_denied(&self) -> bool {
        matches!(self.cause, Cause::Denied { .. })
    }

    /// Whether etcd has no space left: then it takes no put and no lease, whatever they are about.
    pub fn is_full(&self) -> bool {
        self.cause == Cause::Full
    }
}

/// What a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Topic {
    /// etcd is not reached.
    Away,
    /// etcd does not let us in, or not do that.
    Access,
    /// etcd answered something else.
    Answer,
}

/// What to say where etcd has no space left.
pub const FULL: &str = "etcd's database is full (alarm NOSPACE) and refuses all writes. Compact it \
     (etcdctl compact), free the space (etcdctl defrag), then clear the alarm (etcdctl alarm \
     disarm); etcd's --quota-backend-bytes sets the limit";

const NO_USER: &str = "etcd requires a user. Set --etcd-user and --etcd-password-file";

const TOO_LARGE: &str = "the request is too large for etcd. Make the record smaller, or raise \
     etcd's --max-request-bytes";

/// What the failure of a call comes from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The lease is unknown: it ran out, was revoked, or etcd lost its data.
    #[error("etcd does not know the lease")]
    LeaseLost,
    /// The revision that was asked for is compacted.
    #[error("etcd has already compacted the requested revision")]
    Compacted,
    /// The watch was ended by etcd, with its reason.
    #[error("etcd ended the watch: {0}")]
    Ended(String),
    /// No answer came in time.
    #[error("etcd at {at} did not answer within {limit:?}")]
    Late {
        /// Where.
        at: String,
        /// The limit of the call.
        limit: Duration,
    },
    /// The login was not answered in time. It goes on, for the calls to come.
    #[error(
        "etcd at {at} has not answered the login of user {user} yet; etcd may be busy with other \
         logins"
    )]
    LoginLate {
        /// Where.
        at: String,
        /// The user.
        user: String,
    },
    /// The connection failed.
    #[error("etcd at {at} does not answer: {reason}")]
    Unreachable {
        /// Where.
        at: String,
        /// What the transport says.
        reason: String,
    },
    /// One of the two does not trust the other's certificate.
    #[error("the TLS connection to etcd at {at} failed: {reason}")]
    Untrusted {
        /// Where.
        at: String,
        /// What TLS says, and which file that is about.
        reason: String,
    },
    /// etcd answered that it will not do it.
    #[error("etcd refused: {0}")]
    Refused(String),
    /// The record has more bytes than etcd takes at once.
    #[error("{TOO_LARGE}")]
    TooLarge,
    /// It has raised the alarm NOSPACE, which stays until an operator disarms it.
    #[error("{FULL}")]
    Full,
    /// A file that the connection needs cannot be used.
    #[error("cannot connect to etcd: {0}")]
    Unprepared(String),
    /// etcd does not take user and password.
    #[error("etcd refuses the login of user {user} with {password}: {reason}")]
    LoginRefused {
        /// The user.
        user: String,
        /// Where the password comes from.
        password: String,
        /// What etcd says.
        reason: String,
    },
    /// It has authentication enabled, and no user is set.
    #[error("{NO_USER}")]
    NoUser,
    /// etcd does not know the login (any more), for it was too long ago, before a restart, or
    /// before users or roles changed.
    #[error("etcd requires a new login: {0}")]
    LoginEnded(String),
    /// The user's roles do not cover it.
    #[error("etcd does not permit this to {user}")]
    Denied {
        /// The user, as a message names it.
        user: String,
    },
}

impl Cause {
    /// What an operator can do about it: the end of the message.
    pub(crate) fn advice(&self) -> Option<&'static str> {
        let text = match self {
            Self::Full => FULL,
            Self::TooLarge => TOO_LARGE,
            Self::NoUser => NO_USER,
            _ => return None,
        };
        text.split_once(". ").map(|(_, advice)| advice)
    }

    /// Whether another try should go to another endpoint.
    pub(super) fn doubts_connection(&self) -> bool {
        matches!(
            self,
            Self::Late { .. }
                | Self::LoginLate { .. }
                | Self::Unreachable { .. }
                | Self::Untrusted { .. }
                | Self::Unprepared(_)
        )
    }

    /// Whether another try needs a new login.
    pub(super) fn ends_login(&self) -> bool {
        matches!(self, Self::LoginEnded(_))
    }

    pub(super) fn of(error: &etcd_client::Error, at: &Endpoint, access: &EtcdAccess) -> Self {
        let at = || at.host_and_port().to_owned();
        match error {
            etcd_client::Error::GRpcStatus(status) => {
                let message = status.message();
                if let Some(cause) = Self::of_login(message, access) {
                    return cause;
                }
                match i32::from(status.code()) {
                    code::NOT_FOUND if message.contains("lease not found") => Self::LeaseLost,
                    code::RESOURCE_EXHAUSTED if message.contains("database space exceeded") => Self::Full,
                    code::INVALID_ARGUMENT if message.contains("request is too large") => Self::TooLarge,
                    code::OUT_OF_RANGE if message.contains("compacted") => Self::Compacted,
                    code::CANCELLED | code::UNKNOWN | code::DEADLINE | code::INTERNAL | code::UNAVAILABLE => {
                        Self::of_transport(status, at(), access)
                    }
                    _ => Self::Refused(message.to_owned()),
                }
            }
            etcd_client::Error::LeaseKeepAliveError(text) if text.contains("not found") => Self::LeaseLost,
            // Nothing was sent yet.
            etcd_client::Error::TransportError(error) => Self::Unprepared(access.unusable(&reason(error))),
            other => Self::Unreachable {
                at: at(),
                reason: other.to_string(),
            },
        }
    }

    fn of_transport(error: &(dyn std::error::Error + 'static), at: String, access: &EtcdAccess) -> Self {
        let reason = reason(error);
        match access.explain(&reason) {
            Some(reason) => Self::Untrusted { at, reason },
            None => Self::Unreachable { at, reason },
        }
    }

    pub(super) fn ended(reason: &str, access: &EtcdAccess) -> Self {
        Self::of_login(reason, access).unwrap_or_else(|| {
            let reason = if reason.is_empty() {
                "no reason given"
            } else {
                reason
            };
            Self::Ended(reason.to_owned())
        })
    }

    /// What etcd says about users, which comes with different codes from one version and call to
    /// the next.
    fn of_login(message: &str, access: &EtcdAccess) -> Option<Self> {
        let holds = |part: &str| message.contains(part);
        if holds("invalid auth token") || holds("auth store is old") || holds("revision in header is old") {
            return Some(Self::LoginEnded(message.to_owned()));
        }
        if holds("user name is empty") {
            // Authentication was enabled after we connected, or we have no user at all.
            return Some(match access.user {
                Some(_) => Self::LoginEnded(message.to_owned()),
                None => Self::NoUser,
            });
        }
        if holds("invalid user ID or password") {
            let user = access.user.as_ref()?;
            return Some(Self::LoginRefused {
                user: user.name.clone(),
                password: user.password.origin(),
                reason: message.to_owned(),
            });
        }
        holds("permission denied").then(|| Self::Denied {
            user: match access.user_name() {
                Some(name) => format!("user {name}"),
                None => "a client without --etcd-user".to_owned(),
            },
        })
    }
}

/// The codes of gRPC that mean something here.
mod code {
    pub const CANCELLED: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const DEADLINE: i32 = 4;
    pub const NOT_FOUND: i32 = 5;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const OUT_OF_RANGE: i32 = 11;
    pub const INTERNAL: i32 = 13;
    pub const UNAVAILABLE: i32 = 14;
}

/// The message of gRPC and its innermost cause, which is the one that tells something ("connection
/// refused").
fn reason(status: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = status;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    // rustls adds a link for programmers.
    let text = text.split(": https://docs.rs/").next().unwrap_or_default();
    if text.is_empty() {
        "no reason given".to_owned()
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::access::{Password, User};
    use super::*;

    #[test]
    fn advice_is_the_end_of_a_message() {
        let text = |cause| StoreError::new("put a".to_owned(), cause).retrying();
        let full = text(Cause::Full);
        assert!(
            full.starts_with(
                "cannot put a: etcd's database is full (alarm NOSPACE) and refuses all writes; \
                 retrying. Compact it (etcdctl compact)"
            ),
            "{full}"
        );
        assert_eq!(
            text(Cause::TooLarge),
            "cannot put a: the request is too large for etcd; retrying. Make the record smaller, or \
             raise etcd's --max-request-bytes"
        );
        assert_eq!(
            text(Cause::Refused("no. Never".to_owned())),
            "cannot put a: etcd refused: no. Never; retrying"
        );
    }

    #[test]
    fn what_etcd_says_of_users_has_a_cause_of_its_own() {
        let user = EtcdAccess {
            user: Some(User {
                name: "me".to_owned(),
                password: Password::of_text("secret".to_owned()),
            }),
            ..EtcdAccess::default()
        };
        let said = |message: &str, access: &EtcdAccess| {
            Cause::of_login(message, access).map(|cause| cause.to_string())
        };
        for message in [
            "etcdserver: invalid auth token",
            "etcdserver: revision of auth store is old",
            "auth: revision in header is old",
            "etcdserver: user name is empty",
        ] {
            let cause = Cause::of_login(message, &user).unwrap();
            assert!(cause.ends_login() && !cause.doubts_connection(), "{message}");
        }
        let nobody = said("etcdserver: user name is empty", &EtcdAccess::default()).unwrap();
        assert!(nobody.contains("Set --etcd-user"), "{nobody}");
        let wrong = said(
            "etcdserver: authentication failed, invalid user ID or password",
            &user,
        )
        .unwrap();
        assert!(
            wrong.contains("user me with MAYFLY_ETCD_PASSWORD") && !wrong.contains("secret"),
            "{wrong}"
        );
        let denied = said("etcdserver: permission denied", &user).unwrap();
        assert_eq!(denied, "etcd does not permit this to user me");
        assert_eq!(said("etcdserver: mvcc: database space exceeded", &user), None);
    }
}

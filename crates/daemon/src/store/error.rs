//! Why a call to etcd failed, in the terms that a caller can act on.

use std::time::Duration;

use crate::args::Endpoint;

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

    /// Whether etcd does not know the lease (any more).
    pub fn is_lease_lost(&self) -> bool {
        matches!(self.cause, Cause::LeaseLost)
    }

    /// Whether etcd answered that it will not do this: something else it may do all the same.
    pub fn is_refusal(&self) -> bool {
        matches!(self.cause, Cause::Refused(_))
    }
}

/// What the failure of a call comes from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The lease is unknown: it ran out, was revoked, or etcd lost its data.
    #[error("etcd does not know the lease")]
    LeaseLost,
    /// The revision that was asked for is compacted.
    #[error("etcd has compacted that revision")]
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
    /// The connection failed.
    #[error("etcd at {at} does not answer: {reason}")]
    Unreachable {
        /// Where.
        at: String,
        /// What the transport says.
        reason: String,
    },
    /// etcd answered that it will not do it.
    #[error("etcd refused: {0}")]
    Refused(String),
}

impl Cause {
    /// Whether another try should go to another endpoint.
    pub(super) fn doubts_connection(&self) -> bool {
        matches!(self, Self::Late { .. } | Self::Unreachable { .. })
    }

    pub(super) fn of(error: &etcd_client::Error, at: &Endpoint) -> Self {
        let at = || at.host_and_port().to_owned();
        match error {
            etcd_client::Error::GRpcStatus(status) => {
                let message = status.message();
                match i32::from(status.code()) {
                    code::NOT_FOUND if message.contains("lease not found") => Self::LeaseLost,
                    code::OUT_OF_RANGE if message.contains("compacted") => Self::Compacted,
                    code::CANCELLED | code::UNKNOWN | code::DEADLINE | code::INTERNAL | code::UNAVAILABLE => {
                        Self::Unreachable {
                            at: at(),
                            reason: reason(status),
                        }
                    }
                    _ => Self::Refused(message.to_owned()),
                }
            }
            etcd_client::Error::LeaseKeepAliveError(text) if text.contains("not found") => Self::LeaseLost,
            other => Self::Unreachable {
                at: at(),
                reason: other.to_string(),
            },
        }
    }
}

/// The codes of gRPC that mean something here.
mod code {
    pub const CANCELLED: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const DEADLINE: i32 = 4;
    pub const NOT_FOUND: i32 = 5;
    pub const OUT_OF_RANGE: i32 = 11;
    pub const INTERNAL: i32 = 13;
    pub const UNAVAILABLE: i32 = 14;
}

/// The message of gRPC and its innermost cause, which is the one that tells something ("connection refused").
fn reason(status: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = status;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    if text.is_empty() {
        "no reason given".to_owned()
    } else {
        text
    }
}

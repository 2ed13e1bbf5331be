//! `/v1/decide`: the version that a header value means for a service.

use axum::http::{HeaderValue, StatusCode};
use mayfly_core::explain::Decision;
use mayfly_core::names::ServiceName;
use mayfly_core::records::lifetime::Moment;
use serde::Serialize;

use super::{Api, ApiResult};
use crate::decisions::router_settings;
use crate::problem::Problem;
use crate::query::Query;

#[derive(Serialize)]
struct DecideAnswer<'a> {
    /// The value as it was sent.
    value: &'a str,
    #[serde(flatten)]
    decision: Decision,
    /// The revision of etcd that it is decided at.
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd_unreachable_since: Option<Moment>,
}

impl Api {
    pub(super) fn decide(&self, query: &Query) -> ApiResult {
        let Some(service) = query.parsed::<ServiceName>("service")? else {
            return Err(Problem::bad_request(
                "the parameter service is missing; example: /v1/decide?service=orders&value=temp-1",
            ));
        };
        let value = query.get("value").unwrap_or_default();
        if HeaderValue::from_bytes(value.as_bytes()).is_err() {
            return Err(Problem::bad_request(
                "the parameter value cannot be the value of a header: it has a control character",
            ));
        }
        let state = self.live.state()?;
        let settings = router_settings(&state)?;
        let decided = state.index.decide(&settings, service.as_str(), value);
        let decision = decided.map_err(|refusal| {
            let status = match refusal.status {
                400 => StatusCode::BAD_REQUEST,
                // A version that has no instance is no reason; a selector that nothing fits has no
                // version.
                _ => StatusCode::NOT_FOUND,
            };
            Problem::new(status, refusal.text)
        })?;
        let answer = DecideAnswer {
            value,
            decision,
            revision: state.revision,
            etcd_unreachable_since: self.unreachable_since(),
        };
        super::json(&answer, false)
    }
}

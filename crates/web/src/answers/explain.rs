//! `/v1/explain`: what `mayfly explain` says, as its text and as its JSON.

use std::time::SystemTime;

use mayfly_core::names::{EnvironmentName, ServiceName};
use mayfly_core::printable::printable_lines;
use mayfly_core::records::lifetime::Moment;
use mayfly_daemon::output::Look;
use mayfly_state::explain::{ExplainOutput, ExplainRequest, explain};
use serde::Serialize;

use super::{Api, ApiResult};
use crate::problem::Problem;
use crate::query::Query;

/// The parameters that the call takes.
pub const PARAMETERS: &[&str] = &[
    "url",
    "environment",
    "service",
    "header",
    "cookie",
    "user",
    "from",
];

#[derive(Serialize)]
struct ExplainAnswer<'a> {
    /// What `mayfly explain` prints without colour.
    text: String,
    #[serde(flatten)]
    output: &'a ExplainOutput,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd_unreachable_since: Option<Moment>,
}

impl Api {
    pub(super) fn explain(&self, query: &Query, gzip: bool) -> ApiResult {
        let url = query.filled("url").map(str::to_owned);
        let environment: Option<EnvironmentName> = query.parsed("environment")?;
        let service: Option<ServiceName> = query.parsed("service")?;
        let since = self.unreachable_since();
        let state = self.live.state()?;
        let target = match (url, &environment, &service) {
            (Some(url), None, None) => url,
            (None, Some(name), Some(_)) if state.index.environment(name).is_none() => {
                return Err(Problem::not_found(state.unknown(name)));
            }
            (None, Some(name), Some(_)) => name.to_string(),
            _ => {
                return Err(Problem::bad_request(
                    "set the parameter url, or the parameters environment and service; examples: \
                     /v1/explain?url=http://www-temp-1.example.com/api or \
                     /v1/explain?environment=temp-1&service=backend",
                ));
            }
        };
        let question = ExplainRequest {
            target,
            service,
            header: query.get("header").map(str::to_owned),
            cookie: query.get("cookie").unwrap_or_default().to_owned(),
            user: query.parsed("user")?,
            from: query.parsed("from")?,
            domain: None,
            default_environment: None,
        };
        let explained = explain(&state, &question, SystemTime::now())
            .map_err(|error| Problem::bad_request(format!("{error:#}")))?;
        let answer = ExplainAnswer {
            text: printable_lines(&explained.text(Look::default())),
            output: &explained.output,
            etcd_unreachable_since: since,
        };
        super::json(&answer, gzip)
    }
}

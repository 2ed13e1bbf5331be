//! What is refused, and why: problem details as RFC 9457 has them.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use mayfly_daemon::output;
use serde_json::{Value, json};

/// An answer that is none.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// What is wrong, and what would be right.
    pub detail: String,
    /// Further members.
    more: Vec<(&'static str, Value)>,
}

impl Problem {
    /// A problem in these words.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            more: Vec::new(),
        }
    }

    /// What the request says is wrong.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// It is not there.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// There are too many already, or nothing can be said yet.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// With a further member.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Value) -> Self {
        self.more.push((name, value));
        self
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        let status = problem.status;
        let mut members = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Problem"),
            "status": status.as_u16(),
            "detail": problem.detail,
        });
        for (name, value) in problem.more {
            members[name] = value;
        }
        let text = output::json(&members).unwrap_or_default();
        let mut answer = Response::new(Body::from(text));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        match status {
            StatusCode::UNAUTHORIZED => {
                let wanted = HeaderValue::from_static("Bearer realm=\"mayfly\"");
                headers.insert(header::WWW_AUTHENTICATE, wanted);
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        answer
    }
}

//! What `backend` answers: its version, its instance, and the environment that the request came with.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::IntoResponse;
use axum::routing::get;
use serde_json::json;

use crate::propagation::{BAGGAGE, MAYFLY};

#[derive(Debug)]
struct Backend {
    version: String,
    instance: String,
}

/// The routes of a backend of this version and instance.
pub fn routes(version: &str, instance: &str) -> Router {
    let state = Arc::new(Backend {
        version: version.to_owned(),
        instance: instance.to_owned(),
    });
    Router::new().route("/", get(answer)).with_state(state)
}

async fn answer(State(backend): State<Arc<Backend>>, headers: HeaderMap) -> impl IntoResponse {
    let text = |name| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let answer = json!({
        "service": "backend",
        "version": backend.version,
        "instance": backend.instance,
        "x-mayfly": text(MAYFLY),
        "baggage": text(BAGGAGE),
    });
    (
        [(header::CONTENT_TYPE, "application/json")],
        format!("{answer}\n"),
    )
}

//! What `frontend` answers: a page that names the environment, its own version, and the version of the backend that
//! answered it, or why none did. The page reads as well under curl as in a browser.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, Uri};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::propagation::{environment, forwarded};

/// How long the call of the backend may take, its answer included.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// More than this many bytes of a backend's answer are not taken.
const ANSWER_LIMIT: usize = 64 * 1024;

struct Frontend {
    version: String,
    instance: String,
    backend: Uri,
    client: Client<HttpConnector, Body>,
}

/// What came of calling the backend.
enum Call {
    Answered {
        version: String,
        instance: String,
        environment: String,
    },
    Refused {
        status: StatusCode,
        text: String,
    },
    Failed(String),
}

/// The routes of a frontend of this version and instance, which calls the backend at `backend`.
pub fn routes(version: &str, instance: &str, backend: Uri) -> Router {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let state = Frontend {
        version: version.to_owned(),
        instance: instance.to_owned(),
        backend,
        client,
    };
    Router::new().route("/", get(answer)).with_state(Arc::new(state))
}

async fn answer(State(frontend): State<Arc<Frontend>>, headers: HeaderMap) -> impl IntoResponse {
    let call = match tokio::time::timeout(CALL_LIMIT, frontend.call(&headers)).await {
        Ok(Ok(call)) => call,
        Ok(Err(failure)) => Call::Failed(format!("{failure:#}")),
        Err(_) => Call::Failed(format!("no answer within {} s", CALL_LIMIT.as_secs())),
    };
    // The status tells a load test what the page tells a person.
    let status = match call {
        Call::Answered { .. } => StatusCode::OK,
        Call::Refused { .. } | Call::Failed(_) => StatusCode::BAD_GATEWAY,
    };
    (status, Html(frontend.page(&environment(&headers), &call)))
}

impl Frontend {
    async fn call(&self, incoming: &HeaderMap) -> anyhow::Result<Call> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = self.backend.clone();
        *request.headers_mut() = forwarded(incoming);
        let response = self.client.request(request).await.context("the call failed")?;
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), ANSWER_LIMIT)
            .await
            .context("reading the answer failed")?;
        let text = String::from_utf8_lossy(&body);
        if !status.is_success() {
            return Ok(Call::Refused {
                status,
                text: text.trim().to_owned(),
            });
        }
        let answer: Value = serde_json::from_str(&text).context("the answer is not JSON")?;
        let field = |name: &str| answer[name].as_str().unwrap_or("(not said)").to_owned();
        Ok(Call::Answered {
            version: field("version"),
            instance: field("instance"),
            environment: field("x-mayfly"),
        })
    }

    fn page(&self, environment: &str, call: &Call) -> String {
        let environment = escaped(environment);
        let backend = match call {
            Call::Answered {
                version,
                instance,
                environment,
            } => format!(
                "backend      {} on {}\nbackend saw  x-mayfly: {}",
                escaped(version),
                escaped(instance),
                escaped(environment)
            ),
            Call::Refused { status, text } => format!("backend      answered {status}: {}", escaped(text)),
            Call::Failed(why) => format!("backend      not reached: {}", escaped(why)),
        };
        format!(
            "<!doctype html>\n\
             <html lang=\"en\"><head><meta charset=\"utf-8\"><title>{environment} - Mayfly demo</title>\n\
             <style>body{{font:16px/1.5 system-ui,sans-serif;margin:3rem auto;max-width:40rem}}\
             pre{{background:#eef4f0;padding:1rem;overflow-x:auto}}</style></head>\n\
             <body><h1>Mayfly demo</h1>\n\
             <pre>\n\
             environment  {environment}\n\
             frontend     {} on {}\n\
             {backend}\n\
             </pre>\n\
             <p>The frontend called <code>{}</code>.</p></body></html>\n",
            escaped(&self.version),
            escaped(&self.instance),
            escaped(&self.backend.to_string()),
        )
    }
}

/// `text` with nothing in it that HTML would take for markup.
fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            other => html.push(other),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_from_outside_stays_text() {
        assert_eq!(escaped(r#"<b a="&">"#), "&lt;b a=&quot;&amp;&quot;&gt;");
    }
}

//! The answer to each call. Every answer has a reason: what is refused is a problem in JSON.

mod decide;
mod environment;
mod explain;
mod state;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use futures_util::stream;
use mayfly_core::records::lifetime::Moment;
use mayfly_daemon::output;
use mayfly_daemon::shutdown::Shutdown;
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::feeds::Feeds;
use crate::guard::Authorizer;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::page::PageFile;
use crate::pieces::Piece;
use crate::problem::Problem;
use crate::query::{Query, takes_gzip};

/// The description of the API.
pub const OPENAPI: &str = include_str!("../openapi.json");
/// Streams at a time.
const STREAMS: usize = 500;
/// Requests that wait for an environment at a time.
const WAITS: usize = 200;
/// Shorter answers are not worth deflating.
const WORTH: usize = 1024;
const JSON: &str = "application/json";
/// What a page of this server may load and do, and who may show it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What all answers are made of.
pub struct Api {
    live: Arc<Live>,
    feeds: Arc<Feeds>,
    guard: Arc<Authorizer>,
    metrics: Metrics,
    base_path: String,
    shutdown: Shutdown,
    streams: Arc<Semaphore>,
    waits: Arc<Semaphore>,
}

type ApiResult = Result<Response<Body>, Problem>;

impl Api {
    /// An API at a base path.
    pub fn new(
        live: Arc<Live>,
        feeds: Arc<Feeds>,
        guard: Arc<Authorizer>,
        metrics: Metrics,
        base_path: &str,
        shutdown: &Shutdown,
    ) -> Self {
        Self {
            live,
            feeds,
            guard,
            metrics,
            base_path: base_path.to_owned(),
            shutdown: shutdown.clone(),
            streams: Arc::new(Semaphore::new(STREAMS)),
            waits: Arc::new(Semaphore::new(WAITS)),
        }
    }

    pub async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        let mut answer = match self.route(request).await {
            Ok(answer) => {
                self.metrics.requests.inc();
                answer
            }
            Err(problem) => {
                self.metrics.problems.inc();
                debug!("{} {}: {problem:?}", request.method(), request.uri().path());
                problem.into()
            }
        };
        let headers = answer.headers_mut();
        for (name, value) in [
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (
                HeaderName::from_static("cross-origin-resource-policy"),
                "same-origin",
            ),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let private = HeaderValue::from_static("no-store");
        headers.entry(header::CACHE_CONTROL).or_insert(private);
        answer
    }

    async fn route<B>(&self, request: &Request<B>) -> ApiResult {
        let (uri, headers) = (request.uri(), request.headers());
        self.guard.admit_host(uri, headers)?;
        let whole = uri.path();
        if whole == self.base_path {
            return Ok(self.to_page());
        }
        let path = whole
            .strip_prefix(&self.base_path)
            .filter(|path| path.starts_with('/'));
        let Some(path) = path else {
            let base = &self.base_path;
            return Err(Problem::not_found(format!(
                "there is nothing at this path: all paths begin with {base}/"
            )));
        };
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let method = request.method();
            let detail = format!("the method {method} is not allowed: this API is read-only");
            return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail));
        }
        let gzip = takes_gzip(headers);
        if let Some(file) = PageFile::at(path) {
            let mut answer = piece(file.content_type, file.piece(), gzip);
            let fresh = HeaderValue::from_static("no-cache");
            answer.headers_mut().insert(header::CACHE_CONTROL, fresh);
            return Ok(answer);
        }
        let admission = self.guard.admit_token(headers)?;
        let query = |known: &[&str]| Query::read(uri.query(), known);
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        match segments.as_slice() {
            ["v1", "openapi.json"] => {
                query(&[])?;
                Ok(text(JSON, OPENAPI, gzip))
            }
            ["v1", "state"] => {
                query(&[])?;
                self.state(headers, gzip).await
            }
            ["v1", "events"] => {
                query(&[])?;
                self.events(admission, gzip).await
            }
            ["v1", "environments", name] => {
                let name = percent_decode_str(name).decode_utf8_lossy();
                self.environment(&name, &query(&["wait", "mark"])?).await
            }
            ["v1", "environments", name, "markdown"] => {
                query(&[])?;
                let name = percent_decode_str(name).decode_utf8_lossy();
                self.markdown(&name)
            }
            ["v1", "explain"] => self.explain(&query(explain::PARAMETERS)?, gzip),
            ["v1", "decide"] => self.decide(&query(&["service", "value"])?),
            ["v1", "decisions"] => self.decisions(&query(&["service"])?, admission, gzip).await,
            _ => Err(Problem::not_found(
                "there is no such call; /v1/openapi.json describes all: /v1/state, /v1/events, \
                 /v1/environments/NAME, /v1/environments/NAME/markdown, /v1/explain, /v1/decide and /v1/decisions",
            )),
        }
    }

    /// The page's addresses are relative to the base path with its slash.
    fn to_page(&self) -> Response<Body> {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
        if let Ok(page) = HeaderValue::from_str(&format!("{}/", self.base_path)) {
            answer.headers_mut().insert(header::LOCATION, page);
        }
        answer
    }

    /// Since when etcd does not answer.
    fn unreachable_since(&self) -> Option<Moment> {
        self.live.facts().unreachable_since
    }
}

/// A value as JSON for people and programs.
fn json(value: &impl Serialize, gzip: bool) -> ApiResult {
    let written = output::json(value);
    let failed = |error: anyhow::Error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"));
    Ok(text(JSON, &written.map_err(failed)?, gzip))
}

/// A text, deflated where that is taken and worth it.
fn text(content_type: &'static str, text: &str, gzip: bool) -> Response<Body> {
    if gzip && text.len() >= WORTH {
        return piece(content_type, &Piece::of(text), true);
    }
    answer_of(content_type, Body::from(text.to_owned()), false)
}

/// A text that is deflated already.
fn piece(content_type: &'static str, piece: &Piece, gzip: bool) -> Response<Body> {
    if gzip {
        let parts = piece.as_gzip().map(Ok::<_, std::convert::Infallible>);
        return answer_of(content_type, Body::from_stream(stream::iter(parts)), true);
    }
    let chunks = piece.inflate().map(Ok::<_, std::convert::Infallible>);
    let mut answer = answer_of(content_type, Body::from_stream(stream::iter(chunks)), false);
    let length = HeaderValue::from(piece.length());
    answer.headers_mut().insert(header::CONTENT_LENGTH, length);
    answer
}

fn answer_of(content_type: &'static str, body: Body, gzip: bool) -> Response<Body> {
    let mut answer = Response::new(body);
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    answer
}

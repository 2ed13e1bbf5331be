//! `/v1/state`, and the streams `/v1/events` and `/v1/decisions`.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use mayfly_core::names::ServiceName;

use super::{Api, ApiResult, JSON, STREAMS, answer_of, piece};
use crate::feeds::FeedTopic;
use crate::guard::Admission;
use crate::problem::Problem;
use crate::query::{Query, has_already};
use crate::stream::{Client, CountedStream};

const EVENTS: &str = "text/event-stream";

impl Api {
    pub(super) async fn state(&self, headers: &HeaderMap, gzip: bool) -> ApiResult {
        self.live.freshen().await;
        let whole = self.feeds.whole().await?;
        let mut answer = match has_already(headers, &whole.tag) {
            true => {
                let mut same = Response::new(Body::empty());
                *same.status_mut() = StatusCode::NOT_MODIFIED;
                same
            }
            false => piece(JSON, &whole.json, gzip),
        };
        if let Ok(tag) = HeaderValue::from_str(&whole.tag) {
            answer.headers_mut().insert(header::ETAG, tag);
        }
        Ok(answer)
    }

    pub(super) async fn events(&self, admission: Admission, gzip: bool) -> ApiResult {
        self.live.freshen().await;
        self.stream(FeedTopic::State, admission, gzip).await
    }

    pub(super) async fn decisions(&self, query: &Query, admission: Admission, gzip: bool) -> ApiResult {
        let service: Option<ServiceName> = query.parsed("service")?;
        let Some(service) = service else {
            return Err(Problem::bad_request(
                "the parameter service is missing; example: /v1/decisions?service=orders",
            ));
        };
        self.stream(FeedTopic::Versions(service), admission, gzip).await
    }

    async fn stream(&self, topic: FeedTopic, admission: Admission, gzip: bool) -> ApiResult {
        let Ok(permit) = self.streams.clone().try_acquire_owned() else {
            return Err(Problem::unavailable(format!(
                "{STREAMS} streams are open already, which is the limit; try again later, or poll \
                 /v1/state"
            )));
        };
        let counted = CountedStream::new(&self.metrics.streams, permit);
        let client = Client::new(&self.feeds, topic, gzip, admission, &self.shutdown, counted).await?;
        let mut answer = answer_of(EVENTS, client.into_body(), gzip);
        // Proxies such as nginx would collect events before they pass them on.
        let headers = answer.headers_mut();
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(answer)
    }
}

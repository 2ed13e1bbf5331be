//! The one thing that Mayfly asks of a service: that the headers which name the environment of an incoming request
//! go out again with every request that is made for it.

use axum::http::{HeaderMap, HeaderName};

/// Names the environment, in Mayfly's own words.
pub const MAYFLY: HeaderName = HeaderName::from_static("x-mayfly");

/// W3C baggage, which carries the environment as its member `mayfly`. OpenTelemetry forwards it by itself.
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The headers of `incoming` that every call made for this request must carry, each as often as it came.
pub fn forwarded(incoming: &HeaderMap) -> HeaderMap {
    let mut outgoing = HeaderMap::new();
    for name in [MAYFLY, BAGGAGE] {
        for value in incoming.get_all(&name) {
            outgoing.append(name.clone(), value.clone());
        }
    }
    outgoing
}

/// The environment that a request says it belongs to, as text that a person can read.
pub fn environment(headers: &HeaderMap) -> String {
    match headers.get(MAYFLY) {
        Some(value) => String::from_utf8_lossy(value.as_bytes()).into_owned(),
        None => "(none: the request has no x-mayfly)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn passes_on_both_headers_and_nothing_else() {
        let mut incoming = HeaderMap::new();
        incoming.insert("host", HeaderValue::from_static("frontend.service"));
        incoming.insert("cookie", HeaderValue::from_static("secret"));
        incoming.insert(MAYFLY, HeaderValue::from_static("dev"));
        incoming.append(BAGGAGE, HeaderValue::from_static("mayfly=dev"));
        incoming.append(BAGGAGE, HeaderValue::from_static("user=7"));

        let outgoing = forwarded(&incoming);

        assert_eq!(outgoing.len(), 3);
        assert_eq!(outgoing[MAYFLY], "dev");
        let baggage: Vec<_> = outgoing.get_all(BAGGAGE).iter().collect();
        assert_eq!(baggage, ["mayfly=dev", "user=7"]);
    }

    #[test]
    fn says_so_when_a_request_names_no_environment() {
        assert!(forwarded(&HeaderMap::new()).is_empty());
        assert!(environment(&HeaderMap::new()).contains("no x-mayfly"));
    }
}

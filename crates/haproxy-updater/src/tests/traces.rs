//! What the router makes of `traceparent` and `tracestate`.

use std::collections::BTreeSet;

use mayfly_e2e::http::{Answer, Request};

use super::support::town::{Town, assert_plain};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

fn seen(answer: &Answer, name: &str) -> String {
    answer.echo().unwrap().header(name)
}

/// Whether it is one as W3C defines it, by its flag.
fn sampled(traceparent: &str) -> Option<bool> {
    let parts: Vec<&str> = traceparent.split('-').collect();
    let [version, trace, span, flags] = parts[..] else {
        return None;
    };
    let is_id = |id: &str, length: usize| {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        id.len() == length && id.bytes().all(digit) && id.bytes().any(|byte| byte != b'0')
    };
    if version != "00" || !is_id(trace, 32) || !is_id(span, 16) {
        return None;
    }
    match flags {
        "00" => Some(false),
        "01" => Some(true),
        _ => None,
    }
}

#[tokio::test]
async fn without_the_flags_a_trace_passes_as_it_is_but_for_a_clients_environment() {
    let town = Town::new().await;
    let plain = town.outside(Request::get("www-qa.x", "/")).await;
    assert_eq!(
        (seen(&plain, "traceparent"), seen(&plain, "tracestate")),
        Default::default()
    );
    for traceparent in [TRACE, "no trace"] {
        let request = Request::get("www-qa.x", "/")
            .header("traceparent", traceparent)
            .header("tracestate", "a=1, mayfly=h-prod ,%6dayfly=z,MAYFLY = q")
            .header("tracestate", "mayfly=2,b=3");
        let answer = town.outside(request).await;
        assert_eq!(seen(&answer, "traceparent"), traceparent);
        assert_eq!(seen(&answer, "tracestate"), "a=1,b=3");
    }
    let request = Request::get("www-qa.x", "/").header("tracestate", "mayfly=h-prod");
    assert_eq!(seen(&town.outside(request).await, "tracestate"), "");
    // Inside nobody reads it, and it stays.
    let state = "a=1,mayfly=h-prod";
    let request = |value: &str| {
        let request = Request::get("backend.service", "/").header("traceparent", TRACE);
        let request = request.header("tracestate", state);
        match value {
            "" => request,
            value => request.header("x-mayfly", value),
        }
    };
    assert_eq!(seen(&town.inside(request("h-qa")).await, "tracestate"), state);
    assert_plain(&town.inside(request("")).await, 400, &["x-mayfly is missing"]);
}

#[tokio::test]
async fn the_edge_begins_a_trace_where_there_is_none() {
    for (share, expected) in [("100%", true), ("0%", false)] {
        let town = Town::with(&["--traceparent", share]).await;
        let mut ids = BTreeSet::new();
        for invalid in [
            "",
            "no trace",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
        ] {
            let mut request = Request::get("www-qa.x", "/").header("tracestate", "a=1");
            if !invalid.is_empty() {
                request = request.header("traceparent", invalid);
            }
            let answer = town.outside(request).await;
            let made = seen(&answer, "traceparent");
            assert_eq!(sampled(&made), Some(expected), "{invalid}: {made}");
            assert_eq!(seen(&answer, "tracestate"), "", "it belonged to another trace");
            ids.insert(made);
        }
        assert_eq!(ids.len(), 6);
        let request = Request::get("www-qa.x", "/").header("traceparent", TRACE);
        let request = request.header("tracestate", "a=1");
        let answer = town.outside(request).await;
        assert_eq!(seen(&answer, "traceparent"), TRACE);
        assert_eq!(seen(&answer, "tracestate"), "a=1");
        // A call inside belongs to the trace of its service, or to none.
        let request = Request::get("backend.service", "/").header("x-mayfly", "h-qa");
        assert_eq!(seen(&town.inside(request).await, "traceparent"), "");
    }
    let town = Town::with(&["--traceparent", "50%"]).await;
    let mut both = BTreeSet::new();
    for _ in 0..64 {
        let answer = town.outside(Request::get("www-qa.x", "/")).await;
        both.insert(sampled(&seen(&answer, "traceparent")));
    }
    assert_eq!(both, BTreeSet::from([Some(false), Some(true)]));
}

#[tokio::test]
async fn tracestate_carries_the_environment_with_a_trace() {
    let town = Town::with(&["--tracestate"]).await;
    let outside = async |lines: &[&str], traced: bool| {
        let mut request = Request::get("www-qa.x", "/");
        if traced {
            request = request.header("traceparent", TRACE);
        }
        for line in lines {
            request = request.header("tracestate", line);
        }
        seen(&town.outside(request).await, "tracestate")
    };
    assert_eq!(outside(&[], false).await, "");
    assert_eq!(outside(&["mayfly=h-prod, a=1"], false).await, "a=1");
    assert_eq!(outside(&[], true).await, "mayfly=h-qa");
    assert_eq!(
        outside(&["mayfly=h-prod", "a=1 , b=2"], true).await,
        "mayfly=h-qa,a=1 , b=2"
    );
    // As much as a tracer has to keep: 32 members and 512 bytes.
    let many: Vec<String> = (0..40).map(|n| format!("k{n}=v")).collect();
    let kept = outside(&[&many.join(",")], true).await;
    assert!(
        kept.starts_with("mayfly=h-qa,k0=v,") && kept.ends_with(",k30=v"),
        "{kept}"
    );
    let long: Vec<String> = (0..14).map(|n| format!("k{n}={}", "v".repeat(50))).collect();
    let kept = outside(&[&long.join(",")], true).await;
    assert!(
        kept.len() <= 512 && kept.split(',').skip(1).eq(&long[..kept.split(',').count() - 1]),
        "{kept}"
    );

    let inside = async |state: &str, more: &[(&str, &str)]| {
        let mut request = Request::get("backend.service", "/").header("traceparent", TRACE);
        request = request.header("tracestate", state);
        for (name, value) in more {
            request = request.header(name, value);
        }
        town.inside(request).await
    };
    for (state, more, value) in [
        ("a=1,mayfly=h-qa ,b=2", &[][..], "h-qa"),
        ("mayfly=h-qa,mayfly=h-qa", &[], "h-qa"),
        ("mayfly=h-qa", &[("x-mayfly", "h-prod")], "h-prod"),
        ("mayfly=h-qa", &[("baggage", "mayfly=h-prod")], "h-prod"),
    ] {
        let answer = inside(state, more).await;
        assert_eq!(seen(&answer, "x-mayfly"), value, "{state}");
        assert_eq!(seen(&answer, "baggage"), format!("mayfly={value}"), "{state}");
        let after = seen(&answer, "tracestate");
        assert!(after.starts_with(&format!("mayfly={value}")), "{state}: {after}");
        assert_eq!(after.matches("mayfly").count(), 1, "{state}: {after}");
    }
    let refused = inside("mayfly=h-qa,mayfly=h-prod", &[]).await;
    assert_plain(&refused, 400, &["more than one value (h-qa,h-prod)"]);
    for state in [
        "mayfly2=h-qa",
        "xmayfly=h-qa",
        "a=mayfly=h-qa",
        "mayfly=",
        "MAYFLY=h-qa",
    ] {
        assert_plain(&inside(state, &[]).await, 400, &["x-mayfly is missing"]);
    }
}

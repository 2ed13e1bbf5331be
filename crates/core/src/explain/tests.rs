//! What explain says; that it is what HAProxy does, haproxy-updater's tests show.

use super::*;

fn index() -> Index {
    let mut index = Index::default();
    for (at, (key, value)) in [
        ("backends/web/1.2.0/a", r#"{"address": "10.0.0.1:80"}"#),
        ("backends/web/1.2.0/b", r#"{"address": "10.0.0.2:80", "state": "draining"}"#),
        (
            "environments/prod",
            r#"{"name": "prod", "prefix": "www", "header": "p", "services": [
                {"name": "legacy", "version": "http://billing.internal:8080"}, {"name": "lost", "version": "https://lost.test:443"},
                {"name": "round", "version": "http://www-qa.example.com:8000"}, {"name": "own", "version": "http://own.service:80"},
                {"name": "web", "version": "^1", "routes": ["/"]}, {"name": "api", "version": "2", "routes": ["/api"]}]}"#,
        ),
        ("environments/qa", r#"{"name": "qa", "prefix": "www-qa", "header": "qa", "extends": "prod"}"#),
        ("environments/late", r#"{"name": "late", "prefix": "www", "header": "late"}"#),
    ]
    .into_iter()
    .enumerate()
    {
        index.put(&format!("/mayfly/{key}"), value.as_bytes(), at as i64);
    }
    index.resolve_unseen(&["lost.test".parse().unwrap()].into());
    index
}

/// The steps as lines, and the answer.
fn check(side: Side, host: &str, path: &str, value: Option<&str>, expected: &str) {
    let request = Request {
        side,
        host: host.to_owned(),
        path: path.to_owned(),
        value: value.map(str::to_owned),
    };
    let settings = Settings {
        domain: "service".parse().unwrap(),
        default_environment: None,
        allow_header_at_edge: false,
        health_path: Some("/.mayfly/health".to_owned()),
    };
    let explanation = index().explain(&settings, &request);
    let mut lines: Vec<String> = Vec::new();
    for Step {
        step,
        key,
        found,
        note,
    } in explanation.steps
    {
        let note = note.map(|note| format!(" ({note})")).unwrap_or_default();
        lines.push(format!(
            "{step} {key}: {}{note}",
            found.unwrap_or_else(|| "-".to_owned())
        ));
    }
    lines.push(match explanation.answer {
        Answer::Backend {
            backend,
            origin,
            servers,
            ..
        } => format!("{backend}, {origin}, {servers:?}"),
        Answer::Router { text, .. } => text,
    });
    let expected: Vec<&str> = expected.lines().map(str::trim).collect();
    assert_eq!(lines, expected);
}

#[test]
fn a_request_that_is_answered() {
    check(
        Side::Edge,
        "WWW-QA.example.com:80",
        "/apiary",
        None,
        "host www-qa.example.com: www-qa (its first label decides)
         prefix www-qa: x-mayfly qa
         environment qa: qa
         parents qa: prod
         route /apiary: / leads to web (inherited from prod)
         version web: web@1.2.0 (inherited from prod; chosen by ^1)
         instances web@1.2.0: 10.0.0.1:80 (10.0.0.2:80 is draining)
         web@1.2.0, inherited from prod, [\"10.0.0.1:80\"]",
    );
}

#[test]
fn requests_that_fail_say_where_and_why() {
    check(
        Side::Edge,
        "ww-qa.example.com",
        "/",
        None,
        "host ww-qa.example.com: ww-qa (its first label decides)
         prefix ww-qa: - (did you mean www-qa?)
         404: no environment answers for the host ww-qa.example.com; the first label of the host must be the prefix of an environment.",
    );
    check(
        Side::Internal,
        "web.service",
        "/",
        Some("late"),
        "x-mayfly late: late
         environment late: - (environment late is set aside: prefix www belongs to environment prod, which was registered first; choose another)
         404: no environment has the x-mayfly value late.",
    );
    check(
        Side::Internal,
        "api.service",
        "/",
        Some("p"),
        "x-mayfly p: p
         environment p: prod
         service api.service: api
         version api: api@2 (own)
         instances api@2: - (no instance of api@2 is live)
         503: no instance of api@2 answers (environment prod, service api, version 2).",
    );
    check(
        Side::Internal,
        "wep.service",
        "/",
        Some("p"),
        "x-mayfly p: p
         environment p: prod
         service wep.service: wep
         version wep: - (did you mean web?)
         404: the environment prod has no service wep, nor has an environment that it extends.",
    );
}

#[test]
fn host_names_are_the_routers_to_resolve() {
    check(
        Side::Internal,
        "legacy.service",
        "/",
        Some("p"),
        "x-mayfly p: p
         environment p: prod
         service legacy.service: legacy
         version legacy: legacy@http://billing.internal:8080 (own)
         instances legacy@http://billing.internal:8080: billing.internal:8080
         legacy@http://billing.internal:8080, own, [\"billing.internal:8080\"]",
    );
    check(
        Side::Internal,
        "lost.service",
        "/",
        Some("p"),
        "x-mayfly p: p
         environment p: prod
         service lost.service: lost
         version lost: lost@https://lost.test:443 (own)
         instances lost@https://lost.test:443: - (lost cannot be reached: no address is known of lost.test)
         503: no instance of lost@https://lost.test:443 answers (environment prod, service lost, version https://lost.test:443).",
    );
}

#[test]
fn what_only_a_router_knows_is_said_as_far_as_it_is_known() {
    check(
        Side::Edge,
        "10.0.0.5",
        "/.mayfly/health",
        None,
        "200: the health path of the edge, which HAProxy answers for every host.",
    );
    check(
        Side::Internal,
        "web",
        "/",
        Some("qa, qa"),
        "x-mayfly qa: qa
         environment qa: qa
         parents qa: prod
         service web: web (short for web.service)
         version web: web@1.2.0 (inherited from prod; chosen by ^1)
         instances web@1.2.0: 10.0.0.1:80 (10.0.0.2:80 is draining)
         web@1.2.0, inherited from prod, [\"10.0.0.1:80\"]",
    );
    check(
        Side::Internal,
        "web.service",
        "/",
        Some("qa,p"),
        "x-mayfly qa,p: - (different values in one header)
         400: x-mayfly has more than one value (qa,p); a service must forward the one of the request that it serves.",
    );
    check(
        Side::Edge,
        "www-qa.x",
        "/api/..%2fx",
        None,
        "host www-qa.x: www-qa (its first label decides)
         prefix www-qa: x-mayfly qa
         environment qa: qa
         parents qa: prod
         route /api/..%2fx: - (a server that resolves `..` would take it for another path)
         400: the path /api/..%2fx has a segment `..`, which would leave the route that it belongs to; ask for the path that is meant.",
    );
}

#[test]
fn an_address_that_routes_back_is_told() {
    check(
        Side::Internal,
        "own.service",
        "/",
        Some("p"),
        "x-mayfly p: p
         environment p: prod
         service own.service: own
         version own: own@http://own.service:80 (own)
         address own.service: - (a name of Mayfly's own domain, which resolves to the routers)
         508: the address of own@http://own.service:80 routes back to this router (environment prod); choose a version of that service, not an address.",
    );
    check(
        Side::Internal,
        "round.service",
        "/",
        Some("p"),
        "x-mayfly p: p
         environment p: prod
         service round.service: round
         version round: round@http://www-qa.example.com:8000 (own)
         instances round@http://www-qa.example.com:8000: www-qa.example.com:8000 (www-qa is the prefix of an environment: where www-qa.example.com resolves to a router, the request comes back, and 508 ends it if it goes outside again)
         round@http://www-qa.example.com:8000, own, [\"www-qa.example.com:8000\"]",
    );
}

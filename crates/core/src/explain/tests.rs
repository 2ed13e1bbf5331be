//! What explain says; that it is what HAProxy does, haproxy-updater's tests show.

use super::*;
use crate::index::tests::put_text;

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
        ("environments/live", r#"{"name": "live", "prefix": "live", "header": "live", "protected": true}"#),
        ("ended/old", r#"{"prefix": "www-old", "at": "2026-11-29T02:00:00Z", "why": "file"}"#),
    ]
    .into_iter()
    .enumerate()
    {
        put_text(&mut index, &format!("/mayfly/{key}"), value, at as i64);
    }
    index.believe_names([("lost.test".parse().unwrap(), BTreeSet::new())].into());
    index.resolve();
    index
}

/// The steps as lines, and the answer.
fn check(side: Side, host: &str, path: &str, value: Option<&str>, expected: &str) {
    check_with_cookie(side, host, path, "", value, expected);
}

fn check_with_cookie(side: Side, host: &str, path: &str, cookie: &str, value: Option<&str>, expected: &str) {
    let request = Request {
        side,
        tls: true,
        host: host.to_owned(),
        path: path.split('?').next().unwrap_or_default().to_owned(),
        query: path.split('?').nth(1).unwrap_or_default().to_owned(),
        cookie: cookie.to_owned(),
        from: None,
        login: None,
        value: value.map(str::to_owned),
    };
    let settings = Settings {
        domain: "service".parse().unwrap(),
        default_environment: None,
        allow_header_at_edge: false,
        share_links: ShareLinks::Unprotected,
        health_path: Some("/.mayfly/health".to_owned()),
        redirect_to_https: None,
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
        Responder::Backend {
            backend,
            origin,
            servers,
            ..
        } => format!("{backend}, {origin}, {servers:?}"),
        Responder::Router { text, .. } => text,
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
         environment late: - (environment late is set aside: prefix www belongs to environment prod, which was registered first; choose another prefix)
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
         instances lost@https://lost.test:443: - (lost cannot be reached: there is no known address of lost.test)
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
        "x-mayfly qa,p: - (different values)
         400: x-mayfly or the baggage member mayfly has more than one value (qa,p); a service must forward the one of the request that it serves.",
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
         route /api/..%2fx: - (some servers would take it for another path)
         400: the path /api/..%2fx has a segment `..`, or a spelling that some servers read as one; send the path without it.",
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
         instances round@http://www-qa.example.com:8000: www-qa.example.com:8000 (www-qa is the prefix of an environment: if www-qa.example.com resolves to a router, the request comes back, and a router ends it with 508 when it goes outside again)
         round@http://www-qa.example.com:8000, own, [\"www-qa.example.com:8000\"]",
    );
}

#[test]
fn a_link_goes_before_its_cookie_and_that_before_the_host() {
    check_with_cookie(
        Side::Edge,
        "live.x",
        "/?mayfly=qa",
        "mayfly=qa",
        None,
        "link qa: - (the host is that of live, which is protected: links leave it alone (--share-links))
         cookie qa: - (the host is that of live, which is protected: links leave it alone (--share-links))
         host live.x: live (its first label decides)
         prefix live: x-mayfly live
         environment live: live
         route /: - (it has no routes: to add one, write `route: /` for a service in the environment's file)
         404: the environment live has no route for the path /.",
    );
    check_with_cookie(
        Side::Edge,
        "www-qa.x",
        "/api?mayfly=prod",
        "mayfly=qa",
        Some("qa"),
        "link prod: x-mayfly p
         environment p: prod
         route /api: /api leads to api
         version api: api@2 (own)
         instances api@2: - (no instance of api@2 is live)
         503: no instance of api@2 answers (environment prod, service api, version 2).",
    );
    check_with_cookie(
        Side::Edge,
        "www-qa.x",
        "/api",
        "a=1; mayfly=live",
        None,
        "cookie live: x-mayfly live
         environment live: live
         route /api: - (it has no routes: to add one, write `route: /` for a service in the environment's file)
         404: the environment live has no route for the path /api.",
    );
    check_with_cookie(
        Side::Edge,
        "nobody.x",
        "/?mayfly=",
        "mayfly=late",
        None,
        "link : - (a link without a value: the cookie ends, and the host decides)
         cookie late: - (the link takes its place)
         host nobody.x: nobody (its first label decides)
         prefix nobody: -
         404: no environment answers for the host nobody.x; the first label of the host must be the prefix of an environment.",
    );
}

#[test]
fn a_request_without_a_host_follows_no_link() {
    check_with_cookie(
        Side::Edge,
        "",
        "/?mayfly=qa",
        "mayfly=qa",
        None,
        "link qa: - (the request names no host)
         cookie qa: - (the request names no host)
         host :  (its first label decides)
         prefix : -
         404: this request names no host, and the host decides the environment.",
    );
}

#[test]
fn a_link_that_names_nothing_says_why() {
    for (value, note, text) in [
        (
            "old",
            " (the environment old ended at 2026-11-29T02:00:00Z: its file is gone; put the file back to bring it back)",
            "410: the environment old ended at 2026-11-29T02:00:00Z: its file is gone; put the file back to bring it back.",
        ),
        (
            "late",
            " (environment late is set aside: prefix www belongs to environment prod, which was \
             registered first; choose another prefix)",
            "404: no environment has the name late; ask for the link again, or remove mayfly=late from it to see what this host shows.",
        ),
        (
            "p,qa",
            " (different values)",
            "400: the parameter mayfly of this link names more than one environment; a link names one.",
        ),
        (
            "Prod",
            "",
            "404: the parameter mayfly of this link is not the name of an environment; ask for the link again, or remove the parameter.",
        ),
    ] {
        let path = format!("/?mayfly={value}");
        check(
            Side::Edge,
            "www.x",
            &path,
            None,
            &format!("link {value}: -{note}\n{text}"),
        );
    }
    check_with_cookie(
        Side::Edge,
        "nobody.x",
        "/",
        "mayfly=old",
        None,
        "cookie old: - (names no environment, and is cleared)
         host nobody.x: nobody (its first label decides)
         prefix nobody: -
         404: no environment answers for the host nobody.x; the first label of the host must be the prefix of an environment.",
    );
}

#[test]
fn who_is_not_let_in_is_told_who_is() {
    let hash = crate::records::access::PasswordHash::of("right", [7; 16]);
    let mut index = index();
    for (name, more) in [
        (
            "shut",
            format!(r#""access": {{"users": {{"guest": "{hash}"}}, "from": ["10.0.0.0/8"]}}"#),
        ),
        ("heir", r#""extends": "shut""#.to_owned()),
        (
            "near",
            r#""access": {"from": ["10.0.0.0/8", "2001:db8::/32"]}"#.to_owned(),
        ),
        ("orphan", r#""extends": "gone""#.to_owned()),
    ] {
        let value = format!(r#"{{"name": "{name}", "prefix": "{name}", "header": "{name}", {more}}}"#);
        put_text(&mut index, &format!("/mayfly/environments/{name}"), &value, 100);
    }
    index.resolve();
    let settings = Settings {
        domain: "service".parse().unwrap(),
        default_environment: None,
        allow_header_at_edge: false,
        share_links: ShareLinks::Off,
        health_path: None,
        redirect_to_https: None,
    };
    let ask = |side, name: &str, from: &str, login: Option<(&str, &str)>| {
        let request = Request {
            side,
            tls: true,
            host: if side == Side::Edge {
                name.to_owned()
            } else {
                "web".to_owned()
            },
            path: "/".to_owned(),
            query: String::new(),
            cookie: String::new(),
            from: from.parse().ok(),
            login: login.map(|(user, password)| Login {
                user: user.to_owned(),
                password: (!password.is_empty()).then(|| password.to_owned()),
            }),
            value: (side == Side::Internal).then(|| name.to_owned()),
        };
        let explanation = index.explain(&settings, &request);
        let step = explanation.steps.iter().find(|step| step.step == "access");
        let step = step.map(|step| {
            let (found, note) = (step.found.as_deref().unwrap_or("-"), step.note.as_deref());
            format!("{found} ({})", note.unwrap_or_default())
        });
        let status = match explanation.answer {
            Responder::Router { status, .. } => status,
            Responder::Backend { .. } => 200,
        };
        (status, step.unwrap_or_default())
    };
    let refused = "- (open to users guest; networks 10.0.0.0/8";
    for (name, from, login, status, step) in [
        ("shut", "", None, 401, &*format!("{refused})")),
        ("shut", "11.0.0.1", None, 401, &format!("{refused})")),
        ("shut", "10.9.9.9", None, 404, "the address 10.9.9.9 ()"),
        ("shut", "::ffff:10.9.9.9", None, 404, "the address 10.9.9.9 ()"),
        ("shut", "", Some(("guest", "right")), 404, "the user guest ()"),
        ("shut", "", Some(("guest", "")), 404, "the user guest ()"),
        ("shut", "", Some(("guest", "wrong")), 401, &format!("{refused})")),
        ("shut", "", Some(("other", "")), 401, &format!("{refused})")),
        (
            "heir",
            "",
            Some(("guest", "right")),
            404,
            "the user guest (inherited from shut)",
        ),
        ("heir", "", None, 401, &format!("{refused}; inherited from shut)")),
        (
            "near",
            "",
            Some(("guest", "right")),
            403,
            "- (open to networks 10.0.0.0/8, 2001:db8::/32)",
        ),
        ("near", "2001:db8::7", None, 404, "the address 2001:db8::7 ()"),
        (
            "orphan",
            "10.0.0.1",
            Some(("guest", "")),
            403,
            "- (nobody, since gone cannot be extended)",
        ),
        ("www", "", None, 200, ""),
    ] {
        let found = ask(Side::Edge, name, from, login);
        assert_eq!(found, (status, step.to_owned()), "{name} {from} {login:?}");
    }
    // Between services it is not asked.
    assert_eq!(ask(Side::Internal, "shut", "", None), (404, String::new()));
}

#[test]
fn a_version_is_decided_whether_or_not_it_is_live() {
    let index = index();
    let decide = |service: &str, value: &str, default: Option<&str>| {
        let settings = Settings {
            domain: "service".parse().unwrap(),
            default_environment: default.map(|name| name.parse().unwrap()),
            allow_header_at_edge: false,
            share_links: ShareLinks::Off,
            redirect_to_https: None,
            health_path: None,
        };
        match index.decide(&settings, service, value) {
            Ok(Decision {
                environment,
                version,
                inherited_from,
                ..
            }) => {
                let origin = inherited_from
                    .map(|name| format!(" of {name}"))
                    .unwrap_or_default();
                format!("{version}{origin} in {environment}")
            }
            Err(RefusedCall { status, text }) => format!("{status}: {text}"),
        }
    };
    for (service, value, expected) in [
        ("web", "p", "1.2.0 in prod"),
        ("web", " qa\t", "1.2.0 of prod in qa"),
        ("Web", "qa, qa", "1.2.0 of prod in qa"),
        ("api", "p", "2 in prod"),
        (
            "web",
            "p,qa",
            "400: x-mayfly or the baggage member mayfly has more than one value (p,qa); ",
        ),
        ("web", "", "400: the header x-mayfly is missing, "),
        (
            "web",
            "nobody",
            "404: no environment has the x-mayfly value nobody.",
        ),
        (
            "none",
            "qa",
            "404: the environment qa has no service none, nor has an environment that it extends.",
        ),
        ("a.b", "qa", "404: the host a.b.service is not a service: "),
    ] {
        let decided = decide(service, value, None);
        assert!(decided.starts_with(expected), "{service} {value}: {decided}");
    }
    assert_eq!(decide("web", "", Some("qa")), "1.2.0 of prod in qa");
    assert!(decide("web", "", Some("lost")).starts_with("404: this request has no x-mayfly header"));
}

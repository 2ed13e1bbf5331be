//! Who is let into an environment, with a real HAProxy.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mayfly_core::records::access::PasswordHash;
use mayfly_e2e::http::{Answer, Request, websocket};
use serde_json::{Value, json};

use super::front::instance;
use super::support::town::{Town, assert_plain};

// guest:right, guest:wrong, guest:, other:right, qa/guest:right, guest:right:, and what is no such text
const RIGHT: &str = "Basic Z3Vlc3Q6cmlnaHQ=";
/// guest with such a password as `mayfly access` makes, and with another one.
const MADE: &str = "Basic Z3Vlc3Q6bWF5Zmx5LTA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA3";
const OTHER: &str = "Basic Z3Vlc3Q6bWF5Zmx5LTA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA4";
const WRONG: [&str; 12] = [
    "Basic Z3Vlc3Q6d3Jvbmc=",
    "Basic Z3Vlc3Q6",
    "Basic b3RoZXI6cmlnaHQ=",
    "Basic cWEvZ3Vlc3Q6cmlnaHQ=",
    "Basic Z3Vlc3Q6cmlnaHQ6",
    "Basic Z3Vlc3Q=",
    "Basic",
    "Basic !!!!",
    "Bearer Z3Vlc3Q6cmlnaHQ=",
    "Z3Vlc3Q6cmlnaHQ=",
    "Digest username=\"guest\"",
    "",
];

fn users() -> Value {
    json!({"guest": PasswordHash::of("right", [7; 16])})
}

/// A town in which one environment has this `access`.
async fn with(flags: &[&str], access: Value) -> Town {
    let mut town = Town::with(flags).await;
    set(&mut town, access);
    town.router.apply().await;
    town
}

/// Gives qa, from which dev and leaf inherit, an `access`.
fn set(town: &mut Town, access: Value) {
    let services = json!([
        {"name": "frontend", "version": "2", "routes": ["/"]}, {"name": "backend", "version": "2"}
    ]);
    town.router.put(
        "environments/qa",
        &json!({"name": "qa", "prefix": "www-qa", "header": "h-qa", "extends": "prod", "services": services, "access": access}),
    );
}

async fn ask(town: &Town, host: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let request = Request::get(host, path);
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(name, value));
    town.outside(request).await
}

async fn status(town: &Town, host: &str, headers: &[(&str, &str)]) -> u16 {
    ask(town, host, "/", headers).await.status
}

#[tokio::test]
async fn a_user_is_let_in_with_the_right_password_only_and_the_service_does_not_see_it() {
    let town = with(&[], json!({"users": users()})).await;
    for host in ["www-qa.x", "www-dev.x", "www-leaf.x"] {
        let refused = ask(&town, host, "/", &[]).await;
        assert_plain(&refused, 401, &["asks for a user and a password of qa"]);
        assert_eq!(
            refused.headers["www-authenticate"],
            "Basic realm=\"qa\", charset=\"UTF-8\""
        );
        let answer = ask(&town, host, "/", &[("authorization", RIGHT)]).await;
        let echo = answer.echo().unwrap();
        assert_eq!(
            (answer.status, echo.header("authorization").as_str()),
            (200, ""),
            "{host}"
        );
        // One that is read first, and one that is not.
        let two = [("authorization", RIGHT), ("authorization", "Bearer x")];
        let echo = ask(&town, host, "/", &two).await.echo().unwrap();
        assert_eq!(echo.header("authorization"), "", "{host}");
        assert_eq!(status(&town, host, &[two[1], two[0]]).await, 401);
        for wrong in WRONG {
            let refused = ask(&town, host, "/ghost/../x", &[("authorization", wrong)]).await;
            assert_eq!(refused.status, 401, "{host} {wrong}");
        }
    }
    // Others are open, and their services are told what a client says: such a password is not one that was made.
    let echo = ask(&town, "www-prod.x", "/", &[("authorization", RIGHT)])
        .await
        .echo()
        .unwrap();
    assert_eq!(echo.header("authorization"), RIGHT);
    // So are services among each other.
    assert_eq!(town.router.inside("frontend", "h-qa").await.status, 200);
    assert!(websocket(town.router.edge, "www-qa.x", "/", "x").await.is_err());
    assert_eq!(
        websocket(town.router.edge, "www-prod.x", "/", "x").await.unwrap(),
        "x"
    );
}

/// A browser repeats what it has said once for a path to all paths of the host, whichever environment answers there.
#[tokio::test]
async fn no_instance_of_any_environment_sees_a_password_that_was_made() {
    let flags = &["--share-links", "all", "--allow-header-at-edge"];
    let made = format!("mayfly-{}", "07".repeat(16));
    let users = json!({"guest": PasswordHash::of(&made, [7; 16])});
    let town = with(flags, json!({"users": users, "from": ["127.0.0.0/8"]})).await;
    for (host, path, header) in [
        ("www-qa.x", "/", ("x", "x")),
        ("www-prod.x", "/", ("x", "x")),
        ("www-qa.x", "/?mayfly=prod", ("x", "x")),
        ("www-qa.x", "/", ("cookie", "mayfly=prod")),
        ("www-qa.x", "/", ("x-mayfly", "h-prod")),
        ("www-prod.x", "/?mayfly=dev", ("x", "x")),
        ("www-prod.x", "/", ("cookie", "mayfly=gone")),
    ] {
        // The right one, and a wrong one of a client whose network lets it in.
        for login in [MADE, OTHER] {
            let answer = ask(&town, host, path, &[header, ("authorization", login)]).await;
            let echo = answer.echo().unwrap();
            assert_eq!(
                echo.header("authorization"),
                "",
                "{host} {path} {header:?} {login}"
            );
        }
        let bearer = ("authorization", "Bearer mayfly-x");
        let echo = ask(&town, host, path, &[header, bearer]).await.echo().unwrap();
        assert_eq!(echo.header("authorization"), bearer.1, "{host} {path}");
    }
    let town = with(flags, json!({"users": users})).await;
    assert_eq!(status(&town, "www-qa.x", &[("authorization", MADE)]).await, 200);
    assert_eq!(status(&town, "www-qa.x", &[("authorization", OTHER)]).await, 401);
}

/// Several lines of `authorization`.
fn lines<'a>(many: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    many.iter().map(|line| ("authorization", *line)).collect()
}

/// HAProxy checks the first line; a service may read any.
#[tokio::test]
async fn a_password_that_was_made_is_removed_from_every_line() {
    let town = Town::with(&[]).await;
    let encode = |login: &str| BASE64.encode(login);
    // The place of the password in the text decides how it is spelt.
    for user in ["", "a", "ab", "abc", "guest", "a.b@c.example"] {
        for password in [
            "mayfly-",
            "mayfly-00",
            "mayfly-\u{ff}",
            "mayfly-a:b",
            "mayfly-a~?",
        ] {
            let made = format!("Basic {}", encode(&format!("{user}:{password}")));
            for sent in [
                &[made.as_str()][..],
                &["Bearer x", &made],
                &[&made, "Bearer x"],
                &["", &made],
                &["Basic !!!!", "Digest a=\"b\", c=d", &made],
                &["Bearer x", &format!("Bearer y, {made}")],
            ] {
                let echo = ask(&town, "www-prod.x", "/", &lines(sent)).await.echo().unwrap();
                assert_eq!(echo.header("authorization"), "", "{user} {sent:?}");
            }
        }
        // What is none passes, in every line.
        for other in [
            "right",
            "Mayfly-00",
            "mayfly",
            "xmayfly-00",
            "*mayfly-",
            "zmayfly-",
            "jmayfly-",
        ] {
            let login = format!("Basic {}", encode(&format!("{user}:{other}")));
            let sent = [login.as_str(), "Bearer x"];
            let echo = ask(&town, "www-prod.x", "/", &lines(&sent)).await.echo().unwrap();
            assert_eq!(echo.header("authorization"), sent.join(", "), "{user}");
        }
    }
}

/// A cache on the way would give it to those who are not let in.
#[tokio::test]
async fn no_shared_cache_keeps_what_only_some_may_see() {
    let mut town = with(&[], json!({"from": ["127.0.0.0/8"]})).await;
    let controls = [
        "public, max-age=60",
        "Private, max-age=60",
        "max-age=1, no-store",
        "private=\"x\"",
        "",
    ];
    for (version, control) in controls.iter().enumerate() {
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\ncache-control: {control}\r\nexpires: later\r\netag: a\r\n\
             cdn-cache-control: max-age=60\r\nconnection: close\r\n\r\n"
        );
        let backend = format!("cached@{version}");
        town.router.instance(&backend, instance(answer).await);
        town.router
            .environment(&format!("open{version}"), None, &[&format!("{backend}/")]);
        town.router
            .environment(&format!("heir{version}"), Some("qa"), &[&format!("{backend}/")]);
    }
    town.router.apply().await;
    let kept = [
        "private",
        "Private, max-age=60",
        "max-age=1, no-store",
        "private",
        "private",
    ];
    for (version, (control, kept)) in controls.iter().zip(kept).enumerate() {
        let open = ask(&town, &format!("www-open{version}.x"), "/", &[]).await;
        assert_eq!(open.headers["cache-control"], *control);
        assert!(open.headers.contains_key("cdn-cache-control"), "{open:?}");
        let heir = ask(&town, &format!("www-heir{version}.x"), "/", &[]).await;
        assert_eq!(heir.headers["cache-control"], kept, "{control}");
        assert!(heir.headers.contains_key("etag"), "{heir:?}");
        for name in ["expires", "cdn-cache-control"] {
            assert!(!heir.headers.contains_key(name), "{heir:?}");
        }
    }
}

#[tokio::test]
async fn a_network_is_let_in_and_either_is_enough() {
    for (from, expected) in [
        (json!(["127.0.0.0/8"]), 200),
        (json!(["127.0.0.1"]), 200),
        (json!(["10.0.0.0/8", "127.0.0.0/30"]), 200),
        (json!(["0.0.0.0/0"]), 200),
        (json!(["126.0.0.0/7"]), 200),
        (json!(["127.0.0.2/31", "::/0"]), 403),
        (json!(["128.0.0.0/1"]), 403),
        (json!(["::1"]), 403),
    ] {
        let mut town = with(&[], json!({"from": from})).await;
        let answer = ask(&town, "www-qa.x", "/", &[("authorization", RIGHT)]).await;
        assert_eq!(answer.status, expected, "{from}: {answer:?}");
        match expected {
            // It is the service's own.
            200 => assert_eq!(answer.echo().unwrap().header("authorization"), RIGHT),
            _ => assert_plain(&answer, 403, &["does not admit the address of this client"]),
        }
        set(&mut town, json!({"from": from, "users": users()}));
        town.router.apply().await;
        assert_eq!(
            status(&town, "www-qa.x", &[]).await,
            if expected == 200 { 200 } else { 401 }
        );
        assert_eq!(status(&town, "www-qa.x", &[("authorization", RIGHT)]).await, 200);
        assert_eq!(town.router.reloads(), 0);
    }
}

#[tokio::test]
async fn behind_a_proxy_its_word_counts_for_the_address() {
    let from = json!({"from": ["10.0.0.0/8", "2001:db8::/33"]});
    let town = with(&["--behind-proxy"], from.clone()).await;
    for (forwarded, expected) in [
        ("10.1.2.3", 200),
        ("11.1.2.3", 403),
        ("1.2.3.4, 10.1.2.3", 200),
        ("10.1.2.3, 1.2.3.4", 403),
        ("10.1.2.3:8080", 200),
        ("2001:db8::1", 200),
        ("2001:db8:8000::1", 403),
        ("::ffff:10.1.2.3", 200),
        ("::10.1.2.3", 403),
        ("unknown", 403),
        ("", 403),
    ] {
        let found = status(&town, "www-dev.x", &[("x-forwarded-for", forwarded)]).await;
        assert_eq!(found, expected, "{forwarded}");
    }
    assert_eq!(status(&town, "www-dev.x", &[]).await, 403);
    // Without a proxy nobody's word counts.
    let town = with(&[], from).await;
    assert_eq!(
        status(&town, "www-dev.x", &[("x-forwarded-for", "10.1.2.3")]).await,
        403
    );
}

#[tokio::test]
async fn links_cookies_and_the_header_lead_past_no_access() {
    let town = with(
        &["--share-links", "all", "--allow-header-at-edge"],
        json!({"users": users()}),
    )
    .await;
    let host = "www-prod.x";
    for (path, headers) in [
        ("/?mayfly=qa", vec![]),
        ("/?mayfly=dev", vec![]),
        ("/", vec![("cookie", "mayfly=leaf")]),
        ("/", vec![("x-mayfly", "h-qa")]),
    ] {
        let refused = ask(&town, host, path, &headers).await;
        assert_eq!(refused.status, 401, "{path} {headers:?}");
        // The link is kept: the browser asks for the password, and goes on.
        assert_eq!(
            refused.headers.contains_key("set-cookie"),
            path != "/",
            "{refused:?}"
        );
        let headers = [&headers[..], &[("authorization", RIGHT)]].concat();
        let answer = ask(&town, host, path, &headers).await;
        assert_eq!(answer.backend().unwrap(), "frontend@2", "{path} {headers:?}");
    }
    // From the host of a restricted one to an open one.
    assert_eq!(
        ask(&town, "www-qa.x", "/?mayfly=prod", &[])
            .await
            .backend()
            .unwrap(),
        "frontend@1"
    );
}

#[tokio::test]
async fn a_change_is_in_force_at_once_and_what_is_not_there_lets_nobody_in() {
    let mut town = with(&[], json!({"users": users()})).await;
    let right = [("authorization", RIGHT)];
    set(
        &mut town,
        json!({"users": {"guest": PasswordHash::of("other", [7; 16])}}),
    );
    town.router.apply().await;
    assert_eq!(status(&town, "www-dev.x", &right).await, 401);
    set(
        &mut town,
        json!({"users": {"guest": PasswordHash::of("right", [8; 16]), "b": PasswordHash::of("x", [9; 16])}}),
    );
    town.router.apply().await;
    assert_eq!(status(&town, "www-dev.x", &right).await, 200);
    set(&mut town, json!({}));
    town.router.apply().await;
    assert_eq!(status(&town, "www-dev.x", &right).await, 403);
    town.router.delete("environments/qa");
    town.router.apply().await;
    let refused = ask(&town, "www-leaf.x", "/", &right).await;
    assert_plain(
        &refused,
        403,
        &[
            "who may use the environment leaf is not known",
            "inherits that from qa",
        ],
    );
    set(&mut town, Value::Null);
    town.router.apply().await;
    assert_eq!(status(&town, "www-leaf.x", &[]).await, 200);
    for map in ["access", "users", "networks"] {
        assert_eq!(town.router.rows(map).await, 0, "{map}");
    }
    assert_eq!(town.router.reloads(), 0);
}

/// Who is not let in has not used it.
#[tokio::test]
async fn a_refusal_is_no_use() {
    let town = with(&[], json!({"users": users()})).await;
    assert_eq!(status(&town, "www-qa.x", &[]).await, 401);
    assert_eq!(town.router.rows("uses").await, 0);
    assert_eq!(status(&town, "www-qa.x", &[("authorization", RIGHT)]).await, 200);
    assert_eq!(town.router.rows("uses").await, 1);
}

//! Who may be answered by whom: written from what is promised, not from haproxy.cfg. From outside only the first label of
//! the host counts; between services `x-mayfly`, else the member `mayfly` of baggage.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::wire::{Answer, headers, text};

/// Put into every part of a request; no answer of HAProxy's own may carry it where a browser would take it for markup.
pub const MARK: &str = "M4RK<script>\"'";
/// The name of a header that would come about only by a line feed that is taken at its word.
pub const EVIL: &str = "x-evil";

/// One of the environments.
#[derive(Debug, PartialEq, Eq)]
pub struct Environment {
    pub name: &'static str,
    pub prefix: &'static str,
    pub header: &'static str,
    /// Service and version, inherited ones included.
    pub versions: &'static [(&'static str, &'static str)],
    /// Path and service, inherited ones included, the longest first.
    routes: &'static [(&'static str, &'static str)],
    /// Whether links leave its host alone.
    pub protected: bool,
    /// To whom it is open at the edge.
    pub open: Open,
}

/// To whom an environment is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    All,
    /// To who says [`CREDENTIALS`].
    TheUser,
    /// To a network that no client of these tests is in.
    Nobody,
}

/// The user `guest` with the right password, one as `mayfly access` makes it, as `Authorization: Basic` says it.
pub const CREDENTIALS: &str = "Z3Vlc3Q6bWF5Zmx5LTA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA3";

/// What is registered, for [`super::mayfly`].
pub const FILES: &str = "
- name: base
  prefix: www
  services:
    - {name: frontend, version: 0.0.1, route: /}
    - {name: api, version: 0.0.1, route: /api}
    - {name: backend, version: 0.0.1}
- name: heir
  extends: base
  header: H.heir
  services:
    - {name: frontend, version: 0.0.2, route: /}
    - {name: backend, version: 0.0.2}
    - {name: secret, version: 0.0.2, route: /secret}
- name: vault
  extends: heir
  access:
    users:
      guest: sha256:07070707070707070707070707070707:a19a5f39c13a4762edabe6bb05af6d526fc1193fe1398ea883c5feeb613c59e1
  services:
    - {name: frontend, version: 0.0.3, route: /}
- name: annex
  extends: vault
  services:
    - {name: backend, version: 0.0.3}
- name: far
  extends: base
  access: {from: [10.0.0.0/8, 2001:db8::/32]}
  services:
    - {name: frontend, version: 0.0.4, route: /}
- name: keep
  protected: true
  services:
    - {name: frontend, version: 0.0.5, route: /}
";
pub const BASE: Environment = Environment {
    name: "base",
    prefix: "www",
    header: "base",
    versions: &[("frontend", "0.0.1"), ("api", "0.0.1"), ("backend", "0.0.1")],
    routes: &[("/api", "api"), ("", "frontend")],
    protected: false,
    open: Open::All,
};
pub const HEIR: Environment = Environment {
    name: "heir",
    prefix: "www-heir",
    header: "H.heir",
    versions: &[
        ("frontend", "0.0.2"),
        ("api", "0.0.1"),
        ("backend", "0.0.2"),
        ("secret", "0.0.2"),
    ],
    routes: &[("/secret", "secret"), ("/api", "api"), ("", "frontend")],
    ..BASE
};
const VAULT: Environment = Environment {
    name: "vault",
    prefix: "www-vault",
    header: "vault",
    versions: &[
        ("frontend", "0.0.3"),
        ("api", "0.0.1"),
        ("backend", "0.0.2"),
        ("secret", "0.0.2"),
    ],
    open: Open::TheUser,
    ..HEIR
};
const ANNEX: Environment = Environment {
    name: "annex",
    prefix: "www-annex",
    header: "annex",
    versions: &[
        ("frontend", "0.0.3"),
        ("api", "0.0.1"),
        ("backend", "0.0.3"),
        ("secret", "0.0.2"),
    ],
    ..VAULT
};
const FAR: Environment = Environment {
    name: "far",
    prefix: "www-far",
    header: "far",
    versions: &[("frontend", "0.0.4"), ("api", "0.0.1"), ("backend", "0.0.1")],
    open: Open::Nobody,
    ..BASE
};
const KEEP: Environment = Environment {
    name: "keep",
    prefix: "www-keep",
    header: "keep",
    versions: &[("frontend", "0.0.5")],
    routes: &[("", "frontend")],
    protected: true,
    open: Open::All,
};
pub const ALL: [&Environment; 6] = [&BASE, &HEIR, &VAULT, &ANNEX, &FAR, &KEEP];

impl Environment {
    /// The backend of a service, as `service@version`.
    pub fn backend(&self, service: &str) -> Option<String> {
        let found = self.versions.iter().find(|(name, _)| *name == service);
        found.map(|(name, version)| format!("{name}@{version}"))
    }

    /// The backend that a path of plain segments leads to.
    pub fn at(&self, path: &str) -> Option<String> {
        let covers = |route: &str| path == route || path.starts_with(&format!("{route}/"));
        let route = self.routes.iter().find(|(route, _)| covers(route));
        self.backend(route?.1)
    }
}

/// The environment that a host leads to from outside.
pub fn by_host(host: &str) -> Option<&'static Environment> {
    let label = host.split(['.', ':']).next().unwrap_or_default();
    ALL.into_iter()
        .find(|environment| label.eq_ignore_ascii_case(environment.prefix))
}

/// The environment that a header value means.
pub fn by_value(value: &str) -> Option<&'static Environment> {
    ALL.into_iter().find(|environment| value == environment.header)
}

/// The environments that the parameters of a target may mean as links, by the most lenient reader.
pub fn by_links(target: &str) -> Vec<&'static Environment> {
    by_pairs(target.split(['?', '&', ';', '#']))
}

/// The environments that cookies may mean likewise. A comma may separate cookies, or be part of a
/// value: `mayfly=,keep` means `keep` (seed 17001).
pub fn by_cookies(cookies: &str) -> Vec<&'static Environment> {
    by_pairs(cookies.split(';').chain(cookies.split([';', ','])))
}

fn by_pairs<'a>(pairs: impl Iterator<Item = &'a str>) -> Vec<&'static Environment> {
    let blank = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '"';
    let values = pairs.filter_map(|pair| pair.split_once('=')).filter(|(key, _)| {
        let key = decoded(key).replace('+', " ");
        key.trim_matches(blank).eq_ignore_ascii_case("mayfly")
    });
    let names = values.flat_map(|(_, value)| {
        let value = decoded(value);
        let parts = value
            .split(|letter| blank(letter) || letter == ',')
            .map(str::to_owned);
        parts.collect::<Vec<_>>()
    });
    let names: BTreeSet<String> = names.collect();
    ALL.into_iter()
        .filter(|environment| names.contains(environment.name))
        .collect()
}

/// Whether a service would see a link or its cookie.
fn shows_a_link(target: &str, cookies: &[&str]) -> bool {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let key = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let space = [' ', '\t', '\n', '\r', '\u{b}', '\u{c}'];
    query.split('&').any(|pair| decoded(&key(pair)) == "mayfly")
        || cookies
            .iter()
            .flat_map(|line| line.split(';'))
            .any(|pair| key(pair).trim_matches(space) == "mayfly")
}

/// The values of members of baggage that the most lenient reader would take for `mayfly`.
pub fn members(baggage: &str) -> Vec<String> {
    let blank = |letter: char| letter.is_whitespace() || letter.is_control();
    let pairs = baggage
        .split(',')
        .map(|member| member.split(';').next().unwrap_or_default());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .filter(|(key, _)| {
            let key = decoded(key).replace('+', " ");
            key.trim_matches(blank).eq_ignore_ascii_case("mayfly")
        })
        .map(|(_, value)| value.trim_matches([' ', '\t', '\r', '\u{b}', '\u{c}']).to_owned())
        .collect()
}

/// What percent-encoded text says, as far as it is UTF-8.
pub fn decoded(encoded: &str) -> String {
    let mut octets = Vec::new();
    let mut rest: Vec<u8> = encoded.chars().map(|letter| letter as u8).collect();
    rest.reverse();
    while let Some(octet) = rest.pop() {
        let digit = |at: usize| Some(char::from(*rest.get(rest.len().checked_sub(at)?)?).to_digit(16)? as u8);
        match (octet, digit(1), digit(2)) {
            (b'%', Some(high), Some(low)) => {
                rest.truncate(rest.len() - 2);
                octets.push(high * 16 + low);
            }
            _ => octets.push(octet),
        }
    }
    String::from_utf8_lossy(&octets).into_owned()
}

/// What only the edge says.
const OURS: [&str; 5] = [
    "x-mayfly",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
];

/// Whether a name is one that services take for the edge's word, and is not the edge's.
fn claims(name: &str) -> bool {
    let fold = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '_'
        }
    };
    let folded: String = name.to_ascii_lowercase().chars().map(fold).collect();
    let all = [
        "x_mayfly",
        "x_real_ip",
        "x_original_url",
        "forwarded",
        "proxy",
        "client_ip",
        "remote_user",
        "cf_visitor",
        "x_auth_request_user",
        "x_envoy_original_path",
    ];
    let believed = all.contains(&folded.as_str());
    (believed || folded.starts_with("x_forwarded_")) && !OURS.contains(&name)
}

/// The values of members of baggage that HAProxy reads as `mayfly`, as they stand. Different ones
/// say nothing.
pub fn plain_members(baggage: &str) -> BTreeSet<&str> {
    let space = |letter: char| [' ', '\t', '\n', '\r', '\u{b}', '\u{c}'].contains(&letter);
    let pairs = baggage.split(',').filter_map(|member| member.split_once('='));
    let ours = pairs.filter(|(key, _)| key.trim_matches(space).eq_ignore_ascii_case("mayfly"));
    let values = ours.map(|(_, value)| {
        let value = value.trim_start_matches(space);
        value
            .split(|letter| letter == ';' || space(letter))
            .next()
            .unwrap_or_default()
    });
    values.filter(|value| !value.is_empty()).collect()
}

/// Whether a server that decodes twice, in whatever way, and knows either slash would climb.
fn climbs(target: &str) -> bool {
    let path = target.split_once("://").map_or(target, |(_, rest)| rest);
    // What is no path, as `*`, has the route `/`.
    if !path.starts_with('/') && path.len() == target.len() {
        return false;
    }
    let mut path = path.split('?').next().unwrap_or_default().to_ascii_lowercase();
    for _ in 0..2 {
        for (odd, meant) in [
            ("%u002e", "."),
            ("%c0%ae", "."),
            ("%c0%af", "/"),
            ("%e0%80%ae", "."),
        ] {
            path = path.replace(odd, meant);
        }
        path = decoded(&path);
    }
    let mut segments = path.split(['/', '\\']).skip(1);
    segments.any(|segment| segment.split(';').next() == Some(".."))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Edge,
    Internal,
}

/// What may become of a request.
#[derive(Debug, Clone, Default)]
pub struct Allowed {
    /// Whose it may be, however it is read; anybody's where nobody can say.
    pub environments: Option<Vec<&'static Environment>>,
    /// Those of them that it may reach on another host, by a link or a cookie; any where nobody can say.
    pub linked: Option<Vec<&'static Environment>>,
    /// Whether its connection says the right password anywhere.
    pub knows_password: bool,
    /// It is flawless, and this backend has to answer.
    pub demanded: Option<String>,
}

impl Allowed {
    /// It may be this one's, too.
    pub fn also(&mut self, environment: Option<&'static Environment>) {
        if let (Some(all), Some(environment)) = (&mut self.environments, environment) {
            all.push(environment);
        }
    }
}

/// Whether an answer is as it should be; `allowed` gives what is allowed to the request that says it is that number.
pub fn judge(
    side: Side,
    answer: &Answer,
    allowed: impl Fn(usize) -> Option<Allowed>,
) -> Result<Option<usize>, String> {
    for (name, value) in &answer.headers {
        if name == EVIL || value.contains("M4RK") {
            return Err(format!("an answer has the header {name}: {value}"));
        }
    }
    let Some(backend) = answer.header("x-instance") else {
        return refusal(answer).map(|()| None);
    };
    if answer.status != 200 || answer.body.is_empty() {
        return Err(format!("a tunnel to {backend}"));
    }
    let seen = headers(&answer.body);
    let of = |name: &str| -> Vec<&str> {
        let found = seen.iter().filter(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str()).collect()
    };
    // A line that begins with a blank is a part of the one before.
    let case = of("x-case")
        .first()
        .and_then(|case| case.split(' ').next()?.parse().ok());
    let allowed = case
        .and_then(allowed)
        .ok_or("an instance saw a request that nobody sent")?;
    let value = match of("x-mayfly")[..] {
        [value] => value.to_owned(),
        ref values => return Err(format!("{backend} saw x-mayfly {values:?}")),
    };
    let environment = by_value(&value).ok_or_else(|| format!("{backend} saw x-mayfly {value:?}"))?;
    let (service, _) = backend.split_once('@').unwrap_or_default();
    if environment.backend(service).as_deref() != Some(backend) {
        return Err(format!("{backend} has answered in {}", environment.prefix));
    }
    if allowed
        .environments
        .is_some_and(|some| !some.contains(&environment))
    {
        return Err(format!(
            "{} has answered, which is not entitled",
            environment.prefix
        ));
    }
    if allowed
        .demanded
        .as_deref()
        .is_some_and(|demanded| demanded != backend)
    {
        return Err(format!("{backend} has answered"));
    }
    let members = members(&of("baggage").join(","));
    if members != [value] {
        return Err(format!("{backend} saw the baggage members {members:?}"));
    }
    // It has one where there is a trace, and nothing that was sent in its place.
    let states = self::members(&of("tracestate").join(","));
    if states.len() > 1 || states.iter().any(|state| *state != members[0]) {
        return Err(format!("{backend} saw the tracestate members {states:?}"));
    }
    let host = *of("host").first().ok_or("an instance saw no host")?;
    match side {
        Side::Edge => {
            let may_be_linked = allowed.linked.is_none_or(|linked| linked.contains(&environment));
            let own = by_host(host);
            if own != Some(environment) && (!may_be_linked || own.is_some_and(|own| own.protected)) {
                return Err(format!("{backend} has answered for {host:?}"));
            }
            let names = || seen.iter().map(|(name, _)| name.as_str());
            if let Some(name) = names().find(|name| claims(name)) {
                return Err(format!("{backend} saw {name}"));
            }
            if let Some(name) = OURS
                .iter()
                .find(|name| names().filter(|seen| seen == *name).count() > 1)
            {
                return Err(format!("{backend} saw {name} twice"));
            }
            let is_open = match environment.open {
                Open::All => true,
                Open::TheUser => allowed.knows_password,
                Open::Nobody => false,
            };
            if !is_open {
                return Err(format!(
                    "{backend} has answered in {}, which is not open",
                    environment.name
                ));
            }
            let logins = of("authorization");
            let sees_password = logins.iter().any(|login| holds_password(login));
            if sees_password || environment.open != Open::All && !logins.is_empty() {
                return Err(format!("{backend} saw a password in {}", environment.name));
            }
            let request = text(&answer.body);
            let target = request.split(' ').nth(1).unwrap_or_default();
            if !own.is_some_and(|own| own.protected) && shows_a_link(target, &of("cookie")) {
                return Err(format!("{backend} saw a link: {target} {:?}", of("cookie")));
            }
            if climbs(target) {
                return Err(format!("{backend} saw the path {target}"));
            }
        }
        Side::Internal => {
            // A short name may come with a port.
            let label = host.split(['.', ':']).next().unwrap_or_default();
            if !label.eq_ignore_ascii_case(service) {
                return Err(format!("{backend} has answered for {host:?}"));
            }
        }
    }
    // What names a header that the next proxy is to take away.
    let hops = of("connection").join(",").to_ascii_lowercase();
    if ["x-mayfly", "baggage", "host"]
        .iter()
        .any(|name| hops.contains(name))
    {
        return Err(format!("{backend} saw Connection: {hops}"));
    }
    Ok(case)
}

/// Whether a line of `authorization` holds a password that `mayfly access` has made, anywhere.
fn holds_password(line: &str) -> bool {
    let mut words = line.split([' ', '\t', ',']);
    line.contains(CREDENTIALS)
        || words.any(|word| {
            let said = BASE64.decode(word).unwrap_or_default();
            String::from_utf8_lossy(&said).contains(":mayfly-")
        })
}

/// What HAProxy says itself.
fn refusal(answer: &Answer) -> Result<(), String> {
    if !(400..600).contains(&answer.status) {
        return Err(format!("HAProxy itself answers with {}", answer.status));
    }
    let kind = answer.header("content-type").unwrap_or_default();
    let body = text(&answer.body);
    match kind {
        "text/plain" => Ok(()),
        "text/html" if !body.contains("M4RK") => Ok(()),
        _ => Err(format!("HAProxy reflects as {kind:?}: {body:?}")),
    }
}

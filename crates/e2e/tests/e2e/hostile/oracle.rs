//! Who may be answered by whom: written from what is promised, not from haproxy.cfg. From outside only the first label of
//! the host counts; between services `x-mayfly`, else the member `mayfly` of baggage.

use super::wire::{Answer, headers, text};

/// Put into every part of a request; no answer of HAProxy's own may carry it where a browser would take it for markup.
pub const MARK: &str = "M4RK<script>\"'";
/// The name of a header that would come about only by a line feed that is taken at its word.
pub const EVIL: &str = "x-evil";

/// One of the two environments.
#[derive(Debug, PartialEq, Eq)]
pub struct Environment {
    pub prefix: &'static str,
    pub header: &'static str,
    /// Service and version, inherited ones included.
    pub versions: &'static [(&'static str, &'static str)],
    /// Path and service, inherited ones included, the longest first.
    routes: &'static [(&'static str, &'static str)],
}

/// What is registered, for [`super::world`].
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
";
pub const BASE: Environment = Environment {
    prefix: "www",
    header: "base",
    versions: &[("frontend", "0.0.1"), ("api", "0.0.1"), ("backend", "0.0.1")],
    routes: &[("/api", "api"), ("", "frontend")],
};
pub const HEIR: Environment = Environment {
    prefix: "www-heir",
    header: "H.heir",
    versions: &[
        ("frontend", "0.0.2"),
        ("api", "0.0.1"),
        ("backend", "0.0.2"),
        ("secret", "0.0.2"),
    ],
    routes: &[("/secret", "secret"), ("/api", "api"), ("", "frontend")],
};
pub const ALL: [&Environment; 2] = [&BASE, &HEIR];

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
const OURS: [&str; 4] = [
    "x-mayfly",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
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
    let believed = ["x_mayfly", "x_real_ip", "x_original_url", "forwarded"].contains(&folded.as_str());
    (believed || folded.starts_with("x_forwarded_")) && !OURS.contains(&name)
}

/// Whether a server that decodes twice and knows either slash would climb.
fn climbs(target: &str) -> bool {
    let path = target.split_once("://").map_or(target, |(_, rest)| rest);
    // What is no path, as `*`, has the route `/`.
    if !path.starts_with('/') && path.len() == target.len() {
        return false;
    }
    let path = decoded(&decoded(path.split('?').next().unwrap_or_default()));
    let mut segments = path.split(['/', '\\']).skip(1);
    segments.any(|segment| segment.split(';').next() == Some(".."))
}

/// A side of HAProxy.
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
    /// It is flawless, and this backend has to answer.
    pub demanded: Option<String>,
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
    let host = *of("host").first().ok_or("an instance saw no host")?;
    match side {
        Side::Edge => {
            if by_host(host) != Some(environment) {
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
            let request = text(&answer.body);
            let target = request.split(' ').nth(1).unwrap_or_default();
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

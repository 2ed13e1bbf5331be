//! How a request finds its way, step by step: the look-ups of the router's configuration in its
//! order, over the same tables. A test holds it against a real HAProxy, so that what is explained
//! is what happens.

mod access;
mod decide;
mod dots;
mod hints;
mod links;
mod redirect;

use std::collections::BTreeSet;
use std::net::IpAddr;

pub use access::Login;
pub use decide::{Decision, RefusedCall};
pub use links::ShareLinks;
use serde::Serialize;

use crate::index::Index;
use crate::names::{DnsPrefix, EnvironmentName, HeaderValue, Hostname, RoutePath, ServiceName};
use crate::records::InstanceState;
use crate::routing::{Choice, Routing};
use crate::version::BackendId;

/// The settings of a router that decide where a request goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Settings {
    /// The domain of the services' names.
    pub domain: Hostname,
    /// The environment of internal requests that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_environment: Option<EnvironmentName>,
    /// Whether clients outside may choose their environment by `x-mayfly`.
    #[serde(default)]
    pub allow_header_at_edge: bool,
    /// On which hosts it follows links.
    #[serde(default)]
    pub share_links: ShareLinks,
    /// The path that HAProxy itself answers at the edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    /// The port that requests in clear text are redirected to; none where they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_to_https: Option<u16>,
}

/// Where a request comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// From outside: the host decides the environment, the path the service.
    Edge,
    /// From a service: `x-mayfly` decides the environment, the host the service.
    Internal,
}

/// A request, as far as its way depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where it comes in.
    pub side: Side,
    /// Whether the client speaks TLS, to the edge or to a proxy in front that the edge believes.
    pub tls: bool,
    /// The value of Host.
    pub host: String,
    /// The path without a query; begins with a slash.
    pub path: String,
    /// The query, without the question mark; empty where there is none.
    pub query: String,
    /// All cookies as one header has them; empty where there is none.
    pub cookie: String,
    /// The address of the client, where it is known.
    pub from: Option<IpAddr>,
    /// By what the client says who it is.
    pub login: Option<Login>,
    /// What `x-mayfly` says, or the members `mayfly` of `baggage` where that is missing; several
    /// values with commas between them.
    pub value: Option<String>,
}

/// The way of a request, as far as it gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Where it comes in.
    pub side: Side,
    /// The look-ups, in their order.
    pub steps: Vec<Step>,
    /// What becomes of it.
    pub answer: Responder,
}

/// One look-up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// What is looked for.
    pub step: &'static str,
    /// With what.
    pub key: String,
    /// What was found; nothing when there is none.
    pub found: Option<String>,
    /// What else there is to know, above all why nothing was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What becomes of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "answered_by", rename_all = "lowercase")]
pub enum Responder {
    /// It is passed to an instance.
    Backend {
        /// The service at its version.
        backend: String,
        /// The environment that it is answered in.
        environment: String,
        /// `own`, or from whom the version is inherited.
        origin: String,
        /// The addresses, one of which gets it.
        servers: Vec<String>,
    },
    /// HAProxy answers itself.
    Router {
        /// The status code.
        status: u16,
        /// What it says.
        text: String,
    },
}

impl Responder {
    /// Whether an instance answers.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Backend { .. })
    }
}

impl Index {
    /// How a request is routed, as of the last [`Index::resolve`].
    pub fn explain(&self, settings: &Settings, request: &Request) -> Explanation {
        let mut walk = Walk {
            index: self,
            routing: self.routing(),
            settings,
            request,
            steps: Vec::new(),
        };
        let answer = match walk.run() {
            Ok(answer) => answer,
            Err((status, text)) => Responder::Router {
                status,
                text: format!("{status}: {text}"),
            },
        };
        Explanation {
            side: request.side,
            steps: walk.steps,
            answer,
        }
    }
}

/// The host as the router compares it: without port and closing dots, in lower case.
pub fn bare_host(host: &str) -> String {
    let without_port = match host.rsplit_once(':') {
        Some((name, port))
            if !name.is_empty() && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            name
        }
        _ => host,
    };
    without_port.trim_end_matches('.').to_ascii_lowercase()
}

/// A status code with what the router says.
type ErrorAnswer = (u16, String);

struct Walk<'a> {
    index: &'a Index,
    routing: &'a Routing,
    settings: &'a Settings,
    request: &'a Request,
    steps: Vec<Step>,
}

impl<'a> Walk<'a> {
    fn run(&mut self) -> Result<Responder, ErrorAnswer> {
        let host = bare_host(&self.request.host);
        if self.request.side == Side::Edge && self.settings.health_path.as_ref() == Some(&self.request.path) {
            return Err((
                200,
                "the health path of the edge, which HAProxy answers for every host.".to_owned(),
            ));
        }
        if self.request.side == Side::Edge {
            self.redirect(&host)?;
        }
        let value = match self.request.side {
            Side::Edge => self.value_at_the_edge(&host)?,
            Side::Internal => self.value_inside()?,
        };
        let environment = self.environment(&value)?;
        if self.request.side == Side::Edge {
            self.admit(environment)?;
        }
        let chain: Vec<&EnvironmentName> = self.routing.chain(environment).collect();
        if chain.len() > 1 {
            let parents: Vec<&str> = chain[1..].iter().map(|name| name.as_str()).collect();
            let broken = self.index.broken_parent(environment);
            self.step("parents", environment.as_str(), Some(parents.join(", ")), broken);
        }
        let service = match self.request.side {
            Side::Edge => self.route(&chain)?,
            Side::Internal => self.service(&host)?,
        };
        let (choice, _, whose) = self.version(&chain, &service)?;
        self.servers(environment, choice, whose)
    }

    fn step(&mut self, step: &'static str, key: &str, found: Option<String>, note: Option<String>) {
        self.steps.push(Step {
            step,
            key: key.to_owned(),
            found,
            note,
        });
    }

    /// What `x-mayfly` or baggage says: equal values are one, and an empty one is none.
    fn said(&mut self) -> Result<Option<String>, ErrorAnswer> {
        let said = self.request.value.as_deref().unwrap_or_default();
        let believed = self.request.side == Side::Internal || self.settings.allow_header_at_edge;
        if !said.contains(',') || !believed {
            return Ok(Some(said.to_owned()).filter(|value| !value.is_empty()));
        }
        let mut values = said.split([',', ' ', '\t']).filter(|value| !value.is_empty());
        let first = values.next();
        if values.any(|value| Some(value) != first) {
            self.step("x-mayfly", said, None, Some("different values".to_owned()));
            return Err((
                400,
                format!(
                    "x-mayfly or the baggage member mayfly has more than one value ({said}); a service must forward the one of the request that it serves."
                ),
            ));
        }
        Ok(first.map(str::to_owned))
    }

    fn value_at_the_edge(&mut self, host: &str) -> Result<String, ErrorAnswer> {
        let label = host.split('.').next().unwrap_or_default();
        let prefix: Option<DnsPrefix> = label.parse().ok();
        if let Some(value) = self.link(prefix.as_ref())? {
            return Ok(value.to_string());
        }
        if let Some(value) = self.said()? {
            if self.settings.allow_header_at_edge {
                self.step(
                    "x-mayfly",
                    &value,
                    Some(value.clone()),
                    Some("the routers let clients choose".to_owned()),
                );
                return Ok(value);
            }
            let note = "from outside it is removed; the host decides";
            self.step("x-mayfly", &value, None, Some(note.to_owned()));
        }
        if let Some(value) = self.cookie(prefix.as_ref()) {
            return Ok(value.to_string());
        }
        self.step(
            "host",
            host,
            Some(label.to_owned()),
            Some("its first label decides".to_owned()),
        );
        let value = prefix.as_ref().and_then(|prefix| self.routing.header_of(prefix));
        // Of an environment that has ended somebody else's prefix or name says nothing.
        let ended = prefix.as_ref().filter(|_| value.is_none());
        let ended = ended.and_then(|prefix| self.routing.ended(prefix));
        let ended = ended.map(|(name, ended)| ended.in_words(name));
        let note = match (&ended, value) {
            (Some(ended), _) => Some(ended.clone()),
            (None, None) => self.index.why_no_prefix(label),
            (None, Some(_)) => None,
        };
        self.step(
            "prefix",
            label,
            value.map(|value| format!("x-mayfly {value}")),
            note,
        );
        if let Some(value) = value {
            return Ok(value.to_string());
        }
        if let Some(ended) = ended {
            return Err((410, format!("{ended}.")));
        }
        let text = if self.request.host.is_empty() {
            "this request names no host, and the host decides the environment.".to_owned()
        } else {
            format!(
                "no environment answers for the host {host}; the first label of the host must be the prefix of an environment."
            )
        };
        Err((404, text))
    }

    fn value_inside(&mut self) -> Result<String, ErrorAnswer> {
        if let Some(value) = self.said()? {
            self.step("x-mayfly", &value, Some(value.clone()), None);
            return Ok(value);
        }
        self.step(
            "x-mayfly",
            "",
            None,
            Some("the request has neither x-mayfly nor baggage: mayfly=<value>".to_owned()),
        );
        let Some(default) = &self.settings.default_environment else {
            return Err((400, "the header x-mayfly is missing, and baggage has no member mayfly; a service must forward x-mayfly or baggage of the request that it serves.".to_owned()));
        };
        let value = self
            .routing
            .environment(default)
            .map(|rows| rows.header.to_string());
        let note = if value.is_none() {
            self.index.why_not_routed(default)
        } else {
            None
        };
        self.step(
            "default environment",
            default.as_str(),
            value.as_ref().map(|value| format!("x-mayfly {value}")),
            note,
        );
        value.ok_or_else(|| {
            (404, format!("this request has no x-mayfly header and no baggage member mayfly, and the default environment {default} does not exist."))
        })
    }

    fn environment(&mut self, value: &str) -> Result<&'a EnvironmentName, ErrorAnswer> {
        let header: Option<HeaderValue> = value.parse().ok();
        let environment = header.and_then(|header| self.routing.environment_of(&header));
        let note = environment
            .is_none()
            .then(|| self.index.why_no_header(value))
            .flatten();
        self.step("environment", value, environment.map(ToString::to_string), note);
        environment.ok_or_else(|| (404, format!("no environment has the x-mayfly value {value}.")))
    }

    /// The longest route on whole segments; the nearest environment's where two are as long.
    fn route(&mut self, chain: &[&EnvironmentName]) -> Result<String, ErrorAnswer> {
        let path = &self.request.path;
        if dots::climbs(path) {
            let note = "some servers would take it for another path";
            self.step("route", path, None, Some(note.to_owned()));
            return Err((
                400,
                format!(
                    "the path {path} has a segment `..`, or a spelling that some servers read as one; send the path without it."
                ),
            ));
        }
        let asked = format!("{}/", without_parameters(path));
        let mut best: Option<(&EnvironmentName, &RoutePath, &ServiceName)> = None;
        for name in chain {
            let routes = self
                .routing
                .environment(name)
                .into_iter()
                .flat_map(|rows| &rows.routes);
            for (route, service) in routes.filter(|(route, _)| asked.starts_with(&route.with_slash())) {
                if best.is_none_or(|(_, longest, _)| route.as_str().len() > longest.as_str().len()) {
                    best = Some((name, route, service));
                }
            }
        }
        let environment = chain[0];
        let Some((origin, route, service)) = best else {
            let note = self.index.routes_there_are(chain);
            self.step("route", path, None, Some(note));
            return Err((
                404,
                format!("the environment {environment} has no route for the path {path}."),
            ));
        };
        let note = (origin != environment).then(|| format!("inherited from {origin}"));
        self.step("route", path, Some(format!("{route} leads to {service}")), note);
        Ok(service.to_string())
    }

    fn service(&mut self, host: &str) -> Result<String, ErrorAnswer> {
        let domain = self.settings.domain.as_str();
        let label = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        // A search domain makes `backend` the same as `backend.service`, and the host stays as it
        // was typed.
        let is_short = !host.contains('.');
        let service = match is_short {
            true => Some(host),
            false => host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')),
        };
        let service = service
            .filter(|name| !name.is_empty() && name.bytes().all(label))
            .map(str::to_owned);
        let note = (is_short && service.is_some()).then(|| format!("short for {host}.{domain}"));
        self.step("service", host, service.clone(), note);
        service.ok_or_else(|| {
            let host = if host.is_empty() { "-" } else { host };
            (
                404,
                format!(
                    "the host {host} is not a service: the internal side answers for <service>.{domain} and <service>."
                ),
            )
        })
    }

    /// The backend that the environment or the nearest that it extends chooses, which of them that
    /// is, and the same in words.
    fn version(
        &mut self,
        chain: &[&'a EnvironmentName],
        service: &str,
    ) -> Result<(&'a Choice, &'a EnvironmentName, String), ErrorAnswer> {
        let environment = chain[0];
        let name: Option<ServiceName> = service.parse().ok();
        let mut waiting: Option<String> = None;
        for origin in chain {
            // What is no name is nobody's.
            let Some(name) = &name else { break };
            waiting = waiting.or_else(|| self.index.waiting(origin, name));
            let Some(choice) = self.routing.choice(origin, name) else {
                continue;
            };
            let whose = match *origin == environment {
                true => "own".to_owned(),
                false => format!("inherited from {origin}"),
            };
            let note = self.index.chosen_by(origin, choice);
            let notes = [Some(whose.clone()), waiting, note];
            let note = notes.into_iter().flatten().collect::<Vec<_>>().join("; ");
            self.step("version", service, Some(choice.to_string()), Some(note));
            return Ok((choice, origin, whose));
        }
        let note = self.index.services_there_are(chain, service);
        self.step("version", service, None, note);
        Err((
            404,
            format!(
                "the environment {environment} has no service {service}, nor has an environment that it extends."
            ),
        ))
    }

    /// Whether the name of a server outside routes back here: certainly, or, as its note says,
    /// perhaps.
    fn goes_round(
        &mut self,
        backend: &BackendId,
        environment: &EnvironmentName,
    ) -> Result<Option<String>, ErrorAnswer> {
        let Some(host) = self.routing.host(backend).and_then(|upstream| upstream.name()) else {
            return Ok(None);
        };
        let host = host.as_str();
        if host.ends_with(&format!(".{}", self.settings.domain)) {
            let note = "a name of Mayfly's own domain, which resolves to the routers";
            self.step("address", host, None, Some(note.to_owned()));
            return Err((
                508,
                format!(
                    "the address of {backend} routes back to this router (environment {environment}); choose a version of that service, not an address."
                ),
            ));
        }
        let label = host.split('.').next().unwrap_or_default();
        let prefix = label
            .parse()
            .ok()
            .and_then(|prefix| self.routing.header_of(&prefix));
        Ok(prefix.map(|_| {
            format!(
                "{label} is the prefix of an environment: if {host} resolves to a router, the \
                 request comes back, and a router ends it with 508 when it goes outside again"
            )
        }))
    }

    fn servers(
        &mut self,
        environment: &EnvironmentName,
        choice: &Choice,
        origin: String,
    ) -> Result<Responder, ErrorAnswer> {
        let mut places = Vec::new();
        let mut about_its_name = None;
        if let Choice::Backend(backend) = choice {
            about_its_name = self.goes_round(backend, environment)?;
            let servers = self.routing.servers(backend).into_iter().flatten();
            places.extend(servers.map(|(id, server)| (self.index.place_of(backend, id), server)));
            let unresolved = self.routing.unresolved(backend).into_iter().flatten();
            places.extend(unresolved.map(|((upstream, _), server)| (upstream.to_string(), server)));
        }
        let (mut servers, mut others) = (Vec::new(), Vec::new());
        let mut told = BTreeSet::new();
        for (address, server) in places {
            // One of several addresses of a host name.
            if !told.insert(address.clone()) {
                continue;
            }
            match server.state {
                InstanceState::Up if u16::from(server.weight) > 0 => servers.push(address),
                InstanceState::Up => others.push(format!("{address} has weight 0")),
                InstanceState::Draining => others.push(format!("{address} is draining")),
            }
        }
        let lack = self.index.lack(choice).map(|(_, reason)| reason);
        let notes: Vec<String> = lack.into_iter().chain(others).chain(about_its_name).collect();
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        let found = (!servers.is_empty()).then(|| servers.join(", "));
        let backend = choice.to_string();
        self.step("instances", &backend, found, note);
        if servers.is_empty() {
            let (service, version) = (choice.service(), choice.version());
            return Err((503, no_instance(choice, environment, service, version)));
        }
        Ok(Responder::Backend {
            backend,
            environment: environment.to_string(),
            origin,
            servers,
        })
    }
}

/// What is said where nothing answers for a choice.
fn no_instance(
    choice: &Choice,
    environment: &EnvironmentName,
    service: &ServiceName,
    version: &str,
) -> String {
    format!(
        "no instance of {choice} answers (environment {environment}, service {service}, version {version})."
    )
}

/// A path without what follows a semicolon in its segments, such as `;jsessionid=A`.
fn without_parameters(path: &str) -> String {
    let segments = path
        .split('/')
        .map(|segment| segment.split(';').next().unwrap_or_default());
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests;

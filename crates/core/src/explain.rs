//! How a request finds its way, step by step: the look-ups of the router's configuration in its order, over the same
//! tables. A test holds it against a real HAProxy, so that what is explained is what happens.

mod dots;
mod hints;

use std::collections::BTreeSet;

use serde::Serialize;

use crate::index::Index;
use crate::names::{EnvironmentName, Hostname};
use crate::records::InstanceState;
use crate::routing::{Routing, Table};
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
    /// The path that HAProxy itself answers at the edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
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
    /// The value of Host.
    pub host: String,
    /// The path without a query; begins with a slash.
    pub path: String,
    /// What `x-mayfly` says, or the member `mayfly` of `baggage` where that is missing.
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
    pub answer: Answer,
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
pub enum Answer {
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

impl Answer {
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
            Err((status, text)) => Answer::Router {
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
type Refusal = (u16, String);

struct Walk<'a> {
    index: &'a Index,
    routing: &'a Routing,
    settings: &'a Settings,
    request: &'a Request,
    steps: Vec<Step>,
}

impl<'a> Walk<'a> {
    fn run(&mut self) -> Result<Answer, Refusal> {
        let host = bare_host(&self.request.host);
        if self.request.side == Side::Edge && self.settings.health_path.as_ref() == Some(&self.request.path) {
            return Err((
                200,
                "the health path of the edge, which HAProxy answers for every host.".to_owned(),
            ));
        }
        let value = match self.request.side {
            Side::Edge => self.value_at_the_edge(&host)?,
            Side::Internal => self.value_inside()?,
        };
        let environment = self.environment(&value)?;
        let chain: Vec<&str> = self.routing.chain(environment).collect();
        let broken = environment
            .parse()
            .ok()
            .and_then(|name| self.index.broken_parent(&name));
        if chain.len() > 1 {
            self.step("parents", environment, Some(chain[1..].join(", ")), broken);
        }
        let service = match self.request.side {
            Side::Edge => self.route(&chain)?,
            Side::Internal => self.service(&host)?,
        };
        let (backend, origin) = self.version(&chain, &service)?;
        self.servers(environment, &service, &backend, origin)
    }

    fn step(&mut self, step: &'static str, key: &str, found: Option<String>, note: Option<String>) {
        self.steps.push(Step {
            step,
            key: key.to_owned(),
            found,
            note,
        });
    }

    /// What `x-mayfly` says: equal values are one, and an empty one is none.
    fn said(&mut self) -> Result<Option<String>, Refusal> {
        let said = self.request.value.as_deref().unwrap_or_default();
        let believed = self.request.side == Side::Internal || self.settings.allow_header_at_edge;
        if !said.contains(',') || !believed {
            return Ok(Some(said.to_owned()).filter(|value| !value.is_empty()));
        }
        let mut values = said.split([',', ' ', '\t']).filter(|value| !value.is_empty());
        let first = values.next();
        if values.any(|value| Some(value) != first) {
            self.step(
                "x-mayfly",
                said,
                None,
                Some("different values in one header".to_owned()),
            );
            return Err((
                400,
                format!(
                    "x-mayfly has more than one value ({said}); a service must forward the one of the request that it serves."
                ),
            ));
        }
        Ok(first.map(str::to_owned))
    }

    fn value_at_the_edge(&mut self, host: &str) -> Result<String, Refusal> {
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
        let label = host.split('.').next().unwrap_or_default();
        self.step(
            "host",
            host,
            Some(label.to_owned()),
            Some("its first label decides".to_owned()),
        );
        let value = self.routing.look_up(Table::Edge, label);
        let note = value.is_none().then(|| self.index.why_no_prefix(label)).flatten();
        self.step(
            "prefix",
            label,
            value.map(|value| format!("x-mayfly {value}")),
            note,
        );
        if let Some(value) = value {
            return Ok(value.to_owned());
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

    fn value_inside(&mut self) -> Result<String, Refusal> {
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
            return Err((400, "the header x-mayfly is missing, and so is baggage: mayfly=<value>; a service must forward x-mayfly or baggage of the request that it serves.".to_owned()));
        };
        let mut headers = self.routing.table(Table::Headers);
        let value = headers.find(|(_, environment)| *environment == default.as_str());
        let value = value.map(|(value, _)| value.as_str().to_owned());
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

    fn environment(&mut self, value: &str) -> Result<&'a str, Refusal> {
        let environment = self.routing.look_up(Table::Headers, value);
        let note = environment
            .is_none()
            .then(|| self.index.why_no_header(value))
            .flatten();
        self.step("environment", value, environment.map(str::to_owned), note);
        environment.ok_or_else(|| (404, format!("no environment has the x-mayfly value {value}.")))
    }

    /// The longest route on whole segments; the nearest environment's where two are as long.
    fn route(&mut self, chain: &[&str]) -> Result<String, Refusal> {
        let path = &self.request.path;
        if dots::climbs(path) {
            let note = "a server that resolves `..` would take it for another path";
            self.step("route", path, None, Some(note.to_owned()));
            return Err((
                400,
                format!(
                    "the path {path} has a segment `..`, which would leave the route that it belongs to; ask for the path that is meant."
                ),
            ));
        }
        let mut best: Option<(usize, &str, String)> = None;
        for environment in chain {
            let key = format!("{environment}{path}/");
            // The longest key that the path begins with: each closing slash from behind.
            let ends = key
                .match_indices('/')
                .map(|(at, _)| &key[..=at])
                .collect::<Vec<_>>();
            let found = ends
                .into_iter()
                .rev()
                .find_map(|key| Some((key, self.routing.look_up(Table::Routes, key)?)));
            let Some((key, value)) = found else { continue };
            let Some((length, service)) = value.split_once(':') else {
                continue;
            };
            let length: usize = length.parse().unwrap_or_default();
            if best.as_ref().is_none_or(|(longest, ..)| length > *longest) {
                best = Some((length, service, key.to_owned()));
            }
        }
        let environment = chain[0];
        let Some((_, service, key)) = best else {
            let note = self.index.routes_there_are(chain);
            self.step("route", path, None, Some(note));
            return Err((
                404,
                format!("the environment {environment} has no route for the path {path}."),
            ));
        };
        let service = service.to_owned();
        let (origin, route) = key.split_once('/').unwrap_or((&key, ""));
        let route = format!("/{}", route.trim_end_matches('/'));
        let note = (origin != environment).then(|| format!("inherited from {origin}"));
        self.step("route", path, Some(format!("{route} leads to {service}")), note);
        Ok(service)
    }

    fn service(&mut self, host: &str) -> Result<String, Refusal> {
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

    /// The backend that the environment or the nearest that it extends chooses.
    fn version(&mut self, chain: &[&'a str], service: &str) -> Result<(String, String), Refusal> {
        let environment = chain[0];
        let mut waiting: Option<String> = None;
        for name in chain {
            let place = (name.parse(), service.parse());
            if let (None, (Ok(name), Ok(service))) = (&waiting, &place) {
                waiting = self.index.waiting(name, service);
            }
            let Some(backend) = self
                .routing
                .look_up(Table::Versions, &format!("{name}/{service}"))
            else {
                continue;
            };
            let origin = match *name == environment {
                true => "own".to_owned(),
                false => format!("inherited from {name}"),
            };
            let note = self.index.chosen_by(name, service, backend);
            let notes = [Some(origin.clone()), waiting, note];
            let note = notes.into_iter().flatten().collect::<Vec<_>>().join("; ");
            self.step("version", service, Some(backend.to_owned()), Some(note));
            return Ok((backend.to_owned(), origin));
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
    fn goes_round(&mut self, backend: &str, environment: &str) -> Result<Option<String>, Refusal> {
        let Some(host) = self.routing.look_up(Table::Hosts, backend) else {
            return Ok(None);
        };
        let host = bare_host(host);
        if host.ends_with(&format!(".{}", self.settings.domain)) {
            let note = "a name of Mayfly's own domain, which resolves to the routers";
            self.step("address", &host, None, Some(note.to_owned()));
            return Err((
                508,
                format!(
                    "the address of {backend} routes back to this router (environment {environment}); choose a version of that service, not an address."
                ),
            ));
        }
        let label = host.split('.').next().unwrap_or_default();
        let prefix = self.routing.look_up(Table::Edge, label);
        Ok(prefix.map(|_| {
            format!("{label} is the prefix of an environment: where {host} resolves to a router, the request comes back, and 508 ends it if it goes outside again")
        }))
    }

    fn servers(
        &mut self,
        environment: &str,
        service: &str,
        backend: &str,
        origin: String,
    ) -> Result<Answer, Refusal> {
        let about_its_name = self.goes_round(backend, environment)?;
        let id = backend.parse::<BackendId>().ok();
        let all = id.as_ref().and_then(|id| self.routing.servers(id));
        let (mut servers, mut others) = (Vec::new(), Vec::new());
        let mut told = BTreeSet::new();
        for (server_id, server) in all.into_iter().flatten() {
            let address = id
                .as_ref()
                .map(|id| self.index.place_of(id, server_id))
                .unwrap_or_default();
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
        let lack = service
            .parse()
            .ok()
            .and_then(|service| self.index.lack_of(&service, backend));
        let notes: Vec<String> = lack.into_iter().chain(others).chain(about_its_name).collect();
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        let found = (!servers.is_empty()).then(|| servers.join(", "));
        self.step("instances", backend, found, note);
        if servers.is_empty() {
            let version = backend.split('@').nth(1).unwrap_or_default();
            return Err((
                503,
                format!(
                    "no instance of {backend} answers (environment {environment}, service {service}, version {version})."
                ),
            ));
        }
        Ok(Answer::Backend {
            backend: backend.to_owned(),
            environment: environment.to_owned(),
            origin,
            servers,
        })
    }
}

#[cfg(test)]
mod tests;

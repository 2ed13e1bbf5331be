//! What each service of a project is for Mayfly: routed, shared by all environments, or a program
//! that is only there. And what is known of a routed one: its name, port, version and check.

use std::collections::BTreeMap;

use mayfly_core::check::Check;
use mayfly_core::keys::KeySpace;
use mayfly_core::labels;
use mayfly_core::names::{Hostname, ServiceName};
use mayfly_core::records::definition::{ImageReference, ImageTemplate, Port};
use mayfly_core::records::{Protocol, Weight};
use mayfly_core::version::{Selector, Version};

use super::calls::{CalledServer, calls};
use super::faults::{ComposeFaults, Spot};
use super::image::{ImageParts, split};
use super::kind;
use super::service::ComposeService;

/// A service and what it is.
#[derive(Debug)]
pub(super) struct Decided {
    /// Its name in the compose file.
    pub(super) name: String,
    pub(super) spot: Spot,
    pub(super) service: ComposeService,
    pub(super) role: Role,
    /// The position of the service whose network it uses.
    pub(super) lender: Option<usize>,
    /// Whether a service that uses its network needs Mayfly's: both are then in it, or neither is.
    pub(super) lends_network: bool,
}

#[derive(Debug)]
pub(super) enum Role {
    /// Mayfly routes to it.
    Routed(Box<Routed>),
    /// All environments share it, with the reason.
    Shared(String),
    /// Nothing calls it, as far as the file shows.
    Worker,
    /// It serves HTTP where no router of Mayfly reaches it, with the reason.
    Apart(String),
    /// It is not started, with the reason.
    Off(String),
}

/// What is known of a routed service.
#[derive(Debug)]
pub(super) struct Routed {
    pub(super) name: ServiceName,
    pub(super) port: Port,
    pub(super) version: Selector,
    /// The version that its container needs as a label, since its image names none.
    pub(super) version_label: Option<Version>,
    /// The image with the version left open, where a definition can have one.
    pub(super) image: Option<ImageTemplate>,
    pub(super) check: Check,
    pub(super) check_host: Option<Hostname>,
    pub(super) protocol: Protocol,
}

impl Decided {
    pub(super) fn routed(&self) -> Option<&Routed> {
        match &self.role {
            Role::Routed(routed) => Some(routed),
            _ => None,
        }
    }

    pub(super) fn field(&self, key: &str) -> String {
        format!("services.{}.{key}", self.name)
    }

    /// The texts in which it may name other services.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let env = self.service.env.values().map(|(value, _)| value.as_str());
        let command = self
            .service
            .command
            .iter()
            .flat_map(|(words, _)| words.iter().map(String::as_str));
        env.chain(command)
    }
}

/// By which names services call each other, and the position of the service that has each.
pub(super) type ServiceNames = BTreeMap<String, usize>;

/// All names by which a service is called.
pub(super) fn names(services: &[(String, Spot, ComposeService)]) -> ServiceNames {
    let mut names = ServiceNames::new();
    for (at, (_, _, service)) in services.iter().enumerate() {
        for alias in &service.aliases {
            names.entry(alias.clone()).or_insert(at);
        }
    }
    // The name of a service comes before an alias of another.
    names.extend(
        services
            .iter()
            .enumerate()
            .map(|(at, (name, ..))| (name.clone(), at)),
    );
    names
}

/// What callers show of a service.
#[derive(Debug, Default, Clone)]
struct Called {
    /// The ports of URLs and addresses that name it.
    ports: Vec<u16>,
    /// Schemes of other protocols.
    other: Option<String>,
}

/// The version that a container gets whose image names none: what an engine calls such an image,
/// and what `version: latest` of an environment finds.
const UNVERSIONED: &str = "latest";

/// Decides of each service what it is.
pub(super) fn decide(
    services: Vec<(String, Spot, ComposeService)>,
    names: &ServiceNames,
    profiles: &[String],
    prefix: Option<&KeySpace>,
    faults: &mut ComposeFaults,
) -> Vec<Decided> {
    let called = called(&services, names);
    let mut taken: BTreeMap<ServiceName, String> = BTreeMap::new();
    let mut decided = Vec::new();
    for ((name, spot, service), called) in services.into_iter().zip(called) {
        let mut it = Decided {
            name,
            spot,
            service,
            role: Role::Worker,
            lender: None,
            lends_network: false,
        };
        it.role = role(&mut it, &called, profiles, faults);
        checked_labels(&mut it, prefix, faults);
        if let Some(routed) = it.routed() {
            let own = routed.name.clone();
            if let Some(other) = taken.insert(own.clone(), it.name.clone()) {
                it.role = Role::Off(format!(
                    "its name in Mayfly would be `{own}`, which is already the name of `{other}`"
                ));
                taken.insert(own, other);
            }
        }
        decided.push(it);
    }
    networks(&mut decided);
    decided
}

/// Labels that the registrar would refuse are faults: it would set the container aside.
fn checked_labels(it: &mut Decided, prefix: Option<&KeySpace>, faults: &mut ComposeFaults) {
    if matches!(it.role, Role::Off(_)) {
        return;
    }
    let is_routed = it.routed().is_some();
    for (name, (_, spot)) in &it.service.labels {
        // A misspelt one alone makes the registrar set a container aside; any other only an instance.
        let fault = labels::fault(name).filter(|_| is_routed || labels::meant_by(name).is_some());
        if let Some(fault) = fault {
            faults.add(*spot, it.field("labels"), fault);
        }
    }
    if !is_routed {
        return;
    }
    let _: Option<Weight> = label_value(it, labels::WEIGHT, faults);
    let _: Option<KeySpace> = label_value(it, labels::OF, faults);
    let pairs = it.service.labels.iter();
    let pairs = pairs.map(|(name, (text, _))| (name.as_str(), text.as_str()));
    if prefix.is_some_and(|prefix| labels::is_of_another(pairs, prefix) == Ok(true)) {
        it.role = Role::Off("the labels of the service name another Mayfly".to_owned());
    }
}

/// Which services are in the network of another one, and what becomes of both.
fn networks(decided: &mut [Decided]) {
    let is_off = |it: &Decided| matches!(it.role, Role::Off(_));
    for at in 0..decided.len() {
        let mode = decided[at].service.network_mode.clone().unwrap_or_default();
        let Some(name) = mode.strip_prefix("service:").filter(|_| !is_off(&decided[at])) else {
            continue;
        };
        let lends = |other: &Decided| other.name == name && !is_off(other);
        let lender = decided.iter().position(lends).filter(|lender| *lender != at);
        decided[at].lender = lender;
        let Some(lender) = lender else { continue };
        let message = format!(
            "`{}` uses the network of this service, so this service stays in your compose file",
            decided[at].name
        );
        let lender = &mut decided[lender];
        let field = format!("services.{}", lender.name);
        lender.service.keep(lender.spot, field, message);
    }
    for at in 0..decided.len() {
        let it = &decided[at];
        let Some(mode) = it.service.network_mode.clone() else {
            continue;
        };
        // At the end of a circle is a service that has a mode.
        let end = (0..decided.len()).fold(at, |end, _| decided[end].lender.unwrap_or(end));
        let joins = end != at && decided[end].service.network_mode.is_none();
        // The launcher gives what it starts a network of its own.
        let is_launched = mode == "bridge" && it.service.keeps.is_empty();
        if it.routed().is_some() && !joins && !is_launched {
            decided[at].role = Role::Apart(format!(
                "`network_mode: {mode}` keeps the service out of Mayfly's network"
            ));
        }
    }
}

fn called(services: &[(String, Spot, ComposeService)], names: &ServiceNames) -> Vec<Called> {
    let mut called = vec![Called::default(); services.len()];
    for (at, (_, _, service)) in services.iter().enumerate() {
        let env = service.env.values().map(|(value, _)| value);
        let command = service.command.iter().flat_map(|(words, _)| words);
        for CalledServer {
            scheme, host, port, ..
        } in env.chain(command).flat_map(|text| calls(text))
        {
            let Some(target) = names.get(host).filter(|target| **target != at) else {
                continue;
            };
            let target = &mut called[*target];
            match scheme {
                Some(scheme) if kind::is_no_http(&scheme) => target.other = Some(scheme),
                Some(scheme) if scheme == "http" || scheme == "ws" => target.ports.push(port.unwrap_or(80)),
                _ => target.ports.extend(port),
            }
        }
    }
    called
}

fn role(it: &mut Decided, called: &Called, profiles: &[String], faults: &mut ComposeFaults) -> Role {
    let wanted = &it.service.profiles;
    let is_active = wanted.is_empty() || wanted.iter().any(|it| profiles.contains(it));
    if !is_active && !profiles.iter().any(|it| it == "*") {
        let all = wanted.join("`, `");
        return Role::Off(format!(
            "the service is in the profile `{all}`: to import it, name the profile with --profile"
        ));
    }
    if it.service.is_off {
        return Role::Off("the service has 0 replicas".to_owned());
    }
    let label = it.service.labels.contains_key(labels::SERVICE);
    let image = it.service.image.clone();
    if image.is_none()
        && it.service.build.is_none()
        && !it.service.keeps.iter().any(|it| it.field.ends_with("provider"))
    {
        let message = "the service has neither `image` nor `build`: name an image with a tag";
        faults.add(it.spot, format!("services.{}", it.name), message);
    }
    let (name, tag) = image.as_ref().map_or(("", ""), |(image, _)| {
        (split(image).name, split(image).tag.unwrap_or(""))
    });
    let (name, tag) = (name.to_owned(), tag.to_owned());
    if !label {
        if let Some(what) = kind::shared(&name, &tag) {
            return Role::Shared(format!("`{name}` is {what}"));
        }
        if let Some(scheme) = &called.other {
            return Role::Shared(format!("other services call it by {scheme}://"));
        }
        let at = called.ports.first().and_then(|port| kind::no_http(*port));
        if let (true, Some(what)) = (it.service.ports.is_empty(), at) {
            return Role::Shared(format!("other services call it at the port of {what}"));
        }
        let no_http: Vec<_> = it
            .service
            .ports
            .iter()
            .map(|port| kind::no_http(port.container))
            .collect();
        if let (true, Some(Some(what))) = (no_http.iter().all(Option::is_some), no_http.first()) {
            return Role::Shared(format!("its port is the port of {what}"));
        }
    }
    let Some(port) = port(it, called, faults) else {
        return Role::Worker;
    };
    let Some(name) = name_of(it, faults) else {
        return Role::Off("the name of the service is not valid in Mayfly".to_owned());
    };
    if let Some((_, spot)) = it.service.labels.get(labels::SERVICE).cloned() {
        let message = "the service has Mayfly's labels, so it stays in your compose file";
        let field = it.field("labels");
        it.service.keep(spot, field, message);
    }
    let (version, version_label, image) = version(it, image.as_ref(), faults);
    let check = check(it, port, faults);
    let check_host = label_value(it, labels::CHECK_HOST, faults);
    let protocol = label_value(it, labels::PROTOCOL, faults).unwrap_or_default();
    Role::Routed(Box::new(Routed {
        name,
        port,
        version,
        version_label,
        image,
        check,
        check_host,
        protocol,
    }))
}

/// The value of a label, if it is there and right.
fn label_value<T: std::str::FromStr<Err: std::fmt::Display>>(
    it: &Decided,
    label: &str,
    faults: &mut ComposeFaults,
) -> Option<T> {
    let (text, spot) = it.service.labels.get(label)?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(fault) => {
            faults.add(*spot, it.field(&format!("labels.{label}")), fault.to_string());
            None
        }
    }
}

/// The name in Mayfly: that of the label, else that of the service as a DNS label.
fn name_of(it: &mut Decided, faults: &mut ComposeFaults) -> Option<ServiceName> {
    if it.service.labels.contains_key(labels::SERVICE) {
        return label_value(it, labels::SERVICE, faults);
    }
    if let Ok(name) = it.name.parse::<ServiceName>() {
        if name.as_str() == it.name {
            return Some(name);
        }
    }
    let field = format!("services.{}", it.name);
    let plain = |letter: char| {
        if "_.".contains(letter) {
            '-'
        } else {
            letter.to_ascii_lowercase()
        }
    };
    let label: String = it.name.chars().map(plain).collect();
    match label.trim_matches('-').parse::<ServiceName>() {
        Ok(name) => {
            let message = format!(
                "the name is no DNS label, so the service is `{name}` in Mayfly, at http://{name}.service"
            );
            it.service.remark(it.spot, field, message);
            Some(name)
        }
        Err(fault) => {
            faults.add(
                it.spot,
                field,
                format!("{fault}: rename the service, or give the service the label `mayfly.service`"),
            );
            None
        }
    }
}

/// The port at which it serves HTTP, as far as anything shows it.
fn port(it: &mut Decided, called: &Called, faults: &mut ComposeFaults) -> Option<Port> {
    if let Some(port) = label_value(it, labels::PORT, faults) {
        return Some(port);
    }
    let own: Vec<(u16, Spot)> = it
        .service
        .ports
        .iter()
        .map(|port| (port.container, port.spot))
        .collect();
    let checked = it.service.health.iter().flat_map(|(text, _)| calls(text));
    let checked: Vec<u16> = checked
        .filter(|call| is_itself(call.host))
        .filter_map(|call| call.port)
        .collect();
    let is_plain = |port: &u16| kind::no_http(*port).is_none() && ![443, 8443].contains(port);
    let listed = || own.iter().map(|(port, _)| *port);
    let chosen = listed()
        .find(|port| checked.contains(port))
        .or_else(|| listed().find(|port| called.ports.contains(port)))
        .or_else(|| listed().find(is_plain))
        .or_else(|| listed().next());
    if let Some(chosen) = chosen {
        let others: Vec<String> = listed()
            .filter(|port| *port != chosen)
            .map(|port| port.to_string())
            .collect();
        if !others.is_empty() {
            let others = others[..others.len().min(10)].join(", ");
            let message = format!(
                "Mayfly routes to only one port of a service, here {chosen}, and not to {others}: to choose another \
                 port, set the label `mayfly.port`"
            );
            let field = it.field("ports");
            it.service.remark(own[0].1, field, message);
        }
        if [443, 8443].contains(&chosen) {
            let field = it.field("ports");
            let message = format!(
                "Mayfly calls services without TLS: the service must answer plain HTTP at port {chosen}"
            );
            it.service.remark(own[0].1, field, message);
        }
        return Port::try_from(chosen).ok();
    }
    let variable = ["PORT", "HTTP_PORT", "SERVER_PORT", "APP_PORT"];
    let variable = variable
        .iter()
        .find_map(|name| it.service.env.get(*name)?.0.parse().ok());
    let (port, source) = match (called.ports.first(), checked.first(), variable) {
        (Some(port), ..) => (*port, "which other services call"),
        (None, Some(port), _) => (*port, "which the health check uses"),
        (None, None, Some(port)) => (port, "which a variable of the service names"),
        (None, None, None) => return None,
    };
    let message = format!(
        "the service names no port, so Mayfly uses port {port}, {source}: to choose another port, set `expose`"
    );
    it.service
        .remark(it.spot, format!("services.{}", it.name), message);
    Port::try_from(port).ok()
}

fn is_itself(host: &str) -> bool {
    ["localhost", "127.0.0.1", "0.0.0.0"].contains(&host)
}

/// What is known of a version: the one that runs now, the label that says so where the image does
/// not, and the image of any version.
type VersionKnown = (Selector, Option<Version>, Option<ImageTemplate>);

fn version(it: &mut Decided, image: Option<&(String, Spot)>, faults: &mut ComposeFaults) -> VersionKnown {
    let labelled: Option<Version> = label_value(it, labels::VERSION, faults);
    let labelled: Option<Selector> = labelled.and_then(|version| version.as_str().parse().ok());
    // What the registrar takes for the version, if there is no label.
    let own = image.and_then(|(image, _)| labels::tag(image).ok());
    let label = match (&labelled, &own) {
        (None, None) => UNVERSIONED.parse().ok(),
        _ => None,
    };
    let Some((image, spot)) = image else {
        let spot = it.service.build.unwrap_or(it.spot);
        let message = "compose builds the image, and the image has no name: add `image: NAME:VERSION` beside `build`, so \
             that Mayfly can start versions of the service; until then the service stays in your compose file";
        let field = it.field("build");
        it.service.keep(spot, field, message);
        return (labelled.unwrap_or(Selector::Latest), label, None);
    };
    let ImageParts { name, digest, .. } = split(image);
    let field = it.field("image");
    if digest.is_some() {
        let message =
            "the digest is dropped: the definition chooses the image by its tag, which is the version";
        it.service.remark(*spot, field.clone(), message);
    }
    let found: Option<Selector> = own.and_then(|version| version.as_str().parse().ok());
    if name.contains('$') {
        let message = "the name of the image has a `$`, which the launcher would read as a variable; so the service stays \
             in your compose file";
        it.service.keep(*spot, field.clone(), message);
    }
    let template = match format!("{name}:{{{{ version }}}}").parse::<ImageTemplate>() {
        Ok(template) => {
            // An id: its first part would be the name of another image.
            if let (true, Err(fault)) = (image == name, image.parse::<ImageReference>()) {
                it.service.keep(*spot, field.clone(), fault.to_string());
            }
            Some(template)
        }
        Err(fault) => {
            it.service.keep(
                *spot,
                field.clone(),
                format!("{fault}; so the service stays in your compose file"),
            );
            None
        }
    };
    let version = labelled.or(found).unwrap_or(Selector::Latest);
    if !matches!(version, Selector::Exact(_)) {
        let message = "the image has no exact version as its tag, and the launcher starts only exact versions: give the image \
             a tag as in `NAME:1.0.0`; until then the service stays in your compose file";
        it.service.keep(*spot, field, message);
    }
    (version, label, template)
}

/// The check by path that the health check makes. Without one, that the port answers at all: a
/// version that ends at once must never count as live.
fn check(it: &Decided, port: Port, faults: &mut ComposeFaults) -> Check {
    if let Some(check) = label_value(it, labels::CHECK, faults) {
        return check;
    }
    let port = u16::from(port);
    let path = it
        .service
        .health
        .iter()
        .flat_map(|(text, _)| calls(text))
        .find_map(|call| {
            let is_http = call.scheme.as_deref() == Some("http") && is_itself(call.host);
            let is_right = is_http && call.port.unwrap_or(80) == port;
            let path = call.path.split('#').next().unwrap_or_default();
            is_right.then(|| {
                if path.is_empty() {
                    "/".to_owned()
                } else {
                    path.to_owned()
                }
            })
        });
    path.and_then(|path| path.parse().ok()).unwrap_or(Check::Tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_parts() {
        for (image, name, tag, digest) in [
            ("shop/web:1.4.0", "shop/web", Some("1.4.0"), None),
            ("shop/web", "shop/web", None, None),
            ("registry:5000/web", "registry:5000/web", None, None),
            ("registry:5000/web:1", "registry:5000/web", Some("1"), None),
            ("web:1@sha256:00", "web", Some("1"), Some("sha256:00")),
            ("web@sha256:00", "web", None, Some("sha256:00")),
        ] {
            let parts = split(image);
            assert_eq!(
                (parts.name, parts.tag, parts.digest),
                (name, tag, digest),
                "{image}"
            );
        }
    }
}

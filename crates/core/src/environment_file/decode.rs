//! One mapping of the tree becomes one environment: every field a checked type, every fault
//! collected.

use std::collections::BTreeMap;

use super::access::{NAMES_NOBODY, access};
use super::{FoundEnvironment, NamedAddress};
use crate::file::decode::{checked, scalar, text, wanted};
use crate::file::{Faults, Place, fields};
use crate::names::{DnsPrefix, EnvironmentName, HeaderValue, RoutePath, ServiceName};
use crate::records::access::Access;
use crate::records::lifetime::{Expiry, Idle};
use crate::records::switching::Switch;
use crate::records::{Environment, ServiceChoice};
use crate::upstream::Upstream;
use crate::version::Selector;
use crate::yaml::{Mark, Node, Value};

/// Longest description, in characters.
const DESCRIPTION_LIMIT: usize = 1000;
/// Most services that one environment names: each is a row of every router's tables. 20 times what
/// is measured.
const SERVICES_LIMIT: usize = 1000;

/// What could be read of an environment. It is one only if there was no fault.
#[derive(Default)]
pub(super) struct EnvironmentDraft {
    pub(super) name: Option<(EnvironmentName, Mark)>,
    pub(super) prefix: Option<(DnsPrefix, Mark)>,
    pub(super) header: Option<(HeaderValue, Mark)>,
    extends: Option<EnvironmentName>,
    expires: Option<Expiry>,
    idle: Option<Idle>,
    protected: bool,
    access: Option<Access>,
    switch: Switch,
    description: Option<String>,
    services: Vec<ServiceChoice>,
    addresses: Vec<NamedAddress>,
}

impl EnvironmentDraft {
    pub(super) fn finish(self) -> Option<FoundEnvironment> {
        let ((name, name_mark), (prefix, prefix_mark), (header, header_mark)) =
            (self.name?, self.prefix?, self.header?);
        let Self {
            extends,
            expires,
            idle,
            protected,
            access,
            switch,
            description,
            services,
            addresses,
            ..
        } = self;
        let environment = Environment {
            name,
            prefix,
            header,
            extends,
            expires,
            idle,
            protected,
            access,
            switch,
            description,
            services,
            source: None,
            life: None,
        };
        Some(FoundEnvironment {
            environment,
            name: name_mark,
            prefix: prefix_mark,
            header: header_mark,
            addresses,
        })
    }
}

pub(super) fn environment(node: &Node, place: Place<'_>, faults: &mut Faults) -> EnvironmentDraft {
    let mut draft = EnvironmentDraft::default();
    let Value::Mapping(pairs) = &node.value else {
        faults.add(
            node.mark,
            place,
            wanted(node, "an environment: a mapping with at least `name`"),
        );
        return draft;
    };
    let known = [
        "name",
        "prefix",
        "header",
        "extends",
        "expires",
        "idle",
        "protected",
        "access",
        "switch",
        "description",
        "services",
    ];
    let [
        name,
        prefix,
        header,
        extends,
        expires,
        idle,
        protected,
        access,
        switch,
        description,
        services,
    ] = fields::of(pairs, place, known, advice, faults);
    match name {
        Some(name) => draft.name = text(name, place.field("name"), faults),
        None => faults.add(
            node.mark,
            place.field("name"),
            "missing: every environment needs a name",
        ),
    }
    draft.prefix = match (prefix, &draft.name) {
        (Some(prefix), _) => text(prefix, place.field("prefix"), faults),
        (None, Some((name, mark))) => match DnsPrefix::default_for(name) {
            Ok(prefix) => Some((prefix, *mark)),
            Err(error) => {
                faults.add(*mark, place.field("prefix"), error.to_string());
                None
            }
        },
        (None, None) => None,
    };
    draft.header = match (header, &draft.name) {
        (Some(header), _) => text(header, place.field("header"), faults),
        (None, name) => name.as_ref().map(|(name, mark)| (HeaderValue::from(name), *mark)),
    };
    if let Some((extends, mark)) = extends.and_then(|node| text(node, place.field("extends"), faults)) {
        if draft.name.as_ref().is_some_and(|(name, _)| *name == extends) {
            faults.add(
                mark,
                place.field("extends"),
                "an environment can't extend itself: name another environment",
            );
        }
        draft.extends = Some(extends);
    }
    if let Some(node) = expires {
        draft.expires = scalar(node, place.field("expires"), "a single value", faults)
            .and_then(|text| checked(text.parse(), node.mark, place.field("expires"), faults));
    }
    if let Some(node) = idle {
        draft.idle = text(node, place.field("idle"), faults).map(|(idle, _)| idle);
    }
    if let Some(node) = protected {
        draft.protected = self::protected(node, place.field("protected"), faults);
    }
    if draft.protected {
        for (field, node) in [("expires", expires), ("idle", idle)] {
            if let Some(node) = node {
                let message = "a protected environment never ends by itself: leave out either this \
                               field or `protected`";
                faults.add(node.mark, place.field(field), message);
            }
        }
    }
    // Who writes `access:` does not want everybody.
    let is_access = |key: &Node| matches!(&key.value, Value::Scalar { text, .. } if text == "access");
    let empty = pairs
        .iter()
        .find(|(key, value)| is_access(key) && value.is_null());
    if let Some((key, _)) = empty {
        faults.add(key.mark, place.field("access"), NAMES_NOBODY);
    }
    if let Some(node) = access {
        draft.access = self::access(node, place.field("access"), faults);
    }
    if let Some(node) = switch {
        draft.switch = text(node, place.field("switch"), faults)
            .map(|(switch, _)| switch)
            .unwrap_or_default();
    }
    if let Some(node) = description {
        draft.description = self::description(node, place.field("description"), faults);
    }
    if let Some(node) = services {
        let place = place.field("services");
        draft.services = self::services(node, place, &mut draft.addresses, faults);
    }
    draft
}

fn protected(node: &Node, place: Place<'_>, faults: &mut Faults) -> bool {
    match &node.value {
        Value::Scalar { text, plain: true } if text == "true" => return true,
        Value::Scalar { text, plain: true } if text == "false" => {}
        Value::Scalar { text, .. } if !node.is_null() => {
            let text: String = text.chars().take(20).collect();
            faults.add(
                node.mark,
                place,
                format!("{text:?} is not `true` or `false`, without quotes"),
            );
        }
        _ => faults.add(node.mark, place, wanted(node, "`true` or `false`")),
    }
    false
}

fn services(
    node: &Node,
    place: Place<'_>,
    addresses: &mut Vec<NamedAddress>,
    faults: &mut Faults,
) -> Vec<ServiceChoice> {
    let Value::Sequence(items) = &node.value else {
        faults.add(
            node.mark,
            place,
            wanted(node, "a list of services, each on a line after `- `"),
        );
        return Vec::new();
    };
    if items.len() > SERVICES_LIMIT {
        let message = format!(
            "{} services, more than the limit of {SERVICES_LIMIT}: name fewer, and inherit the \
             others (`extends`)",
            items.len()
        );
        faults.add(node.mark, place, message);
        return Vec::new();
    }
    let (mut names, mut paths) = (BTreeMap::new(), BTreeMap::new());
    let mut services = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let place = place.index(index);
        let service = service(item, place, &mut names, &mut paths, addresses, faults);
        services.extend(service);
    }
    services
}

/// A service, if it has a name; `names` and `paths` hold the lines of those before it.
fn service(
    node: &Node,
    place: Place<'_>,
    names: &mut BTreeMap<String, usize>,
    paths: &mut BTreeMap<String, usize>,
    addresses: &mut Vec<NamedAddress>,
    faults: &mut Faults,
) -> Option<ServiceChoice> {
    let (name, version, routes) = match &node.value {
        Value::Scalar { .. } if !node.is_null() => (text(node, place, faults), Selector::Latest, Vec::new()),
        Value::Mapping(pairs) => {
            let known = ["name", "version", "address", "route", "routes"];
            let [name, version, address, route, routes] = fields::of(pairs, place, known, advice, faults);
            let Some(name) = name else {
                faults.add(
                    node.mark,
                    place.field("name"),
                    "missing: every service needs a name",
                );
                return None;
            };
            let version = choice(version, address, place, addresses, faults);
            let mut found = Vec::new();
            if let Some(node) = route {
                found.extend(self::route(node, place.field("route"), paths, faults));
            }
            if let Some(node) = routes {
                found.extend(self::routes(node, place.field("routes"), paths, faults));
            }
            let name = text(name, place.field("name"), faults);
            (name, version, found)
        }
        _ => {
            faults.add(
                node.mark,
                place,
                wanted(node, "a service: its name, or a mapping with at least `name`"),
            );
            return None;
        }
    };
    let (name, mark): (ServiceName, Mark) = name?;
    faults.claim(mark, place.field("name"), "service", name.as_str(), names);
    Some(ServiceChoice {
        name,
        version,
        routes,
    })
}

/// The choice of a version, or of an address outside.
fn choice(
    version: Option<&Node>,
    address: Option<&Node>,
    place: Place<'_>,
    addresses: &mut Vec<NamedAddress>,
    faults: &mut Faults,
) -> Selector {
    if let (Some(version), Some(_)) = (version, address) {
        let message = "an external service has no version: leave out either this field or \
                       `address`";
        faults.add(version.mark, place.field("version"), message);
    }
    if let Some(node) = address {
        let place = place.field("address");
        let upstream: Option<(Upstream, Mark)> = text(node, place, faults);
        return upstream.map_or(Selector::Latest, |(upstream, mark)| {
            let selector = Selector::outside(&upstream);
            addresses.push(NamedAddress {
                upstream,
                mark,
                field: place.to_string(),
            });
            selector
        });
    }
    let chosen = version.and_then(|node| text(node, place.field("version"), faults));
    let Some((selector, mark)): Option<(Selector, Mark)> = chosen else {
        return Selector::Latest;
    };
    if selector.upstream().is_some() {
        let message = "a URL is not a version: give an external service an `address` instead";
        faults.add(mark, place.field("version"), message);
    }
    selector
}

fn routes(
    node: &Node,
    place: Place<'_>,
    paths: &mut BTreeMap<String, usize>,
    faults: &mut Faults,
) -> Vec<RoutePath> {
    let Value::Sequence(items) = &node.value else {
        return route(node, place, paths, faults).into_iter().collect();
    };
    let items = items.iter().enumerate();
    items
        .filter_map(|(index, item)| route(item, place.index(index), paths, faults))
        .collect()
}

fn route(
    node: &Node,
    place: Place<'_>,
    paths: &mut BTreeMap<String, usize>,
    faults: &mut Faults,
) -> Option<RoutePath> {
    let (path, mark): (RoutePath, Mark) = text(node, place, faults)?;
    if let Some(plain) = without_pattern(&path) {
        let message = format!(
            "a route is not a pattern, since it covers all paths below it: write `{plain}` \
             instead of `{path}`"
        );
        faults.add(mark, place, message);
        return None;
    }
    faults.claim(mark, place, "route", path.as_str(), paths);
    Some(path)
}

/// The part of a route before its first segment that other routers take for a pattern, as `/api` of
/// `/api/*`; `None` for a plain one. Both characters may stand in a path, but hardly anybody who
/// writes them here means them.
fn without_pattern(path: &RoutePath) -> Option<RoutePath> {
    let is_pattern = |segment: &str| segment.contains('*') || segment.starts_with(':');
    let segments: Vec<&str> = path.as_str().split('/').skip(1).collect();
    let at = segments.iter().position(|segment| is_pattern(segment))?;
    format!("/{}", segments[..at].join("/")).parse().ok()
}

fn description(node: &Node, place: Place<'_>, faults: &mut Faults) -> Option<String> {
    let text = scalar(node, place, "a single value", faults)?;
    if text.chars().count() > DESCRIPTION_LIMIT {
        faults.add(
            node.mark,
            place,
            format!("too long: at most {DESCRIPTION_LIMIT} characters"),
        );
        return None;
    }
    // The line and paragraph separators of Unicode end a line in YAML 1.1 and not in 1.2: whoever
    // writes the text again may change it.
    let strange = |letter: &char| {
        (letter.is_control() && !"\n\t".contains(*letter)) || "\u{2028}\u{2029}".contains(*letter)
    };
    if let Some(control) = text.chars().find(strange) {
        faults.add(
            node.mark,
            place,
            format!("the control character {control:?} is not allowed: use plain text"),
        );
        return None;
    }
    Some(text.to_owned())
}

/// What to say of a field that some take for known.
fn advice(field: &str) -> Option<String> {
    let merging = "merge keys are not supported: write the fields out, or use `extends`";
    (field == "<<").then(|| merging.to_owned())
}

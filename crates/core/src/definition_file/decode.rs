//! One mapping of the tree becomes one definition: every field a checked type, every fault
//! collected.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::denied;
use crate::check::Check;
use crate::file::decode::{checked, scalar, text, wanted};
use crate::file::{Faults, Place, fields};
use crate::names::{Hostname, NameError, ServiceName};
use crate::records::Protocol;
use crate::records::definition::{
    Argument, Cpus, Definition, ImageTemplate, Instances, Memory, NetworkName, Port, VariableName, Volume,
};
use crate::version::Range;
use crate::yaml::{Mark, Node, Value};

/// The fields of a definition.
pub(super) const KNOWN: [&str; 14] = [
    "name",
    "image",
    "versions",
    "port",
    "check",
    "check-host",
    "protocol",
    "instances",
    "command",
    "env",
    "networks",
    "memory",
    "cpus",
    "volumes",
];

/// What could be read of a definition. It is one only if there was no fault.
#[derive(Default)]
pub(super) struct DefinitionDraft {
    pub(super) name: Option<(ServiceName, Mark)>,
    image: Option<ImageTemplate>,
    versions: Option<Range>,
    port: Option<Port>,
    check: Option<Check>,
    check_host: Option<Hostname>,
    protocol: Option<Protocol>,
    instances: Option<Instances>,
    command: Vec<Argument>,
    env: BTreeMap<VariableName, Argument>,
    networks: Vec<NetworkName>,
    memory: Option<Memory>,
    cpus: Option<Cpus>,
    volumes: Vec<Volume>,
}

impl DefinitionDraft {
    pub(super) fn finish(self) -> Option<Definition> {
        Some(Definition {
            name: self.name?.0,
            image: self.image?,
            versions: self.versions,
            port: self.port?,
            check: self.check,
            check_host: self.check_host,
            protocol: self.protocol.unwrap_or_default(),
            instances: self.instances.unwrap_or_default(),
            command: self.command,
            env: self.env,
            networks: self.networks,
            memory: self.memory,
            cpus: self.cpus,
            volumes: self.volumes,
            source: None,
        })
    }
}

pub(super) fn definition(node: &Node, place: Place<'_>, faults: &mut Faults) -> DefinitionDraft {
    let Value::Mapping(pairs) = &node.value else {
        let what = "the definition of a service: a mapping with at least `name`, `image` and `port`";
        faults.add(node.mark, place, wanted(node, what));
        return DefinitionDraft::default();
    };
    let [
        name,
        image,
        versions,
        port,
        check,
        check_host,
        protocol,
        instances,
        command,
        env,
        networks,
        memory,
        cpus,
        volumes,
    ] = fields::of(pairs, place, KNOWN, denied::advice, faults);
    for (field, value) in [("name", name), ("image", image), ("port", port)] {
        if value.is_none() {
            let message = format!("missing: every definition needs `{field}`");
            faults.add(node.mark, place.field(field), message);
        }
    }
    DefinitionDraft {
        name: name.and_then(|node| text(node, place.field("name"), faults)),
        image: field(image, place.field("image"), faults),
        versions: field(versions, place.field("versions"), faults),
        port: field(port, place.field("port"), faults),
        check: field(check, place.field("check"), faults),
        check_host: field(check_host, place.field("check-host"), faults),
        protocol: field(protocol, place.field("protocol"), faults),
        instances: field(instances, place.field("instances"), faults),
        command: command.map_or_else(Vec::new, |node| {
            self::command(node, place.field("command"), faults)
        }),
        env: env.map_or_else(BTreeMap::new, |node| self::env(node, place.field("env"), faults)),
        networks: networks.map_or_else(Vec::new, |node| {
            self::networks(node, place.field("networks"), faults)
        }),
        memory: field(memory, place.field("memory"), faults),
        cpus: field(cpus, place.field("cpus"), faults),
        volumes: volumes.map_or_else(Vec::new, |node| {
            self::volumes(node, place.field("volumes"), faults)
        }),
    }
}

fn field<T: FromStr<Err = NameError>>(
    node: Option<&Node>,
    place: Place<'_>,
    faults: &mut Faults,
) -> Option<T> {
    text(node?, place, faults).map(|(value, _)| value)
}

fn command(node: &Node, place: Place<'_>, faults: &mut Faults) -> Vec<Argument> {
    let what = "a list of the command and its arguments, such as [\"serve\", \"--port\", \"8080\"]: no \
         shell splits it";
    let items = list(node, place, what, faults).iter().enumerate();
    items
        .filter_map(|(index, item)| argument(item, place.index(index), faults))
        .collect()
}

/// A text that may be empty, but has to be there: elsewhere a variable without a value means that
/// of the host.
fn argument(node: &Node, place: Place<'_>, faults: &mut Faults) -> Option<Argument> {
    let what = "a single value; \"\" is an empty one";
    if node.is_null() {
        faults.add(node.mark, place, wanted(node, what));
        return None;
    }
    let text = scalar(node, place, what, faults)?;
    checked(text.parse(), node.mark, place, faults)
}

fn env(node: &Node, place: Place<'_>, faults: &mut Faults) -> BTreeMap<VariableName, Argument> {
    let mut env = BTreeMap::new();
    let Value::Mapping(pairs) = &node.value else {
        let what = "a mapping of names to values, such as {LOG_LEVEL: info}";
        faults.add(node.mark, place, wanted(node, what));
        return env;
    };
    let mut lines = BTreeMap::new();
    for (key, value) in pairs {
        let Some((name, mark)): Option<(VariableName, Mark)> = text(key, place, faults) else {
            continue;
        };
        let place = place.field(name.as_str());
        faults.claim(mark, place, "variable", name.as_str(), &mut lines);
        if let Some(value) = argument(value, place, faults) {
            env.insert(name, value);
        }
    }
    env
}

fn networks(node: &Node, place: Place<'_>, faults: &mut Faults) -> Vec<NetworkName> {
    let mut lines = BTreeMap::new();
    let mut network = |node: &Node, place: Place<'_>, faults: &mut Faults| {
        let (name, mark): (NetworkName, Mark) = text(node, place, faults)?;
        faults.claim(mark, place, "network", name.as_str(), &mut lines);
        Some(name)
    };
    if let Value::Scalar { .. } = &node.value {
        return network(node, place, faults).into_iter().collect();
    }
    let items = list(node, place, "the name of a network, or a list of them", faults);
    let items = items.iter().enumerate();
    items
        .filter_map(|(index, item)| network(item, place.index(index), faults))
        .collect()
}

fn volumes(node: &Node, place: Place<'_>, faults: &mut Faults) -> Vec<Volume> {
    let mut lines = BTreeMap::new();
    let what = "a list of volumes, each two absolute paths, such as /srv/data:/data";
    let items = list(node, place, what, faults).iter().enumerate();
    items
        .filter_map(|(index, item)| {
            let place = place.index(index);
            let (volume, mark): (Volume, Mark) = text(item, place, faults)?;
            faults.claim(mark, place, "path in the container", volume.target(), &mut lines);
            Some(volume)
        })
        .collect()
}

/// The items of a list; `what` says what should be there, if something else is.
fn list<'n>(node: &'n Node, place: Place<'_>, what: &str, faults: &mut Faults) -> &'n [Node] {
    match &node.value {
        Value::Sequence(items) => items,
        _ => {
            faults.add(node.mark, place, wanted(node, what));
            &[]
        }
    }
}

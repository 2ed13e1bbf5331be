//! The labels by which a container says which backend it is an instance of. A compose file needs nothing else; the
//! container-launcher writes them on what it starts, and the container-registrar reads them.

use std::collections::BTreeMap;

use crate::check::Check;
use crate::definition::{ImageReference, Port};
use crate::names::ServiceName;
use crate::nearest::nearest;
use crate::records::{Protocol, Weight};
use crate::version::{BackendId, Version};

/// What every label of Mayfly begins with.
pub const PREFIX: &str = "mayfly.";
/// The service; it makes a container one of Mayfly's.
pub const SERVICE: &str = "mayfly.service";
/// The version; by default the tag of the image.
pub const VERSION: &str = "mayfly.version";
/// The port in the container; by default the only one that the image exposes.
pub const PORT: &str = "mayfly.port";
/// How to check it: `tcp`, or a path.
pub const CHECK: &str = "mayfly.check";
/// What it speaks: `http` or `h2c`.
pub const PROTOCOL: &str = "mayfly.protocol";
/// Its share of the requests, 0 to 256.
pub const WEIGHT: &str = "mayfly.weight";
/// The key prefix of the launcher that started it; nobody else's labels have it.
pub const LAUNCHER: &str = "mayfly.launcher";
/// What the launcher's definition came to, so that it can tell a container of an earlier one.
pub const DEFINITION: &str = "mayfly.definition";

/// The name that the launcher gave a container. An image that was made of one has all these labels, and so have the
/// containers of that image; but they have other names.
pub const UNIT: &str = "mayfly.unit";

const ALL: [&str; 9] = [
    SERVICE, VERSION, PORT, CHECK, PROTOCOL, WEIGHT, LAUNCHER, DEFINITION, UNIT,
];

/// The name, in an instance's metadata, of the id of the container that it runs in.
pub const CONTAINER: &str = "container";
/// The name, there, of the node whose registrar wrote it.
pub const NODE: &str = "node";
/// The name, there, of the engine that the container runs on.
pub const ENGINE: &str = "engine";

/// What the labels of a container say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// The backend that it is an instance of.
    pub backend: BackendId,
    /// The port that it listens at, in the container.
    pub port: Port,
    /// How to check it; not at all, where it is absent.
    pub check: Option<Check>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its share of the requests relative to its siblings.
    pub weight: Weight,
}

/// Reads the labels of a container; `None` for one that has nothing to do with Mayfly. `image` is its image as it was
/// asked for, `exposed` the TCP ports that the image exposes.
///
/// # Errors
/// What is wrong, with the label and what would be right.
pub fn read<'a>(
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    image: &str,
    exposed: &[u16],
) -> Result<Option<Labelled>, String> {
    let ours: BTreeMap<&str, &str> = labels
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    let Some(service) = ours.get(SERVICE) else {
        return Ok(None);
    };
    if let Some(name) = ours.keys().find(|name| !ALL.contains(*name)) {
        let meant = nearest(name, &ALL).map_or_else(
            || format!("known are {}", ALL.join(", ")),
            |known| format!("did you mean {known}?"),
        );
        return Err(format!("unknown label {name:?}: {meant}"));
    }
    let label = |name: &'static str| ours.get(name).map(|text| (name, *text));
    let service: ServiceName = parsed((SERVICE, service))?;
    let version: Version = match label(VERSION) {
        Some(label) => parsed(label)?,
        None => tag(image)?,
    };
    let port = match label(PORT) {
        Some(label) => parsed(label)?,
        None => only(exposed)?,
    };
    Ok(Some(Labelled {
        backend: BackendId { service, version },
        port,
        check: label(CHECK).map(parsed).transpose()?,
        protocol: label(PROTOCOL).map(parsed).transpose()?.unwrap_or_default(),
        weight: label(WEIGHT).map(parsed).transpose()?.unwrap_or_default(),
    }))
}

impl Labelled {
    /// The labels that say so.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let protocol = match self.protocol {
            Protocol::Http => "http",
            Protocol::H2c => "h2c",
        };
        let check = self.check.as_ref().map(|check| (CHECK, check.to_string()));
        let pairs = [
            (SERVICE, self.backend.service.to_string()),
            (VERSION, self.backend.version.to_string()),
            (PORT, self.port.to_string()),
            (PROTOCOL, protocol.to_owned()),
            (WEIGHT, self.weight.to_string()),
        ];
        let all = pairs.into_iter().chain(check);
        all.map(|(name, text)| (name.to_owned(), text)).collect()
    }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    (name, text): (&'static str, &str),
) -> Result<T, String> {
    text.parse().map_err(|error| format!("label {name}: {error}"))
}

fn tag(image: &str) -> Result<Version, String> {
    // An engine that knows no name for an image gives its digest.
    let named = Some(image).filter(|image| !image.starts_with("sha256:"));
    let reference: Option<ImageReference> = named.and_then(|image| image.parse().ok());
    let tag = reference.as_ref().and_then(ImageReference::tag);
    match tag.map(str::parse) {
        Some(Ok(version)) => Ok(version),
        _ => Err(format!(
            "the image {image:?} has no tag that could be the version: set the label {VERSION}"
        )),
    }
}

fn only(exposed: &[u16]) -> Result<Port, String> {
    let port = match exposed {
        [port] => Port::try_from(*port).ok(),
        _ => None,
    };
    port.ok_or_else(|| {
        let found = match exposed {
            [] => "no port".to_owned(),
            ports => format!(
                "{} ports ({})",
                ports.len(),
                ports
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        format!("the image exposes {found}: set the label {PORT}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `mayfly.service=backend mayfly.port=80`
    fn check(labels: &str, image: &str, exposed: &[u16], expected: &str) {
        let pairs = labels.split_whitespace().filter_map(|pair| pair.split_once('='));
        let told = match read(pairs, image, exposed) {
            Ok(None) => "not ours".to_owned(),
            Ok(Some(found)) => {
                let check = found.check.map_or("none".to_owned(), |check| check.to_string());
                format!(
                    "{}:{} {check} {:?} {}",
                    found.backend, found.port, found.protocol, found.weight
                )
            }
            Err(reason) => reason,
        };
        assert!(told.contains(expected), "{told}");
    }

    #[test]
    fn defaults_come_from_the_image() {
        check("", "backend:1", &[], "not ours");
        check("com.example=1 mayfly.version=2", "backend:1", &[], "not ours");
        check(
            "mayfly.service=backend",
            "team/backend:0.0.1",
            &[8080],
            "backend@0.0.1:8080 none Http 100",
        );
        check(
            "mayfly.service=backend.service mayfly.version=2 mayfly.port=81 mayfly.check=/health mayfly.protocol=h2c mayfly.weight=7",
            "sha256:0f0f",
            &[1, 2],
            "backend@2:81 /health H2c 7",
        );
    }

    #[test]
    fn a_fault_names_the_label_and_what_would_be_right() {
        for (labels, image, exposed, expected) in [
            (
                "mayfly.service=Back_End",
                "b:1",
                &[80][..],
                "label mayfly.service: \"Back_End\"",
            ),
            (
                "mayfly.service=b mayfly.version=a+b",
                "b:1",
                &[80],
                "label mayfly.version",
            ),
            ("mayfly.service=b", "b", &[80], "has no tag"),
            ("mayfly.service=b", "sha256:0f0f", &[80], "has no tag"),
            (
                "mayfly.service=b",
                "b:1",
                &[],
                "exposes no port: set the label mayfly.port",
            ),
            ("mayfly.service=b", "b:1", &[80, 81], "exposes 2 ports (80, 81)"),
            ("mayfly.service=b mayfly.port=0", "b:1", &[], "1 to 65535"),
            (
                "mayfly.service=b mayfly.port=80 mayfly.check=health",
                "b:1",
                &[],
                "label mayfly.check",
            ),
            (
                "mayfly.service=b mayfly.port=80 mayfly.protocol=h3",
                "b:1",
                &[],
                "label mayfly.protocol: \"h3\" is not a protocol",
            ),
            (
                "mayfly.service=b mayfly.port=80 mayfly.weight=257",
                "b:1",
                &[],
                "0 to 256",
            ),
            (
                "mayfly.service=b mayfly.prot=80",
                "b:1",
                &[],
                "did you mean mayfly.protocol?",
            ),
        ] {
            check(labels, image, exposed, expected);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            service in "[a-z]{1,10}", version in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", port in 1..=u16::MAX,
            check in proptest::option::of("/[a-z]{0,10}|tcp"), h2c: bool, weight in 0u16..=256,
        ) {
            let labelled = Labelled {
                backend: BackendId { service: service.parse().unwrap(), version: version.parse().unwrap() },
                port: port.try_into().unwrap(),
                check: check.map(|check| check.parse().unwrap()),
                protocol: if h2c { Protocol::H2c } else { Protocol::Http },
                weight: weight.try_into().unwrap(),
            };
            let labels = labelled.labels();
            let pairs = labels.iter().map(|(name, text)| (name.as_str(), text.as_str()));
            prop_assert_eq!(read(pairs, "x", &[]), Ok(Some(labelled)));
        }
    }
}

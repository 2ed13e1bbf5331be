//! The labels by which a container says which backend it is an instance of. A compose file needs
//! nothing else; the container-launcher writes them on what it starts, and the container-registrar
//! reads them.

use std::collections::BTreeMap;

use crate::check::Check;
use crate::keys::KeySpace;
use crate::names::{Hostname, ServiceName};
use crate::nearest::nearest;
use crate::records::definition::{ImageReference, Port};
use crate::records::{Protocol, Weight};
use crate::version::{BackendId, Version};

/// What compose puts on the containers of `compose run`, which have all labels of their service.
const ONE_OFF: &str = "com.docker.compose.oneoff";
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
/// The Host that an HTTP check asks with; by default `<service>.service`, as callers do.
pub const CHECK_HOST: &str = "mayfly.check-host";
/// What it speaks: `http` or `h2c`.
pub const PROTOCOL: &str = "mayfly.protocol";
/// Its share of the requests, 0 to 256.
pub const WEIGHT: &str = "mayfly.weight";
/// The key prefix of the Mayfly that registers it; by default every one's that sees it.
pub const OF: &str = "mayfly.prefix";
/// The key prefix of the launcher that started it; nobody else's labels have it.
pub const LAUNCHER: &str = "mayfly.launcher";
/// What the launcher's definition came to, so that it can tell a container of an earlier one.
pub const DEFINITION: &str = "mayfly.definition";

/// The name that the launcher gave a container. An image that was made of one has all these labels,
/// and so have the containers of that image; but they have other names.
pub const UNIT: &str = "mayfly.unit";

/// Those that people write.
const OPEN: [&str; 8] = [SERVICE, VERSION, PORT, CHECK, CHECK_HOST, PROTOCOL, WEIGHT, OF];
/// Those that only a launcher writes.
const OWN: [&str; 3] = [LAUNCHER, DEFINITION, UNIT];

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
    /// The Host that an HTTP check asks with, where it is another one than callers use.
    pub check_host: Option<Hostname>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its share of the requests relative to its siblings.
    pub weight: Weight,
}

/// Whether a container with labels of these names is meant for Mayfly: it is one of its instances,
/// or a label of it is probably misspelt. Known labels alone may be those of its image, and make no
/// instance.
pub fn concern<'a>(names: impl IntoIterator<Item = &'a str>) -> bool {
    names
        .into_iter()
        .any(|name| name == SERVICE || meant_by(name).is_some())
}

/// Whether it is another Mayfly's, by key prefix: its launcher has made the container, or the label
/// says so. That one registers it, or says why not.
///
/// # Errors
/// When the label is no key prefix.
pub fn is_of_another<'a>(
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    prefix: &KeySpace,
) -> Result<bool, String> {
    let mut another = false;
    for (name, text) in labels {
        match name {
            // What a launcher writes is its prefix as it is.
            LAUNCHER => another |= text != prefix.to_string(),
            OF => another |= parsed::<KeySpace>((OF, text))? != *prefix,
            _ => {}
        }
    }
    Ok(another)
}

/// The label that was probably meant by one that is not known: it has capitals or another
/// separator, or letters that are too many, too few or swapped.
pub fn meant_by(name: &str) -> Option<&'static str> {
    /// What is shorter or longer than our labels by more letters than a slip makes is somebody
    /// else's.
    const LENGTHS: std::ops::RangeInclusive<usize> = 10..=19;
    if is_known(name) {
        return None;
    }
    let plain: String = name.chars().take(70).map(plain).collect();
    let may_be = LENGTHS.contains(&plain.len()) || plain.starts_with(PREFIX);
    may_be.then(|| nearest(&plain, &OPEN)).flatten()
}

fn plain(letter: char) -> char {
    match letter {
        '-' | '_' | '/' | ':' => '.',
        _ => letter.to_ascii_lowercase(),
    }
}

fn is_known(name: &str) -> bool {
    OPEN.contains(&name) || OWN.contains(&name)
}

/// What is wrong with a label of an instance: it is not known, though it begins like ours, or it is
/// misspelt.
pub fn fault(name: &str) -> Option<String> {
    let begins = name.get(..PREFIX.len());
    let is_ours = begins.is_some_and(|begins| begins.eq_ignore_ascii_case(PREFIX));
    match meant_by(name) {
        Some(meant) => Some(format!("unknown label {name:?}: did you mean {meant}?")),
        None if is_ours && !is_known(name) => Some(format!(
            "unknown label {name:?}: the known labels are {}",
            OPEN.join(", ")
        )),
        None => None,
    }
}

/// Reads the labels of a container; `None` for one that has nothing to do with Mayfly, or that
/// `compose run` started for a single command. `image` is its image as it was asked for, `exposed`
/// the TCP ports that the image exposes.
///
/// # Errors
/// What is wrong, with the label and what would be right.
pub fn read<'a>(
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
    image: &str,
    exposed: &[u16],
) -> Result<Option<Labelled>, String> {
    let ours: BTreeMap<&str, &str> = labels.into_iter().collect();
    let one_off = ours.get(ONE_OFF);
    if !concern(ours.keys().copied()) || one_off.is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    if let Some(fault) = ours.keys().find_map(|name| fault(name)) {
        return Err(fault);
    }
    let Some(service) = ours.get(SERVICE) else {
        return Ok(None);
    };
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
        check_host: label(CHECK_HOST).map(parsed).transpose()?,
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
        let host = self
            .check_host
            .as_ref()
            .map(|host| (CHECK_HOST, host.to_string()));
        let pairs = [
            (SERVICE, self.backend.service.to_string()),
            (VERSION, self.backend.version.to_string()),
            (PORT, self.port.to_string()),
            (PROTOCOL, protocol.to_owned()),
            (WEIGHT, self.weight.to_string()),
        ];
        let all = pairs.into_iter().chain(check).chain(host);
        all.map(|(name, text)| (name.to_owned(), text)).collect()
    }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    (name, text): (&'static str, &str),
) -> Result<T, String> {
    text.parse().map_err(|error| format!("label {name}: {error}"))
}

/// The version that an image's name says by its tag.
///
/// # Errors
/// When it says none.
pub fn tag(image: &str) -> Result<Version, String> {
    // An engine that knows no name for an image gives its digest.
    let named = Some(image).filter(|image| !image.starts_with("sha256:"));
    let reference: Option<ImageReference> = named.and_then(|image| image.parse().ok());
    let tag = reference.as_ref().and_then(ImageReference::tag);
    match tag.map(str::parse) {
        Some(Ok(version)) => Ok(version),
        _ => Err(format!(
            "the image {image:?} has no tag that could be the version; set the label {VERSION}"
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
        format!("the image exposes {found}; set the label {PORT}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `mayfly.service=backend mayfly.port=80`
    fn check(labels: &str, image: &str, exposed: &[u16], expected: &str) {
        let pairs = labels.split_whitespace().filter_map(|pair| pair.split_once('='));
        let reported = match read(pairs, image, exposed) {
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
        assert!(reported.contains(expected), "{reported}");
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
        // A command of `compose run`, and a container of `compose up`.
        for (one_off, expected) in [("True", "not ours"), ("False", "backend@1:80")] {
            let labels = format!("mayfly.service=backend com.docker.compose.oneoff={one_off}");
            check(&labels, "backend:1", &[80], expected);
        }
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
                "exposes no port; set the label mayfly.port",
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
                "mayfly.service=b mayfly.port=80 mayfly.check=/ mayfly.check-host=a:80",
                "b:1",
                &[],
                "label mayfly.check-host: \"a:80\" is not a host name",
            ),
            (
                "mayfly.service=b mayfly.port=80 mayfly.check_host=a",
                "b:1",
                &[],
                "did you mean mayfly.check-host?",
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

    #[test]
    fn a_misspelt_label_concerns_us_even_alone() {
        for (label, meant) in [
            ("mayfly.servce", Some("mayfly.service")),
            ("Mayfly.Service", Some("mayfly.service")),
            ("mayfly.Service", Some("mayfly.service")),
            ("mayfly.services", Some("mayfly.service")),
            ("mayfly-service", Some("mayfly.service")),
            ("mayfly_service", Some("mayfly.service")),
            ("mayfly/service", Some("mayfly.service")),
            ("mafly.service", Some("mayfly.service")),
            ("mayfly.versoin", Some("mayfly.version")),
            ("MAYFLY_PORT", Some("mayfly.port")),
            ("mayfly.prot", Some("mayfly.protocol")),
            ("Mayfly-Check-Hosts", Some("mayfly.check-host")),
            // Others have labels, too.
            ("mayfly", None),
            ("mayfly.role", None),
            ("mayfly-team", None),
            ("may", None),
            ("service", None),
            ("maven.version", None),
            ("com.docker.compose.service", None),
            ("com.docker.swarm.service.name", None),
            ("org.opencontainers.image.version", None),
            ("traefik.port", None),
            // Of an image, perhaps; and what only a launcher writes.
            ("mayfly.port", None),
            ("mayfly.unit", None),
            ("mayfly.prefix", None),
            ("", None),
        ] {
            assert_eq!(meant_by(label), meant, "{label:?}");
            assert_eq!(concern([label]), meant.is_some(), "{label:?}");
            let reported = read([(label, "x")], "b:1", &[80]);
            let expected = meant.map(|meant| format!("unknown label {label:?}: did you mean {meant}?"));
            assert_eq!(reported.err(), expected, "{label:?}");
        }
        assert!(concern([SERVICE]) && !concern([]));
        // Of an instance every label that begins like ours has to be known.
        for (labels, expected) in [
            ("mayfly.service=b Mayfly.Port=80", "did you mean mayfly.port?"),
            (
                "mayfly.service=b mayfly.role=x",
                "unknown label \"mayfly.role\": the known labels are mayfly.service, ",
            ),
            ("mayfly.service=b mayfly-team=x mayfly=1", "b@1:80"),
        ] {
            check(labels, "b:1", &[80], expected);
        }
    }

    #[test]
    fn another_mayfly_s_own() {
        let of = |name: &'static str, text: &'static str| {
            is_of_another([(SERVICE, "b"), (name, text)], &KeySpace::default())
        };
        assert_eq!(of(VERSION, "1"), Ok(false));
        for label in [OF, LAUNCHER] {
            assert_eq!(of(label, "/mayfly"), Ok(false));
            assert_eq!(of(label, "/other"), Ok(true));
        }
        let error = of(OF, "www-dev").unwrap_err();
        assert!(
            error.contains("label mayfly.prefix: \"www-dev\" is not a key prefix"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            service in "[a-z]{1,10}", version in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", port in 1..=u16::MAX,
            check in proptest::option::of("/[a-z]{0,10}|tcp"), host in proptest::option::of("[a-z]{1,9}(\\.[a-z]{1,9})?"),
            h2c: bool, weight in 0u16..=256,
        ) {
            let labelled = Labelled {
                backend: BackendId { service: service.parse().unwrap(), version: version.parse().unwrap() },
                port: port.try_into().unwrap(),
                check: check.map(|check| check.parse().unwrap()),
                check_host: host.map(|host| host.parse().unwrap()),
                protocol: if h2c { Protocol::H2c } else { Protocol::Http },
                weight: weight.try_into().unwrap(),
            };
            let labels = labelled.labels();
            let pairs = labels.iter().map(|(name, text)| (name.as_str(), text.as_str()));
            prop_assert_eq!(read(pairs, "x", &[]), Ok(Some(labelled)));
        }
    }
}

//! The ports of a service: `ports` in their short and long form, and `expose`.

use super::faults::{ComposeFaults, Spot, SpotMessage};
use super::tree::{ComposeNode, ComposeValue};

/// A port in the container, and the port of the host at which it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PublishedPort {
    pub(super) container: u16,
    /// As far as the file says it; the engine chooses it otherwise.
    pub(super) host: Option<u16>,
    /// Whether it is published at all.
    pub(super) published: bool,
    pub(super) spot: Spot,
}

/// Most ports of one range: nobody publishes more by hand.
const RANGE: u16 = 1000;

/// Appends what `ports` says; what is no HTTP is remarked.
pub(super) fn ports(
    node: &ComposeNode,
    place: &str,
    all: &mut Vec<PublishedPort>,
    remarks: &mut Vec<SpotMessage>,
    faults: &mut ComposeFaults,
) {
    let ComposeValue::List(items) = &node.value else {
        if node.value != ComposeValue::Null {
            faults.add(
                node.spot,
                place,
                format!("{} where there should be a list of ports", node.kind()),
            );
        }
        return;
    };
    for (at, item) in items.iter().enumerate() {
        let field = format!("{place}[{at}]");
        let found = match item.text() {
            Some(text) => short(text),
            None => long(item),
        };
        match found {
            Ok((_, _, protocol)) if protocol != "tcp" => {
                let message = format!("{protocol}: Mayfly routes HTTP only");
                remarks.push(SpotMessage::new(item.spot, field, message));
            }
            Ok((container, host, _)) => {
                for offset in 0..=container.1 - container.0 {
                    let host = host.map(|(first, last)| if last > first { first + offset } else { first });
                    add(all, container.0 + offset, host, true, item.spot);
                }
            }
            Err(reason) => faults.add(item.spot, field, reason),
        }
    }
}

pub(super) fn expose(
    node: &ComposeNode,
    place: &str,
    all: &mut Vec<PublishedPort>,
    faults: &mut ComposeFaults,
) {
    for (at, item) in node.items().iter().enumerate() {
        let text = item.text().unwrap_or_default();
        let (range_text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        match range(range_text) {
            Ok((first, last)) if protocol == "tcp" => {
                for port in first..=last {
                    add(all, port, None, false, item.spot);
                }
            }
            Ok(_) => {}
            Err(reason) => faults.add(item.spot, format!("{place}[{at}]"), reason),
        }
    }
}

fn add(all: &mut Vec<PublishedPort>, container: u16, host: Option<u16>, published: bool, spot: Spot) {
    // A file and what it is merged with may both name a port.
    let is_same = |it: &PublishedPort| it.container == container && (it.host == host || !published);
    if all.len() < usize::from(u16::MAX) && !all.iter().any(is_same) {
        all.push(PublishedPort {
            container,
            host,
            published,
            spot,
        });
    }
}

type PortRange = (u16, u16);

/// `[[ADDRESS:]HOST:]CONTAINER[/PROTOCOL]`, host and container a port or a range.
fn short(text: &str) -> Result<(PortRange, Option<PortRange>, String), String> {
    let (rest, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (host, container) = match rest.rsplit_once(':') {
        Some((host, container)) => (Some(host), container),
        None => (None, rest),
    };
    let container = range(container)?;
    // What is left is a port, or an address (in brackets, if it has colons) and a port, or nothing.
    let host = host.map(|host| host.rsplit_once(':').map_or(host, |(_, port)| port));
    let host = match host {
        None | Some("") => None,
        Some(text) if text.contains('.') => None,
        Some(text) => Some(range(text)?),
    };
    check(container, host)?;
    Ok((container, host, protocol.to_ascii_lowercase()))
}

fn long(node: &ComposeNode) -> Result<(PortRange, Option<PortRange>, String), String> {
    let text = |key: &str| node.get(key).and_then(ComposeNode::text);
    let container = range(text("target").ok_or("`target`, the port in the container, is missing")?)?;
    let host = text("published")
        .filter(|text| !text.is_empty())
        .map(range)
        .transpose()?;
    check(container, host)?;
    Ok((
        container,
        host,
        text("protocol").unwrap_or("tcp").to_ascii_lowercase(),
    ))
}

fn check(container: PortRange, host: Option<PortRange>) -> Result<(), String> {
    let Some(host) = host else { return Ok(()) };
    let (most, wanted) = (host.1 - host.0, container.1 - container.0);
    // A single port may be published at any port of a range.
    if wanted == 0 || most == wanted {
        return Ok(());
    }
    Err("the two ranges of ports differ in length".to_owned())
}

/// A port, or a range of ports.
fn range(text: &str) -> Result<PortRange, String> {
    let wrong =
        || format!("`{text}` is no port: give a number from 1 to 65535, or a range such as 3000-3005");
    let port = |text: &str| {
        text.trim()
            .parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(wrong)
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    match last.checked_sub(first) {
        Some(length) if length < RANGE => Ok((first, last)),
        Some(_) => Err(format!("`{text}` has more than {RANGE} ports")),
        None => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms() {
        for (text, expected) in [
            ("80", Ok(((80, 80), None))),
            ("8080:80", Ok(((80, 80), Some((8080, 8080))))),
            ("127.0.0.1:8080:80/tcp", Ok(((80, 80), Some((8080, 8080))))),
            ("127.0.0.1::80", Ok(((80, 80), None))),
            ("[::1]:8080:80", Ok(((80, 80), Some((8080, 8080))))),
            ("3000-3002", Ok(((3000, 3002), None))),
            ("9090-9091:8080-8081", Ok(((8080, 8081), Some((9090, 9091))))),
            ("9090-9099:80", Ok(((80, 80), Some((9090, 9099))))),
            ("9090-9099:80-81", Err(())),
            ("1-65535", Err(())),
            ("0:80", Err(())),
            ("http", Err(())),
            ("", Err(())),
            ("80:", Err(())),
            ("80:70000", Err(())),
            ("5-1", Err(())),
        ] {
            let found = short(text)
                .map(|(container, host, _)| (container, host))
                .map_err(drop);
            assert_eq!(found, expected, "{text}");
        }
    }
}

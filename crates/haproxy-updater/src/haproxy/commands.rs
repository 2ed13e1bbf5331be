//! The run-time commands, as values and as text. A [`Command`] is made of checked types only, so no
//! text from outside can become a second command; many are put into one request, below the size of
//! HAProxy's buffer.

use mayfly_core::address::Address;
use mayfly_core::records::{Protocol, Weight};
use mayfly_core::routing::ServerId;
use mayfly_core::upstream::UpstreamHost;

use crate::haproxy::maps::Map;
use crate::haproxy::servers::Admin;
use crate::haproxy::tokens::{CaFile, ConfigPath, ServerName, Slot, Word, host_text};

/// One change to a running HAProxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Adds a row whose key is not there: on a key that is, `add map` would make a second row.
    AddRow { map: Map, key: Word, value: Word },
    /// Changes a row that is there.
    SetRow { map: Map, key: Word, value: Word },
    /// Removes all rows of a key.
    DeleteRow { map: Map, key: Word },
    /// Puts other rows into a map in one step, with no moment without rows.
    ReplaceMap {
        map: Map,
        /// All rows it is to have.
        rows: Vec<(Word, Word)>,
    },
    /// Adds a server, in maintenance and with its checks off.
    AddServer {
        slot: Slot,
        name: ServerName,
        /// Where it is and what it speaks.
        id: ServerId,
        /// The authorities that its certificate is verified with, if it is behind TLS.
        ca_file: CaFile,
        /// Its share of the requests.
        weight: Weight,
    },
    /// Starts the checks of a server.
    EnableHealth { slot: Slot, name: ServerName },
    /// Calls a server healthy until its checks have failed as often as those of a healthy one may.
    SetHealthy { slot: Slot, name: ServerName },
    /// Says whether a server takes requests.
    SetState {
        slot: Slot,
        name: ServerName,
        admin: Admin,
    },
    /// Changes a server's share of the requests.
    SetWeight {
        slot: Slot,
        name: ServerName,
        weight: Weight,
    },
    /// Changes a server's address back, when another program has changed it.
    SetAddress {
        slot: Slot,
        name: ServerName,
        address: Address,
    },
    /// Removes a server that is in maintenance and has no connection left.
    DeleteServer { slot: Slot, name: ServerName },
    /// Ends all requests that a server has.
    ShutdownSessions { slot: Slot, name: ServerName },
}

/// Every option of a server, for haproxy.cfg and for `add server` alike: the latter ignores
/// `default-server`.
///
/// One refused connection in three checks says nothing; three failures in a row do, whether of
/// checks or of requests. Idle connections are kept: a server that is added at run time has a
/// default of 0, not the -1 of haproxy.cfg. They are closed soon, since they keep a server from
/// being removed.
///
/// Behind TLS the certificate has to be made out to the host, for requests and checks alike;
/// nothing is ever sent in clear text instead. A check is then a whole handshake.
pub fn server_options(id: &ServerId, weight: u16, ca_file: &CaFile) -> String {
    let mut protocol = match id.protocol {
        Protocol::Http => "",
        Protocol::H2c => " proto h2",
    }
    .to_owned();
    if let Some(host) = &id.tls {
        let name = host_text(host);
        protocol.push_str(&format!(
            " ssl verify required ca-file {ca_file} verifyhost {name} check-ssl"
        ));
        // The name that is asked for is never an IP address (RFC 6066).
        if matches!(host, UpstreamHost::Name(_)) {
            protocol.push_str(&format!(" sni str({name}) check-sni {name}"));
        }
        if id.protocol == Protocol::H2c {
            protocol.push_str(" alpn h2");
        }
    }
    let checks = "check inter 2s fastinter 500ms downinter 1s fall 3 rise 1 observe layer4 error-limit 3 on-error mark-down";
    format!("weight {weight} {checks} pool-max-conn -1 pool-purge-delay 500ms{protocol}")
}

/// The beginnings of lines with which HAProxy confirms a command; most often it says nothing.
const TAKEN: [&str; 4] = [
    "New server registered.",
    "Server deleted.",
    "IP changed from ",
    "no need to change ",
];

/// Up to this many rows for one map share a request with other commands; more make a payload.
const INLINE_ROWS: usize = 16;

/// A request is kept below this, in bytes: HAProxy's buffer has 16,384, and a larger payload resets
/// the connection.
const REQUEST_LIMIT: usize = 12_000;

/// Texts that go to HAProxy one after the other, each over a connection of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeRequest {
    /// Commands that say nothing, or one of a few words, when they are taken.
    Plain(String),
    /// A swap of a map: `prepare map`, then these rows, in payloads, for the version that it
    /// answers with.
    Replace {
        path: String,
        /// Payloads, each ended by an empty line.
        payloads: Vec<String>,
    },
}

/// What is left of HAProxy's answer to [`RuntimeRequest::Plain`] when all that means "taken" is
/// removed; empty is good.
pub fn complaint(answer: &str) -> String {
    let taken = |line: &str| line.is_empty() || TAKEN.iter().any(|start| line.starts_with(start));
    let lines = answer.lines().map(str::trim).filter(|line| !taken(line));
    lines.collect::<Vec<_>>().join(" ")
}

/// Puts commands into as few requests as their order and the buffer allow.
pub fn requests(commands: &[Command], maps: &ConfigPath) -> Vec<RuntimeRequest> {
    let mut requests = Vec::new();
    let mut line = String::new();
    let mut rest = commands;
    while let Some(command) = rest.first() {
        let rows = leading_rows(rest);
        if let Command::ReplaceMap { map, rows } = command {
            flush(&mut line, &mut requests);
            let payloads = payloads(rows.iter().map(|(key, value)| (key, value)));
            requests.push(RuntimeRequest::Replace {
                path: map.path(maps),
                payloads,
            });
            rest = &rest[1..];
        } else if let (Command::AddRow { map, .. }, true) = (command, rows.len() > INLINE_ROWS) {
            flush(&mut line, &mut requests);
            let path = map.path(maps);
            let adding = |rows| RuntimeRequest::Plain(format!("add map {path} <<\n{rows}\n"));
            rest = &rest[rows.len()..];
            requests.extend(payloads(rows.into_iter()).into_iter().map(adding));
        } else {
            let text = text(command, maps);
            if line.len() + text.len() + 1 > REQUEST_LIMIT {
                flush(&mut line, &mut requests);
            }
            if !line.is_empty() {
                line.push(';');
            }
            line.push_str(&text);
            rest = &rest[1..];
        }
    }
    flush(&mut line, &mut requests);
    requests
}

/// The rows that the commands begin with, as far as they go into one map.
fn leading_rows(commands: &[Command]) -> Vec<(&Word, &Word)> {
    let mut first = None;
    let rows = commands.iter().map_while(|command| match command {
        Command::AddRow { map, key, value } if *first.get_or_insert(*map) == *map => Some((key, value)),
        _ => None,
    });
    rows.collect()
}

fn flush(line: &mut String, requests: &mut Vec<RuntimeRequest>) {
    if !line.is_empty() {
        requests.push(RuntimeRequest::Plain(format!("{}\n", std::mem::take(line))));
    }
}

fn payloads<'a>(rows: impl Iterator<Item = (&'a Word, &'a Word)>) -> Vec<String> {
    let mut payloads = Vec::new();
    let mut payload = String::new();
    for (key, value) in rows {
        let row = format!("{key} {value}\n");
        if !payload.is_empty() && payload.len() + row.len() > REQUEST_LIMIT {
            payloads.push(std::mem::take(&mut payload));
        }
        payload.push_str(&row);
    }
    if !payload.is_empty() {
        payloads.push(payload);
    }
    payloads
}

/// The text of a command; of a swap, its first step.
fn text(command: &Command, maps: &ConfigPath) -> String {
    match command {
        Command::SetRow { map, key, value } => format!("set map {} {key} {value}", map.path(maps)),
        Command::DeleteRow { map, key } => format!("del map {} {key}", map.path(maps)),
        Command::AddServer {
            slot,
            name,
            id,
            ca_file,
            weight,
        } => {
            let options = server_options(id, (*weight).into(), ca_file);
            format!("add server {slot}/{name} {} {options}", id.address)
        }
        Command::EnableHealth { slot, name } => format!("enable health {slot}/{name}"),
        Command::SetHealthy { slot, name } => format!("set server {slot}/{name} health up"),
        Command::SetState { slot, name, admin } => {
            format!("set server {slot}/{name} state {}", admin.as_str())
        }
        Command::SetWeight { slot, name, weight } => format!("set server {slot}/{name} weight {weight}"),
        Command::SetAddress { slot, name, address } => {
            format!(
                "set server {slot}/{name} addr {} port {}",
                address.ip(),
                address.port()
            )
        }
        Command::DeleteServer { slot, name } => format!("del server {slot}/{name}"),
        Command::ShutdownSessions { slot, name } => format!("shutdown sessions server {slot}/{name}"),
        Command::AddRow { map, key, value } => format!("add map {} {key} {value}", map.path(maps)),
        Command::ReplaceMap { map, .. } => format!("prepare map {}", map.path(maps)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(map: Map, number: usize) -> Command {
        Command::AddRow {
            map,
            key: format!("environment-{number}/a-service").parse().expect("a word"),
            value: "a-service@0.0.1".parse().expect("a word"),
        }
    }

    fn texts(commands: &[Command]) -> Vec<String> {
        let requests = requests(commands, &"/maps".parse().expect("a path"));
        let text = |request| match request {
            RuntimeRequest::Plain(text) => text,
            RuntimeRequest::Replace { payloads, .. } => payloads.concat(),
        };
        requests.into_iter().map(text).collect()
    }

    #[test]
    fn a_server_behind_tls_is_verified_by_its_name() {
        let options = |address: &str, upstream: &str, protocol| {
            let upstream: mayfly_core::upstream::Upstream = upstream.parse().expect("an upstream");
            let id = ServerId {
                address: address.parse().expect("an address"),
                protocol,
                tls: upstream.tls.then_some(upstream.host),
            };
            let options = server_options(&id, 100, &CaFile::default());
            let end = options
                .split_once("pool-purge-delay 500ms")
                .expect("the last of the others");
            end.1.to_owned()
        };
        assert_eq!(options("10.0.0.5:80", "10.0.0.5:80", Protocol::Http), "");
        assert_eq!(
            options("10.0.0.5:443", "https://billing.internal", Protocol::Http),
            " ssl verify required ca-file @system-ca verifyhost billing.internal check-ssl \
             sni str(billing.internal) check-sni billing.internal"
        );
        assert_eq!(
            options("[fd00::5]:443", "https://[fd00::5]", Protocol::H2c),
            " proto h2 ssl verify required ca-file @system-ca verifyhost fd00::5 check-ssl alpn h2"
        );
    }

    #[test]
    fn few_rows_share_a_request_with_other_commands() {
        let delete = Command::DeleteRow {
            map: Map::Slots,
            key: "a@1".parse().expect("a word"),
        };
        let texts = texts(&[row(Map::Slots, 1), row(Map::Default, 2), delete]);
        assert_eq!(
            texts,
            ["add map /maps/slots.map environment-1/a-service a-service@0.0.1;\
              add map /maps/default.map environment-2/a-service a-service@0.0.1;\
              del map /maps/slots.map a@1\n"]
        );
    }

    #[test]
    fn many_rows_and_many_commands_come_in_requests_below_the_buffer() {
        let rows: Vec<Command> = (0..1_000).map(|number| row(Map::Slots, number)).collect();
        let deletes: Vec<Command> = (0..1_000)
            .map(|number| Command::DeleteRow {
                map: Map::Slots,
                key: format!("environment-{number}/a-service").parse().expect("a word"),
            })
            .collect();
        for (commands, ends) in [(rows, "\n\n"), (deletes, "\n")] {
            let texts = texts(&commands);
            assert!(
                texts.len() > 2
                    && texts
                        .iter()
                        .all(|text| text.len() < 12_100 && text.ends_with(ends))
            );
            let names = texts.iter().map(|text| text.matches("environment-").count());
            assert_eq!(names.sum::<usize>(), 1_000);
        }
    }

    #[test]
    fn confirmations_of_commands_are_no_complaints() {
        for good in [
            "",
            "\n\n",
            "New server registered.\n\n\n",
            "Server deleted.\n",
            "no need to change the addr, port changed from '1' to '2' by 'stats socket command'\n",
        ] {
            assert_eq!(complaint(good), "");
        }
        assert_eq!(
            complaint("\nentry not found.\n\nNo such server.\n"),
            "entry not found. No such server."
        );
    }
}

//! Requests that no good client sends. A connection carries a good request, a hostile one and another good one, so that
//! what is left over of one is taken for the beginning of the next, if it is.

use std::collections::BTreeSet;
use std::fmt::Display;

use super::oracle::{ALL, Allowed, MARK, Side, by_host, by_value, decoded, members};
use super::parts::{Dice, baggage, host, path, spoilt, value};

/// What one connection sends, and what is allowed to each request in it.
#[derive(Debug, Default)]
pub struct Conversation {
    pub octets: Vec<u8>,
    pub allowed: Vec<Allowed>,
}

/// A request in the making.
struct Draft {
    method: String,
    target: String,
    version: &'static str,
    lines: Vec<String>,
    body: String,
    end: &'static str,
}

impl Draft {
    fn line(&mut self, name: &str, value: impl Display) {
        self.lines.push(format!("{name}: {value}"));
    }
}

/// Makes one.
pub fn conversation(dice: &mut Dice, side: Side) -> Conversation {
    let mut made = Conversation::default();
    good(dice, side, &mut made);
    for _ in 0..=dice.below(2) {
        hostile(dice, side, &mut made);
    }
    good(dice, side, &mut made);
    // The connection ends with it.
    let end = made.octets.len() - 2;
    made.octets.splice(end.., *b"connection: close\r\n\r\n");
    made
}

/// Octets of Latin-1.
fn octets(text: &str) -> Vec<u8> {
    text.chars().map(|letter| letter as u8).collect()
}

impl Conversation {
    fn push(&mut self, draft: Draft, allowed: Allowed) {
        let number = self.allowed.len();
        let Draft {
            method,
            target,
            version,
            lines,
            body,
            end,
        } = draft;
        let mut text = format!("{method} {target}{version}{end}x-case: {number}{end}");
        for line in lines {
            text += &format!("{line}{end}");
        }
        text += &format!("{end}{body}");
        self.octets.extend(octets(&text));
        self.allowed.push(allowed);
    }
}

fn good(dice: &mut Dice, side: Side, made: &mut Conversation) {
    let environment = dice.of(&ALL);
    let mut draft = plain();
    let mut demanded = None;
    match side {
        Side::Edge => {
            draft.target = dice
                .of(&["/", "/api", "/api/x", "/secret/y", "/apis", "/a/b"])
                .to_owned();
            demanded = environment.at(draft.target.trim_end_matches('/'));
            draft.line("Host", format_args!("{}.example.com", environment.prefix));
        }
        Side::Internal => {
            let service = dice.of(&["frontend", "api", "backend", "secret"]);
            draft.line("Host", format_args!("{service}.service"));
            draft.line("x-mayfly", environment.header);
            demanded = environment.backend(service).or(demanded);
        }
    }
    let allowed = Allowed {
        environments: Some(vec![environment]),
        demanded,
    };
    made.push(draft, allowed);
}

fn plain() -> Draft {
    Draft {
        method: "GET".to_owned(),
        target: "/".to_owned(),
        version: " HTTP/1.1",
        lines: Vec::new(),
        body: String::new(),
        end: "\r\n",
    }
}

fn hostile(dice: &mut Dice, side: Side, made: &mut Conversation) {
    let mut draft = plain();
    let mut hosts = Vec::new();
    let host = host(dice, side);
    draft.target = path(dice);
    if dice.one_in(8) {
        draft.method = dice
            .of(&[
                "POST",
                "OPTIONS",
                "CONNECT",
                "PUT",
                "TRACE",
                "PRI",
                "get",
                "M4RK<script>",
            ])
            .to_owned();
    }
    if dice.one_in(10) {
        let authority = self::host(dice, side);
        draft.target = format!(
            "{}{authority}{}",
            dice.of(&["http://", "HTTP://u@", "//", "https://"]),
            draft.target
        );
        hosts.push(authority);
    }
    if draft.method == "CONNECT" && dice.one_in(2) {
        draft.target = format!("{}:80", self::host(dice, side));
    }
    if !dice.one_in(20) {
        draft.line(dice.of(&["Host", "HOST", "host"]), &host);
        hosts.push(host);
    }
    if dice.one_in(12) {
        let second = self::host(dice, side);
        draft.line("Host", &second);
        hosts.push(second);
    }
    let mut values = Vec::new();
    for _ in 0..dice.of(&[&0usize, &0, &1, &1, &2, &3]).to_owned() {
        let value = value(dice);
        draft.line(dice.of(&["x-mayfly", "X-Mayfly", "X-MAYFLY", "x-MAYFLY"]), &value);
        values.push(up_to_line_feed(&value).to_owned());
    }
    for _ in 0..dice.of(&[&0usize, &0, &0, &1, &2]).to_owned() {
        let name = dice.of(&[
            "x_mayfly",
            "X_MAYFLY",
            "X_Mayfly",
            "x!mayfly",
            "x.mayfly",
            "forwarded",
            "X-Forwarded-For",
            "x_forwarded_host",
            "x-forwarded.proto",
            "X-Original-URL",
            "x~real~ip",
            "x-mayfly-answered-by",
        ]);
        let value = value(dice);
        draft.line(name, value);
    }
    let mut named = Vec::new();
    for _ in 0..dice.of(&[&0usize, &0, &1, &1, &2, &16, &18]).to_owned() {
        let line = baggage(dice);
        named.extend(members(up_to_line_feed(&line)));
        draft.line(dice.of(&["baggage", "Baggage", "BAGGAGE"]), line);
    }
    if dice.one_in(6) {
        let hops = dice.of(&[
            "x-mayfly, baggage",
            "close, X-Mayfly",
            "Upgrade, HTTP2-Settings",
            "upgrade",
            "host",
            "keep-alive",
        ]);
        draft.line("Connection", hops);
    }
    if dice.one_in(8) {
        draft.line(
            "Upgrade",
            dice.of(&["h2c", "H2C", "websocket, h2c", "h2c, websocket", "TLS/1.0", "foo"]),
        );
        draft.line("HTTP2-Settings", "AAMAAABkAAQAAP__");
    }
    if dice.one_in(8) {
        draft.line("x-other", format_args!("{MARK}{}", spoilt(dice)));
    }
    if dice.one_in(15) {
        draft.version = dice.of(&[
            " HTTP/1.0",
            " HTTP/1.2",
            " HTTP/0.9",
            "",
            " HTTP/2.0",
            " HTTP/1.1 x",
        ]);
    }
    shuffle(dice, &mut draft.lines);
    let environments = match side {
        Side::Edge => hosts
            .iter()
            .filter_map(|host| by_host(up_to_line_feed(host)))
            .collect(),
        Side::Internal => {
            let said: BTreeSet<&str> = values.iter().flat_map(|value| said(value)).collect();
            // An empty header says nothing, and several values nothing that could be believed.
            if said.is_empty() {
                // HAProxy 2.6 takes a NUL for the end of what it decodes.
                named.extend(
                    named
                        .clone()
                        .iter()
                        .filter_map(|value| Some(value.split_once('\0')?.0.to_owned())),
                );
                let mut values: Vec<String> = named.iter().map(|value| decoded(value)).collect();
                values.extend(named);
                values.iter().filter_map(|value| by_value(value)).collect()
            } else {
                let one = said.first().filter(|_| said.len() == 1);
                one.and_then(|value| by_value(value)).into_iter().collect()
            }
        }
    };
    let mut allowed = Allowed {
        environments: Some(environments),
        demanded: None,
    };
    if dice.one_in(10) {
        framing(dice, side, &mut draft, made);
    }
    if dice.one_in(10) {
        // These change what belongs to which header, so that nobody can say what is meant.
        allowed.environments = None;
        bend(dice, &mut draft);
    }
    let start = made.octets.len();
    made.push(draft, allowed);
    if dice.one_in(12) {
        let last = made.allowed.len() - 1;
        made.allowed[last].environments = None;
        // The number of the request stays as it is.
        let line = format!("x-case: {last}\r\n");
        let here = made.octets[start..]
            .windows(line.len())
            .position(|window| window == line.as_bytes());
        let spared = here.map_or(0..0, |here| start + here..start + here + line.len());
        for _ in 0..=dice.below(4) {
            let at = start + dice.below(made.octets.len() - start);
            if !spared.contains(&at) {
                made.octets[at] = (dice.next() & 0xff) as u8;
            }
        }
    }
}

/// The values in a line, however they are separated.
fn said(line: &str) -> impl Iterator<Item = &str> {
    let values = line.split([',', ' ', '\t', '\r', '\u{b}', '\u{c}']);
    values.filter(|value| !value.is_empty())
}

/// As HAProxy reads a value: a line feed alone ends it.
fn up_to_line_feed(value: &str) -> &str {
    let line = value.split('\n').next().unwrap_or_default();
    line.trim_matches([' ', '\t', '\r'])
}

/// The line ends and folds that servers understand in different ways.
fn bend(dice: &mut Dice, draft: &mut Draft) {
    match dice.below(4) {
        0 => draft.end = dice.of(&["\n", "\r"]),
        1 => {
            let at = dice.below(draft.lines.len() + 1);
            let folded = format!(
                "{}{}: {}",
                dice.of(&[" ", "\t"]),
                dice.of(&["x-mayfly", "host"]),
                value(dice)
            );
            draft.lines.insert(at, folded);
        }
        2 => draft.lines.push(format!(
            "x-mayfly{}: {}",
            dice.of(&[" ", "\t", "\0", "\r"]),
            value(dice)
        )),
        _ => draft.lines.push(
            dice.of(&["no colon", ": x", " ", "x-mayfly", "\u{80}: 1", "x y: 1"])
                .to_owned(),
        ),
    }
}

/// Bodies whose length servers read in different ways, with a request of the other environment inside.
fn framing(dice: &mut Dice, side: Side, draft: &mut Draft, made: &mut Conversation) {
    draft.method = "POST".to_owned();
    let mut inner = Conversation {
        octets: Vec::new(),
        // The number of the inner request is that of the next.
        allowed: made.allowed.clone(),
    };
    good(dice, side, &mut inner);
    let text: String = inner.octets.iter().map(|&octet| char::from(octet)).collect();
    made.allowed = inner.allowed;
    if let Some(last) = made.allowed.last_mut() {
        last.demanded = None;
    }
    let length = text.len();
    let chunked = format!("{length:x}\r\n{text}\r\n0\r\n\r\n");
    match dice.below(8) {
        0 => {
            draft.line("Content-Length", length);
            draft.line("Transfer-Encoding", "chunked");
            draft.body = format!("0\r\n\r\n{text}");
        }
        1 => {
            draft.line(
                "Transfer-Encoding",
                dice.of(&[
                    "identity",
                    "xchunked",
                    "chunked, identity",
                    "chunked\u{b}",
                    "\"chunked\"",
                ]),
            );
            draft.line("Content-Length", length);
            draft.body = text;
        }
        2 => {
            draft.line("Content-Length", length);
            draft.line("Content-Length", dice.of(&["0", "+0", "1, 0", "00", "0x0", "-1"]));
            draft.body = text;
        }
        3 => {
            draft.line("Transfer-Encoding", dice.of(&["chunked", "Chunked"]));
            draft.line("Transfer-Encoding", dice.of(&["cow", "chunked", "identity"]));
            draft.body = chunked;
        }
        4 => {
            draft.line("Transfer-Encoding", "chunked");
            draft.body = format!(
                "{}\r\n{text}\r\n0\r\n\r\n",
                dice.of(&["0", "fffffffffffffffff", "-1", "0x5", "1;x\ny", ""])
            );
        }
        5 => {
            draft.line("Content-Length ", length);
            draft.body = text;
        }
        6 => {
            draft.line("Content-Length", length);
            draft.body = text;
        }
        _ => {
            draft.line("Transfer-Encoding", "chunked");
            draft.body = chunked;
        }
    }
}

fn shuffle(dice: &mut Dice, lines: &mut [String]) {
    for at in (1..lines.len()).rev() {
        lines.swap(at, dice.below(at + 1));
    }
}

//! Requests that no good client sends. A connection carries a good request, a hostile one and another good one, so that
//! what is left over of one is taken for the beginning of the next, if it is.

use std::collections::BTreeSet;
use std::fmt::Display;

use super::h2::Fields;
use super::oracle::{
    ALL, Allowed, CREDENTIALS, Environment, MARK, Open, Side, by_cookies, by_host, by_links, by_value,
    decoded, members, plain_members,
};
use super::parts::{
    Dice, baggage, cookies, host, link, path, shuffle, spoilt, traces, up_to_line_feed, value, wrong_password,
};

/// What one connection sends, and what is allowed to each request in it.
#[derive(Debug, Default)]
pub struct Conversation {
    pub octets: Vec<u8>,
    pub allowed: Vec<Allowed>,
    /// Whether the client knows the password, and may say it.
    knows_password: bool,
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

pub fn conversation(dice: &mut Dice, side: Side) -> Conversation {
    let mut made = Conversation {
        knows_password: dice.one_in(2),
        ..Conversation::default()
    };
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

/// The same for HTTP/2: what each stream sends, and what is allowed to it.
pub fn streams(dice: &mut Dice, side: Side) -> (Vec<Fields>, Vec<Allowed>) {
    let knows_password = dice.one_in(2);
    let mut made = vec![good_draft(dice, side, knows_password)];
    for _ in 0..=dice.below(2) {
        made.push(hostile_draft(dice, side, knows_password));
    }
    made.push(good_draft(dice, side, knows_password));
    let (last, mut all) = (made.len() - 1, (Vec::new(), Vec::new()));
    for (number, (draft, mut allowed)) in made.into_iter().enumerate() {
        let mut fields = fields(&draft, number);
        if number != 0 && number != last && dice.one_in(3) {
            bend_fields(dice, side, &mut fields, &mut allowed);
        }
        // Another stream may end the connection.
        allowed.demanded = allowed.demanded.filter(|_| number == 0);
        all.0.push(fields);
        all.1.push(allowed);
    }
    all
}

/// A request as HTTP/2 says it: the first host is its authority.
fn fields(draft: &Draft, number: usize) -> Fields {
    let pairs = draft.lines.iter().filter_map(|line| line.split_once(": "));
    let mut rest: Fields = pairs
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let at = rest.iter().position(|(name, _)| name == "host");
    let mut fields: Fields = vec![
        (":method".to_owned(), draft.method.clone()),
        (":scheme".to_owned(), "https".to_owned()),
        (":path".to_owned(), draft.target.clone()),
    ];
    fields.extend(at.map(|at| (":authority".to_owned(), rest.remove(at).1)));
    fields.push(("x-case".to_owned(), number.to_string()));
    fields.extend(rest);
    fields
}

/// What only HTTP/2 can say: pseudo-headers doubled, late, missing or unknown, headers of
/// connections, and CONNECT for a protocol.
fn bend_fields(dice: &mut Dice, side: Side, fields: &mut Fields, allowed: &mut Allowed) {
    let authority = host(dice, side);
    let named = match side {
        Side::Edge => by_host(up_to_line_feed(&authority)),
        Side::Internal => None,
    };
    let way = dice.below(9);
    if matches!(way, 0..=2) && side == Side::Edge {
        // On the host that is added, links and cookies may count that did not count before.
        for environment in linked_by(fields) {
            allowed.also(Some(environment));
            if let Some(linked) = &mut allowed.linked {
                linked.push(environment);
            }
        }
    }
    let mut add = |at: usize, name: &str, value: &str| {
        fields.insert(at.min(fields.len()), (name.to_owned(), value.to_owned()));
    };
    match way {
        // Any of the hosts may count where there are several.
        0 => {
            add(3, ":authority", &authority);
            allowed.also(named);
        }
        1 => {
            add(5, "host", &authority);
            allowed.also(named);
        }
        2 => {
            add(5, ":authority", &authority);
            allowed.also(named);
        }
        3 => add(0, ":path", &path(dice)),
        4 => add(2, ":scheme", dice.of(&["http", "x", "", "https\0"])),
        5 => add(
            4,
            dice.of(&[":status", ":x", ":", "", "X-Mayfly", "x mayfly", "x-mayfly:"]),
            &value(dice),
        ),
        6 => {
            add(
                0,
                ":protocol",
                dice.of(&["websocket", "h2c", "connect-udp", "x\r\n"]),
            );
            if let Some((_, method)) = fields.iter_mut().find(|(name, _)| name == ":method") {
                *method = dice.of(&["CONNECT", "GET"]).to_owned();
            }
        }
        7 => add(
            5,
            dice.of(&[
                "connection",
                "transfer-encoding",
                "te",
                "upgrade",
                "keep-alive",
                "content-length",
            ]),
            dice.of(&["x-mayfly, baggage", "chunked", "h2c", "5", "0, 1"]),
        ),
        _ => {
            let at = dice.below(3);
            fields.remove(at);
        }
    }
}

/// The environments that a link or a cookie in these fields names.
fn linked_by(fields: &Fields) -> Vec<&'static Environment> {
    let mut linked = Vec::new();
    for (name, value) in fields {
        match name.as_str() {
            ":path" => linked.extend(by_links(value)),
            "cookie" => linked.extend(by_cookies(value)),
            _ => {}
        }
    }
    linked
}

fn good(dice: &mut Dice, side: Side, made: &mut Conversation) {
    let (draft, allowed) = good_draft(dice, side, made.knows_password);
    made.push(draft, allowed);
}

fn good_draft(dice: &mut Dice, side: Side, knows_password: bool) -> (Draft, Allowed) {
    let mut environment = dice.of(&ALL);
    let mut draft = plain();
    let (mut demanded, mut linked) = (None, Vec::new());
    match side {
        Side::Edge => {
            draft.target = dice
                .of(&["/", "/api", "/api/x", "/secret/y", "/apis", "/a/b"])
                .to_owned();
            let host = dice.of(&ALL);
            let path = draft.target.clone();
            match dice.below(4) {
                // By a link or a cookie on the host of another.
                0 => draft.target += &format!("?mayfly={}", environment.name),
                1 => draft.line("Cookie", format_args!("a=1; mayfly={}; b=2", environment.name)),
                _ => {}
            }
            match by_links(&draft.target).is_empty() && draft.lines.is_empty() {
                true => draft.line("Host", format_args!("{}.example.com", environment.prefix)),
                false => {
                    draft.line("Host", format_args!("{}.example.com", host.prefix));
                    match host.protected {
                        true => environment = host,
                        false => linked.push(environment),
                    }
                }
            }
            let is_let_in = match environment.open {
                Open::All => true,
                Open::TheUser => knows_password,
                Open::Nobody => false,
            };
            if knows_password && (environment.open == Open::TheUser || dice.one_in(2)) {
                draft.line("Authorization", format_args!("Basic {CREDENTIALS}"));
            }
            demanded = environment.at(path.trim_end_matches('/')).filter(|_| is_let_in);
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
        linked: Some(linked),
        knows_password,
        demanded,
    };
    (draft, allowed)
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

fn hostile_draft(dice: &mut Dice, side: Side, knows_password: bool) -> (Draft, Allowed) {
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
    if dice.one_in(3) {
        draft.target += &link(dice);
    }
    let mut all_cookies = String::new();
    for _ in 0..dice.of(&[&0usize, &0, &0, &1, &1, &2, &17]).to_owned() {
        let line = cookies(dice);
        all_cookies += &format!("{};", up_to_line_feed(&line));
        draft.line(dice.of(&["Cookie", "cookie", "COOKIE"]), line);
    }
    for _ in 0..dice.of(&[&0usize, &0, &1, &2, &3, &5]).to_owned() {
        let line = match knows_password && dice.one_in(2) {
            true => format!(
                "{} {CREDENTIALS}{}",
                dice.of(&["Basic", "basic", "BASIC "]),
                spoilt(dice)
            ),
            false => wrong_password(dice),
        };
        draft.line(dice.of(&["Authorization", "authorization"]), line);
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
            "Proxy",
            "client_ip",
            "Remote-User",
            "CF-Visitor",
            "x_auth_request_user",
            "X-Envoy-Original-Path",
            "x-mayfly-answered-by",
        ]);
        let value = value(dice);
        draft.line(name, value);
    }
    let (mut named, mut plain) = (Vec::new(), BTreeSet::new());
    let lines = dice.of(&[&0usize, &0, &1, &1, &2, &16, &18]).to_owned();
    for _ in 0..lines {
        let line = baggage(dice);
        named.extend(members(up_to_line_feed(&line)));
        plain.extend(
            plain_members(up_to_line_feed(&line))
                .into_iter()
                .map(str::to_owned),
        );
        draft.line(dice.of(&["baggage", "Baggage", "BAGGAGE"]), line);
    }
    let (traces, states) = traces(dice);
    for (name, value) in &traces {
        draft.line(name, value);
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
    let hosts_of: Vec<Option<&Environment>> =
        hosts.iter().map(|host| by_host(up_to_line_feed(host))).collect();
    let mut linked = Vec::new();
    // On the host of a protected one they mean nothing.
    if !hosts_of
        .iter()
        .all(|host| host.is_some_and(|host| host.protected))
        || hosts_of.is_empty()
    {
        linked.extend(by_links(&draft.target));
        linked.extend(by_cookies(&all_cookies));
    }
    let environments = match side {
        Side::Edge => hosts_of
            .into_iter()
            .flatten()
            .chain(linked.iter().copied())
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
                // Different values say nothing, where all of them are read.
                if plain.len() > 1 && lines <= 16 {
                    named.clear();
                }
                named.extend(states);
                let mut values: Vec<String> = named.iter().map(|value| decoded(value)).collect();
                values.extend(named);
                values.iter().filter_map(|value| by_value(value)).collect()
            } else {
                let one = said.first().filter(|_| said.len() == 1);
                one.and_then(|value| by_value(value)).into_iter().collect()
            }
        }
    };
    let allowed = Allowed {
        environments: Some(environments),
        linked: Some(linked),
        knows_password,
        demanded: None,
    };
    (draft, allowed)
}

fn hostile(dice: &mut Dice, side: Side, made: &mut Conversation) {
    let (mut draft, mut allowed) = hostile_draft(dice, side, made.knows_password);
    if dice.one_in(10) {
        framing(dice, side, &mut draft, made);
    }
    if dice.one_in(10) {
        // These change what belongs to which header, so that nobody can say what is meant.
        (allowed.environments, allowed.linked) = (None, None);
        bend(dice, &mut draft);
    }
    let start = made.octets.len();
    made.push(draft, allowed);
    if dice.one_in(12) {
        let last = made.allowed.len() - 1;
        (made.allowed[last].environments, made.allowed[last].linked) = (None, None);
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
        knows_password: made.knows_password,
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

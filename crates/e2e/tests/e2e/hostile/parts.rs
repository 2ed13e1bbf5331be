//! The parts that hostile requests are made of, chosen by dice that a seed sets: hosts, paths, values and baggage, good ones and
//! what servers have been known to trip over.

use super::oracle::{ALL, Environment, MARK, Side, members};

/// Numbers that follow from a seed (SplitMix64).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }

    pub fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// What may stand in front of, behind or inside of a name.
pub fn spoilt(dice: &mut Dice) -> String {
    let all = [
        "",
        "",
        "",
        "",
        ",",
        ";",
        " ",
        "\t",
        "\0",
        "%00",
        "%0d%0ax-evil: 1",
        "\r\nx-evil: 1",
        "\nx-evil: 1",
        "\rx-evil: 1",
        "%",
        "{",
        "}",
        "<<",
        "\\",
        "/",
        "..",
        "#",
        "?",
        "@",
        ":",
        ":80",
        ":x",
        "é",
        "\u{e2}\u{80}\u{83}",
        "\u{ff}",
        "%2e",
        "*",
        "$(id)",
        "M4RK<script>\"'",
        "%[src]",
        "|",
        "`",
    ];
    match dice.below(20) {
        0 => all[dice.below(all.len())].repeat(1 + dice.below(2000)),
        _ => all[dice.below(all.len())].to_owned(),
    }
}

pub fn host(dice: &mut Dice, side: Side) -> String {
    let name = match side {
        Side::Edge => dice.of(&[
            "www",
            "www-heir",
            "WWW",
            "Www-Heir",
            "www",
            "www-heir",
            "heir",
            "base",
            "www-",
            "xwww",
            "",
            "www-vault",
            "www-annex",
            "www-far",
            "www-keep",
            "www-keep",
            "H.heir",
            "[::1]",
            "[www]",
            "127.0.0.1",
            MARK,
        ]),
        Side::Internal => dice.of(&[
            "frontend",
            "backend",
            "api",
            "secret",
            "FrontEnd",
            "nothing",
            "www",
            "slot-1",
            "refused-edge",
            "",
            "[::1]",
            MARK,
        ]),
    };
    let domain = match side {
        Side::Edge => dice.of(&[
            ".example.com",
            ".example.com",
            ".example.com",
            "",
            ".",
            ".x.",
            "..",
            ".www-heir.x",
            ",www-heir.x",
        ]),
        Side::Internal => dice.of(&[
            ".service",
            ".service",
            ".service",
            ".service.",
            ".SERVICE",
            "",
            ".x",
            ",backend.service",
            ".service.x",
        ]),
    };
    let port = dice.of(&["", "", "", ":80", ":", ":0", ":99999", ":http", "::1"]);
    let (before, after) = match dice.below(3) {
        0 => (spoilt(dice), spoilt(dice)),
        _ => (String::new(), String::new()),
    };
    format!("{before}{name}{after}{domain}{port}")
}

pub fn path(dice: &mut Dice) -> String {
    let parts = [
        "/",
        "//",
        "api",
        "secret",
        "/secret",
        "/api",
        "..",
        ".",
        "/../",
        "/..;/",
        "/%2e%2e/",
        "%2e%2e",
        "%252e.",
        "/%25%32%65.",
        "%2%65%%32e",
        "/%u002e%u002e/",
        "/.%c0%ae",
        "%c0%af",
        "%e0%80%ae",
        "%5c..",
        "\\..\\",
        "%2f",
        "%2Fsecret",
        "\\",
        ";",
        ";x=1",
        "'",
        "\"",
        "é",
        "\u{ff}",
        "?",
        "?a=/secret",
        "#",
        "#/secret",
        "*",
        "%",
        "%zz",
        "%00",
        "<script>",
        MARK,
        "www-heir",
        "x-evil: 1",
        "\t",
        "\u{1}",
        "{}",
        "|",
    ];
    let mut path = dice.of(&["/", "/", "/", "/", "", "*"]).to_owned();
    for _ in 0..dice.below(5) {
        path += parts[dice.below(parts.len())];
    }
    if dice.one_in(40) {
        path = path.repeat(1 + dice.below(3000));
    }
    path.truncate(path.floor_char_boundary_of(12_000));
    path
}

/// The method of `str` that Rust 1.85 lacks.
trait Boundary {
    fn floor_char_boundary_of(&self, at: usize) -> usize;
}

impl Boundary for String {
    fn floor_char_boundary_of(&self, at: usize) -> usize {
        (0..=at.min(self.len()))
            .rev()
            .find(|at| self.is_char_boundary(*at))
            .unwrap_or(0)
    }
}

fn environment_value(dice: &mut Dice) -> &'static str {
    let environment: &Environment = dice.of(&ALL);
    dice.of(&[
        environment.header,
        environment.header,
        "heir",
        "www-heir",
        "nobody",
        "",
        "BASE",
        MARK,
    ])
}

pub fn value(dice: &mut Dice) -> String {
    let value = environment_value(dice);
    match dice.below(4) {
        0 => format!("{}{value}{}", spoilt(dice), spoilt(dice)),
        1 => format!(
            "{value}{}{}",
            dice.of(&[",", ", ", " , "]),
            environment_value(dice)
        ),
        _ => value.to_owned(),
    }
}

/// What a link says of an environment.
fn name(dice: &mut Dice) -> String {
    let environment: &Environment = dice.of(&ALL);
    let name = dice.of(&[
        environment.name,
        environment.name,
        environment.name,
        environment.header,
        "nobody",
        "",
        "HEIR",
        "h%65ir",
        "v%2561ult",
        "heir.service",
        MARK,
    ]);
    match dice.below(4) {
        0 => format!("{}{name}{}", spoilt(dice), spoilt(dice)),
        1 => format!("{name}{}{}", dice.of(&[",", "%2c", " ", "|"]), environment.name),
        _ => name.to_owned(),
    }
}

/// The end of a target with a link in it.
pub fn link(dice: &mut Dice) -> String {
    let mut link = dice
        .of(&["?", "?", "?", "&", "??", "?&", "?a=1&", ";", "#?"])
        .to_owned();
    for at in 0..=dice.below(3) {
        if at > 0 {
            link += dice.of(&["&", "&", "&&", ";"]);
        }
        link += dice.of(&[
            "mayfly",
            "mayfly",
            "mayfly",
            "m%61yfly",
            "%6D%61%79%66%6C%79",
            "xmayfly",
            "mayflyx",
            "MAYFLY",
            "mayfly%00",
            "+mayfly",
            "may",
        ]);
        link += dice.of(&["=", "=", "=", "==", "", "%3d"]);
        // A blank would end the target.
        link += &name(dice).replace([' ', '\t', '\r', '\n'], "%20");
    }
    if dice.one_in(30) {
        link = link.repeat(1 + dice.below(200));
    }
    link.truncate(link.floor_char_boundary_of(6_000));
    link
}

/// One line of cookies.
pub fn cookies(dice: &mut Dice) -> String {
    let mut line = String::new();
    let limit = if dice.one_in(30) { 300 } else { 4 };
    for at in 0..=dice.below(limit) {
        if at > 0 {
            line += dice.of(&[";", "; ", "; ", ";;", " ; ", ","]);
        }
        line += &match dice.below(6) {
            0 => "session=7".to_owned(),
            1 => dice
                .of(&[
                    "xmayfly=heir",
                    "mayfly2=heir",
                    "MAYFLY=heir",
                    "x=mayfly=heir",
                    "mayfly",
                    "=",
                ])
                .to_owned(),
            2 => spoilt(dice),
            3 => format!("mayfly=\"{}\"", name(dice)),
            _ => format!("mayfly{}={}{}", blanks(dice), dice.of(&["", "", " "]), name(dice)),
        };
    }
    line.truncate(line.floor_char_boundary_of(5_000));
    line
}

/// What does not let anybody in.
pub fn wrong_password(dice: &mut Dice) -> String {
    // guest:wrong, guest:, and :, vault/guest: and far: with the right password
    let all = [
        "Basic Z3Vlc3Q6d3Jvbmc=",
        "Basic Z3Vlc3Q6",
        "Basic Om1heWZseS0wNzA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNw==",
        "Basic dmF1bHQvZ3Vlc3Q6bWF5Zmx5LTA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA3",
        "Basic ZmFyOm1heWZseS0wNzA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNw==",
        "Basic",
        "Basic ====",
        "Bearer a.b.c",
        "Digest username=\"guest\"",
        "",
        MARK,
    ];
    format!("{}{}", dice.of(&all), spoilt(dice))
}

pub fn baggage(dice: &mut Dice) -> String {
    let mut line = String::new();
    let limit = if dice.one_in(30) { 600 } else { 4 };
    for at in 0..=dice.below(limit) {
        if at > 0 {
            line += dice.of(&[",", ",", ", ", ",,", " , ", ";"]);
        }
        line += &blanks(dice);
        line += &match dice.below(8) {
            0 => "user=7".to_owned(),
            1 => dice
                .of(&[
                    "notmayfly=1",
                    "mayfly2=1",
                    "x=mayfly=H.heir",
                    "may",
                    "=",
                    "mayfly",
                ])
                .to_owned(),
            2 => dice
                .of(&[
                    "%6dayfly=H.heir",
                    "%4D%61%79%66%6c%79=H.heir",
                    "ma%79fly=base",
                    "MAYFLY=H.heir",
                    "MayFly = base",
                ])
                .to_owned(),
            3 => spoilt(dice),
            _ => format!("mayfly{}={}{}", blanks(dice), blanks(dice), value(dice)),
        };
        line += dice.of(&["", "", ";p", ";p=1", " ;mayfly=H.heir", "%20"]);
    }
    line.truncate(line.floor_char_boundary_of(13_000));
    line
}

/// What readers of baggage trim off, encoded or not.
fn blanks(dice: &mut Dice) -> String {
    let blank = dice.of(&[
        "",
        "",
        "",
        "",
        " ",
        "\t",
        "%20",
        "%09",
        "%0a",
        "+",
        "%c2%a0",
        "\u{c2}\u{a0}",
        "%e2%80%83",
        "%1f",
        "%c2%85",
        "\u{e3}\u{80}\u{80}",
        "\u{c}",
    ]);
    match dice.below(40) {
        0 => blank.repeat(1 + dice.below(3000)),
        1 => blank.repeat(1 + dice.below(4)),
        _ => blank.to_owned(),
    }
}

/// As HAProxy reads a value: a line feed alone ends it.
pub fn up_to_line_feed(value: &str) -> &str {
    let line = value.split('\n').next().unwrap_or_default();
    line.trim_matches([' ', '\t', '\r'])
}

/// Puts lines into another order.
pub fn shuffle(dice: &mut Dice, lines: &mut [String]) {
    for at in (1..lines.len()).rev() {
        lines.swap(at, dice.below(at + 1));
    }
}

/// Lines of `traceparent` and `tracestate`, and what the most lenient reader takes the latter to say.
pub fn traces(dice: &mut Dice) -> (Vec<(&'static str, String)>, Vec<String>) {
    let (mut lines, mut states) = (Vec::new(), Vec::new());
    for _ in 0..dice.of(&[&0usize, &0, &0, &1, &1, &2, &17]).to_owned() {
        let line = baggage(dice);
        states.extend(members(up_to_line_feed(&line)));
        lines.push((dice.of(&["tracestate", "Tracestate", "TRACESTATE"]), line));
    }
    for _ in 0..dice.of(&[&0usize, &1, &1, &2]).to_owned() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let odd = "00-00000000000000000000000000000000-0000000000000000-00";
        let value = dice.of(&[good, good, odd, "", "mayfly=H.heir"]);
        lines.push(("traceparent", format!("{value}{}", spoilt(dice))));
    }
    (lines, states)
}

//! Bytes that were good until somebody spoilt them: a strategy for the properties named `any_...`, which hold whatever comes
//! in. Tests of other crates take this file by its path.

use proptest::prelude::*;
use proptest::sample::Index;

/// What has a meaning to YAML, JSON, HAProxy, a hosts file, a terminal or a log.
const PIECES: [&[u8]; 44] = [
    b"\n",
    b"\r\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b"\"",
    b"'",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b";",
    b"#",
    b"&a ",
    b"*a",
    b"<<",
    b"- ",
    b"---\n",
    b"!!",
    b"%",
    b"|\n",
    b">",
    b"\x1b[2J",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\xe2\x80\xae",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"\\u0000",
    b"\\ud800",
    b"/",
    b"..",
    b"@",
    b"0x",
    b"\n2030-01-31T18:00:00Z ERROR ",
];

/// Bytes of any kind, at most `limit`.
pub fn octets(limit: usize) -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        3 => (0..PIECES.len()).prop_map(|at| PIECES[at].to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
        1 => "[a-z0-9.-]{1,8}".prop_map(String::into_bytes),
    ];
    let pieces = prop::collection::vec(piece, 0..limit / 3).prop_map(|pieces| pieces.concat());
    let all = prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..limit), 1 => pieces];
    all.prop_map(move |mut octets| {
        octets.truncate(limit);
        octets
    })
}

/// One of these good texts with one to five places spoilt.
pub fn spoilt(good: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let step = (any::<Index>(), any::<Index>(), 0u8..8, 0usize..16, octets(8));
    (any::<Index>(), prop::collection::vec(step, 1..6)).prop_map(move |(which, steps)| {
        let mut text = good[which.index(good.len())].clone();
        for (at, other, kind, length, junk) in steps {
            let (at, other) = (at.index(text.len() + 1), other.index(text.len() + 1));
            let end = (at + length).min(text.len());
            match kind {
                0 => drop(text.splice(at..at, junk)),
                1 => drop(text.splice(at..end, junk)),
                2 => drop(text.drain(at..end)),
                3 => text.truncate(at),
                // A piece of it somewhere else, or many times.
                4 => drop(text.splice(other..other, text[at..end].to_vec())),
                5 => drop(text.splice(at..at, text[at..end].repeat(64))),
                // A line somewhere else.
                6 => swap_lines(&mut text, at, other),
                _ => text
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|octet| *octet ^= 1 << (length % 8)),
            }
        }
        text
    })
}

fn swap_lines(text: &mut Vec<u8>, one: usize, other: usize) {
    let mut lines: Vec<Vec<u8>> = text
        .split_inclusive(|octet| *octet == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    if !lines.is_empty() {
        let (one, other) = (one % lines.len(), other % lines.len());
        lines.swap(one, other);
    }
    *text = lines.concat();
}

/// Whether a text can stand in a row, a command, a line of haproxy.cfg, a hosts file or a label of a metric.
#[allow(dead_code)] // not every test asks
pub fn is_plain(text: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_graphic() && !"\"{};\\".contains(letter);
    !text.is_empty() && text.chars().all(plain) && !text.starts_with('#') && !text.contains("<<")
}

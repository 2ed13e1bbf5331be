//! HTTP/2 by hand: every field of a request is sent as it stands, pseudo-headers too, in whatever
//! order. No HTTP library: it would send nothing that is not HTTP. Of HPACK it knows what HAProxy
//! makes of it: no Huffman code and no dynamic table.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::wire::Answer;

/// Far above what any answer takes: HAProxy gives up a half request after 10 s.
const LIMIT: Duration = Duration::from_secs(15);
/// How long nothing has to come before the client takes what is missing for refused.
const IDLE: Duration = Duration::from_millis(300);
/// The longest payload of a frame that every server takes.
const FRAME: usize = 16_384;

/// The names and values of a request's head, in their order, a letter for each octet.
pub type Fields = Vec<(String, String)>;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut octets = length[1..].to_vec();
    octets.extend([kind, flags]);
    octets.extend(stream.to_be_bytes());
    octets.extend(payload);
    octets
}

/// A number with so many bits in its first octet.
fn integer(octets: &mut Vec<u8>, first: u8, bits: u32, number: usize) {
    let most = (1 << bits) - 1;
    if number < most {
        octets.push(first | number as u8);
        return;
    }
    octets.push(first | most as u8);
    let mut rest = number - most;
    while rest >= 128 {
        octets.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    octets.push(rest as u8);
}

fn block(fields: &Fields) -> Vec<u8> {
    let mut octets = Vec::new();
    for (name, value) in fields {
        octets.push(0);
        for text in [name, value] {
            let text: Vec<u8> = text.chars().map(|letter| letter as u8).collect();
            integer(&mut octets, 0, 7, text.len());
            octets.extend(text);
        }
    }
    octets
}

/// Sends requests as the streams of one connection, and reads all answers, by the number of the
/// request. A request whose stream is reset, or that the connection does not outlast, has none.
///
/// # Errors
/// When what HAProxy says is no HTTP/2.
pub async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    requests: &[Fields],
) -> Result<BTreeMap<usize, Answer>> {
    let mut octets = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // A window of 1 GiB for each stream, and for all.
    octets.extend(frame(SETTINGS, 0, 0, &[0, 4, 0x40, 0, 0, 0]));
    octets.extend(frame(WINDOW_UPDATE, 0, 0, &[0x40, 0, 0, 0]));
    for (number, fields) in requests.iter().enumerate() {
        let id = 2 * number as u32 + 1;
        let block = block(fields);
        let mut parts = block.chunks(FRAME).peekable();
        let (mut kind, mut flags) = (HEADERS, END_STREAM);
        while let Some(part) = parts.next() {
            flags |= if parts.peek().is_none() { END_HEADERS } else { 0 };
            octets.extend(frame(kind, flags, id, part));
            (kind, flags) = (CONTINUATION, 0);
        }
    }
    let talk = async {
        // HAProxy may refuse what it has not read to its end, and close.
        let _ = stream.write_all(&octets).await;
        let _ = stream.flush().await;
        listen(&mut stream, requests.len()).await
    };
    tokio::time::timeout(LIMIT, talk)
        .await
        .with_context(|| format!("the connection does not end within {LIMIT:?}"))?
}

async fn listen<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    requests: usize,
) -> Result<BTreeMap<usize, Answer>> {
    let mut answers: BTreeMap<usize, Answer> = BTreeMap::new();
    let (mut received, mut ended, mut resets) = (Vec::new(), BTreeMap::new(), 0);
    while ended.len() + resets < requests {
        match tokio::time::timeout(IDLE, stream.read_buf(&mut received)).await {
            Ok(Ok(1..)) => {}
            // An end, a reset, or nothing more.
            _ => break,
        }
        while received.len() >= 9 {
            let length = u32::from_be_bytes([0, received[0], received[1], received[2]]) as usize;
            if received.len() < 9 + length {
                break;
            }
            let (kind, flags) = (received[3], received[4]);
            let id = u32::from_be_bytes([received[5], received[6], received[7], received[8]]);
            let payload: Vec<u8> = received.drain(..9 + length).skip(9).collect();
            let number = (id.max(1) as usize - 1) / 2;
            match kind {
                HEADERS => {
                    ensure!(flags & END_HEADERS != 0, "a head in several frames");
                    let headers = decode(&payload)?;
                    if let Some(status) = headers.iter().find(|(name, _)| name == ":status") {
                        let status = status.1.parse().context("a status")?;
                        let body = Vec::new();
                        let former = answers.insert(
                            number,
                            Answer {
                                status,
                                headers,
                                body,
                            },
                        );
                        ensure!(
                            former.is_none_or(|former| former.status < 200),
                            "two answers to one request"
                        );
                    }
                }
                DATA => {
                    let answer = answers.get_mut(&number).context("a body without a head")?;
                    answer.body.extend(&payload);
                }
                RST_STREAM => resets += 1,
                SETTINGS if flags & ACK == 0 => {
                    let _ = stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await;
                }
                PING if flags & ACK == 0 => {
                    let _ = stream.write_all(&frame(PING, ACK, 0, &payload)).await;
                }
                GOAWAY => return Ok(whole(answers, &ended)),
                _ => {}
            }
            if (kind == HEADERS || kind == DATA) && flags & END_STREAM != 0 {
                ended.insert(number, ());
            }
        }
    }
    Ok(whole(answers, &ended))
}

/// The answers that have come to their end.
fn whole(mut answers: BTreeMap<usize, Answer>, ended: &BTreeMap<usize, ()>) -> BTreeMap<usize, Answer> {
    answers.retain(|number, _| ended.contains_key(number));
    answers
}

fn number(octets: &mut &[u8], bits: u32) -> Result<usize> {
    let (&first, rest) = octets.split_first().context("a number")?;
    *octets = rest;
    let most = (1usize << bits) - 1;
    let mut number = usize::from(first) & most;
    let mut shift = 0;
    while number >= most {
        let (&next, rest) = octets.split_first().context("a number")?;
        *octets = rest;
        number += (usize::from(next) & 127) << shift;
        shift += 7;
        if next & 128 == 0 {
            break;
        }
    }
    Ok(number)
}

fn string(octets: &mut &[u8]) -> Result<String> {
    ensure!(octets.first().context("a text")? & 128 == 0, "a Huffman code");
    let length = number(octets, 7)?;
    ensure!(length <= octets.len(), "a text breaks off");
    let (text, rest) = octets.split_at(length);
    *octets = rest;
    Ok(text.iter().map(|&octet| char::from(octet)).collect())
}

fn decode(mut octets: &[u8]) -> Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    while let Some(first) = octets.first() {
        let (bits, has_value) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            // A new size of the dynamic table.
            0x20.. => {
                number(&mut octets, 5)?;
                continue;
            }
            _ => (4, true),
        };
        let index = number(&mut octets, bits)?;
        let known = match index {
            0 => None,
            index => Some(STATIC.get(index - 1).context("an entry of the dynamic table")?),
        };
        let name = match known {
            Some((name, _)) => (*name).to_owned(),
            None if has_value => string(&mut octets)?,
            None => bail!("an entry without a number"),
        };
        let value = match known {
            Some((_, value)) if !has_value => (*value).to_owned(),
            _ => string(&mut octets)?,
        };
        fields.push((name, value));
    }
    Ok(fields)
}

/// Appendix A of RFC 7541.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

#[test]
fn numbers_of_one_octet_and_more_are_read_as_they_were_written() {
    for value in [0, 1, 14, 15, 16, 126, 127, 128, 255, 1337, 70_000] {
        for bits in [4, 5, 6, 7] {
            let mut octets = Vec::new();
            integer(&mut octets, 0, bits, value);
            let mut rest = octets.as_slice();
            assert_eq!(number(&mut rest, bits).unwrap(), value, "{bits}");
            assert!(rest.is_empty());
        }
    }
    let fields = vec![
        (":path".to_owned(), "/".to_owned()),
        ("a".to_owned(), "é".repeat(200)),
    ];
    assert_eq!(decode(&block(&fields)).unwrap(), fields);
    assert_eq!(
        decode(&[0x88]).unwrap(),
        [(":status".to_owned(), "200".to_owned())]
    );
}

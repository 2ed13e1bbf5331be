//! Octets to a listener of HAProxy over a kept connection, and what comes back cut into answers. No HTTP library: it would
//! send nothing that is not HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// Far above what any answer takes: HAProxy gives up a half request after 10 s.
const LIMIT: Duration = Duration::from_secs(15);

/// How long nothing has to come before the client says that it sends nothing more.
const IDLE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case with their values, in their order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        first(&self.headers, name)
    }
}

/// The first header of this name.
pub fn first<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let found = headers.iter().find(|(found, _)| found == name);
    found.map(|(_, value)| value.as_str())
}

/// The lines of a head below its first: names in lower case, values trimmed, octets as Latin-1.
pub fn headers(head: &[u8]) -> Vec<(String, String)> {
    let lines = text(head);
    let pairs = lines
        .split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| {
            (
                name.to_ascii_lowercase(),
                value.trim_matches([' ', '\t']).to_owned(),
            )
        })
        .collect()
}

/// Octets as text that loses none of them.
pub fn text(octets: &[u8]) -> String {
    octets.iter().map(|&octet| char::from(octet)).collect()
}

/// Sends octets on one connection, says that nothing follows when no more answers come, and reads all answers.
///
/// # Errors
/// When HAProxy does not end the connection, or what it says is no HTTP.
pub async fn exchange(to: SocketAddr, octets: &[u8]) -> Result<Vec<Answer>> {
    exchange_over(TcpStream::connect(to).await.context("connect")?, octets).await
}

/// The same on a connection that is open.
///
/// # Errors
/// As [`exchange`].
pub async fn exchange_over<S: AsyncRead + AsyncWrite>(stream: S, octets: &[u8]) -> Result<Vec<Answer>> {
    let mut received = Vec::new();
    let talk = async {
        let (mut reading, mut writing) = tokio::io::split(stream);
        let (idle, mut ended) = (Notify::new(), false);
        let write = async {
            // HAProxy may refuse what it has not read to its end, and close.
            let _ = writing.write_all(octets).await;
            // Not at once: HAProxy answers no more than the request that it is at when the client ends.
            idle.notified().await;
            let _ = writing.shutdown().await;
        };
        let read = async {
            while !ended {
                match tokio::time::timeout(IDLE, reading.read_buf(&mut received)).await {
                    Ok(Ok(1..)) => {}
                    // A reset after the answer is an end, too.
                    Ok(_) => ended = true,
                    Err(_) => idle.notify_one(),
                }
            }
            idle.notify_one();
        };
        tokio::join!(write, read);
    };
    tokio::time::timeout(LIMIT, talk)
        .await
        .with_context(|| format!("the connection does not end within {LIMIT:?}"))?;
    let mut rest = received.as_slice();
    let mut answers = Vec::new();
    while !rest.is_empty() {
        let (answer, after) = cut(rest)?;
        answers.push(answer);
        rest = after;
    }
    Ok(answers)
}

/// The first answer, and what comes after it.
fn cut(octets: &[u8]) -> Result<(Answer, &[u8])> {
    let end = octets.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.with_context(|| format!("no whole answer: {:?}", text(octets)))?;
    let (head, rest) = (&octets[..end], &octets[end + 4..]);
    let first_line = text(head);
    let first_line = first_line.lines().next().unwrap_or_default();
    let status = first_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok());
    let Some(status) = status else {
        bail!("not an answer: {first_line:?}");
    };
    let headers = headers(head);
    let length: usize = match first(&headers, "content-length") {
        Some(length) => length.parse().context("the length of an answer")?,
        None => 0,
    };
    if length > rest.len() {
        bail!("an answer breaks off: {first_line:?}");
    }
    let answer = Answer {
        status,
        headers,
        body: rest[..length].to_vec(),
    };
    Ok((answer, &rest[length..]))
}

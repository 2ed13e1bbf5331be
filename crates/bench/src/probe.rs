//! Asks one question over and over on a kept-alive connection and says when the answer became right. It blocks, and pauses so
//! shortly that a timer of the runtime could not do it: what it measures takes milliseconds.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Pause between two questions: the error of every figure, and a load that leaves the daemons their cores.
const PAUSE: Duration = Duration::from_micros(250);
/// A single answer that takes longer is a failure.
const SLOWEST: Duration = Duration::from_secs(30);

/// A kept-alive connection and the request that is sent on it.
#[derive(Debug)]
pub struct Probe {
    to: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    request: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// Whether an instance of this backend (`service@version`) gave it.
    pub fn is_from(&self, backend: &str) -> bool {
        self.status == 200 && self.body.split(' ').next() == Some(backend)
    }
}

impl Probe {
    /// A probe that sends GET / with this Host and these further header lines.
    pub fn new(to: SocketAddr, host: &str, headers: &[(&str, &str)]) -> Self {
        Self {
            to,
            connection: None,
            request: request(host, headers),
        }
    }

    /// From now on it asks for this Host without further headers, on the same connection.
    pub fn turn_to(&mut self, host: &str) {
        self.request = request(host, &[]);
    }

    /// Asks once.
    ///
    /// # Errors
    /// When no complete answer comes. A kept-alive connection that was closed meanwhile is opened again first.
    pub fn ask(&mut self) -> Result<Answer> {
        let reused = self.connection.is_some();
        match self.exchange() {
            Err(_) if reused => {
                self.connection = None;
                self.exchange()
            }
            outcome => outcome,
        }
    }

    /// Asks until the answer is right, for `limit` at most, and says when it was and how many answers were not 200 before.
    ///
    /// # Errors
    /// When it was not right in time, with the last answer.
    pub fn until(
        &mut self,
        limit: Duration,
        mut right: impl FnMut(&Answer) -> bool,
    ) -> Result<(Instant, usize)> {
        let (start, mut refused) = (Instant::now(), 0);
        loop {
            let answer = self.ask();
            let now = Instant::now();
            match &answer {
                Ok(answer) if right(answer) => return Ok((now, refused)),
                Ok(answer) if answer.status == 200 => {}
                _ => refused += 1,
            }
            if start.elapsed() > limit {
                bail!("no right answer within {limit:?}; the last one: {answer:?}");
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn exchange(&mut self) -> Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(self.to).context("connect")?;
                stream.set_nodelay(true).context("set up a connection")?;
                stream
                    .set_read_timeout(Some(SLOWEST))
                    .context("set up a connection")?;
                BufReader::new(stream)
            }
        };
        connection.get_mut().write_all(&self.request).context("send")?;
        let (answer, keep) = read(&mut connection)?;
        self.connection = keep.then_some(connection);
        Ok(answer)
    }
}

fn request(host: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.into_bytes()
}

/// Sends a request with a JSON body on a connection of its own.
///
/// # Errors
/// When no complete answer comes.
pub fn send_json(to: SocketAddr, method: &str, path: &str, body: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(to).context("connect")?;
    stream
        .set_read_timeout(Some(SLOWEST))
        .context("set up a connection")?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {to}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).context("send")?;
    read(&mut BufReader::new(stream)).map(|(answer, _)| answer)
}

/// Reads one answer with a known length, and says whether the connection stays open.
fn read(connection: &mut impl BufRead) -> Result<(Answer, bool)> {
    let mut line = String::new();
    connection.read_line(&mut line).context("read the status")?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no status in {line:?}"))?;
    let (mut length, mut keep) = (0, true);
    loop {
        line.clear();
        connection.read_line(&mut line).context("read a header")?;
        let header = line.trim().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().context("read the length")?;
        }
        if header == "connection: close" {
            keep = false;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).context("read the body")?;
    let body = String::from_utf8_lossy(&body).trim_end().to_owned();
    Ok((Answer { status, body }, keep))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_end_and_no_further() {
        let mut bytes =
            &b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na@1\nHTTP/1.1 503 x\r\nconnection: close\r\n\r\n"
                [..];
        let (answer, keep) = read(&mut bytes).unwrap();
        assert!(answer.is_from("a@1") && keep);
        let (answer, keep) = read(&mut bytes).unwrap();
        assert!(!answer.is_from("a@1") && answer.status == 503 && !keep);
    }
}

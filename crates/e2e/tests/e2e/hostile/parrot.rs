//! An instance as trusting as some are: it reads requests from a connection whatever they look like, takes every change of
//! the protocol and every CONNECT, and then goes on to read requests. It answers with the head that it saw, octet by octet.

use std::net::SocketAddr;

use anyhow::Result;
use mayfly_e2e::port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::wire::{first, headers};

/// A running one; it ends when it is dropped.
#[derive(Debug)]
pub struct Parrot {
    pub address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Parrot {
    /// Starts one that calls itself by `backend`, as `frontend@0.0.1`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(backend: &str) -> Result<Self> {
        let address = port::free();
        let listener = TcpListener::bind(address).await?;
        let backend = backend.to_owned();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let backend = backend.clone();
                // A connection that breaks is HAProxy's business.
                connections.spawn(async move { drop(serve(stream, &backend).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            address,
            _serving: serving,
        })
    }
}

async fn serve(mut stream: TcpStream, backend: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let end = till(&mut stream, &mut buffer, 0, b"\r\n\r\n").await?;
        let head: Vec<u8> = buffer.drain(..end).collect();
        let headers = headers(&head);
        let length: usize = first(&headers, "content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0);
        if first(&headers, "transfer-encoding").is_some() {
            chunks(&mut stream, &mut buffer).await?;
        } else {
            while buffer.len() < length {
                more(&mut stream, &mut buffer).await?;
            }
            buffer.drain(..length);
        }
        let upgrade = first(&headers, "upgrade").filter(|upgrade| !upgrade.eq_ignore_ascii_case("websocket"));
        if let Some(upgrade) = upgrade {
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: {upgrade}\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).await?;
            continue;
        }
        let length = if head.starts_with(b"CONNECT") {
            String::new()
        } else {
            format!("content-length: {}\r\n", head.len())
        };
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\nx-instance: {backend}\r\n{length}\r\n"
        );
        stream.write_all(answer.as_bytes()).await?;
        if !head.starts_with(b"CONNECT") {
            stream.write_all(&head).await?;
        }
    }
}

async fn chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        let end = till(stream, buffer, 0, b"\r\n").await?;
        let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = usize::from_str_radix(size, 16).map_err(std::io::Error::other)?;
        buffer.drain(..end);
        if size == 0 {
            // HAProxy sends trailers on only where there are some; the generator makes none.
            let end = till(stream, buffer, 0, b"\r\n").await?;
            buffer.drain(..end);
            return Ok(());
        }
        while buffer.len() < size + 2 {
            more(stream, buffer).await?;
        }
        buffer.drain(..size + 2);
    }
}

/// Reads on till `mark` is there, and gives its end.
async fn till(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    from: usize,
    mark: &[u8],
) -> std::io::Result<usize> {
    loop {
        let found = buffer[from..]
            .windows(mark.len())
            .position(|window| window == mark);
        if let Some(at) = found {
            return Ok(from + at + mark.len());
        }
        more(stream, buffer).await?;
    }
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<()> {
    match stream.read_buf(buffer).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

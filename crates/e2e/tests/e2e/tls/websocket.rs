//! An instance that speaks WebSocket and nothing else.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mayfly_e2e::port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// An instance that opens a WebSocket for every client and sends back what comes. HAProxy makes the
/// key up where the client speaks HTTP/2, and looks whether the answer fits it.
pub async fn echoing_websocket() -> SocketAddr {
    let listener = TcpListener::bind(port::free()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0 {}
                let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
                let Some(at) = text.find("sec-websocket-key: ") else {
                    return;
                };
                let key: Vec<u8> = head[at + 19..]
                    .iter()
                    .copied()
                    .take_while(|b| *b != b'\r')
                    .collect();
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                     sec-websocket-accept: {}\r\n\r\n",
                    accept(&key)
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let (mut reading, mut writing) = stream.split();
                let _ = tokio::io::copy(&mut reading, &mut writing).await;
            });
        }
    });
    address
}

/// What answers a key, by RFC 6455.
fn accept(key: &[u8]) -> String {
    let mut hash = Command::new("openssl")
        .args(["dgst", "-sha1", "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = hash.stdin.take().unwrap();
    input.write_all(key).unwrap();
    input.write_all(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").unwrap();
    drop(input);
    BASE64.encode(hash.wait_with_output().unwrap().stdout)
}

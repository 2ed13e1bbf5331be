//! Asks an instance whether it is alive: a TCP connection, or an http URL path that has to answer 2xx or 3xx in the
//! protocol that the instance is advertised with.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mayfly_core::address::Address;
use mayfly_core::check::Check;
use mayfly_core::records::Protocol;
use tokio::net::TcpStream;

/// Asks once.
///
/// # Errors
/// When there is no good answer within `limit`, with the reason.
pub async fn ask(check: &Check, address: Address, protocol: Protocol, limit: Duration) -> anyhow::Result<()> {
    ask_as(check, &address.to_string(), address, protocol, limit).await
}

/// As [`ask`], with another Host than the address.
///
/// # Errors
/// As [`ask`].
pub async fn ask_as(
    check: &Check,
    host: &str,
    address: Address,
    protocol: Protocol,
    limit: Duration,
) -> anyhow::Result<()> {
    match tokio::time::timeout(limit, answer(check, host, address, protocol)).await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {limit:?}"),
    }
}

async fn answer(check: &Check, host: &str, address: Address, protocol: Protocol) -> anyhow::Result<()> {
    let to = SocketAddr::new(address.ip(), address.port());
    let stream = TcpStream::connect(to).await.context("cannot connect")?;
    let status = match check {
        Check::Tcp => return Ok(()),
        Check::Http(path) => match protocol {
            Protocol::Http => status(stream, request(host, path.as_str())?).await?,
            Protocol::H2c => {
                let uri = format!("http://{host}{}", path.as_str());
                status_h2c(stream, request(host, &uri)?).await?
            }
        },
    };
    if !(status.is_success() || status.is_redirection()) {
        bail!("{check} answers {status}");
    }
    Ok(())
}

fn request(host: &str, uri: &str) -> anyhow::Result<Request<Empty<Bytes>>> {
    Request::get(uri)
        .header(header::HOST, host)
        .header(
            header::USER_AGENT,
            concat!("container-registrar/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::new())
        .context("cannot build the request")
}

async fn status(stream: TcpStream, request: Request<Empty<Bytes>>) -> anyhow::Result<StatusCode> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("cannot speak HTTP/1.1")?;
    head(connection, sender.send_request(request)).await
}

async fn status_h2c(stream: TcpStream, request: Request<Empty<Bytes>>) -> anyhow::Result<StatusCode> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .context("cannot speak HTTP/2")?;
    head(connection, sender.send_request(request)).await
}

/// Drives the connection just as long as the answer's head takes; the rest of the answer does not matter.
async fn head<Body>(
    connection: impl Future<Output = hyper::Result<()>>,
    answer: impl Future<Output = hyper::Result<hyper::Response<Body>>>,
) -> anyhow::Result<StatusCode> {
    tokio::pin!(answer);
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = connection => {
            ended.context("cannot read the answer")?;
            answer.await
        }
    };
    Ok(answer.context("cannot read the answer")?.status())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_e2e::instance::Service;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(10);

    fn here(address: SocketAddr) -> Address {
        Address::new(address.ip(), address.port()).unwrap()
    }

    /// A listener that answers every connection with these bytes and keeps it open.
    async fn answering(answer: &'static [u8]) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = here(listener.local_addr().unwrap());
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                stream.write_all(answer).await.unwrap();
                open.push(stream);
            }
        });
        address
    }

    async fn outcome(check: &str, answer: &'static [u8], limit: Duration) -> Result<(), String> {
        let check: Check = check.parse().unwrap();
        let address = answering(answer).await;
        ask(&check, address, Protocol::Http, limit)
            .await
            .map_err(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn two_and_three_hundreds_are_fine_and_nothing_else() {
        for (answer, fine) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"[..], true),
            (b"HTTP/1.1 204 No Content\r\n\r\n", true),
            (b"HTTP/1.1 302 Found\r\nlocation: /x\r\n\r\n", true),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", false),
            (b"HTTP/1.1 503 Busy\r\n\r\n", false),
            (b"SSH-2.0-OpenSSH\r\n", false),
        ] {
            let outcome = outcome("/health", answer, LIMIT).await;
            assert_eq!(outcome.is_ok(), fine, "{outcome:?}");
        }
        let refused = outcome("/health", b"HTTP/1.1 503 Busy\r\n\r\n", LIMIT)
            .await
            .unwrap_err();
        assert!(refused.contains("/health answers 503"), "{refused}");
    }

    #[tokio::test]
    async fn tcp_needs_a_connection_only_and_a_silent_answer_has_a_limit() {
        assert_eq!(outcome("tcp", b"", LIMIT).await, Ok(()));
        let silent = outcome("/", b"", Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(silent, "no answer within 100ms");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = here(listener.local_addr().unwrap());
        drop(listener);
        let error = ask(&Check::Tcp, address, Protocol::Http, LIMIT)
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains("cannot connect: "), "{error:#}");
    }

    #[tokio::test]
    async fn both_protocols_are_spoken() {
        let service = Service::start("backend", "1").await.unwrap();
        let address = here(service.address());
        for protocol in [Protocol::Http, Protocol::H2c] {
            let check: Check = "/health".parse().unwrap();
            ask(&check, address, protocol, LIMIT).await.unwrap();
        }
    }
}

//! Checks an instance once: by a TCP connection, or by a URL path that must answer 2xx or 3xx in
//! the protocol that the instance is registered with, to the Host that callers use.

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

/// The answers with which servers refuse a Host that they do not serve: Django 400, Rails 403,
/// others 421.
const REFUSALS: [StatusCode; 3] = [
    StatusCode::BAD_REQUEST,
    StatusCode::FORBIDDEN,
    StatusCode::MISDIRECTED_REQUEST,
];

/// How the Host of a check is set for one instance.
pub const SET_BY_FLAG: &str = "set --check-host";
/// How it is set for a container.
pub const SET_BY_LABEL: &str = "set the label mayfly.check-host, or check-host in its definition";

/// What is asked of an instance.
#[derive(Debug, Clone)]
pub struct CheckRequest {
    pub check: Check,
    /// The Host that an HTTP check asks with.
    pub host: String,
    /// What to do if the instance expects another Host.
    pub host_set_by: &'static str,
    pub protocol: Protocol,
}

/// Asks once.
///
/// # Errors
/// When there is no good answer within `limit`, with the reason.
pub async fn ask(question: &CheckRequest, address: Address, limit: Duration) -> anyhow::Result<()> {
    match tokio::time::timeout(limit, answer(question, address)).await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {limit:?}"),
    }
}

async fn answer(question: &CheckRequest, address: Address) -> anyhow::Result<()> {
    let CheckRequest {
        check,
        host,
        host_set_by,
        protocol,
    } = question;
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
    if REFUSALS.contains(&status) {
        bail!(
            "{check} answers {status} to a request with Host {host}; if the service expects another \
             Host, {host_set_by}"
        );
    }
    if !(status.is_success() || status.is_redirection()) {
        bail!("{check} answers {status} to a request with Host {host}");
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
        .context("cannot use HTTP/1.1")?;
    head(connection, sender.send_request(request)).await
}

async fn status_h2c(stream: TcpStream, request: Request<Empty<Bytes>>) -> anyhow::Result<StatusCode> {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .context("cannot use HTTP/2")?;
    head(connection, sender.send_request(request)).await
}

/// Drives the connection just as long as the answer's head takes; the rest of the answer does not
/// matter.
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

    fn question(check: &str, host: &str, protocol: Protocol) -> CheckRequest {
        CheckRequest {
            check: check.parse().unwrap(),
            host: host.to_owned(),
            host_set_by: SET_BY_FLAG,
            protocol,
        }
    }

    async fn outcome(check: &str, answer: &'static [u8], limit: Duration) -> Result<(), String> {
        let address = answering(answer).await;
        ask(
            &question(check, "backend.service", Protocol::Http),
            address,
            limit,
        )
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
        assert_eq!(
            refused,
            "/health answers 503 Service Unavailable to a request with Host backend.service"
        );
    }

    #[tokio::test]
    async fn tcp_needs_a_connection_only_and_a_silent_answer_has_a_limit() {
        assert_eq!(outcome("tcp", b"", LIMIT).await, Ok(()));
        let silent = outcome("/", b"", Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(silent, "no answer within 100ms");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = here(listener.local_addr().unwrap());
        drop(listener);
        let error = ask(&question("tcp", "x", Protocol::Http), address, LIMIT)
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains("cannot connect: "), "{error:#}");
    }

    #[tokio::test]
    async fn both_protocols_are_spoken_with_the_host_that_is_served() {
        let service = Service::start("backend", "1").await.unwrap();
        let address = here(service.address());
        for protocol in [Protocol::Http, Protocol::H2c] {
            let asked = |host: &str| question("/health?host=backend.service", host, protocol);
            ask(&asked("backend.service"), address, LIMIT).await.unwrap();
            let error = ask(&asked("127.0.0.1:80"), address, LIMIT).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                "/health?host=backend.service answers 400 Bad Request to a request with Host \
                 127.0.0.1:80; if the service expects another Host, set --check-host"
            );
        }
    }
}

//! Whether the process on this machine answers. It is asked often, since a developer restarts it
//! often.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use mayfly_core::check::Check;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// Time between two questions.
const INTERVAL: Duration = Duration::from_millis(300);
/// How long an answer may take. A process in a debugger still accepts connections.
const LIMIT: Duration = Duration::from_secs(1);
/// Failures in a row after which it no longer counts as answering.
const FALL: u32 = 2;
/// Bytes of an answer that are read: its status stands at the beginning.
const HEAD: usize = 12;

#[derive(Debug, Clone)]
pub struct ProcessCheck {
    /// Where the process may listen; one of them has to answer.
    pub places: Vec<SocketAddr>,
    pub check: Check,
    /// The Host that a check by path asks with.
    pub host: String,
}

/// `None` before the first answer; then whether it answers, or why not.
pub type Answering = Option<Result<(), String>>;

/// Asks again and again, until the receiver of the news is gone.
pub async fn follow(question: ProcessCheck, told: watch::Sender<Answering>) {
    let mut failures = 0;
    while !told.is_closed() {
        let outcome = ask(&question).await;
        failures = if outcome.is_ok() { 0 } else { failures + 1 };
        let news = outcome.map_err(|error| format!("{error:#}"));
        told.send_if_modified(|before| {
            let is_news = match (&before, &news) {
                (None, _) => true,
                (Some(Ok(())), Err(_)) => failures >= FALL,
                (Some(before), news) => before.is_ok() != news.is_ok(),
            };
            if is_news {
                *before = Some(news);
            }
            is_news
        });
        sleep(INTERVAL).await;
    }
}

/// Asks once.
///
/// # Errors
/// When no place answers; the message is about the first.
pub async fn ask(question: &ProcessCheck) -> anyhow::Result<()> {
    let mut trouble = None;
    for place in &question.places {
        match timeout(LIMIT, answer(question, *place)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => trouble = trouble.or(Some(error)),
            Err(_) => {
                let error = anyhow::anyhow!("{place} does not answer within {LIMIT:?}");
                trouble = trouble.or(Some(error));
            }
        }
    }
    let Some(error) = trouble else {
        bail!("there is no address to check")
    };
    let own = question.places.iter().find(|place| !place.ip().is_loopback());
    let Some(own) = own else { return Err(error) };
    let loopback = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), own.port());
    match timeout(LIMIT, TcpStream::connect(loopback)).await {
        Ok(Ok(_)) => Err(error.context(format!(
            "a program listens at {loopback} only: let it listen at 0.0.0.0, or use --via"
        ))),
        _ => Err(error),
    }
}

async fn answer(question: &ProcessCheck, place: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(place)
        .await
        .with_context(|| format!("nothing listens at {place}"))?;
    let Check::Http(path) = &question.check else {
        return Ok(());
    };
    let (path, host) = (path.as_str(), &question.host);
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("cannot ask")?;
    let mut head = [0; HEAD];
    stream
        .read_exact(&mut head)
        .await
        .with_context(|| format!("{place}{path} does not answer in HTTP"))?;
    let head = String::from_utf8_lossy(&head);
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    match status.and_then(|status| status.parse::<u16>().ok()) {
        Some(200..=399) => Ok(()),
        Some(status) => bail!("{place}{path} answers {status}"),
        None => bail!("{place}{path} does not answer in HTTP"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn asked(check: &str, answer: &'static [u8]) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer).await;
            }
        });
        let question = ProcessCheck {
            places: vec![place],
            check: check.parse().unwrap(),
            host: "backend.service".to_owned(),
        };
        ask(&question).await.map_err(|error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn a_path_has_to_answer_well_and_tcp_has_to_accept() {
        for (check, answer, fine) in [
            ("tcp", &b""[..], true),
            ("/health", b"HTTP/1.1 204 No Content\r\n\r\n", true),
            ("/health", b"HTTP/1.1 302 Found\r\n\r\n", true),
            ("/health", b"HTTP/1.1 500 Oh\r\n\r\n", false),
            ("/health", b"SSH-2.0-OpenSSH_9.2\r\n", false),
            ("/health", b"", false),
        ] {
            let outcome = asked(check, answer).await;
            assert_eq!(outcome.is_ok(), fine, "{outcome:?}");
        }
    }

    #[tokio::test]
    async fn one_of_several_places_is_enough_and_a_closed_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open = listener.local_addr().unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shut = closed.local_addr().unwrap();
        drop(closed);
        let question = |places| ProcessCheck {
            places,
            check: Check::Tcp,
            host: String::new(),
        };
        ask(&question(vec![shut, open])).await.unwrap();
        let error = ask(&question(vec![shut])).await.unwrap_err();
        assert!(error.to_string().contains(&format!("nothing listens at {shut}")));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_at_once_and_then_only_news() {
        let (sender, mut told) = watch::channel(None);
        let question = ProcessCheck {
            places: Vec::new(),
            check: Check::Tcp,
            host: String::new(),
        };
        tokio::spawn(follow(question, sender));
        told.changed().await.unwrap();
        assert!(told.borrow_and_update().as_ref().unwrap().is_err());
        sleep(INTERVAL * 20).await;
        assert!(!told.has_changed().unwrap());
    }
}

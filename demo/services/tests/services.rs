//! Both services over real connections of the loopback: what a frontend passes on, shows and says when the backend
//! does not answer, that it serves on for a moment after the signal to end, and that a request under way survives.

// The helpers are part of the tests, where an unwrap is how a test fails.
#![allow(clippy::unwrap_used)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use mayfly_demo_services::server::{SERVES_ON, serve_until};
use mayfly_demo_services::{backend, frontend};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(10);

struct Running {
    address: SocketAddr,
    end: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

async fn start(routes: Router) -> Running {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ended) = oneshot::channel();
    let task = tokio::spawn(serve_until(listener, routes, async {
        let _ = ended.await;
    }));
    Running { address, end, task }
}

async fn frontend_of(backend: SocketAddr) -> Running {
    start(frontend::routes(
        "0.0.1",
        "frontend-1",
        format!("http://{backend}/").parse().unwrap(),
    ))
    .await
}

async fn get_page(address: SocketAddr, headers: &str) -> String {
    let ask = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::time::timeout(LIMIT, ask).await.unwrap()
}

async fn until_refused(address: SocketAddr) {
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, refused).await.unwrap();
}

#[track_caller]
fn check(answer: &str, status: &str, parts: &[&str]) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    for part in parts {
        assert!(answer.contains(part), "{part:?} is not in: {answer}");
    }
}

#[tokio::test]
async fn the_page_names_environment_and_both_versions() {
    let backend = start(backend::routes("0.0.2", "backend-2")).await;
    let frontend = frontend_of(backend.address).await;

    let page = get_page(frontend.address, "x-mayfly: dev\r\nbaggage: mayfly=dev\r\n").await;
    check(
        &page,
        "200",
        &[
            "environment  dev\n",
            "frontend     0.0.1 on frontend-1\n",
            "backend      0.0.2 on backend-2\n",
            "backend saw  x-mayfly: dev\n",
        ],
    );

    let answer = get_page(backend.address, "x-mayfly: dev\r\nbaggage: user=7,mayfly=dev\r\n").await;
    check(
        &answer,
        "200",
        &[r#""x-mayfly":"dev""#, r#""baggage":"user=7,mayfly=dev""#],
    );
}

#[tokio::test]
async fn the_page_says_what_went_wrong_with_the_backend() {
    let refusing = start(Router::new().route(
        "/",
        get(|| async {
            (
                axum::http::StatusCode::SERVICE_UNAVAILABLE,
                "no <instance> is alive\n",
            )
        }),
    ))
    .await;
    let page = get_page(frontend_of(refusing.address).await.address, "x-mayfly: dev\r\n").await;
    check(
        &page,
        "502",
        &["answered 503 Service Unavailable: no &lt;instance&gt; is alive\n"],
    );

    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let page = get_page(frontend_of(address).await.address, "").await;
    check(
        &page,
        "502",
        &[
            "backend      not reached: ",
            "(none: the request has no x-mayfly)",
        ],
    );
}

#[tokio::test]
async fn new_requests_are_answered_for_a_moment_after_the_signal_to_end() {
    let service = start(backend::routes("0.0.2", "backend-2")).await;
    let begun = std::time::Instant::now();
    service.end.send(()).unwrap();
    check(&get_page(service.address, "").await, "200", &["0.0.2"]);
    until_refused(service.address).await;
    assert!(begun.elapsed() >= SERVES_ON, "closed after {:?}", begun.elapsed());
    service.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_under_way_is_finished_at_the_end() {
    let (arrived, arrival) = tokio::sync::mpsc::channel::<()>(1);
    let release = std::sync::Arc::new(tokio::sync::Notify::new());
    let held = release.clone();
    let service = start(Router::new().route(
        "/",
        get(move || async move {
            arrived.send(()).await.unwrap();
            held.notified().await;
            "finished"
        }),
    ))
    .await;
    let mut arrival = arrival;

    let request = tokio::spawn(get_page(service.address, ""));
    tokio::time::timeout(LIMIT, arrival.recv()).await.unwrap();
    service.end.send(()).unwrap();
    // It no longer listens, so its end has come while the request still waits.
    until_refused(service.address).await;
    release.notify_one();

    check(&request.await.unwrap(), "200", &["finished"]);
    tokio::time::timeout(LIMIT, service.task)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

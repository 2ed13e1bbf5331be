//! Logins that take longer than a call may, at an etcd that answers them when the test says so.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::vec::IntoIter;

use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::HeaderValue;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mayfly_core::keys::{Key, KeySpace};
use mayfly_e2e::eventually;
use tokio::net::TcpListener;

use super::*;
use crate::store::access::{Password, User};
use crate::store::{Store, StoreError};

/// For what takes milliseconds unless the machine is busy.
const SOON: Duration = Duration::from_secs(20);

/// It takes every login, but not before the test says so, and has no keys.
struct FakeEtcd {
    address: SocketAddr,
    logins: Arc<Logins>,
    _server: AbortOnDropHandle<()>,
}

struct Logins {
    /// How many were asked for.
    begun: AtomicUsize,
    /// How many of them wait for their answer while a client waits for them.
    pending: AtomicUsize,
    answered: watch::Sender<bool>,
}

impl FakeEtcd {
    async fn start() -> Self {
        let logins = Arc::new(Logins {
            begun: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            answered: watch::channel(false).0,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            logins: logins.clone(),
            _server: AbortOnDropHandle::new(tokio::spawn(serve(listener, logins))),
        }
    }

    /// From now on it answers logins.
    fn answer_logins(&self) {
        self.logins.answered.send_replace(true);
    }

    fn begun(&self) -> usize {
        self.logins.begun.load(Ordering::SeqCst)
    }

    fn pending(&self) -> usize {
        self.logins.pending.load(Ordering::SeqCst)
    }
}

async fn serve(listener: TcpListener, logins: Arc<Logins>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let logins = logins.clone();
        let service = service_fn(move |request| reply(request, logins.clone()));
        tokio::spawn(async move {
            let serving = http2::Builder::new(TokioExecutor::new());
            // A client that goes away is no failure.
            let _ = serving.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn reply(request: Request<Incoming>, logins: Arc<Logins>) -> Result<Response<Message>, Infallible> {
    let is_login = request.uri().path() == "/etcdserverpb.Auth/Authenticate";
    if is_login {
        logins.begun.fetch_add(1, Ordering::SeqCst);
        let _pending = Pending::new(&logins.pending);
        let mut answered = logins.answered.subscribe();
        answered.wait_for(|answered| *answered).await.unwrap();
    }
    // Field 2 of the answer to a login is its token; all else has only fields with defaults.
    let message: &[u8] = if is_login { b"\x12\x05token" } else { b"" };
    let mut response = Response::new(Message::of(message));
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    Ok(response)
}

/// One that waits; no longer when it is dropped, as when the client has gone.
struct Pending<'a>(&'a AtomicUsize);

impl<'a> Pending<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One message of gRPC, and that it went well.
struct Message(IntoIter<Frame<Bytes>>);

impl Message {
    fn of(message: &[u8]) -> Self {
        // Not compressed, and its length.
        let head = [0, 0, 0, 0, u8::try_from(message.len()).unwrap()];
        let data = Bytes::from([&head[..], message].concat());
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Self(vec![Frame::data(data), Frame::trailers(trailers)].into_iter())
    }
}

impl Body for Message {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.get_mut().0.next().map(Ok))
    }
}

/// A store that logs in at the first of these that answers.
fn store_of(etcds: &[&FakeEtcd], limit: Duration) -> Store {
    let access = EtcdAccess {
        user: Some(User {
            name: "me".to_owned(),
            password: Password::of_text("secret".to_owned()),
        }),
        ..EtcdAccess::default()
    };
    let endpoints = etcds
        .iter()
        .map(|etcd| etcd.address.to_string().parse().unwrap())
        .collect();
    Store::with_access(endpoints, KeySpace::default(), access).with_limit(limit)
}

async fn read(store: &Store) -> Result<(), StoreError> {
    let key = Key::Environment("dev".parse().unwrap());
    store.get(&key).await.map(drop)
}

#[tokio::test]
async fn a_login_outlives_the_calls_that_wait_for_it_and_is_asked_for_once() {
    let etcd = FakeEtcd::start().await;
    let store = store_of(&[&etcd], Duration::from_millis(300));
    let told = format!(
        "cannot read /mayfly/environments/dev: etcd at {} has not answered the login of user me yet; etcd \
         may be busy with other logins",
        etcd.address
    );
    for _ in 0..3 {
        assert_eq!(read(&store).await.unwrap_err().to_string(), told);
        assert!(!store.connected());
    }
    etcd.answer_logins();
    eventually(SOON, "the store is let in", async || read(&store).await).await;
    assert_eq!(etcd.begun(), 1);
    assert!(store.connected());
}

#[tokio::test]
async fn calls_at_the_same_time_share_a_login() {
    let etcd = FakeEtcd::start().await;
    let store = store_of(&[&etcd], SOON);
    let (first, second) = (store.clone(), store.clone());
    let first = tokio::spawn(async move { read(&first).await });
    let second = tokio::spawn(async move { read(&second).await });
    eventually(SOON, "a login waits", async || etcd.pending() == 1).await;
    etcd.answer_logins();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(etcd.begun(), 1);
}

#[tokio::test]
async fn a_login_that_is_not_answered_does_not_hide_another_endpoint() {
    let (silent, other) = (FakeEtcd::start().await, FakeEtcd::start().await);
    other.answer_logins();
    let store = store_of(&[&silent, &other], SOON);
    read(&store).await.unwrap();
    assert_eq!((silent.begun(), other.begun()), (1, 1));
    eventually(SOON, "the other login is given up", async || {
        silent.pending() == 0
    })
    .await;
}

#[tokio::test]
async fn no_login_outlives_the_store() {
    let etcd = FakeEtcd::start().await;
    let store = store_of(&[&etcd], Duration::from_millis(300));
    read(&store).await.unwrap_err();
    eventually(SOON, "the login waits", async || etcd.pending() == 1).await;
    drop(store);
    eventually(SOON, "it is given up", async || etcd.pending() == 0).await;
}

//! A few environments that extend each other, with instances, for questions about routing.

use mayfly_e2e::http::{Answer, Echo, Request};
use mayfly_e2e::instance::Service;

use super::Router;

/// prod, qa which extends it, dev which extends qa, and leaf which extends dev; instances of everything but
/// `ghost@1`, which has none.
pub struct Town {
    pub router: Router,
    _instances: Vec<Service>,
}

impl Town {
    /// A town whose router has these flags.
    pub async fn with(flags: &[&str]) -> Self {
        let mut router = Router::new(&[&["--slots", "12"], flags].concat());
        let mut instances = Vec::new();
        for backend in [
            "frontend@1",
            "frontend@2",
            "backend@1",
            "backend@2",
            "api2@1",
            "only-dev@1",
        ] {
            let (name, version) = backend.split_once('@').unwrap();
            let instance = Service::start(name, version).await.unwrap();
            router.instance(backend, instance.address());
            instances.push(instance);
        }
        router.environment(
            "prod",
            None,
            &["frontend@1/", "backend@1/api", "api2@1/api/v2", "ghost@1/ghost"],
        );
        router.environment("qa", Some("prod"), &["frontend@2/", "backend@2"]);
        router.environment("dev", Some("qa"), &["only-dev@1/api/v2/dev"]);
        router.environment("leaf", Some("dev"), &["soon@^3"]);
        router.run().await;
        Self {
            router,
            _instances: instances,
        }
    }

    /// A town with a router by default.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    pub async fn outside(&self, request: Request) -> Answer {
        request.send(self.router.edge).await.unwrap()
    }

    pub async fn inside(&self, request: Request) -> Answer {
        request.send(self.router.internal).await.unwrap()
    }
}

/// What reached the instance under two headers.
pub fn passed_on(answer: &Answer) -> (String, String) {
    let echo: Echo = answer.echo().unwrap();
    (echo.header("x-mayfly"), echo.header("baggage"))
}

pub fn assert_plain(answer: &Answer, status: u16, words: &[&str]) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "text/plain", "{answer:?}");
    assert_eq!(answer.body.lines().count(), 1, "one sentence: {answer:?}");
    for word in words {
        assert!(answer.body.contains(word), "no {word:?} in {answer:?}");
    }
}

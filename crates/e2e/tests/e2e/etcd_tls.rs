//! An etcd that speaks TLS and wants a certificate of each client: everything works over it, what is wrong is told with the
//! file that it is about, and what is renewed in place is taken by daemons that run.

use std::path::Path;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::tls::{Authority, Certified};

const HOST: &str = "www-dev.example.com";

/// A whole Mayfly on an etcd with TLS.
struct Secured {
    mayfly: Mayfly,
    authority: Authority,
    /// What the daemons show; replaced in place.
    own: Certified,
    /// What etcd shows.
    etcd: Certified,
    /// Whom the daemons and etcd believe; replaced in place.
    trusted: String,
}

impl Secured {
    async fn start() -> Self {
        let mut mayfly = Mayfly::bare(&[]).unwrap();
        let authority = Authority::new(mayfly.directory(), "ca").await.unwrap();
        let name = format!("IP:{}", mayfly.etcd.address().ip());
        let etcd = authority.certify_as("etcd", &[&name], &[]).await.unwrap();
        let own = authority.certify_as("own", &["DNS:own"], &[]).await.unwrap();
        let trusted = path(&mayfly.directory().join("trusted.pem"));
        std::fs::copy(authority.certificate(), &trusted).unwrap();
        mayfly.etcd.serve_tls(&etcd, Path::new(&trusted));
        mayfly.arguments = flags(&trusted, Some(&own));
        mayfly.etcd.restart().await.unwrap();
        mayfly.start_updater().unwrap();
        mayfly.start_registrar(&[]).unwrap();
        mayfly.haproxy.start().await.unwrap();
        Self {
            mayfly,
            authority,
            own,
            etcd,
            trusted,
        }
    }

    /// Lets environment dev choose a version of the frontend, and waits until it answers.
    async fn choose(&self, version: &str) {
        choose(&self.mayfly, version).await;
    }

    /// What `mayfly status` says when it fails with these flags.
    async fn failure(&mut self, arguments: Vec<String>) -> String {
        let usual = std::mem::replace(&mut self.mayfly.arguments, arguments);
        let finished = self.mayfly.run("mayfly", &["status"]).await.unwrap();
        self.mayfly.arguments = usual;
        assert_ne!(finished.code, Some(0), "{finished:?}");
        finished.stderr
    }

    async fn restart_etcd(&mut self) {
        self.mayfly.etcd.kill9().await.unwrap();
        self.mayfly.etcd.restart().await.unwrap();
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn flags(authorities: &str, own: Option<&Certified>) -> Vec<String> {
    let mut flags = vec!["--etcd-ca".to_owned(), authorities.to_owned()];
    if let Some(own) = own {
        flags.extend(["--etcd-cert".to_owned(), path(&own.certificate)]);
        flags.extend(["--etcd-key".to_owned(), path(&own.key)]);
    }
    flags
}

async fn choose(mayfly: &Mayfly, version: &str) {
    mayfly.save(
        "dev.yaml",
        &format!("{{name: dev, services: [{{name: frontend, version: {version}, route: /}}]}}"),
    );
    mayfly.answers(HOST, &format!("frontend@{version}")).await;
}

/// Waits until a line of a daemon's log has all these parts.
async fn says(mayfly: &Mayfly, name: &str, parts: &[&str]) {
    let log = mayfly.directory().join(format!("{name}.log"));
    eventually(SOON, &format!("{name} says {parts:?}"), async || -> Result<()> {
        let text = std::fs::read_to_string(&log)?;
        let told = text
            .lines()
            .any(|line| parts.iter().all(|part| line.contains(part)));
        ensure!(told, "{text}");
        Ok(())
    })
    .await;
}

/// Puts a certificate and its key in the place of others.
fn replace(old: &Certified, new: &Certified) {
    std::fs::copy(&new.certificate, &old.certificate).unwrap();
    std::fs::copy(&new.key, &old.key).unwrap();
}

#[tokio::test]
async fn everything_works_over_tls_and_a_stranger_is_told_why_not() {
    let mut secured = Secured::start().await;
    secured.mayfly.start_dns().await.unwrap();
    let _one = secured.mayfly.instance("frontend", "0.0.1").await.unwrap();
    secured.choose("0.0.1").await;
    let internal = [secured.mayfly.internal.ip()];
    secured.mayfly.resolves("frontend.service", &internal).await;
    let status = secured.mayfly.run("mayfly", &["status"]).await.unwrap();
    assert!(status.ok().unwrap().contains("dev"));

    let directory = secured.mayfly.directory().to_owned();
    let foreign = Authority::new(&directory, "foreign").await.unwrap();
    let stranger = foreign.certify_as("stranger", &["DNS:x"], &[]).await.unwrap();
    let (trusted, own) = (secured.trusted.clone(), secured.own.clone());
    let missing = path(&directory.join("missing.pem"));
    let strangers = path(&stranger.certificate);
    for (arguments, parts) in [
        (flags(&trusted, None), vec!["give --etcd-cert and --etcd-key"]),
        (
            flags(&foreign.certificate(), Some(&own)),
            vec!["no authority in --etcd-ca", "foreign.pem"],
        ),
        (
            flags(&trusted, Some(&stranger)),
            vec![
                "perhaps etcd does not accept the certificate of --etcd-cert",
                strangers.as_str(),
            ],
        ),
        (
            flags(
                &trusted,
                Some(&Certified {
                    key: stranger.key.clone(),
                    ..own.clone()
                }),
            ),
            vec!["cannot use --etcd-cert", "KeyMismatch"],
        ),
        (
            flags(&missing, Some(&own)),
            vec!["cannot read --etcd-ca", missing.as_str(), "No such file"],
        ),
    ] {
        let message = secured.failure(arguments).await;
        for part in parts {
            assert!(message.contains(part), "{part} in: {message}");
        }
        assert!(!message.contains("docs.rs"), "{message}");
    }
    // A certificate for another host is none for this one.
    let elsewhere = secured.authority.certify_as("elsewhere", &["DNS:elsewhere"], &[]);
    replace(&secured.etcd, &elsewhere.await.unwrap());
    secured.restart_etcd().await;
    let message = secured.failure(flags(&trusted, Some(&own))).await;
    assert!(message.contains("not valid for name"), "{message}");
}

#[tokio::test]
async fn what_is_renewed_in_place_is_taken_and_what_has_expired_is_told() {
    let mut secured = Secured::start().await;
    let _one = secured.mayfly.instance("frontend", "0.0.1").await.unwrap();
    let _two = secured.mayfly.instance("frontend", "0.0.2").await.unwrap();
    secured.choose("0.0.1").await;

    // Another authority, for both sides, while etcd is away.
    let directory = secured.mayfly.directory().to_owned();
    let next = Authority::new(&directory, "next").await.unwrap();
    secured.mayfly.etcd.kill9().await.unwrap();
    std::fs::copy(next.certificate(), &secured.trusted).unwrap();
    let name = format!("IP:{}", secured.mayfly.etcd.address().ip());
    replace(
        &secured.etcd,
        &next.certify_as("etcd", &[&name], &[]).await.unwrap(),
    );
    replace(
        &secured.own,
        &next.certify_as("own", &["DNS:own"], &[]).await.unwrap(),
    );
    secured.mayfly.etcd.restart().await.unwrap();
    secured.choose("0.0.2").await;

    // Renewed too late: it ends in the second in which it is made.
    let late = next.certify_as("late", &["DNS:own"], &["-days", "0"]).await;
    replace(&secured.own, &late.unwrap());
    // Not only as the first thing that is wrong: etcd is away before.
    secured.mayfly.etcd.kill9().await.unwrap();
    let certificate = secured.own.certificate.display().to_string();
    let told = format!("--etcd-cert {certificate} expired at");
    let names = ["haproxy-updater", "environment-registrar"];
    for name in names {
        says(
            &secured.mayfly,
            name,
            &["cannot watch /mayfly/", "does not answer"],
        )
        .await;
    }
    secured.mayfly.etcd.restart().await.unwrap();
    for name in names {
        says(&secured.mayfly, name, &["cannot list /mayfly/", &told]).await;
    }
    replace(
        &secured.own,
        &next.certify_as("own", &["DNS:own"], &[]).await.unwrap(),
    );
    secured.choose("0.0.1").await;
}

//! TLS at the edge: certificates that come, change and go in a directory while requests run, files
//! that cannot be used, and what HAProxy starts from.

mod taken;
mod websocket;

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mayfly_e2e::eventually;
use mayfly_e2e::http::{Answer, Request};
use mayfly_e2e::mayfly::{Instance, Mayfly, SOON};
use mayfly_e2e::port;
use mayfly_e2e::tls::{Authority, TlsClient};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use websocket::echoing_websocket;

const ENVIRONMENTS: &str = "
- {name: prod, prefix: www, services: [{name: web, version: 1, route: /}]}
- {name: dev, services: [{name: web, version: 1, route: /}]}
";
const WWW: &str = "www.example.com";
/// Long enough for nothing to be said of it.
const FOR_LONG: &[&str] = &["-days", "90"];

/// A Mayfly with TLS listeners, and the directory of its certificates.
struct World {
    mayfly: Mayfly,
    tls: SocketAddr,
    authority: Authority,
    client: TlsClient,
    certificates: PathBuf,
    _instance: Instance<mayfly_e2e::instance::Service>,
    _place: TempDir,
}

impl World {
    /// `first` is a certificate that is there from the beginning, by its file and its names.
    async fn start(first: Option<(&str, &[&str])>, arguments: &[&str]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let authority = Authority::new(place.path(), "authority").await.unwrap();
        let certificates = place.path().join("certificates");
        fs::create_dir(&certificates).unwrap();
        if let Some((file, names)) = first {
            let made = authority.certify_as("first", names, FOR_LONG).await.unwrap();
            put(&certificates, file, &made.both().unwrap());
        }
        let tls = port::free();
        let (bind, directory) = (tls.to_string(), certificates.to_str().unwrap());
        let mut all = vec!["--edge-tls-bind", &bind, "--edge-certificates", directory];
        all.extend(arguments);
        let mayfly = Mayfly::start_with(&all).await.unwrap();
        let instance = mayfly.instance("web", "1").await.unwrap();
        mayfly.save("all.yaml", ENVIRONMENTS);
        mayfly.calls("prod", "web", "web@1").await;
        let client = authority.client().unwrap();
        Self {
            mayfly,
            tls,
            authority,
            client,
            certificates,
            _instance: instance,
            _place: place,
        }
    }

    /// A new certificate for these names, in place of the file's former one. Gives it as DER.
    async fn renew(&self, file: &str, names: &[&str]) -> Vec<u8> {
        let made = self.authority.certify_as(file, names, FOR_LONG).await.unwrap();
        put(&self.certificates, file, &made.both().unwrap());
        made.der().unwrap()
    }

    async fn get(&self, host: &str, protocol: &str) -> Result<Answer> {
        Request::get(host, "/")
            .send_tls(self.tls, &self.client, protocol)
            .await
    }

    async fn shown(&self, host: &str) -> Result<Vec<u8>> {
        self.client.certificate(self.tls, host).await
    }

    /// Waits until this certificate is shown for a host, and gives the time that it took.
    async fn shows(&self, host: &str, der: &[u8]) -> Duration {
        let start = Instant::now();
        eventually(SOON, "the certificate is shown", async || -> Result<()> {
            ensure!(self.shown(host).await? == der, "another one");
            Ok(())
        })
        .await;
        start.elapsed()
    }

    /// What the status record says of files.
    async fn notes(&self) -> Vec<String> {
        let status = self.mayfly.status("haproxy-updater").await.unwrap();
        let notes = status["detail"]["notes"].as_array().cloned().unwrap_or_default();
        let notes = notes.iter().filter_map(|note| note.as_str());
        notes
            .filter(|note| !note.starts_with("HAProxy "))
            .map(str::to_owned)
            .collect()
    }

    /// Waits until the status record says exactly this of files, each by its beginning.
    async fn says(&self, expected: &[&str]) {
        eventually(
            SOON,
            &format!("the status says {expected:?}"),
            async || -> Result<()> {
                let notes = self.notes().await;
                let fits = notes
                    .iter()
                    .zip(expected)
                    .all(|(note, start)| note.starts_with(start));
                ensure!(notes.len() == expected.len() && fits, "it says {notes:?}");
                Ok(())
            },
        )
        .await;
    }
}

/// As a deploy hook does it.
fn put(directory: &Path, file: &str, text: &str) {
    let beside = directory.join(format!(".{file}.new"));
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, directory.join(file)).unwrap();
}

#[tokio::test]
async fn both_protocols_are_served_and_a_renewed_certificate_costs_no_request() {
    let world = World::start(Some(("a.pem", &["DNS:*.example.com"])), &[]).await;
    let port = world.tls.port().to_string();
    for protocol in ["http/1.1", "h2"] {
        let answer = world.get(WWW, protocol).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        let echo = answer.echo().unwrap();
        for (name, value) in [
            ("x-mayfly", "prod"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", port.as_str()),
            ("x-forwarded-host", WWW),
        ] {
            assert_eq!(echo.header(name), value, "{protocol}");
        }
    }
    let plain = world.mayfly.get(WWW, "/").await.unwrap().echo().unwrap();
    assert_eq!(plain.header("x-forwarded-proto"), "http");
    assert_eq!(
        plain.header("x-forwarded-port"),
        world.mayfly.edge.port().to_string()
    );

    let worker = world.mayfly.haproxy.worker().await.unwrap();
    let mut load = JoinSet::new();
    let is_shown = Arc::new(AtomicBool::new(false));
    for _ in 0..8 {
        let (client, tls, is_shown) = (world.client.clone(), world.tls, is_shown.clone());
        load.spawn(async move { requests(&client, tls, 1_250, &is_shown).await });
    }
    let renewed = world.renew("a.pem", &["DNS:*.example.com"]).await;
    let took = world.shows(WWW, &renewed).await;
    is_shown.store(true, Ordering::Relaxed);
    let mut total = 0;
    while let Some(done) = load.join_next().await {
        total += done.unwrap().unwrap();
    }
    println!("{total} requests, the new certificate after {took:?}");
    assert!(total >= 10_000, "{total}");
    assert_eq!(world.mayfly.haproxy.worker().await.unwrap(), worker);
    assert_eq!(world.mayfly.reloads().await.unwrap(), 0);
}

/// Sends so many requests, fifty over each connection, and more until the end is said; every one
/// has to be answered by 200.
async fn requests(client: &TlsClient, to: SocketAddr, count: u32, end: &AtomicBool) -> Result<u32> {
    let mut sent = 0;
    while sent < count || !end.load(Ordering::Relaxed) {
        let stream = client.connect(to, WWW, "http/1.1").await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .context("begin")?;
        let connection = tokio::spawn(connection);
        for _ in 0..50 {
            let response = sender
                .send_request(Request::get(WWW, "/").build())
                .await
                .context("send")?;
            let answer = Answer::read(response).await?;
            ensure!(answer.status == 200, "{answer:?}");
        }
        connection.abort();
        sent += 50;
    }
    Ok(sent)
}

/// A WebSocket over HTTP/2 begins with a CONNECT that names its protocol (RFC 8441).
#[tokio::test]
async fn a_websocket_opens_over_http2_and_no_other_tunnel_does() {
    let world = World::start(Some(("a.pem", &["DNS:*.example.com"])), &[]).await;
    let echoing = echoing_websocket().await;
    let _registrar = world.mayfly.register("echo", "1", echoing, &[]).unwrap();
    let file = "{name: ws, services: [{name: echo, version: 1, route: /}]}";
    world.mayfly.save("ws.yaml", file);
    let host = "www-ws.example.com";
    eventually(SOON, "the instance is routed", async || -> Result<()> {
        let answer = mayfly_e2e::http::websocket(world.mayfly.edge, host, "/", "hello").await;
        ensure!(answer.is_ok(), "{answer:?}");
        Ok(())
    })
    .await;
    let stream = world.client.connect(world.tls, host, "h2").await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let connect = |protocol: Option<&'static str>| {
        let mut request = hyper::Request::connect("https://www-ws.example.com/")
            .header("sec-websocket-version", "13")
            .body(Empty::<Bytes>::new())
            .unwrap();
        let protocol = protocol.map(hyper::ext::Protocol::from_static);
        if let Some(protocol) = protocol {
            request.extensions_mut().insert(protocol);
        }
        request
    };
    // What the server can do comes with its first frame.
    let response = eventually(SOON, "the tunnel opens", async || {
        sender.send_request(connect(Some("websocket"))).await
    })
    .await;
    assert_eq!(response.status(), 200, "{response:?}");
    let mut socket = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let frame = b"\x81\x05hello";
    socket.write_all(frame).await.unwrap();
    let mut echo = [0; 7];
    socket.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, frame);

    let mut plain = connect(None);
    *plain.uri_mut() = "www-ws.example.com:80".parse().unwrap();
    let refused = sender.send_request(plain).await.unwrap();
    assert_eq!(refused.status(), 405);
    for other in ["h2c", "connect-udp"] {
        // HAProxy takes any protocol for a request to upgrade, which the rules then remove.
        let answer = sender.send_request(connect(Some(other))).await;
        assert!(
            answer.is_err() || answer.is_ok_and(|answer| answer.status() != 101),
            "{other}"
        );
    }
    connection.abort();
}

#[tokio::test]
async fn the_first_certificate_brings_tls_and_the_redirect_and_no_start_loses_them() {
    let mut world = World::start(None, &["--redirect-to-https"]).await;
    // Without one the plain listener works, and the status says what is missing.
    world.mayfly.answers(WWW, "web@1").await;
    world.says(&["--edge-certificates "]).await;
    assert!(
        world.notes().await[0]
            .ends_with("has no file *.pem; HAProxy listens for TLS as soon as the directory has one")
    );
    assert!(world.get(WWW, "h2").await.is_err());

    let first = world.renew("a.pem", &["DNS:*.example.com"]).await;
    world.shows(WWW, &first).await;
    world.says(&[]).await;
    assert_eq!(world.mayfly.reloads().await.unwrap(), 1);

    let request = Request::post("WWW.example.com:80", "/a/b?c=d%20e", "text");
    let answer = request.send(world.mayfly.edge).await.unwrap();
    assert_eq!(answer.status, 308);
    let location = format!("https://www.example.com:{}/a/b?c=d%20e", world.tls.port());
    assert_eq!(answer.headers["location"], location);
    assert_eq!(answer.headers["cache-control"], "no-store");
    let url = "http://www.example.com/a/b?c=d%20e";
    let told = world
        .mayfly
        .run("mayfly", &["explain", url])
        .await
        .unwrap()
        .stdout;
    assert!(
        told.contains(&location) && told.contains("308: ask again by https."),
        "{told}"
    );
    for host in [WWW, "10.0.0.1", "nobody"] {
        assert_eq!(
            world.mayfly.get(host, "/.mayfly/health").await.unwrap().status,
            200,
            "{host}"
        );
    }
    // A host that is none is not redirected to. HAProxy 3.0 refuses the first one by itself, with 400.
    for (host, refused) in [("a.x/<script>", [400, 404]), ("a.x<script>", [404, 404])] {
        let hostile = Request::get(host, "/").send(world.mayfly.edge).await.unwrap();
        assert!(refused.contains(&hostile.status), "{host}: {}", hostile.status);
    }
    for protocol in ["http/1.1", "h2"] {
        assert_eq!(world.get(WWW, protocol).await.unwrap().status, 200);
        let health = Request::get(WWW, "/.mayfly/health");
        assert_eq!(
            health
                .send_tls(world.tls, &world.client, protocol)
                .await
                .unwrap()
                .status,
            200
        );
    }

    // HAProxy starts from what is kept, also with everything else away.
    let away = world.certificates.with_extension("away");
    fs::rename(&world.certificates, &away).unwrap();
    world.says(&["--edge-certificates "]).await;
    assert!(
        world.notes().await[0].contains("cannot be read: No such file"),
        "{:?}",
        world.notes().await
    );
    world.mayfly.haproxy.restart().await.unwrap();
    assert_eq!(world.shown(WWW).await.unwrap(), first);
    world.mayfly.updater = None;
    world.mayfly.haproxy.restart().await.unwrap();
    assert_eq!(world.shown(WWW).await.unwrap(), first);
    assert_eq!(
        world.mayfly.get(WWW, "/.mayfly/health").await.unwrap().status,
        200
    );
    world.mayfly.start_updater().unwrap();
    eventually(
        SOON,
        "the new updater reports, without a reload",
        async || -> Result<()> {
            ensure!(world.mayfly.reloads().await? == 0);
            Ok(())
        },
    )
    .await;
    world.says(&["--edge-certificates "]).await;
    assert_eq!(world.shown(WWW).await.unwrap(), first);

    // A process that was started with an older one gets the newer one.
    fs::rename(&away, &world.certificates).unwrap();
    let second = world.renew("a.pem", &["DNS:*.example.com"]).await;
    world.shows(WWW, &second).await;
    world.mayfly.haproxy.reload().await.unwrap();
    world.shows(WWW, &second).await;
    world.says(&[]).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_used_leaves_the_former_one_in_use_and_says_why() {
    let admin = port::free();
    let admin_text = admin.to_string();
    let world = World::start(Some(("a.pem", &["DNS:*.example.com"])), &["--admin", &admin_text]).await;
    let first = world.shown(WWW).await.unwrap();
    let authority = &world.authority;
    let names = &["DNS:*.example.com"][..];
    let other = authority.certify_as("other", names, &[]).await.unwrap();
    let good = fs::read_to_string(world.certificates.join("a.pem")).unwrap();
    let ended = authority
        .certify_between("ended", names, "20200101000000Z", "20210101000000Z")
        .await
        .unwrap();
    let future = authority
        .certify_between("future", names, "20900101000000Z", "20910101000000Z")
        .await
        .unwrap();
    let wrong_key = fs::read_to_string(&other.certificate).unwrap()
        + &fs::read_to_string(world.authority.certify_as("x", names, &[]).await.unwrap().key).unwrap();
    for (text, reason) in [
        (
            wrong_key,
            "the private key does not belong to the first certificate of the file; the former \
             certificate stays in use",
        ),
        (
            ended.both().unwrap(),
            "it expired at 2021-01-01T00:00:00Z; the former certificate stays in use",
        ),
        (
            future.both().unwrap(),
            "it is valid only from 2090-01-01T00:00:00Z on; the former \
             certificate stays in use",
        ),
        ("0\u{1}DER".to_owned(), "it is DER, not PEM"),
        (String::new(), "it is empty; the former certificate stays in use"),
        (
            good.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
            "its private key is encrypted",
        ),
    ] {
        put(&world.certificates, "a.pem", &text);
        world.says(&[&format!("certificate a.pem: {reason}")]).await;
        assert_eq!(world.shown(WWW).await.unwrap(), first, "{reason}");
        let metrics = Request::get("admin", "/metrics").send(admin).await.unwrap().body;
        assert!(
            metrics.contains("mayfly_haproxy_certificates_faulty 1\n"),
            "{metrics}"
        );
        assert!(
            metrics.contains("mayfly_haproxy_certificate_expires_timestamp_seconds{file=\"a.pem\"}"),
            "{metrics}"
        );
        mayfly_e2e::metrics::check(&metrics).unwrap();
    }
    let log = fs::read_to_string(world.mayfly.directory().join("haproxy-updater.log")).unwrap();
    assert!(
        log.contains("certificate a.pem: it is empty; the former certificate stays in use"),
        "{log}"
    );
    assert!(!log.contains("PRIVATE"), "{log}");
    let told = world.mayfly.run("mayfly", &["status"]).await.unwrap();
    assert!(
        told.stdout
            .contains("certificate a.pem: its private key is encrypted"),
        "{told:?}"
    );

    // Good again; then one beside it for a host that is no environment's, and one of a bad name.
    put(&world.certificates, "a.pem", &good);
    world.says(&[]).await;
    let elsewhere = world.renew("b.pem", &["DNS:shop.other.org"]).await;
    put(&world.certificates, "b c.pem", &good);
    world
        .says(&[
            "certificate b c.pem: the name of the file may have",
            "certificate b.pem: none of its names belongs to the prefix of an environment \
             (shop.other.org)",
        ])
        .await;
    assert_eq!(world.shown("shop.other.org").await.unwrap(), elsewhere);
    assert_eq!(world.mayfly.reloads().await.unwrap(), 0);
}

#[tokio::test]
async fn the_hook_puts_in_place_what_certbot_and_lego_have_got() {
    let world = World::start(None, &[]).await;
    fs::set_permissions(&world.certificates, Permissions::from_mode(0o750)).unwrap();
    let place = tempfile::tempdir().unwrap();
    let lineage = place.path().join("live/example.com");
    fs::create_dir_all(&lineage).unwrap();
    let certbot = world
        .authority
        .certify_as("certbot", &["DNS:*.example.com"], &[])
        .await
        .unwrap();
    fs::copy(&certbot.certificate, lineage.join("fullchain.pem")).unwrap();
    fs::copy(&certbot.key, lineage.join("privkey.pem")).unwrap();
    let lego = world
        .authority
        .certify_as("lego", &["DNS:*.example.org"], &[])
        .await
        .unwrap();
    let hook = |variables: &[(&str, &Path)], arguments: &[&str]| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/certificate-hook.sh");
        Command::new(script)
            .args(arguments)
            .env("MAYFLY_EDGE_CERTIFICATES", &world.certificates)
            .envs(variables.iter().copied())
            .output()
            .unwrap()
    };
    let ran = hook(&[("RENEWED_LINEAGE", &lineage)], &[]);
    assert!(ran.status.success(), "{ran:?}");
    world.shows(WWW, &certbot.der().unwrap()).await;
    let variables = [
        ("LEGO_CERT_DOMAIN", Path::new("*.example.org")),
        ("LEGO_CERT_PATH", &lego.certificate),
        ("LEGO_CERT_KEY_PATH", &lego.key),
    ];
    let ran = hook(&variables, &[]);
    assert!(ran.status.success(), "{ran:?}");
    world.shows("www.example.org", &lego.der().unwrap()).await;

    // What fails leaves nothing behind.
    let missing = place.path().join("missing").display().to_string();
    let ran = hook(&[], &["other", &missing, &missing]);
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    assert_eq!(hook(&[], &[]).status.code(), Some(2));
    let mut names: Vec<_> = fs::read_dir(&world.certificates)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["_.example.org.pem", "example.com.pem"]);
    for name in names {
        let metadata = fs::metadata(world.certificates.join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    }

    // Where others may write, they could lead it elsewhere.
    let refused = |arguments: &[&str], part: &str| {
        let ran = hook(&[("RENEWED_LINEAGE", &lineage)], arguments);
        let words = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.code() == Some(1) && words.contains(part), "{ran:?}");
    };
    let [chain, key] = [&certbot.certificate, &certbot.key].map(|path| path.to_str().unwrap());
    refused(&["../a", chain, key], "is not a file name");
    fs::create_dir(world.certificates.join("b.pem")).unwrap();
    refused(&["b", chain, key], "b.pem");
    fs::set_permissions(&world.certificates, Permissions::from_mode(0o770)).unwrap();
    refused(&[], "others may write to ");
}

#[tokio::test]
async fn two_hundred_certificates_come_and_go_and_each_host_gets_its_own() {
    let world = World::start(Some(("a.pem", &["DNS:www.example.com"])), &[]).await;
    let default = world.shown(WWW).await.unwrap();
    let worker = world.mayfly.haproxy.worker().await.unwrap();
    let mut shown = Vec::new();
    for number in 0..200 {
        let host = format!("www.example-{number}.com");
        shown.push((
            host.clone(),
            world
                .renew(&format!("m{number}.pem"), &[&format!("DNS:{host}")])
                .await,
        ));
    }
    let (last, der) = &shown[199];
    let took = world.shows(last, der).await;
    println!("the last of 200 certificates after {took:?}");
    for (host, der) in shown.iter().step_by(20) {
        world.shows(host, der).await;
    }
    // Whoever asks for a host that none names gets the first.
    world.says(&[]).await;
    for number in 0..200 {
        fs::remove_file(world.certificates.join(format!("m{number}.pem"))).unwrap();
    }
    eventually(SOON, "they are gone", async || {
        // It names another host, so the handshake fails.
        world.shown(last).await.is_err()
    })
    .await;
    assert_eq!(world.shown(WWW).await.unwrap(), default);
    eventually(SOON, "no copy is left", async || -> Result<()> {
        let left = fs::read_dir(world.mayfly.haproxy_directory().join("tls"))?.count();
        ensure!(left == 3, "{left} files");
        Ok(())
    })
    .await;
    // All at once are no removal.
    fs::remove_file(world.certificates.join("a.pem")).unwrap();
    world.says(&["--edge-certificates "]).await;
    assert_eq!(world.shown(WWW).await.unwrap(), default);
    assert_eq!(world.mayfly.haproxy.worker().await.unwrap(), worker);
    assert_eq!(world.mayfly.reloads().await.unwrap(), 0);
}

//! The page of mayfly-web in a real Chromium, with a real daemon on a real etcd.
//! `MAYFLY_SCREENSHOTS` names a directory for pictures of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mayfly_e2e::browser::Browser;
use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::Process;
use mayfly_e2e::{eventually, port};
use serde_json::json;

/// What the page's own files may have over the wire.
const MOST_BYTES: u64 = 60_000;
/// Two cores may run several browsers at the same time.
const SLOW: Duration = Duration::from_secs(30);
/// What the file with the token holds.
const TOKEN: &str = "a-token-of-this-test-alone";

/// A Mayfly with mayfly-web, and a browser.
struct Web {
    // Fields are dropped in this order.
    browser: Browser,
    web: Process,
    at: SocketAddr,
    mayfly: Mayfly,
}

impl Web {
    async fn start(mayfly: Mayfly, arguments: &[&str]) -> Self {
        let at = port::free();
        let mut command = mayfly.command("mayfly-web").unwrap();
        command.arg("--bind").arg(at.to_string()).args(arguments);
        let web = mayfly.spawn("mayfly-web", &command).unwrap();
        let browser = Browser::start(mayfly.directory(), (1280, 900)).await.unwrap();
        browser.note_faults().await.unwrap();
        let web = Self {
            browser,
            web,
            at,
            mayfly,
        };
        eventually(SOON, "mayfly-web answers", async || {
            Request::get(&at.to_string(), "/page.js").send(at).await
        })
        .await;
        web
    }

    /// Opens the page and waits until it shows a state.
    async fn open(&self, path: &str) {
        let url = format!("http://{}{path}", self.at);
        self.browser.open(&url).await.unwrap();
        self.until("the state", "!document.querySelector('#content').hidden")
            .await;
    }

    async fn is(&self, condition: &str) -> bool {
        let script = format!("return Boolean({condition})");
        self.browser.script(&script).await.unwrap() == true
    }

    async fn until(&self, what: &str, condition: &str) {
        eventually(SLOW, what, async || self.is(condition).await).await;
    }

    async fn shown(&self) -> String {
        self.browser.shown().await.unwrap()
    }

    async fn shows(&self, text: &str) {
        eventually(SLOW, text, async || {
            let shown = self.shown().await;
            match shown.contains(text) {
                true => Ok(()),
                false => Err(shown),
            }
        })
        .await;
    }

    async fn text(&self, selector: &str) -> String {
        let script = format!("return document.querySelector('{selector}').textContent");
        let text = self.browser.script(&script).await.unwrap();
        text.as_str().unwrap().to_owned()
    }

    async fn apply(&self, file: &str, text: &str) {
        let path = self.mayfly.directory().join(file);
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        let done = self.mayfly.run("mayfly", &["apply", "-f", &path]).await.unwrap();
        done.ok().unwrap();
    }

    /// Neither the policy has refused anything nor has a script failed, and nobody else was asked.
    async fn is_well(&self) {
        assert_eq!(self.browser.faults().await.unwrap(), [""; 0]);
        let own = format!("http://{}/", self.at);
        for asked in self.browser.asked().await.unwrap() {
            assert!(asked.url.starts_with(&own), "{asked:?} is not of {own}");
        }
    }

    /// Keeps a picture of the page, where somebody wants to look at it.
    async fn picture(&self, name: &str) {
        let picture = self.browser.screenshot().await.unwrap();
        assert!(picture.starts_with(b"\x89PNG"), "{name} is no picture");
        if let Some(directory) = std::env::var_os("MAYFLY_SCREENSHOTS") {
            let file = std::path::Path::new(&directory).join(format!("{name}.png"));
            std::fs::write(file, picture).unwrap();
        }
    }
}

#[tokio::test]
async fn a_thousand_environments_of_twenty_services_are_there_at_once() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    for environment in 0..1000 {
        let name = format!("temp-{environment}");
        let version = format!("1.{environment}.0");
        let service = |n: usize| json!({"name": format!("service-{n}"), "version": version});
        let services: Vec<_> = (0..20).map(service).collect();
        let record = json!({"name": name, "prefix": name, "header": name, "services": services});
        let key = format!("/mayfly/environments/{name}");
        mayfly.etcd.put(&key, &record.to_string()).await.unwrap();
    }
    let web = Web::start(mayfly, &[]).await;
    eventually(SLOW, "mayfly-web has read them all", async || {
        let last = Request::get(&web.at.to_string(), "/v1/environments/temp-999");
        last.send(web.at).await.map(|answer| answer.status).ok() == Some(200)
    })
    .await;
    web.open("/").await;
    let count = web.text("#environments .count").await;
    assert_eq!(count, "1,000 environments");
    let nodes = web
        .browser
        .script("return document.querySelectorAll('*').length")
        .await
        .unwrap();
    assert!(
        nodes.as_u64().unwrap() < 5000,
        "{nodes} elements for what is not looked at"
    );

    let asked = web.browser.asked().await.unwrap();
    let files = asked.iter().filter(|asked| !asked.url.contains("/v1/"));
    let bytes: u64 = files.map(|asked| asked.bytes).sum();
    assert!(bytes > 1_000 && bytes <= MOST_BYTES, "{bytes} bytes: {asked:?}");
    // Figures, not limits: other tests run at the same time.
    let times = web
        .browser
        .script(
            "return [performance.getEntriesByName('first-contentful-paint')[0]?.startTime,
             performance.getEntriesByName('drawn')[0].startTime].map(Math.round)",
        )
        .await
        .unwrap();
    println!("1,000 x 20: [first paint, all is there] {times} ms, {bytes} bytes of files, {nodes} elements");

    // A search finds a version, in all that is not drawn too.
    web.browser
        .script("document.querySelector('#search').focus()")
        .await
        .unwrap();
    web.browser.paste("service-7@1.777.0").await.unwrap();
    web.until(
        "one is found",
        "document.querySelectorAll('#environments > table > tbody > tr').length == 1",
    )
    .await;
    assert_eq!(web.text("#environments tbody th").await, "temp-777");
    web.is_well().await;
}

const PROD: &str = "
- name: prod
  prefix: www
  protected: true
  services: [{name: web, version: 1.0.0, route: /}, {name: backend, version: 1.0.0}]
- {name: qa, extends: prod, services: [{name: web, version: 2.0.0-rc1, route: /}]}
- name: temp-1
  extends: qa
  expires: 8h
  description: 'SHOP-17: a cart that survives a login'
  services: [{name: backend, version: 1.1.0}]
";

#[tokio::test]
async fn the_page_follows_and_explains_by_keyboard() {
    let mut mayfly = Mayfly::start().await.unwrap();
    mayfly.start_dns().await.unwrap();
    let mut instances = Vec::new();
    for (service, version) in [("web", "1.0.0"), ("web", "2.0.0-rc1"), ("backend", "1.0.0")] {
        instances.push(mayfly.instance(service, version).await.unwrap());
    }
    mayfly.save("prod.yaml", "name: pr-7\nextends: prod\nidle: 2h\n");
    let mut web = Web::start(mayfly, &["--edge-url", "https://*.example.com"]).await;
    web.open("/").await;
    let start = Instant::now();
    web.apply("all.yaml", PROD).await;
    let applied = start.elapsed();
    web.shows("no instance of backend@1.1.0 is live").await;
    println!("applied after {applied:?}, shown after {:?}", start.elapsed());
    web.shows("1 environment is incomplete (temp-1)").await;
    web.shows("1 thing needs attention").await;
    let link = "document.querySelector('#environments tbody a').href == 'https://www-temp-1.example.com/'";
    assert!(web.is(link).await);
    let toggle = "document.querySelector('.toggle').click()";
    web.browser.script(toggle).await.unwrap();
    web.until("nothing catches the eye", "document.getAnimations().length == 0")
        .await;
    for (name, size, scheme) in [
        ("page", (1280, 1080), "light"),
        ("page-dark", (1280, 1080), "dark"),
        ("page-small", (390, 844), "light"),
    ] {
        web.browser.look(size, scheme).await.unwrap();
        let too_wide = "document.documentElement.scrollWidth > innerWidth";
        assert!(!web.is(too_wide).await, "{name} is wider than its window");
        web.picture(name).await;
    }
    web.browser.look((1280, 900), "light").await.unwrap();
    web.browser.script(toggle).await.unwrap();
    let _backend = web.mayfly.instance("backend", "1.1.0").await.unwrap();
    web.shows("Nothing needs attention").await;

    // From the search on with the keyboard alone: the box, the check box, the button of the row.
    web.browser
        .script("document.querySelector('#search').focus()")
        .await
        .unwrap();
    for _ in 0..2 {
        web.browser.press("Tab").await.unwrap();
    }
    assert!(
        web.is("document.activeElement.matches('.toggle[aria-expanded=false]')")
            .await
    );
    web.browser.press("Enter").await.unwrap();
    web.until(
        "it is open",
        "document.querySelector('.toggle[aria-expanded=true]')",
    )
    .await;
    assert!(
        web.is("document.activeElement.matches('.toggle')").await,
        "the focus stays"
    );
    let services = web.text("#env-pr-7 table tbody").await;
    assert!(
        services.contains("backend") && services.contains("prod"),
        "{services}"
    );

    // What it explains is what the tool prints, byte for byte.
    for target in [
        "http://www-qa.example.com/x",
        "https://www-nobody.example.com/",
        "temp-1 backend",
    ] {
        let arguments: Vec<&str> = ["explain", "--color", "never"]
            .into_iter()
            .chain(target.split(' '))
            .collect();
        let told = web.mayfly.run("mayfly", &arguments).await.unwrap().stdout;
        assert!(!told.is_empty(), "{target}");
        web.browser
            .script("const box = document.querySelector('#target'); box.value = ''; box.focus()")
            .await
            .unwrap();
        web.browser.paste(target).await.unwrap();
        web.browser.press("Enter").await.unwrap();
        eventually(SLOW, target, async || {
            let walk = web.text("#walk").await;
            if walk == told {
                Ok(())
            } else {
                Err((walk, told.clone()))
            }
        })
        .await;
    }

    // Etcd ends, and then mayfly-web: the page says since when what it shows is old.
    web.mayfly.etcd.kill9().await.unwrap();
    web.shows("etcd has not answered mayfly-web since").await;
    web.mayfly.etcd.restart().await.unwrap();
    web.until("it is live again", "document.querySelector('#stale').hidden")
        .await;
    web.is_well().await;
    web.web.terminate(SOON).await.unwrap();
    web.shows("What is shown is from before").await;
}

#[tokio::test]
async fn hostile_texts_are_texts_and_a_token_is_asked_for() {
    let hostile = "<img src=x onerror=window.bad=1><script>window.bad=1</script>\u{202e}gnp\u{0}end";
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    // Longer and worse than what a file or the tool lets pass.
    let description = hostile.to_owned() + &"x".repeat(700_000);
    let one = json!({"name": "temp-1", "prefix": "temp-1", "header": "temp-1", "description": description,
        "services": [{"name": "web", "version": "1.0.0", "routes": ["/"]}]});
    let other = "/mayfly/environments/temp-2";
    for (key, record) in [
        ("/mayfly/environments/temp-1", one),
        (other, json!({"name": hostile})),
    ] {
        mayfly.etcd.put(key, &record.to_string()).await.unwrap();
    }
    let token = mayfly.directory().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let arguments = ["--token-file", token.to_str().unwrap(), "--base-path", "/mayfly"];
    let web = Web::start(mayfly, &arguments).await;

    let url = format!("http://{}/mayfly/", web.at);
    web.browser.open(&url).await.unwrap();
    web.shows("mayfly-web asks for a token.").await;
    for (token, then) in [
        ("a-wrong-token-of-16", "mayfly-web refuses this token."),
        (TOKEN, "Forget the token"),
    ] {
        web.until("the box", "document.activeElement.id == 'token'").await;
        web.browser.paste(token).await.unwrap();
        web.browser.press("Enter").await.unwrap();
        web.shows(then).await;
    }
    web.open("/mayfly/#env/temp-1").await;
    web.shows("onerror=window.bad=1><script>window.bad=1</script>\\u{202e}gnp\\u{0}end")
        .await;
    web.shows("more characters)").await;
    web.shows(other).await;
    assert!(
        web.is("document.querySelectorAll('img, main script').length == 0")
            .await
    );
    assert!(!web.is("window.bad").await);
    web.is_well().await;
    // That the policy is there, and that this test would see what it refuses.
    let inline = "const script = document.createElement('script'); script.text = 'window.bad = 1';
        document.body.append(script)";
    web.browser.script(inline).await.unwrap();
    eventually(SOON, "a violation", async || {
        web.browser.faults().await.unwrap().len() == 1
    })
    .await;
    assert!(!web.is("window.bad").await);
}

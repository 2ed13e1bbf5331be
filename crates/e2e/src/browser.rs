//! A real Chromium without a screen, driven by chromedriver (WebDriver: JSON over HTTP). It is spoken
//! here: the crates that speak it have a licence, or need a Rust, that Mayfly does not accept.
//!
//! Every host name resolves to loopback, so tests use names as users do, and reach nothing else.

mod devtools;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::http::Request;
use crate::process::Process;
use crate::{eventually, port};

/// Limit for one command: a browser that starts on a busy machine takes seconds.
const LIMIT: Duration = Duration::from_secs(60);

/// One browser with one window.
#[derive(Debug)]
pub struct Browser {
    at: SocketAddr,
    /// The path of its session.
    session: String,
    _driver: Process,
}

impl Browser {
    /// Starts one whose window has this size; what it writes goes into `directory`.
    ///
    /// # Errors
    /// When chromedriver or chromium is missing, or does not start.
    pub async fn start(directory: &Path, (width, height): (u32, u32)) -> Result<Self> {
        let profile = directory.join("chromium");
        std::fs::create_dir_all(&profile).context("make a directory")?;
        let mut command = Command::new("chromedriver");
        command
            // A free one: it listens on 127.0.0.1, where ports are not one test's alone.
            .arg("--port=0")
            .arg("--allowed-ips=127.0.0.1")
            // Chromium keeps its settings below it.
            .env("HOME", directory);
        let mut driver = Process::spawn("chromedriver", &command, &directory.join("chromedriver.log"))?;
        let port = eventually(LIMIT, "chromedriver says its port", async || -> Option<u16> {
            let said = driver.output();
            assert!(driver.is_running(), "chromedriver does not start: {said}");
            let port = said.split_once("was started successfully on port ")?.1;
            port.split_once('.')?.0.parse().ok()
        })
        .await;
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let profile = profile.display();
        let arguments = [
            "--headless=new".to_owned(),
            // So that it ends with its driver.
            "--remote-debugging-pipe".to_owned(),
            // Tests run as root, in containers too.
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            "--hide-scrollbars".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            // The test's own: there its routers listen.
            format!("--host-resolver-rules=MAP * {}, EXCLUDE 127.*", port::own_ip()),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={profile}"),
        ];
        let options = json!({"goog:chromeOptions": {"args": arguments}});
        let mut browser = Self {
            at,
            session: String::new(),
            _driver: driver,
        };
        let made = browser
            .post("/session", &json!({"capabilities": {"alwaysMatch": options}}))
            .await?;
        let id = made["sessionId"].as_str().context("a session")?;
        browser.session = format!("/session/{id}");
        Ok(browser)
    }

    /// Opens a page and waits until it is loaded.
    ///
    /// # Errors
    /// When the address cannot be opened; so too for all below.
    pub async fn open(&self, url: &str) -> Result<()> {
        self.command("/url", &json!({"url": url})).await.map(drop)
    }

    /// The address of the page.
    pub async fn url(&self) -> Result<String> {
        self.text("/url").await
    }

    /// The title of the page.
    pub async fn title(&self) -> Result<String> {
        self.text("/title").await
    }

    /// What a reader sees of the page.
    pub async fn shown(&self) -> Result<String> {
        let shown = self.script("return document.body.innerText").await?;
        shown.as_str().map(str::to_owned).context("a text")
    }

    /// What a script returns.
    pub async fn script(&self, script: &str) -> Result<Value> {
        let body = json!({"script": script, "args": []});
        self.command("/execute/sync", &body).await
    }

    /// Follows the link with this text.
    pub async fn follow(&self, text: &str) -> Result<()> {
        let found = json!({"using": "link text", "value": text});
        let found = self.command("/element", &found).await?;
        let element = found.as_object().and_then(|found| found.values().next());
        let element = element.and_then(Value::as_str).context("an element")?;
        self.command(&format!("/element/{element}/click"), &json!({}))
            .await
            .map(drop)
    }

    /// The cookie of this name that the page's host has set, with all its properties.
    pub async fn cookie(&self, name: &str) -> Result<Option<Value>> {
        let all = self.get("/cookie").await?;
        let all = all.as_array().context("a list of cookies")?;
        Ok(all.iter().find(|cookie| cookie["name"] == name).cloned())
    }

    /// The page as a picture (PNG).
    pub async fn screenshot(&self) -> Result<Vec<u8>> {
        let picture = self.text("/screenshot").await?;
        BASE64.decode(picture).context("a picture")
    }

    async fn text(&self, path: &str) -> Result<String> {
        let value = self.get(path).await?;
        value.as_str().map(str::to_owned).context("a text")
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let path = format!("{}{path}", self.session);
        self.ask(&Request::get("localhost", &path)).await
    }

    async fn command(&self, path: &str, body: &Value) -> Result<Value> {
        self.post(&format!("{}{path}", self.session), body).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = Request::post("localhost", path, body.to_string());
        self.ask(&request.header("content-type", "application/json"))
            .await
    }

    async fn ask(&self, request: &Request) -> Result<Value> {
        let answer = request.send_within(LIMIT, self.at).await?;
        let mut said: Value = serde_json::from_str(&answer.body).context("read chromedriver's answer")?;
        let value = said["value"].take();
        ensure!(answer.status == 200, "{}: {}", value["error"], value["message"]);
        Ok(value)
    }
}

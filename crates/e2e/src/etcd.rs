//! A real etcd with a data directory of its own, which can be killed, frozen and emptied. Keys are
//! read and written through its JSON gateway, so that no client program is needed.
//!
//! - [`cluster`]: three of them, on a host each.

pub mod cluster;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::Request;
use crate::network::Host;
use crate::process::{Process, Signal};
use crate::tls::Certified;
use crate::{eventually, port};

/// How long etcd may take to answer after its start; it elects itself first.
const START: Duration = Duration::from_secs(20);
/// How long one member of several may take to answer before the next is asked.
const IMPATIENCE: Duration = Duration::from_secs(1);

/// A running (or killed) etcd.
#[derive(Debug)]
pub struct Etcd {
    /// Of several the first that answers is asked.
    clients: Vec<SocketAddr>,
    /// Where it serves TLS, if it does. The tests themselves go on to use `clients`, in clear text.
    secure: Option<SocketAddr>,
    peer: SocketAddr,
    data: PathBuf,
    directory: TempDir,
    process: Option<Process>,
    arguments: Vec<String>,
    /// The password of the user root, where etcd asks for users.
    root: Option<String>,
    host: Option<Arc<Host>>,
}

impl Etcd {
    /// Starts an empty etcd and waits until it answers.
    ///
    /// # Errors
    /// When the program `etcd` is missing (Debian: etcd-server).
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Starts an empty etcd with further arguments.
    ///
    /// # Errors
    /// As [`Etcd::start`].
    pub async fn start_with(arguments: &[&str]) -> Result<Self> {
        let mut etcd = Self::reserve()?;
        etcd.arguments = arguments.iter().map(ToString::to_string).collect();
        etcd.restart().await?;
        Ok(etcd)
    }

    /// An etcd that has an address but does not run yet; [`Etcd::restart`] starts it.
    ///
    /// # Errors
    /// When the data directory cannot be made.
    pub fn reserve() -> Result<Self> {
        Self::reserve_at(port::own_ip().into())
    }

    /// As [`Etcd::reserve`], at another address of this machine.
    ///
    /// # Errors
    /// As [`Etcd::reserve`].
    pub fn reserve_at(ip: IpAddr) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("mayfly-etcd-")
            .tempdir()
            .context("make a directory")?;
        let data = directory.path().join("data");
        let address = || SocketAddr::new(ip, port::free().port());
        Ok(Self {
            clients: vec![address()],
            secure: None,
            peer: address(),
            data,
            directory,
            process: None,
            arguments: Vec::new(),
            root: None,
            host: None,
        })
    }

    /// Further arguments for the next start, in place of the former.
    pub fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
    }

    /// From the next start on it serves TLS, besides the clear text that the tests use, to clients with a certificate by an
    /// authority of the file `clients`.
    pub fn serve_tls(&mut self, own: &Certified, clients: &Path) {
        self.secure = Some(port::free());
        let paths = [&own.certificate, &own.key, clients].map(|path| path.to_string_lossy());
        let [certificate, key, clients] = &paths;
        self.set_arguments(&[
            "--cert-file",
            certificate,
            "--key-file",
            key,
            "--trusted-ca-file",
            clients,
            "--client-cert-auth",
        ]);
    }

    /// From now on all that the test does here, it does as root.
    pub fn log_in(&mut self, password: &str) {
        self.root = Some(password.to_owned());
    }

    /// The address for clients, as `--etcd` takes it.
    pub fn endpoint(&self) -> String {
        match self.secure {
            Some(secure) => format!("https://{secure}"),
            None => self.plain(),
        }
    }

    /// The addresses for clients in clear text.
    pub fn plain(&self) -> String {
        let all: Vec<_> = self
            .clients
            .iter()
            .map(|client| format!("http://{client}"))
            .collect();
        all.join(",")
    }

    /// The address for clients.
    pub fn address(&self) -> SocketAddr {
        self.clients[0]
    }

    /// Starts etcd (again) on the data it had.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub async fn restart(&mut self) -> Result<()> {
        let (peer, name) = (format!("http://{}", self.peer), "test");
        // A lone etcd waits one election before it serves: not a second of each test.
        let quick = ["--heartbeat-interval", "50", "--election-timeout", "250"];
        self.launch(name, &format!("{name}={peer}"), &quick)?;
        self.serves().await;
        Ok(())
    }

    /// Waits until it answers.
    async fn serves(&self) {
        eventually(START, "etcd answers", async || self.get("/").await).await;
    }

    /// Starts it (again) as the member `name` of `cluster`.
    fn launch(&mut self, name: &str, cluster: &str, arguments: &[&str]) -> Result<()> {
        ensure!(
            self.process.as_mut().is_none_or(|p| !p.is_running()),
            "etcd runs already"
        );
        let (advertised, peer) = (self.endpoint(), format!("http://{}", self.peer));
        let client = match self.secure {
            Some(_) => format!("{advertised},{}", self.plain()),
            None => advertised.clone(),
        };
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(&self.data);
        command.args([
            "--name",
            name,
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &advertised,
        ]);
        command.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        command.args([
            "--initial-cluster",
            cluster,
            "--log-level",
            "warn",
            "--logger",
            "zap",
        ]);
        command.args(arguments).args(&self.arguments);
        if let Some(host) = &self.host {
            command = host.wrap(&command);
        }
        self.process = Some(Process::spawn(
            "etcd",
            &command,
            &self.directory.path().join("etcd.log"),
        )?);
        Ok(())
    }

    /// Kills etcd; its data stays.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill9(&mut self) -> Result<()> {
        self.process
            .as_mut()
            .context("etcd was never started")?
            .kill9()
            .await
    }

    /// Stops etcd in good order; its data stays.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn terminate(&mut self) -> Result<()> {
        let process = self.process.as_mut().context("etcd was never started")?;
        process.terminate(START).await.map(drop)
    }

    /// Kills etcd, throws its data away and starts it again: revision 1, no key.
    ///
    /// # Errors
    /// When it cannot be started again.
    pub async fn restart_emptied(&mut self) -> Result<()> {
        if self.process.as_mut().is_some_and(Process::is_running) {
            self.kill9().await?;
        }
        std::fs::remove_dir_all(&self.data).context("throw etcd's data away")?;
        self.restart().await
    }

    /// Freezes etcd: connections stay open, and nothing answers.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&mut self) -> Result<()> {
        self.process
            .as_mut()
            .context("etcd was never started")?
            .signal(Signal::Stop)
    }

    /// Thaws it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&mut self) -> Result<()> {
        self.process
            .as_mut()
            .context("etcd was never started")?
            .signal(Signal::Cont)
    }

    /// Writes a key.
    ///
    /// # Errors
    /// When etcd refuses or does not answer.
    pub async fn put(&self, key: &str, value: &str) -> Result<()> {
        self.put_bytes(key.as_bytes(), value.as_bytes()).await
    }

    /// Writes a key whose name or value need not be text.
    ///
    /// # Errors
    /// When etcd refuses or does not answer.
    pub async fn put_bytes(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let body = json!({ "key": BASE64.encode(key), "value": BASE64.encode(value) });
        self.call("/v3/kv/put", &body).await.map(drop)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn get(&self, key: &str) -> Result<Option<String>> {
        let answer = self
            .call("/v3/kv/range", &json!({ "key": BASE64.encode(key) }))
            .await?;
        Ok(pairs(&answer)?.into_values().next())
    }

    /// The value of a key as JSON.
    ///
    /// # Errors
    /// When etcd does not answer, the key is missing or its value is not JSON.
    pub async fn get_json(&self, key: &str) -> Result<Value> {
        let value = self
            .get(key)
            .await?
            .with_context(|| format!("{key} does not exist"))?;
        serde_json::from_str(&value).with_context(|| format!("{key} is not JSON: {value}"))
    }

    /// Every key that begins with `prefix`, with its value.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn list(&self, prefix: &str) -> Result<BTreeMap<String, String>> {
        self.list_at(prefix, 0).await
    }

    /// The same as it was at an earlier revision; 0 is the latest.
    ///
    /// # Errors
    /// When etcd does not answer, or that revision is compacted.
    pub async fn list_at(&self, prefix: &str, revision: i64) -> Result<BTreeMap<String, String>> {
        let (key, end) = (BASE64.encode(prefix), BASE64.encode(after(prefix)));
        let body = json!({ "key": key, "range_end": end, "revision": revision });
        pairs(&self.call("/v3/kv/range", &body).await?)
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn delete(&self, key: &str) -> Result<()> {
        self.call("/v3/kv/deleterange", &json!({ "key": BASE64.encode(key) }))
            .await
            .map(drop)
    }

    /// Deletes every key that begins with `prefix`, in one revision.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn delete_all(&self, prefix: &str) -> Result<()> {
        let body = json!({ "key": BASE64.encode(prefix), "range_end": BASE64.encode(after(prefix)) });
        self.call("/v3/kv/deleterange", &body).await.map(drop)
    }

    /// The latest revision.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn revision(&self) -> Result<i64> {
        let answer = self
            .call("/v3/kv/range", &json!({ "key": BASE64.encode("/") }))
            .await?;
        let revision = answer["header"]["revision"].as_str().context("a revision")?;
        revision.parse().context("read the revision")
    }

    /// Compacts up to the latest revision: a watch that starts earlier cannot go on.
    ///
    /// # Errors
    /// When etcd refuses.
    pub async fn compact(&self) -> Result<()> {
        let revision = self.revision().await?;
        self.call(
            "/v3/kv/compaction",
            &json!({ "revision": revision, "physical": true }),
        )
        .await
        .map(drop)
    }

    /// Grants a lease of so many seconds, and gives its id in decimal.
    ///
    /// # Errors
    /// When etcd refuses.
    pub async fn grant(&self, seconds: u64) -> Result<String> {
        let answer = self.call("/v3/lease/grant", &json!({ "TTL": seconds })).await?;
        let id = answer["ID"].as_str().context("the id of a lease")?;
        Ok(id.to_owned())
    }

    /// Writes a key that vanishes with a lease.
    ///
    /// # Errors
    /// When etcd refuses or does not answer.
    pub async fn put_leased(&self, key: &str, value: &str, lease: &str) -> Result<()> {
        let body = json!({ "key": BASE64.encode(key), "value": BASE64.encode(value), "lease": lease });
        self.call("/v3/kv/put", &body).await.map(drop)
    }

    /// How many seconds a lease lives without a keep-alive; nothing when it has ended.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn left_of(&self, lease: &str) -> Result<u64> {
        let answer = self.call("/v3/lease/timetolive", &json!({ "ID": lease })).await?;
        // An ended one has -1, and a zero is left out.
        Ok(answer["TTL"]
            .as_str()
            .and_then(|left| left.parse().ok())
            .unwrap_or(0))
    }

    /// Ends a lease at once (`id` as text, in decimal), with all keys that hang on it.
    ///
    /// # Errors
    /// When etcd refuses.
    pub async fn revoke(&self, id: &str) -> Result<()> {
        self.call("/v3/lease/revoke", &json!({ "ID": id }))
            .await
            .map(drop)
    }

    /// How many leases there are.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn leases(&self) -> Result<usize> {
        let answer = self.call("/v3/lease/leases", &json!({})).await?;
        Ok(answer["leases"].as_array().map_or(0, Vec::len))
    }

    /// The id of the lease that a key hangs on, in decimal; `None` without a lease.
    ///
    /// # Errors
    /// When etcd does not answer or the key is missing.
    pub async fn lease_of(&self, key: &str) -> Result<Option<String>> {
        Ok(self.entry(key).await?["lease"].as_str().map(str::to_owned))
    }

    /// How often a key was written since it was created.
    ///
    /// Unlike [`Self::revision`], no other key changes it.
    ///
    /// # Errors
    /// When etcd does not answer or the key is missing.
    pub async fn writes_of(&self, key: &str) -> Result<u64> {
        let entry = self.entry(key).await?;
        let version = entry["version"].as_str().context("a version")?;
        version.parse().context("read the version")
    }

    /// A key with all that etcd knows of it.
    async fn entry(&self, key: &str) -> Result<Value> {
        let answer = self
            .call("/v3/kv/range", &json!({ "key": BASE64.encode(key) }))
            .await?;
        answer["kvs"]
            .get(0)
            .cloned()
            .with_context(|| format!("{key} does not exist"))
    }

    async fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let token = match &self.root {
            Some(password) => Some(self.token("root", password).await?),
            None => None,
        };
        self.call_with(token.as_deref(), path, body).await
    }

    /// Logs a user in, and gives the token to show with each call.
    ///
    /// # Errors
    /// When etcd refuses.
    pub async fn token(&self, user: &str, password: &str) -> Result<String> {
        let body = json!({ "name": user, "password": password });
        let answer = self.call_with(None, "/v3/auth/authenticate", &body).await?;
        Ok(answer["token"].as_str().context("a token")?.to_owned())
    }

    /// Reads a key, or all from it up to `end`, with a token.
    ///
    /// # Errors
    /// When etcd refuses.
    pub async fn read_as(&self, token: &str, key: &str, end: Option<&str>) -> Result<()> {
        let mut body = json!({ "key": BASE64.encode(key), "keys_only": true });
        if let Some(end) = end {
            body["range_end"] = BASE64.encode(end).into();
        }
        self.call_with(Some(token), "/v3/kv/range", &body).await.map(drop)
    }

    /// Writes a key with a token.
    ///
    /// # Errors
    /// When etcd refuses.
    pub async fn put_as(&self, token: &str, key: &str, value: &str) -> Result<()> {
        let body = json!({ "key": BASE64.encode(key), "value": BASE64.encode(value) });
        self.call_with(Some(token), "/v3/kv/put", &body).await.map(drop)
    }

    async fn call_with(&self, token: Option<&str>, path: &str, body: &Value) -> Result<Value> {
        let mut request = Request::post("etcd", path, body.to_string());
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let ask = async |client: SocketAddr| {
            let answer = request.send(client).await?;
            ensure!(answer.status == 200, "etcd refuses {path}: {}", answer.body);
            serde_json::from_str(&answer.body).context("read etcd's answer")
        };
        let (last, others) = self.clients.split_last().context("an address of etcd")?;
        for other in others {
            if let Ok(Ok(answer)) = tokio::time::timeout(IMPATIENCE, ask(*other)).await {
                return Ok(answer);
            }
        }
        ask(*last).await
    }

    /// The directory with etcd's log.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// The first key after all that begin with `prefix`: its last byte raised by one (ours end in ASCII).
fn after(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn pairs(answer: &Value) -> Result<BTreeMap<String, String>> {
    let text = |value: &Value| -> Result<String> {
        let bytes = BASE64
            .decode(value.as_str().unwrap_or_default())
            .context("read base64")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let all = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .map(|pair| Ok((text(&pair["key"])?, text(&pair["value"])?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_keeps_data_over_a_crash_and_loses_it_when_emptied() {
        let mut etcd = Etcd::start().await.unwrap();
        etcd.put("/a/1", "one").await.unwrap();
        etcd.put("/a/2", "two").await.unwrap();
        etcd.delete("/a/2").await.unwrap();
        etcd.kill9().await.unwrap();
        assert!(etcd.get("/a/1").await.is_err());
        etcd.restart().await.unwrap();
        assert_eq!(
            etcd.list("/a/").await.unwrap(),
            BTreeMap::from([("/a/1".into(), "one".into())])
        );
        assert_eq!(etcd.revision().await.unwrap(), 4);
        etcd.freeze().unwrap();
        let look = tokio::time::timeout(Duration::from_millis(300), etcd.get("/a/1")).await;
        assert!(look.is_err(), "a frozen etcd answers: {look:?}");
        etcd.thaw().unwrap();
        etcd.restart_emptied().await.unwrap();
        assert_eq!(etcd.get("/a/1").await.unwrap(), None);
    }
}

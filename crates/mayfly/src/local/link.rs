//! The way through ssh, for as long as a session runs: a first connection with which etcd is read,
//! then one that forwards everything, and another one whenever that ends.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use mayfly_core::address::Address;
use mayfly_daemon::output::{complain, printable};
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::store::Endpoint;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::relay;
use super::ssh::{Forwards, Ssh, SshConnection};

/// Delays between tries to connect again: a network that has just come back needs a moment.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// The socket that leads to HAProxy's internal side.
const INTERNAL: &str = "internal";

/// Where the process is registered; none while there is no connection.
pub type ReachedAt = Option<Address>;

#[derive(Debug)]
pub struct SshLink {
    ssh: Ssh,
    /// Holds a directory of sockets for each connection.
    directory: TempDir,
    /// The first connection, until the one that forwards everything is there.
    first: Option<SshConnection>,
    /// What leads to etcd.
    there: Vec<(String, String)>,
    endpoints: Vec<Endpoint>,
    sockets: watch::Sender<Option<PathBuf>>,
    place: watch::Sender<ReachedAt>,
    keeper: Option<JoinHandle<()>>,
}

impl Drop for SshLink {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
    }
}

impl SshLink {
    /// Connects, and leads ports of this machine to these endpoints of etcd.
    ///
    /// # Errors
    /// When ssh does not connect.
    pub async fn open(ssh: Ssh, etcd: &[Endpoint]) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("mayfly-").tempdir();
        let directory = directory.context("cannot make a directory for sockets")?;
        let (sockets, present) = watch::channel(None);
        let (mut there, mut endpoints) = (Vec::new(), Vec::new());
        for (number, endpoint) in etcd.iter().enumerate() {
            let socket = format!("etcd-{number}");
            let port = relay::listen(0, socket.clone(), present.clone()).await?;
            let scheme = if endpoint.is_tls() { "https" } else { "http" };
            endpoints.push(format!("{scheme}://127.0.0.1:{port}").parse()?);
            there.push((socket, endpoint.host_and_port().to_owned()));
        }
        let forwards = Forwards {
            back: None,
            there: there.clone(),
        };
        let (first, path) = connect(&ssh, &forwards, directory.path(), 0).await?;
        sockets.send_replace(Some(path));
        let (place, _) = watch::channel(None);
        Ok(Self {
            ssh,
            directory,
            first: Some(first),
            there,
            endpoints,
            sockets,
            place,
            keeper: None,
        })
    }

    /// Where etcd is reached on this machine.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// What ssh said last.
    pub fn last_line(&self) -> Option<String> {
        self.first.as_ref()?.last_line()
    }

    /// Where the process is registered, and every change of that.
    pub fn place(&self) -> watch::Receiver<ReachedAt> {
        self.place.subscribe()
    }

    /// Lets the far host listen at an address for the process at `port`, and gives a port of this
    /// machine that leads to `internal`: `proxy`, if it is free. From now on it connects again
    /// whenever the connection ends.
    ///
    /// # Errors
    /// When sshd does not forward that.
    pub async fn forward(
        &mut self,
        listens: IpAddr,
        port: u16,
        internal: Option<String>,
        proxy: u16,
    ) -> anyhow::Result<Option<u16>> {
        let mut there = self.there.clone();
        let mut own = None;
        if let Some(internal) = internal {
            let present = self.sockets.subscribe();
            own = Some(relay::listen(proxy, INTERNAL.to_owned(), present).await?);
            there.push((INTERNAL.to_owned(), internal));
        }
        let forwards = Forwards {
            back: Some((listens, port)),
            there,
        };
        let (connection, path) = connect(&self.ssh, &forwards, self.directory.path(), 1).await?;
        let keeper = LinkKeeper {
            ssh: self.ssh.clone(),
            forwards,
            listens,
            directory: self.directory.path().to_owned(),
            sockets: self.sockets.clone(),
            place: self.place.clone(),
        };
        keeper.tell(&connection, path);
        self.keeper = Some(tokio::spawn(keeper.run(connection)));
        self.first = None;
        Ok(own)
    }
}

/// Connects, with the sockets in a directory of their own.
async fn connect(
    ssh: &Ssh,
    forwards: &Forwards,
    directory: &Path,
    number: u64,
) -> anyhow::Result<(SshConnection, PathBuf)> {
    let path = directory.join(number.to_string());
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match ssh.open(forwards, &path).await {
        Ok(connection) => Ok((connection, path)),
        Err(error) => {
            let _ = std::fs::remove_dir_all(&path);
            Err(error)
        }
    }
}

/// Connects again and again.
struct LinkKeeper {
    ssh: Ssh,
    forwards: Forwards,
    listens: IpAddr,
    directory: PathBuf,
    sockets: watch::Sender<Option<PathBuf>>,
    place: watch::Sender<ReachedAt>,
}

impl LinkKeeper {
    fn tell(&self, connection: &SshConnection, path: PathBuf) {
        let place = connection
            .back
            .and_then(|port| Address::new(self.listens, port).ok());
        self.sockets.send_replace(Some(path));
        self.place.send_replace(place);
    }

    async fn run(self, mut connection: SshConnection) {
        let mut number = 1;
        loop {
            let why = connection.end(&self.ssh.host).await;
            self.place.send_replace(None);
            let old = self.sockets.send_replace(None);
            if let Some(old) = old {
                let _ = std::fs::remove_dir_all(old);
            }
            complain(&format!("{}; connecting again", printable(&why)));
            let mut backoff = Backoff::new(RETRY.0, RETRY.1);
            let mut reported = None;
            connection = loop {
                number += 1;
                match connect(&self.ssh, &self.forwards, &self.directory, number).await {
                    Ok((connection, path)) => {
                        self.tell(&connection, path);
                        break connection;
                    }
                    Err(error) => {
                        let error = printable(&format!("{error:#}"));
                        if reported.as_ref() != Some(&error) {
                            complain(&format!("{error}; retrying"));
                            reported = Some(error);
                        }
                    }
                }
                backoff.rest().await;
            };
            complain(&format!("ssh to {} is connected again", self.ssh.host));
        }
    }
}

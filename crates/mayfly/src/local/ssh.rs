//! One connection of the system's ssh to the host of a router, with the ports that it forwards.
//!
//! ssh runs `cat` there, and its input is a pipe of this process. When this process dies, even by a
//! signal that nothing can catch, the pipe closes, so `cat` and ssh end by themselves. The first
//! line that comes back shows that the connection is there: by then sshd has accepted or refused
//! each forwarded port.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

/// How long ssh may take until everything is forwarded.
const OPENS_WITHIN: Duration = Duration::from_secs(30);
/// How long the last lines of an ssh that has ended may take.
const LAST_LINES: Duration = Duration::from_secs(1);
/// Lines of ssh that are kept for a message.
const KEPT: usize = 5;
/// What `cat` sends back.
const HELLO: &str = "mayfly local";

/// A host to log in to: `ssh://[user@]host[:port]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshHost(String);

impl FromStr for SshHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule =
            || "a host for ssh looks like ssh://router.example.com or ssh://ada@router:2222".to_owned();
        let rest = text.strip_prefix("ssh://").ok_or_else(rule)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, rest),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(inside) => {
                let (address, after) = inside.split_once(']').ok_or_else(rule)?;
                address.parse::<std::net::Ipv6Addr>().map_err(|_| rule())?;
                (None, after.strip_prefix(':').or(after.is_empty().then_some("22")))
            }
            None => match place.split_once(':') {
                Some((host, port)) => (Some(host), Some(port)),
                None => (Some(place), Some("22")),
            },
        };
        // No part may look like an option of ssh.
        let is_word = |word: &str| {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            !word.is_empty() && !word.starts_with('-') && word.bytes().all(allowed)
        };
        let is_port = port
            .and_then(|port| port.parse::<u16>().ok())
            .is_some_and(|port| port > 0);
        if user.is_none_or(is_word) && host.is_none_or(is_word) && is_port {
            Ok(Self(format!("ssh://{rest}")))
        } else {
            Err(rule())
        }
    }
}

impl fmt::Display for SshHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What ssh forwards.
#[derive(Debug, Clone, Default)]
pub struct Forwards {
    /// The address of the far host at which it listens for us, and the port here to which that
    /// leads. sshd chooses the far port, so that no two sessions want the same.
    pub back: Option<(IpAddr, u16)>,
    /// The `host:port` that each socket leads to, as the far host reaches it, by the name of the
    /// socket.
    pub there: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Ssh {
    pub host: SshHost,
    /// A configuration file in place of the user's.
    pub config: Option<PathBuf>,
}

/// A connection. ssh ends when this is dropped.
#[derive(Debug)]
pub struct SshConnection {
    child: Child,
    /// Open for as long as the connection is wanted.
    _stdin: ChildStdin,
    errors: Errors,
    /// The port at which the far host listens for us.
    pub back: Option<u16>,
}

/// What ssh prints on its standard error.
#[derive(Debug, Clone, Default)]
struct Errors(Arc<Mutex<ErrorLines>>);

#[derive(Debug, Default)]
struct ErrorLines {
    last: VecDeque<String>,
    allocated: Option<u16>,
    is_over: bool,
}

impl Errors {
    fn with<T>(&self, act: impl FnOnce(&mut ErrorLines) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, line: &str) {
        self.with(|lines| {
            if let Some(port) = allocated(line) {
                lines.allocated = Some(port);
            } else if !line.trim().is_empty() {
                lines.last.push_back(line.trim().to_owned());
                if lines.last.len() > KEPT {
                    lines.last.pop_front();
                }
            }
        });
    }
}

/// The far port of a line such as `Allocated port 41323 for remote forward to localhost:8080`.
fn allocated(line: &str) -> Option<u16> {
    let rest = line.trim().strip_prefix("Allocated port ")?;
    rest.split_once(" for remote forward")?.0.parse().ok()
}

impl Ssh {
    /// Opens a connection whose sockets are in `directory`.
    ///
    /// # Errors
    /// When ssh cannot log in, or a port is not forwarded; the message says what to do.
    pub async fn open(&self, forwards: &Forwards, directory: &Path) -> anyhow::Result<SshConnection> {
        let mut command = self.command(forwards, directory);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // Ctrl-C is for this process alone: the connection is needed for an end in good order.
            .process_group(0)
            .spawn()
            .context("cannot run `ssh`: install the OpenSSH client")?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdin), Some(stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            bail!("cannot communicate with ssh");
        };
        let errors = Errors::default();
        let taken = errors.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                taken.take(&line);
            }
            taken.with(|lines| lines.is_over = true);
        });
        let (greeted, greeting) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut greeted = Some(greeted);
            let mut lines = BufReader::new(stdout).lines();
            // Read to its end: a full pipe would block ssh.
            while let Ok(Some(line)) = lines.next_line().await {
                if line == HELLO {
                    let _ = greeted.take().map(|greeted| greeted.send(()));
                }
            }
        });
        // An ssh that has ended already is reported below.
        let _ = stdin.write_all(format!("{HELLO}\n").as_bytes()).await;
        let mut connection = SshConnection {
            child,
            _stdin: stdin,
            errors,
            back: None,
        };
        match timeout(OPENS_WITHIN, greeting).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => bail!("{}", connection.end(&self.host).await),
            Err(_) => bail!(
                "{} does not accept the ssh login within {OPENS_WITHIN:?}",
                self.host
            ),
        }
        if forwards.back.is_some() {
            connection.back = timeout(LAST_LINES, connection.allocated()).await.ok();
            if connection.back.is_none() {
                bail!("ssh does not report which port of {} it forwards", self.host);
            }
        }
        Ok(connection)
    }

    fn command(&self, forwards: &Forwards, directory: &Path) -> Command {
        let mut command = Command::new("ssh");
        if let Some(config) = &self.config {
            command.arg("-F").arg(config);
        }
        command.arg("-T");
        for option in [
            // Ctrl-C belongs to this process, so ssh is not in the foreground and cannot ask.
            "BatchMode=yes",
            // A connection of its own, which ends with the session.
            "ControlMaster=no",
            "ControlPath=none",
            "ExitOnForwardFailure=yes",
            "ConnectTimeout=10",
            // A connection that is dead, as after a sleep, is found within 15 s.
            "ServerAliveInterval=5",
            "ServerAliveCountMax=2",
            // It prints which port sshd has chosen.
            "LogLevel=INFO",
        ] {
            command.args(["-o", option]);
        }
        if let Some((address, port)) = forwards.back {
            let listen = match address {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            };
            // By its name: many servers listen only at ::1.
            command.arg("-R").arg(format!("{listen}:0:localhost:{port}"));
        }
        for (socket, target) in &forwards.there {
            let socket = directory.join(socket);
            command.arg("-L").arg(format!("{}:{target}", socket.display()));
        }
        command.arg(&self.host.0).arg("cat");
        command
    }
}

impl SshConnection {
    async fn allocated(&self) -> u16 {
        loop {
            if let Some(port) = self.errors.with(|lines| lines.allocated) {
                return port;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until ssh has ended, and says why it did.
    pub async fn end(&mut self, host: &SshHost) -> String {
        let status = self.child.wait().await;
        let over = async {
            while !self.errors.with(|lines| lines.is_over) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(LAST_LINES, over).await;
        let lines: Vec<String> = self.errors.with(|lines| lines.last.iter().cloned().collect());
        let code = status.ok().and_then(|status| status.code());
        reason(host, &lines, code)
    }

    /// What ssh said last, which may explain why nothing comes through.
    pub fn last_line(&self) -> Option<String> {
        self.errors.with(|lines| lines.last.back().cloned())
    }
}

/// Why ssh has ended, and what to do.
fn reason(host: &SshHost, lines: &[String], code: Option<i32>) -> String {
    let advice = [
        (
            "Host key verification failed",
            "the host key is unknown or has changed: run `ssh HOST`, and compare the key before you accept it",
        ),
        (
            "REMOTE HOST IDENTIFICATION HAS CHANGED",
            "the host key has changed: ask the administrator of the host before you remove the old key",
        ),
        (
            "Permission denied",
            "the host does not accept your key: `ssh HOST` must work without a question, so use a key, and ssh-agent for \
             the passphrase of the key",
        ),
        (
            "Too many authentication failures",
            "name the right key in ~/.ssh/config (IdentitiesOnly)",
        ),
        (
            "Connection refused",
            "no sshd listens at this address: check the host and the port",
        ),
        (
            "Could not resolve hostname",
            "the host name does not resolve: check the name",
        ),
        (
            "remote port forwarding failed",
            "sshd on the host does not forward ports: set `AllowTcpForwarding yes`, and let `PermitListen` allow any port",
        ),
        (
            "administratively prohibited",
            "sshd on the host does not forward to that address: check `AllowTcpForwarding` and `PermitOpen`",
        ),
        (
            "not available",
            "the account may not run `cat` on the host: give the account a shell, or `ForceCommand cat`",
        ),
        (
            "cannot listen to",
            "ssh cannot create a socket on this machine: check TMPDIR",
        ),
    ];
    let found = advice.iter().find_map(|(sign, advice)| {
        let line = lines.iter().rev().find(|line| line.contains(sign))?;
        Some((line.as_str(), advice.replace("HOST", &host.0)))
    });
    match (found, lines.last()) {
        (Some((line, advice)), _) => format!("ssh to {host} failed: {advice} ({line})"),
        (None, Some(line)) => format!("ssh to {host} has ended: {line}"),
        (None, None) => match code {
            Some(code) => format!("ssh to {host} has ended with code {code}"),
            None => format!("ssh to {host} was killed"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in [
            "ssh://router",
            "ssh://ada@router.example.com",
            "ssh://ada@10.0.0.5:2222",
            "ssh://[fd00::5]",
            "ssh://ada@[fd00::5]:2222",
        ] {
            assert_eq!(good.parse::<SshHost>().unwrap().to_string(), good);
        }
        for bad in [
            "router",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://-l@router",
            "ssh://ada:secret@router",
            "ssh://router:0",
            "ssh://router:x",
            "ssh://router/path",
            "ssh://ro uter",
            "ssh://[fd00::5",
            "ssh://[fd00::5]x",
            "http://router",
        ] {
            let error = bad.parse::<SshHost>().unwrap_err();
            assert!(error.contains("ssh://router"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_port_that_sshd_has_chosen() {
        let line = "Allocated port 41323 for remote forward to localhost:8080";
        assert_eq!(allocated(line), Some(41323));
        assert_eq!(allocated("Allocated port x for remote forward to a:1"), None);
        assert_eq!(allocated("Warning: Permanently added"), None);
    }

    #[test]
    fn what_ssh_says_is_explained() {
        let host = "ssh://router".parse().unwrap();
        for (lines, code, expected) in [
            (
                &["x", "ada@router: Permission denied (publickey)."][..],
                Some(255),
                "`ssh ssh://router` must work without a question",
            ),
            (
                &[
                    "No ED25519 host key is known for router.",
                    "Host key verification failed.",
                ],
                Some(255),
                "run `ssh ssh://router`, and compare the key",
            ),
            (
                &["ssh: connect to host router port 22: Connection refused"],
                Some(255),
                "no sshd listens at this address",
            ),
            (
                &["Error: remote port forwarding failed for listen port 0"],
                Some(255),
                "AllowTcpForwarding",
            ),
            (
                &["client_loop: send disconnect: Broken pipe"],
                Some(255),
                "has ended: client_loop",
            ),
            (&[], Some(3), "has ended with code 3"),
            (&[], None, "was killed"),
        ] {
            let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
            let told = reason(&host, &lines, code);
            assert!(told.contains(expected), "{told}");
        }
    }
}

//! Who may ask: by the name that the request calls this server, and by the token.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use anyhow::{Context as _, ensure};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use mayfly_core::names::Hostname;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tracing::info;

use crate::files::WatchedFiles;
use crate::problem::Problem;

/// The shortest token: what is shorter could be guessed.
const SHORTEST: usize = 16;

type Hash = [u8; 32];

/// Decides who may ask.
#[derive(Debug)]
pub struct Authorizer {
    hosts: Vec<String>,
    token: Option<TokenFile>,
    /// Tells of each new token.
    renewed: watch::Sender<()>,
}

/// That a request was admitted, until there is another token.
#[derive(Debug)]
pub struct Admission(watch::Receiver<()>);

impl Admission {
    /// Waits until the token with which the request came is no longer in force. Safe in `select!`.
    pub async fn ended(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody is left who could renew the token.
            std::future::pending().await
        }
    }
}

/// A file with a token, which may change.
#[derive(Debug)]
struct TokenFile {
    path: PathBuf,
    state: RwLock<TokenState>,
}

#[derive(Debug)]
struct TokenState {
    hash: Hash,
    reading: WatchedFiles<1>,
}

impl Authorizer {
    /// A guard that requires the token of a file, if one is given.
    ///
    /// # Errors
    /// When the file cannot be read or has no token.
    pub fn new(token_file: Option<&Path>, hosts: &[Hostname]) -> anyhow::Result<Self> {
        Ok(Self {
            hosts: hosts.iter().map(ToString::to_string).collect(),
            token: token_file.map(TokenFile::read).transpose()?,
            renewed: watch::Sender::new(()),
        })
    }

    /// Reads the token again if its file has changed.
    pub fn refresh(&self) {
        if self.token.as_ref().is_some_and(TokenFile::refresh) {
            self.renewed.send_replace(());
        }
    }

    /// Whether a request calls this server by a name of its own. Without a token that is all that
    /// keeps a foreign web page from reading the API: its own name may resolve to a loopback
    /// address.
    ///
    /// # Errors
    /// When it calls it otherwise.
    pub fn admit_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        if self.token.is_some() {
            return Ok(());
        }
        let said = match uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => headers.get(header::HOST).and_then(|host| host.to_str().ok()),
        };
        let host = said.and_then(|said| said.parse::<Authority>().ok());
        let name = host.as_ref().map(|host| host.host()).unwrap_or_default();
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let is_own = bare.parse::<IpAddr>().is_ok()
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.hosts.contains(&name);
        match is_own {
            true => Ok(()),
            false => Err(Problem::new(
                StatusCode::MISDIRECTED_REQUEST,
                format!(
                    "the host {name:?} is not a name of this server; use the server's address, or \
                     start mayfly-web with --host"
                ),
            )),
        }
    }

    /// Whether a request has the token, if one is required.
    ///
    /// # Errors
    /// When it has none, or another one.
    pub fn admit_token(&self, headers: &HeaderMap) -> Result<Admission, Problem> {
        // Before the check, so that a token that is renewed meanwhile is noticed.
        let admission = Admission(self.renewed.subscribe());
        let Some(token) = &self.token else {
            return Ok(admission);
        };
        let said = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
        let given = said.and_then(|said| {
            let (scheme, rest) = said.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| rest.trim_ascii())
        });
        let refused = |detail: &str| Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
        match given {
            None => refused("this server requires a token: send `Authorization: Bearer <token>`"),
            Some(given) if token.is(given) => Ok(admission),
            Some(_) => refused("the token is wrong; the file of --token-file has the right one"),
        }
    }
}

impl TokenFile {
    fn read(path: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            state: RwLock::new(TokenState {
                reading: WatchedFiles::of([path]),
                hash: read(path)?,
            }),
        })
    }

    /// Reads the file again if it has changed. Whether there is another token.
    fn refresh(&self) -> bool {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let former = "the former token stays in force";
        let read = || read(&self.path);
        let Some(hash) = state.reading.again([&self.path], read, former) else {
            return false;
        };
        info!("the new token of `{}` is in force", self.path.display());
        std::mem::replace(&mut state.hash, hash) != hash
    }

    /// Compares hashes, and all of their bytes: how long it takes says nothing about the token.
    fn is(&self, given: &[u8]) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let given: Hash = Sha256::digest(given).into();
        let pairs = given.iter().zip(&state.hash);
        pairs.fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
    }
}

fn read(path: &Path) -> anyhow::Result<Hash> {
    let shown = path.display();
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the token file `{shown}`"))?;
    let token = text.trim();
    let is_token = token.len() >= SHORTEST && token.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(
        is_token,
        "the token file `{shown}` must contain exactly one token of at least {SHORTEST} visible ASCII characters, \
         such as the output of `openssl rand -hex 24`"
    );
    Ok(Sha256::digest(token.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    fn host(guard: &Authorizer, host: &str) -> bool {
        let headers = HeaderMap::from_iter([(header::HOST, host.parse().unwrap())]);
        guard.admit_host(&"/v1/state".parse().unwrap(), &headers).is_ok()
    }

    #[test]
    fn a_foreign_name_is_refused_without_a_token() {
        let own = ["ops.example.com".parse().unwrap()];
        let guard = Authorizer::new(None, &own).unwrap();
        for name in [
            "127.0.0.1:8620",
            "[::1]:8620",
            "10.1.2.3",
            "localhost:8620",
            "LOCALHOST.",
            "mayfly.localhost",
            "Ops.Example.com:443",
        ] {
            assert!(host(&guard, name), "{name}");
        }
        for name in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "a b",
            "@x",
        ] {
            assert!(!host(&guard, name), "{name}");
        }
    }

    #[test]
    fn a_token_opens_and_follows_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "short\n").unwrap();
        assert!(
            Authorizer::new(Some(&path), &[])
                .unwrap_err()
                .to_string()
                .contains("16")
        );
        fs::write(&path, "0123456789abcdef\n").unwrap();
        let guard = Authorizer::new(Some(&path), &[]).unwrap();
        assert!(host(&guard, "any.example"));
        let ask = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
            guard.admit_token(&headers).is_ok()
        };
        assert!(ask("Bearer 0123456789abcdef") && ask("bearer  0123456789abcdef"));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Basic 0123456789abcdef",
            "ü",
        ] {
            assert!(!ask(wrong), "{wrong}");
        }
        assert!(guard.admit_token(&HeaderMap::new()).is_err());
        let headers = [(header::AUTHORIZATION, "Bearer 0123456789abcdef".parse().unwrap())];
        let mut admission = guard.admit_token(&HeaderMap::from_iter(headers)).unwrap();
        let mut has_ended = || admission.ended().now_or_never().is_some();
        guard.refresh();
        assert!(!has_ended());
        let new = directory.path().join("new");
        fs::write(&new, "fedcba9876543210").unwrap();
        fs::rename(&new, &path).unwrap();
        guard.refresh();
        assert!(ask("Bearer fedcba9876543210") && !ask("Bearer 0123456789abcdef"));
        assert!(has_ended(), "whoever follows with the old token is let go");
        fs::remove_file(&path).unwrap();
        guard.refresh();
        assert!(
            ask("Bearer fedcba9876543210"),
            "a file that is gone changes nothing"
        );
    }
}

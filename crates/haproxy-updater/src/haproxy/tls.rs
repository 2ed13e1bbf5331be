//! The certificates that a running HAProxy has: what it lists, and the commands that add, replace
//! and remove one without a reload. HAProxy knows each by the path of its file in `<dir>/tls`, and
//! `<dir>/tls/crt-list` names those that it serves.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::haproxy::answers::{self, Process};
use crate::haproxy::sockets::{Socket, Trouble};
use crate::haproxy::tokens::{ConfigPath, shown_as_they_are};

/// The most bytes of a certificate with its chain and key. A payload has to fit into HAProxy's
/// buffer of 16,384; a larger one resets the connection.
pub const MOST_PEM: usize = 15_000;

/// The name of a certificate's file: letters, digits and `._-`, not beginning with a dot, ending
/// with `.pem`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct CertificateName(String);

impl CertificateName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a name of a file is none of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the name of the file may have letters, digits and `._-`, at most 100, and ends with .pem: rename it"
)]
pub struct NoCertificateName;

impl FromStr for CertificateName {
    type Err = NoCertificateName;

    fn from_str(text: &str) -> Result<Self, NoCertificateName> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let stem = text.strip_suffix(".pem").unwrap_or_default();
        let good = (1..=96).contains(&stem.len()) && !stem.starts_with('.') && stem.bytes().all(allowed);
        good.then(|| Self(text.to_owned())).ok_or(NoCertificateName)
    }
}

shown_as_they_are!(CertificateName);

/// Where HAProxy has a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificatePlace {
    /// The first of its list: for clients that ask for no host, or for one that no certificate
    /// names. HAProxy never gives it up, so it is a copy of one of the others.
    Default,
    /// For the hosts that it names.
    Named(CertificateName),
}

impl fmt::Display for CertificatePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.pad("default"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl FromStr for CertificatePlace {
    type Err = NoCertificateName;

    fn from_str(text: &str) -> Result<Self, NoCertificateName> {
        match text {
            "default" => Ok(Self::Default),
            name => name.parse().map(Self::Named),
        }
    }
}

/// The name of the list that HAProxy starts from.
pub const CRT_LIST: &str = "crt-list";

/// Which process HAProxy is, and what it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Another one after every start and reload.
    pub process: Process,
    /// The certificates with their lines in the list; `None` of a process that serves no TLS.
    pub lines: Option<BTreeMap<CertificatePlace, u32>>,
}

/// The certificates of a running HAProxy, through its run-time socket.
#[derive(Debug, Clone)]
pub struct TlsStore {
    socket: Socket,
    directory: ConfigPath,
}

impl TlsStore {
    /// HAProxy at a socket, which knows its certificates by paths in this directory.
    pub fn new(socket: &ConfigPath, directory: ConfigPath) -> Self {
        Self {
            socket: Socket::new(socket),
            directory,
        }
    }

    fn list(&self) -> ConfigPath {
        self.directory.join(CRT_LIST)
    }

    fn path(&self, place: &CertificatePlace) -> String {
        format!("{}/{place}", self.directory)
    }

    /// What it serves.
    ///
    /// # Errors
    /// When HAProxy is away, or its answer cannot be understood; so too for all below.
    pub async fn served(&self) -> Result<Served, Trouble> {
        let request = format!("show info;show ssl crt-list -n {}\n", self.list());
        let answer = self.socket.ask(&request).await?;
        served(&answer, &self.directory)
            .ok_or_else(|| Trouble::Refused(format!("show info: {:.100}", answer.trim())))
    }

    /// Ends a change of a certificate that was begun and neither committed nor aborted. HAProxy
    /// would take the next one for a part of it.
    ///
    /// # Errors
    /// As above.
    pub async fn abort_pending(&self) -> Result<(), Trouble> {
        let answer = self.socket.ask("show ssl cert\n").await?;
        let pending = answer.lines().find_map(|line| line.strip_prefix('*'));
        // What is no path of ours is still a word of HAProxy's own.
        if let Some(path) = pending.filter(|path| !path.contains([' ', ';'])) {
            self.socket.ask(&format!("abort ssl cert {path}\n")).await?;
        }
        Ok(())
    }

    /// Makes it serve a certificate, in place of the one that it has there if `replaces`. What it
    /// says where it does not take it; it then has what it had.
    ///
    /// # Errors
    /// As above, and when something else is being changed. A change may then be begun and not
    /// ended, see [`TlsStore::abort_pending`].
    pub async fn put(
        &self,
        place: &CertificatePlace,
        pem: &str,
        replaces: bool,
    ) -> Result<Result<(), String>, Trouble> {
        let path = self.path(place);
        if !replaces {
            // One that was begun before exists already.
            self.socket.ask(&format!("new ssl cert {path}\n")).await?;
        }
        let mut refusal = None;
        for (command, taken) in [
            (format!("set ssl cert {path} <<\n{pem}\n"), "Transaction created"),
            (format!("commit ssl cert {path}\n"), "Success!"),
        ] {
            let answer = self.socket.ask(&command).await?;
            if !answer.contains(taken) {
                refusal = Some(refusal_of(&answer)?);
                break;
            }
        }
        if refusal.is_none() && !replaces {
            let command = format!("add ssl crt-list {} {path}\n", self.list());
            let answer = self.socket.ask(&command).await?;
            if !answer.contains("Success!") {
                refusal = Some(refusal_of(&answer)?);
            }
        }
        let Some(refusal) = refusal else {
            return Ok(Ok(()));
        };
        self.abort_pending().await?;
        if !replaces {
            self.socket.ask(&format!("del ssl cert {path}\n")).await?;
        }
        Ok(Err(refusal))
    }

    /// Makes it serve a certificate no more.
    ///
    /// # Errors
    /// As above, and when HAProxy does not take it.
    pub async fn remove(&self, place: &CertificatePlace, line: u32) -> Result<(), Trouble> {
        let path = self.path(place);
        let list = self.list();
        for command in [
            format!("del ssl crt-list {list} {path}:{line}\n"),
            format!("del ssl cert {path}\n"),
        ] {
            let answer = self.socket.ask(&command).await?;
            if !answer.contains("deleted") {
                return Err(Trouble::Refused(words(&answer)));
            }
        }
        Ok(())
    }
}

/// Why HAProxy does not take a certificate.
///
/// # Errors
/// When it says nothing of the certificate: another change is under way, or another program
/// has ended this one. It may take the certificate the next time.
fn refusal_of(answer: &str) -> Result<String, Trouble> {
    let words = words(answer);
    let passing = ["ongoing transaction", "Transaction updated", "currently locked"];
    match passing.iter().any(|part| words.contains(part)) {
        true => Err(Trouble::Refused(words)),
        false => Ok(words),
    }
}

/// What HAProxy says, as one line.
fn words(answer: &str) -> String {
    let lines = answer.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ").chars().take(300).collect()
}

/// Reads the answers to `show info` and `show ssl crt-list -n`. `None` where the first is not
/// there.
fn served(answer: &str, directory: &ConfigPath) -> Option<Served> {
    let process = answers::process(answer).ok()?;
    let list = format!("# {directory}/{CRT_LIST}");
    let prefix = format!("{directory}/");
    let line = |line: &str| -> Option<(CertificatePlace, u32)> {
        let entry = line.strip_prefix(&prefix)?.split_whitespace().next()?;
        let (name, line) = entry.rsplit_once(':')?;
        Some((name.parse().ok()?, line.parse().ok()?))
    };
    let has_list = answer.lines().any(|line| line.trim() == list);
    Some(Served {
        process,
        lines: has_list.then(|| answer.lines().filter_map(line).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for good in ["a.pem", "www.example.com.pem", "_.example.com.pem", "default.pem"] {
            assert_eq!(good.parse::<CertificateName>().unwrap().as_str(), good);
        }
        let long = format!("{}.pem", "a".repeat(97));
        for bad in [
            "", ".pem", ".a.pem", "a", "a.crt", "a b.pem", "a;b.pem", "a\n.pem", "ä.pem", "a/b.pem",
            "a:1.pem", "<<.pem", &long,
        ] {
            assert!(bad.parse::<CertificateName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_answer_about_transactions_says_nothing_of_the_certificate() {
        for passing in [
            "Transaction updated for certificate /d/tls/a.pem!\n\n",
            "No ongoing transaction! !\nCan't commit /d/tls/a.pem!\n\n",
            "The ongoing transaction is about '/d/tls/b.pem' but you are trying to set '/d/tls/a.pem'\n",
            "Can't commit the certificate!\nOperations on certificates are currently locked!\n",
        ] {
            assert!(refusal_of(passing).is_err(), "{passing}");
        }
        for refused in [
            "unable to load certificate from file '/d/tls/a.pem'.",
            "The transaction must contain at least a certificate and a private key!",
        ] {
            assert_eq!(refusal_of(&format!("{refused}\n\n")).unwrap(), refused);
        }
    }

    #[test]
    fn what_haproxy_serves() {
        let directory: ConfigPath = "/d/tls".parse().unwrap();
        let info = "Name: HAProxy\nPid: 7\nUptime: 0d\nStart_time_sec: 1795941790\n";
        let read = |rest: &str| served(&format!("{info}\n{rest}"), &directory);
        // As HAProxy 2.6.12 and 3.0.11 answer.
        let found = read("# /d/tls/crt-list\n/d/tls/default:1\n/d/tls/a.pem:3\n/other/b.pem:4\n\n").unwrap();
        assert_eq!((found.process.pid, found.process.started), (7, 1795941790));
        let lines = found.lines.unwrap().into_iter();
        let lines: Vec<_> = lines.map(|(place, line)| (place.to_string(), line)).collect();
        assert_eq!(lines, [("default".to_owned(), 1), ("a.pem".to_owned(), 3)]);
        let without = read("didn't find the specified filename\n").unwrap();
        assert_eq!(without.lines, None);
        assert_eq!(served("Unknown command", &directory), None);
    }
}

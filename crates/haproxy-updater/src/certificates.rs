//! The certificates of the edge: what lies in the operator's directory is what HAProxy serves TLS
//! with, without a reload.
//!
//! Twice a second, in a task beside the loop that routes ([`looker`]): [`scan`] looks which files
//! have changed, [`certificate`] reads those, [`choice`] says which certificates are to be served,
//! and [`crate::haproxy::tls`] makes HAProxy serve them. What is served also lies in `<dir>/tls`
//! ([`kept`]), where HAProxy starts from. A process that was started since gets all of them again:
//! what it has read may be older.
//!
//! While there is no certificate HAProxy has no TLS listeners, since it does not start with one
//! that has none. The first one brings them, by a reload.

mod certificate;
mod choice;
pub mod kept;
mod looker;
mod scan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use mayfly_core::names::DnsPrefix;
use mayfly_core::records::lifetime::Moment;
use mayfly_core::router_status::{CertificateInUse, CertificateStatus};
use mayfly_core::routing::Routing;
use mayfly_core::shorten::first_of;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::haproxy::tokens::ConfigPath;
use crate::metrics::Metrics;
use choice::{Certificates, default_of, notes};
use looker::{Looked, Looker};

/// A file counts once it was the same at two looks, and is to be in use 2 s after it was written.
const LOOK: Duration = Duration::from_millis(500);
/// A look that takes longer is reported: a disk or a network does not answer.
const LOOK_LIMIT: Duration = Duration::from_secs(10);
/// Files that the status record lists at most.
const MOST_LISTED: usize = 50;
/// Names of one certificate that the status record and the log list at most.
const MOST_NAMES: usize = 20;

type LookResult = anyhow::Result<(Looker, Looked)>;

/// The certificates, and how far HAProxy has them.
#[derive(Debug)]
pub struct EdgeCertificates {
    directory: PathBuf,
    metrics: Metrics,
    /// Between two looks.
    looker: Option<Looker>,
    /// While one is under way.
    look: Option<JoinHandle<LookResult>>,
    /// When the look began, or the next one is to begin.
    look_at: Instant,
    /// Whether it was reported that the look takes long.
    is_late: bool,
    is_kept: bool,
    /// As of the last look.
    served: Certificates,
    /// Those whose ends the metrics have.
    counted: Certificates,
    /// What the status record says of each file, or of the directory.
    words: BTreeMap<String, String>,
    faulty: usize,
}

/// What is to be done next. There is one at a time, so its size does not matter.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub enum CertificateTurn {
    Begin,
    Late,
    Conclude(Result<LookResult, JoinError>),
}

/// What a turn has changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CertificateChanges {
    /// Other certificates are in use.
    pub certificates: bool,
    /// The status record has something new to say.
    pub status: bool,
}

impl EdgeCertificates {
    /// Those of a directory, for the HAProxy at a socket, which starts from `kept`. What was served
    /// before is served still. Looks at files only, and at those of the directory not for long.
    pub async fn start(directory: &Path, socket: &ConfigPath, kept: &ConfigPath, metrics: Metrics) -> Self {
        let looker = Looker::start(directory, socket, kept).await;
        log_new(looker.served(), &Certificates::new());
        Self {
            directory: directory.to_owned(),
            metrics,
            look: None,
            look_at: Instant::now(),
            is_late: false,
            is_kept: looker.is_kept(),
            served: looker.served().clone(),
            looker: Some(looker),
            counted: Certificates::new(),
            words: BTreeMap::new(),
            faulty: 0,
        }
    }

    /// Whether some are kept where HAProxy starts from, so that it can have TLS listeners.
    pub fn are_kept(&self) -> bool {
        self.is_kept
    }

    /// Waits for what is to be done next. Safe in `select!`.
    pub async fn next(&mut self) -> CertificateTurn {
        let Some(look) = &mut self.look else {
            sleep_until(self.look_at).await;
            return CertificateTurn::Begin;
        };
        let limit = self.look_at + LOOK_LIMIT;
        let done = tokio::select! {
            biased;
            done = look => done,
            () = sleep_until(limit), if !self.is_late => return CertificateTurn::Late,
        };
        self.look = None;
        CertificateTurn::Conclude(done)
    }

    /// Does it. `routing` is missing while nothing is known of environments.
    ///
    /// # Errors
    /// When a look has panicked: this program has to start again to know what HAProxy has.
    pub fn turn(
        &mut self,
        turn: CertificateTurn,
        routing: Option<&Routing>,
    ) -> anyhow::Result<CertificateChanges> {
        match turn {
            CertificateTurn::Begin => {
                let looker = self
                    .looker
                    .take()
                    .context("no look can begin while one is under way")?;
                (self.look_at, self.is_late) = (Instant::now(), false);
                self.look = Some(tokio::spawn(looker.look()));
                Ok(CertificateChanges::default())
            }
            CertificateTurn::Late => {
                self.is_late = true;
                let text = format!(
                    "loading the certificates takes more than {} s; the present certificates stay in \
                     use. Check this directory, HAProxy, and the disk of --dir",
                    LOOK_LIMIT.as_secs()
                );
                warn!("{}: {text}", self.subject());
                self.words.insert(self.subject(), text);
                self.faulty += 1;
                self.metrics.certificates_faulty.set(self.faulty as i64);
                Ok(CertificateChanges {
                    certificates: false,
                    status: true,
                })
            }
            CertificateTurn::Conclude(done) => {
                let (looker, looked) = done.context("the task that reads the certificates has failed")??;
                self.looker = Some(looker);
                self.look_at = match looked.has_more {
                    true => Instant::now(),
                    false => (self.look_at + LOOK).max(Instant::now()),
                };
                Ok(self.conclude(looked, routing))
            }
        }
    }

    /// How the log and the status record name the directory.
    fn subject(&self) -> String {
        format!("--edge-certificates {}", self.directory.display())
    }

    /// Reports what has become of the files: in the log what is new, in the metrics, and by
    /// [`EdgeCertificates::notes`].
    fn conclude(&mut self, looked: Looked, routing: Option<&Routing>) -> CertificateChanges {
        let before = std::mem::replace(&mut self.served, looked.served);
        self.is_kept = looked.is_kept;
        log_new(&self.served, &before);
        for name in before.keys().filter(|name| !self.served.contains_key(name)) {
            info!("certificate {name} is no longer in use");
        }
        let faulty = looked.choice.faults.len() + usize::from(looked.problem.is_some());
        let is_prefix = |label: &str| {
            let prefix = label.parse::<DnsPrefix>();
            routing.is_none_or(|routing| prefix.is_ok_and(|prefix| routing.header_of(&prefix).is_some()))
        };
        let mut words = notes(&looked.choice.certificates, SystemTime::now(), &is_prefix);
        words.extend(looked.choice.faults);
        let words = words
            .into_iter()
            .map(|(file, text)| (format!("certificate {file}"), text));
        let mut words: BTreeMap<String, String> = words.collect();
        if let Some(problem) = looked.problem {
            words.insert(
                self.subject(),
                format!("{problem}; the present certificates stay in use"),
            );
        } else if looked.is_empty {
            let next = match self.served.is_empty() {
                false => "the present certificates stay in use",
                true => "HAProxy listens for TLS as soon as the directory has one",
            };
            words.insert(self.subject(), format!("the directory has no file *.pem; {next}"));
        }
        for (subject, text) in &words {
            if self.words.get(subject) != Some(text) {
                warn!("{subject}: {text}");
            }
        }
        self.metrics.certificates_faulty.set(faulty as i64);
        if self.served != self.counted {
            let ends = self
                .served
                .iter()
                .map(|(name, certificate)| (name.as_str(), certificate.not_after));
            self.metrics.certificates_end(ends);
            self.counted.clone_from(&self.served);
        }
        let changed = CertificateChanges {
            certificates: self.served != before,
            status: self.served != before || self.words != words,
        };
        (self.words, self.faulty) = (words, faulty);
        changed
    }

    /// The faults of files and of the directory, and what else an operator should know of them.
    pub fn notes(&self) -> impl Iterator<Item = String> + '_ {
        let words = self.words.iter().take(MOST_LISTED);
        words.map(|(subject, text)| format!("{subject}: {text}"))
    }

    /// What is in use, for the status record.
    pub fn status(&self) -> CertificateStatus {
        let default = default_of(&self.served).map(|(name, _)| name);
        let in_use = self
            .served
            .iter()
            .take(MOST_LISTED)
            .map(|(name, certificate)| CertificateInUse {
                file: name.as_str().to_owned(),
                names: certificate.names.iter().take(MOST_NAMES).cloned().collect(),
                names_count: certificate.names.len(),
                serial: certificate.serial.clone(),
                ends_at: Moment::of(certificate.not_after),
                default: default == Some(name),
            });
        CertificateStatus {
            in_use: in_use.collect(),
            count: self.served.len(),
            faulty: self.faulty,
            warnings: self.words.len(),
        }
    }
}

/// Logs which certificates are in use that were not before.
fn log_new(served: &Certificates, before: &Certificates) {
    for (name, certificate) in served {
        if before.get(name) != Some(certificate) {
            let (end, names) = (
                Moment::of(certificate.not_after),
                first_of(&certificate.names, MOST_NAMES),
            );
            info!("certificate {name} is in use for {names}, and valid until {end}");
        }
    }
}

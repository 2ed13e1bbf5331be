//! One look at the certificates: reads what has changed, chooses, makes HAProxy serve the choice,
//! and keeps it for a start of HAProxy. A look waits for disks and for HAProxy, so it runs beside
//! the loop that routes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use mayfly_daemon::retry::Backoff;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use crate::certificates::certificate::Certificate;
use crate::certificates::choice::{CertificateChoice, Certificates, choose, default_of};
use crate::certificates::kept;
use crate::certificates::scan::Scanner;
use crate::haproxy::answers::Process;
use crate::haproxy::sockets::Trouble;
use crate::haproxy::tls::{CertificatePlace, TlsStore};
use crate::haproxy::tokens::ConfigPath;

/// How often to look whether what HAProxy starts from is still there.
const LOOK_AT_KEPT: Duration = Duration::from_secs(5);
/// A larger number is served in several looks, so that HAProxy has time for requests meanwhile.
const MOST_AT_ONCE: usize = 20;
/// A certificate that HAProxy has refused is tried again after this time.
const LAPSE: Duration = Duration::from_secs(60);
/// HAProxy is asked again at the latest after this time when it has failed to answer.
const MOST_REST: Duration = Duration::from_secs(10);
/// How long the first look may take, for which the start of the daemon waits.
const FIRST_LOOK_LIMIT: Duration = Duration::from_secs(2);

/// What a process of HAProxy was given.
#[derive(Debug, Default)]
struct Given {
    process: Option<Process>,
    /// Whether no change can be begun and not ended.
    is_clean: bool,
    /// The digest of what it has in each place.
    digests: BTreeMap<CertificatePlace, [u8; 32]>,
    /// What it did not take, by digest.
    refused: BTreeMap<[u8; 32], RefusedCertificate>,
}

#[derive(Debug)]
struct RefusedCertificate {
    reason: String,
    since: Instant,
}

/// What all looks have found so far.
#[derive(Debug)]
pub struct Looker {
    scanner: Scanner,
    store: TlsStore,
    kept: PathBuf,
    served: Certificates,
    /// Whether `kept` holds certificates that HAProxy can start from.
    is_kept: bool,
    given: Given,
    /// Why HAProxy could not be asked the last time.
    trouble: Option<String>,
    backoff: Backoff,
    /// Not before: HAProxy has failed to answer just now.
    next_serve: Instant,
    /// Why `kept` could not be written the last time.
    unkept: Option<String>,
    /// When to write `kept`.
    next_write: Instant,
}

/// What one look has found.
#[derive(Debug)]
pub struct Looked {
    /// What is to be served, and what is wrong with files.
    pub choice: CertificateChoice,
    pub served: Certificates,
    /// Why not all could be done.
    pub problem: Option<String>,
    /// Whether the directory holds no file at all.
    pub is_empty: bool,
    /// Whether HAProxy can start with TLS listeners.
    pub is_kept: bool,
    /// Whether there is more to do at once.
    pub has_more: bool,
}

impl Looker {
    /// Looks at files alone, before HAProxy may be there: what was kept before, or else what the
    /// directory holds, is kept and counts as served.
    pub async fn start(directory: &Path, socket: &ConfigPath, kept: &ConfigPath) -> Self {
        let mut served = kept::read(kept.as_path());
        if served.is_empty() {
            served = first(directory).await;
        }
        let is_kept = !served.is_empty() && kept::write(kept.as_path(), &served).is_ok();
        Self {
            scanner: Scanner::new(directory),
            store: TlsStore::new(socket, kept.clone()),
            kept: kept.as_path().to_owned(),
            served,
            is_kept,
            given: Given::default(),
            trouble: None,
            backoff: Backoff::new(Duration::from_secs(1), MOST_REST),
            next_serve: Instant::now(),
            unkept: None,
            next_write: Instant::now(),
        }
    }

    /// Whether HAProxy can start with TLS listeners.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    pub fn served(&self) -> &Certificates {
        &self.served
    }

    /// Looks once.
    ///
    /// # Errors
    /// When a part of it has panicked, so that nobody knows how far it came.
    pub async fn look(mut self) -> anyhow::Result<(Self, Looked)> {
        let mut scanner = std::mem::take(&mut self.scanner);
        let scan = spawn_blocking(move || {
            let looked = scanner.look();
            (scanner, looked)
        });
        let (scanner, looked) = scan
            .await
            .context("the task that reads the certificates has failed")?;
        self.scanner = scanner;
        let refused = &mut self.given.refused;
        refused.retain(|_, refused| refused.since.elapsed() < LAPSE);
        let mut choice = self.choose();
        let before = self.served.clone();
        let mut has_more = false;
        if Instant::now() >= self.next_serve {
            match self.serve(&choice.certificates).await {
                Ok(more) => {
                    has_more = more;
                    self.trouble = None;
                    self.backoff.reset();
                }
                Err(trouble) => {
                    self.given.is_clean = false;
                    self.trouble = Some(format!(
                        "HAProxy cannot serve the certificates of this directory: {trouble}"
                    ));
                    self.next_serve = Instant::now() + self.backoff.next_delay();
                }
            }
            // Without what HAProxy has refused by now.
            choice = self.choose();
        }
        if self.served != before || Instant::now() >= self.next_write {
            self.next_write = Instant::now() + LOOK_AT_KEPT;
            let (kept, served) = (self.kept.clone(), self.served.clone());
            let write = spawn_blocking(move || kept::write(&kept, &served));
            let written = write
                .await
                .context("the task that saves the certificates has failed")?;
            self.is_kept |= written.is_ok() && !self.served.is_empty();
            let cannot = |error| {
                format!(
                    "the certificates of this directory cannot be saved for the next start of \
                     HAProxy: {error:#}"
                )
            };
            self.unkept = written.err().map(cannot);
        }
        let unread = looked.err();
        let problems = [unread, self.trouble.clone(), self.unkept.clone()];
        let problems: Vec<String> = problems.into_iter().flatten().collect();
        let looked = Looked {
            choice,
            served: self.served.clone(),
            problem: (!problems.is_empty()).then(|| problems.join("; ")),
            is_empty: self.scanner.files.is_empty(),
            is_kept: self.is_kept,
            has_more,
        };
        Ok((self, looked))
    }

    fn choose(&self) -> CertificateChoice {
        let refused = |certificate: &Certificate| {
            let refused = self.given.refused.get(certificate.digest());
            refused.map(|refused| refused.reason.clone())
        };
        choose(&self.scanner.files, &self.served, SystemTime::now(), &refused)
    }

    /// Makes HAProxy serve these, and says whether there is more to do. Where HAProxy is away, or
    /// serves no TLS yet, it reads them when it starts.
    async fn serve(&mut self, wanted: &Certificates) -> Result<bool, Trouble> {
        let found = match self.store.served().await {
            Err(Trouble::Away(_)) => None,
            found => Some(found?),
        };
        let Some((process, lines)) = found.and_then(|found| Some((found.process, found.lines?))) else {
            self.given = Given::default();
            self.served.clone_from(wanted);
            return Ok(false);
        };
        if self.given.process != Some(process) {
            self.given = Given {
                process: Some(process),
                ..Given::default()
            };
        }
        if !self.given.is_clean {
            self.store.abort_pending().await?;
            self.given.is_clean = true;
        }
        let default = default_of(wanted).map(|(_, certificate)| (CertificatePlace::Default, certificate));
        let named = wanted
            .iter()
            .map(|(name, certificate)| (CertificatePlace::Named(name.clone()), certificate));
        let all: BTreeMap<CertificatePlace, &Arc<Certificate>> = default.into_iter().chain(named).collect();
        let mut left = MOST_AT_ONCE;
        let mut has_more = false;
        for (place, certificate) in &all {
            let digest = *certificate.digest();
            let is_listed = lines.contains_key(place);
            let is_given = is_listed && self.given.digests.get(place) == Some(&digest);
            if is_given || self.given.refused.contains_key(&digest) {
                continue;
            }
            if left == 0 {
                return Ok(true);
            }
            left -= 1;
            // Nobody knows what is there if this fails.
            self.given.digests.remove(place);
            match self.store.put(place, certificate.pem(), is_listed).await? {
                Ok(()) => {
                    self.given.digests.insert(place.clone(), digest);
                    if let CertificatePlace::Named(name) = place {
                        self.served.insert(name.clone(), Arc::clone(certificate));
                    }
                }
                Err(reason) => {
                    let reason = format!("HAProxy does not accept this certificate: {reason}");
                    let since = Instant::now();
                    self.given
                        .refused
                        .insert(digest, RefusedCertificate { reason, since });
                    // The next look chooses without it.
                    has_more = true;
                }
            }
        }
        // Only now: a host is not to be without a certificate when its file has another name.
        for (place, line) in lines.iter().filter(|(place, _)| !all.contains_key(place)) {
            self.store.remove(place, *line).await?;
            self.given.digests.remove(place);
        }
        self.served.retain(|name, _| wanted.contains_key(name));
        Ok(has_more)
    }
}

/// What the directory holds, as far as it can be read; nothing if it does not answer in time.
async fn first(directory: &Path) -> Certificates {
    let mut scanner = Scanner::new(directory);
    let look = spawn_blocking(move || {
        // The next look finds the reason of a failure, and says it.
        let _ = scanner.look();
        scanner.files
    });
    let looked = timeout(FIRST_LOOK_LIMIT, look).await;
    let files = looked.ok().and_then(Result::ok).unwrap_or_default();
    choose(&files, &Certificates::new(), SystemTime::now(), &|_| None).certificates
}

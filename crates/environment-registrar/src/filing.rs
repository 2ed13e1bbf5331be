//! What is done to files, as far as it is not reading them: contents that took effect go into the [`archive`](crate::archive),
//! the files of ended environments move there, those of environments that `mayfly keep` brought back return, and copies
//! of what others registered are kept ([`crate::write_back`]). Pure planning and the keeping of what is still to be done;
//! [`cabinet`](crate::cabinet) does it.
//!
//! It runs beside the chain and holds nothing up: what can't be done is told, and tried again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use mayfly_core::names::EnvironmentName;
use mayfly_core::records::{Environment, SetAside};
use mayfly_daemon::retry::Backoff;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use crate::cabinet::{Cabinet, Fault, Task};
use crate::library::Library;
use crate::merge::{Cause, Merged};
use crate::mirror::Mirror;
use crate::write_back::{self, Origin};

/// About how much is done in one go, which nothing interrupts.
const AT_ONCE: usize = 200;

/// What became of some tasks.
type Outcome = Vec<(Task, Result<Option<String>, Fault>)>;

/// The work on files.
#[derive(Debug)]
pub struct Filing {
    cabinet: Arc<Cabinet>,
    write_back: bool,
    /// The contents that took effect and are not archived yet, the newest last; no more of one environment than are kept.
    contents: BTreeMap<EnvironmentName, VecDeque<Task>>,
    /// What else is planned and not begun.
    queued: VecDeque<Task>,
    /// Whether files or etcd have changed since the last plan.
    news: bool,
    running: Option<JoinHandle<Outcome>>,
    /// What could not be done, by the key under which it is told.
    failures: BTreeMap<String, String>,
    /// What stands in the way of copies, by file.
    told: BTreeMap<String, String>,
    /// What was moved away just now.
    moved: Vec<Arc<Environment>>,
    /// The takeovers that went against a change in etcd, with what was taken over by then.
    conflicts: BTreeMap<EnvironmentName, Arc<Environment>>,
    retry: Option<Instant>,
    backoff: Backoff,
}

impl Filing {
    /// Nothing is to be done yet.
    pub fn new(cabinet: Cabinet, write_back: bool) -> Self {
        Self {
            cabinet: Arc::new(cabinet),
            write_back,
            contents: BTreeMap::new(),
            queued: VecDeque::new(),
            news: false,
            running: None,
            failures: BTreeMap::new(),
            told: BTreeMap::new(),
            moved: Vec::new(),
            conflicts: BTreeMap::new(),
            retry: None,
            backoff: Backoff::default(),
        }
    }

    /// Notes that files or etcd have changed.
    pub fn has_news(&mut self) {
        self.news = true;
    }

    /// Notes that an environment has taken effect: its content is to be archived.
    pub fn took_effect(&mut self, library: &Library, environment: &Arc<Environment>) {
        let keep = self.cabinet.archive.keep();
        if keep == 0 {
            return;
        }
        let source = environment.source.as_ref();
        let document = source.and_then(|source| library.get(&source.file));
        let octets = document.and_then(|document| document.content_of(environment));
        let task = Task::Archive(environment.clone(), SystemTime::now(), octets.cloned());
        let contents = self.contents.entry(environment.name.clone()).or_default();
        contents.push_back(task);
        while contents.len() > keep {
            contents.pop_front();
        }
    }

    /// Notes the takeovers of a merge before they are carried out: what etcd has is archived, and told of where it is
    /// not what the person changed.
    pub fn takes_over(&mut self, library: &Library, mirror: &Mirror, merged: &Merged) {
        for name in merged.takeovers() {
            let (Some(held), Some(accepted)) = (mirror.environments().get(name), merged.accepted.get(name))
            else {
                continue;
            };
            // What is taken over already is ours.
            let (Ok(theirs), Some(_)) = (&held.record, mirror.other(name)) else {
                continue;
            };
            self.took_effect(library, theirs);
            let file = write_back::home(name);
            let base = library.get(&file).map(|document| document.origin());
            if !matches!(base, Some(Origin::Edited { base, .. }) if *base == write_back::digest_of(theirs)) {
                let told = self.conflicts.insert(name.clone(), accepted.clone());
                // While etcd is out of reach, the same takeover comes again with each try.
                if told.is_some_and(|told| Arc::ptr_eq(&told, accepted)) {
                    continue;
                }
                warn!(
                    "environment {name} was changed in etcd ({}) and in {file} at once: the file wins, what etcd had is archived",
                    mirror.other(name).unwrap_or_default()
                );
            }
        }
    }

    /// Waits until [`Filing::start`] has something to do again; gives the files that have been moved away, which whoever looks
    /// at the directory may not have noticed yet. Safe in `select!`.
    pub async fn turn(&mut self) -> Vec<String> {
        match (&mut self.running, self.retry) {
            (Some(running), _) => {
                let outcome = running.await;
                self.running = None;
                match outcome {
                    Ok(outcome) => return self.take(outcome),
                    Err(error) => {
                        error!("the work on files broke off: {error}");
                        self.news = true;
                    }
                }
            }
            (None, Some(retry)) => {
                sleep_until(retry.into()).await;
                (self.retry, self.news) = (None, true);
            }
            (None, None) => std::future::pending().await,
        }
        Vec::new()
    }

    /// Plans what is to be done and begins with it, unless something is being done.
    pub fn start(&mut self, library: &Library, mirror: &Mirror, merged: &Merged) {
        let idle = self.contents.is_empty() && self.queued.is_empty();
        if self.running.is_some() || (!self.news && (idle || self.retry.is_some())) {
            return;
        }
        if std::mem::take(&mut self.news) {
            let (accepted, mut tasks) = (&merged.accepted, Vec::new());
            self.conflicts
                .retain(|name, won| accepted.get(name).is_some_and(|now| now.asks_for_the_same(won)));
            tasks.extend(planned(library, mirror, merged, self.cabinet.archive.is_on()));
            // `mayfly keep` may have been faster than the move.
            let alive = self.moved.drain(..).filter_map(|moved| {
                mirror
                    .ours(&moved.name)
                    .filter(|ours| ours.asks_for_the_same(&moved))
            });
            tasks.extend(alive.cloned().map(Task::Restore));
            self.told = if self.write_back {
                let copies = write_back::plan(library, mirror, accepted);
                tasks.extend(copies.writes.into_iter().map(Task::Copy));
                tasks.extend(copies.deletes.into_iter().map(Task::DeleteCopy));
                copies.told
            } else {
                write_back::left_over(library, mirror, accepted)
            };
            // What is not to be done any more can't fail any more.
            let keys: BTreeSet<String> = tasks.iter().map(|task| self.cabinet.key(task)).collect();
            let archive = self.cabinet.archive_key();
            self.failures
                .retain(|key, _| keys.contains(key) || *key == archive);
            self.queued = tasks.into();
        }
        let tasks: Vec<Task> = self.queued.drain(..self.queued.len().min(AT_ONCE)).collect();
        // What an environment was comes before what it is now.
        let mut first = Vec::new();
        for task in &tasks {
            first.extend(self.contents.remove(task.name()).unwrap_or_default());
        }
        while first.len() < AT_ONCE {
            let Some((_, contents)) = self.contents.pop_first() else {
                break;
            };
            first.extend(contents);
        }
        let tasks = [first, tasks].concat();
        if tasks.is_empty() {
            self.failures.clear();
            return;
        }
        let cabinet = self.cabinet.clone();
        self.running = Some(tokio::task::spawn_blocking(move || {
            let carry_out = |task| {
                let done = cabinet.carry_out(&task);
                (task, done)
            };
            tasks.into_iter().map(carry_out).collect()
        }));
    }

    fn take(&mut self, outcome: Outcome) -> Vec<String> {
        let mut gone = Vec::new();
        let mut failures = BTreeMap::new();
        let archive = self.cabinet.archive_key();
        let (mut reached, mut again) = (false, Vec::new());
        for (task, done) in outcome {
            let key = self.cabinet.key(&task);
            match done {
                Ok(said) => {
                    reached |= !matches!(task, Task::Restore(_) | Task::Copy(_));
                    self.failures.remove(&key);
                    let Some(said) = said else { continue };
                    info!("{said}");
                    if let Task::MoveAway(file, environment) = task {
                        self.moved.push(environment);
                        gone.push(file);
                    }
                }
                Err(fault) => {
                    let (key, reason) = match fault {
                        Fault::Archive(reason) => (archive.clone(), reason),
                        Fault::File(reason) => (key, reason),
                    };
                    failures.entry(key).or_insert(reason);
                    again.push(task);
                }
            }
        }
        self.again(again);
        if reached && !failures.contains_key(&archive) {
            self.failures.remove(&archive);
        }
        if failures.is_empty() && self.failures.is_empty() {
            self.backoff.reset();
        } else if !failures.is_empty() {
            self.retry = Some(Instant::now() + self.backoff.next_delay());
        }
        self.failures.extend(failures);
        gone
    }

    /// Keeps the contents among these for the next try, before those that took effect since; everything else is planned
    /// again.
    fn again(&mut self, tasks: Vec<Task>) {
        for task in tasks.into_iter().rev() {
            let Task::Archive(environment, ..) = &task else {
                continue;
            };
            let contents = self.contents.entry(environment.name.clone()).or_default();
            if contents.len() < self.cabinet.archive.keep() {
                contents.push_front(task);
            }
        }
    }

    /// What could not be done, and what goes against somebody.
    pub fn set_aside(&self) -> impl Iterator<Item = SetAside> {
        let conflicts = self.conflicts.keys().map(|name| SetAside {
            key: write_back::home(name),
            reason: format!(
                "environment {name} was changed in etcd and in this file at once: the file won; \
                 what etcd had is in {}",
                self.cabinet.archive.root().join(name.as_str()).display()
            ),
        });
        let entry = |(key, reason): (&String, &String)| SetAside {
            key: key.clone(),
            reason: reason.clone(),
        };
        conflicts.chain(self.failures.iter().chain(&self.told).map(entry))
    }
}

/// The files of ended environments to move away, and those of revived ones to bring back.
fn planned(library: &Library, mirror: &Mirror, merged: &Merged, archive: bool) -> Vec<Task> {
    let mut tasks = Vec::new();
    for refusal in &merged.refused {
        match refusal.cause {
            // Without an archive the file is all that is left.
            Cause::Ended if archive => {
                let document = library.get(&refusal.file);
                let alone = document.filter(|it| it.is_faultless() && it.entries.len() == 1);
                if let Some(entry) = alone.and_then(|document| document.entry(&refusal.environment)) {
                    tasks.push(Task::MoveAway(refusal.file.clone(), entry.environment.clone()));
                }
            }
            Cause::Unnamed if mirror.is_revived(&refusal.environment) => {
                tasks.extend(mirror.ours(&refusal.environment).cloned().map(Task::Restore));
            }
            _ => {}
        }
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Archive;

    fn environment(version: u8) -> Arc<Environment> {
        let text = format!("name: a\nservices: [{{name: backend, version: 1.{version}}}]");
        let parsed = mayfly_core::environment_file::parse(text.as_bytes());
        Arc::new(parsed.entries[0].environment.clone())
    }

    fn versions(filing: &Filing) -> Vec<String> {
        let contents = filing.contents.values().flatten();
        let version = |task: &Task| match task {
            Task::Archive(environment, ..) => environment.services[0].version.to_string(),
            other => panic!("{other:?}"),
        };
        contents.map(version).collect()
    }

    #[test]
    fn contents_wait_in_their_order_and_no_more_of_them_than_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("envs");
        let archive = Archive::new(None, &directory, 3).unwrap();
        let mut filing = Filing::new(Cabinet { directory, archive }, false);
        let library = Library::new("us".parse().unwrap());
        (0..4).for_each(|version| filing.took_effect(&library, &environment(version)));
        assert_eq!(versions(&filing), ["1.1", "1.2", "1.3"]);
        let under_way: Vec<Task> = std::mem::take(&mut filing.contents)
            .into_values()
            .flatten()
            .collect();
        filing.took_effect(&library, &environment(4));
        let fault = || Err(Fault::Archive("no".to_owned()));
        filing.take(under_way.into_iter().map(|task| (task, fault())).collect());
        assert_eq!(versions(&filing), ["1.2", "1.3", "1.4"]);
        assert!(filing.retry.is_some());
        let told: Vec<_> = filing.set_aside().map(|entry| entry.reason).collect();
        assert_eq!(told, ["no"], "once for all of them");
        let done: Vec<Task> = std::mem::take(&mut filing.contents)
            .into_values()
            .flatten()
            .collect();
        filing.take(done.into_iter().map(|task| (task, Ok(None))).collect());
        assert_eq!((filing.set_aside().count(), filing.contents.len()), (0, 0));
    }
}

//! Plans the writing of files, and keeps what is still to be done: contents that took effect go to
//! the archive, files of ended environments move there, files of environments that `mayfly keep`
//! brought back return, and copies of other registrations are kept ([`crate::files_out::copies`]).
//! It is pure; [`crate::files_out::writer`] does the work.
//!
//! It runs beside the chain and delays nothing: what fails is reported and retried.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use mayfly_core::names::EnvironmentName;
use mayfly_core::records::{Environment, SetAside};
use mayfly_daemon::retry::Backoff;
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use crate::actual::Actual;
use crate::desired::files::Files;
use crate::desired::merge::{Merged, RefusalCause};
use crate::files_in::origin::{self, Origin};
use crate::files_out::copies;
use crate::files_out::writer::{Task, WriteFault, Writer};

/// About how much is done in one go, which nothing interrupts.
const AT_ONCE: usize = 200;

/// What became of some tasks.
type TaskResults = Vec<(Task, Result<Option<String>, WriteFault>)>;

#[derive(Debug)]
pub struct Queue {
    writer: Arc<Writer>,
    write_back: bool,
    /// The contents that took effect and are not archived yet, the newest last; no more of one
    /// environment than are kept.
    contents: BTreeMap<EnvironmentName, VecDeque<Task>>,
    /// What else is planned and not begun.
    queued: VecDeque<Task>,
    /// Whether files or etcd have changed since the last plan.
    news: bool,
    running: Option<JoinHandle<TaskResults>>,
    /// What could not be done, by the key under which it is reported.
    failures: BTreeMap<String, String>,
    /// What stands in the way of copies, by file.
    reports: BTreeMap<String, String>,
    /// What was moved away just now.
    moved: Vec<Arc<Environment>>,
    /// The takeovers that went against a change in etcd, with what was taken over by then.
    conflicts: BTreeMap<EnvironmentName, Arc<Environment>>,
    retry: Option<Instant>,
    backoff: Backoff,
}

impl Queue {
    /// Nothing is to be done yet.
    pub fn new(writer: Writer, write_back: bool) -> Self {
        Self {
            writer: Arc::new(writer),
            write_back,
            contents: BTreeMap::new(),
            queued: VecDeque::new(),
            news: false,
            running: None,
            failures: BTreeMap::new(),
            reports: BTreeMap::new(),
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
    pub fn took_effect(&mut self, files: &mut Files, environment: &Arc<Environment>) {
        let (keep, content) = (self.writer.archive.keep(), files.take_content(environment));
        if keep == 0 {
            return;
        }
        let task = Task::Archive(environment.clone(), SystemTime::now(), content);
        let contents = self.contents.entry(environment.name.clone()).or_default();
        contents.push_back(task);
        while contents.len() > keep {
            contents.pop_front();
        }
    }

    /// Notes the takeovers of a merge before they are carried out: what etcd has is archived, and
    /// told of where it is not what the person changed.
    pub fn takes_over(&mut self, files: &mut Files, actual: &Actual, merged: &Merged) {
        for name in merged.takeovers() {
            let (Some(held), Some(accepted)) = (actual.environments().get(name), merged.accepted.get(name))
            else {
                continue;
            };
            // What is taken over already is ours.
            let (Ok(theirs), Some(_)) = (&held.record, actual.other(name)) else {
                continue;
            };
            self.took_effect(files, theirs);
            let file = origin::home(name);
            let base = files.get(&file).map(|document| document.origin());
            if !matches!(base, Some(Origin::Edited { base, .. }) if *base == origin::digest_of(theirs)) {
                let before = self.conflicts.insert(name.clone(), accepted.clone());
                // While etcd is out of reach, the same takeover comes again with each try.
                if before.is_some_and(|before| Arc::ptr_eq(&before, accepted)) {
                    continue;
                }
                let archived = match self.writer.archive.is_on() {
                    true => ", and the content from etcd is archived",
                    false => "",
                };
                warn!(
                    "environment {name}: {file} changed, and {} changed the environment in etcd at \
                     the same time. The file wins{archived}",
                    actual.other(name).unwrap_or_default()
                );
            }
        }
    }

    /// Waits until [`Queue::start`] has something to do again; gives the files that have been moved
    /// away, which whoever looks at the directory may not have noticed yet. Safe in `select!`.
    pub async fn turn(&mut self) -> Vec<String> {
        match (&mut self.running, self.retry) {
            (Some(running), _) => {
                let outcome = running.await;
                self.running = None;
                match outcome {
                    Ok(outcome) => return self.take(outcome),
                    Err(error) => {
                        error!(
                            "cannot write environment files and the archive: {error}; retrying. The \
                             archive may miss the contents that this task had to write"
                        );
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
    pub fn start(&mut self, files: &Files, actual: &Actual, merged: &Merged) {
        let idle = self.contents.is_empty() && self.queued.is_empty();
        if self.running.is_some() || (!self.news && (idle || self.retry.is_some())) {
            return;
        }
        if std::mem::take(&mut self.news) {
            let (accepted, mut tasks) = (&merged.accepted, Vec::new());
            self.conflicts
                .retain(|name, won| accepted.get(name).is_some_and(|now| now.asks_for_the_same(won)));
            tasks.extend(planned(files, actual, merged, self.writer.archive.is_on()));
            // `mayfly keep` may have been faster than the move.
            let alive = self.moved.drain(..).filter_map(|moved| {
                actual
                    .ours(&moved.name)
                    .filter(|ours| ours.asks_for_the_same(&moved))
            });
            tasks.extend(alive.cloned().map(Task::Restore));
            self.reports = if self.write_back {
                let planned = copies::plan(files, actual, accepted);
                tasks.extend(planned.writes.into_iter().map(Task::Copy));
                tasks.extend(planned.deletes.into_iter().map(Task::DeleteCopy));
                planned.reports
            } else {
                copies::left_over(files, actual, accepted)
            };
            // What is not to be done any more can't fail any more.
            let keys: BTreeSet<String> = tasks.iter().map(|task| self.writer.key(task)).collect();
            let archive = self.writer.archive_key();
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
        let writer = self.writer.clone();
        self.running = Some(mayfly_daemon::tasks::blocking(move || {
            let carry_out = |task| {
                let done = writer.carry_out(&task);
                (task, done)
            };
            tasks.into_iter().map(carry_out).collect()
        }));
    }

    fn take(&mut self, outcome: TaskResults) -> Vec<String> {
        let mut gone = Vec::new();
        let mut failures = BTreeMap::new();
        let archive = self.writer.archive_key();
        let (mut reached, mut again) = (false, Vec::new());
        for (task, done) in outcome {
            let key = self.writer.key(&task);
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
                        WriteFault::Archive(reason) => (archive.clone(), reason),
                        WriteFault::File(reason) => (key, reason),
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

    /// Keeps the contents among these for the next try, before those that took effect since;
    /// everything else is planned again.
    fn again(&mut self, tasks: Vec<Task>) {
        for task in tasks.into_iter().rev() {
            let Task::Archive(environment, ..) = &task else {
                continue;
            };
            let contents = self.contents.entry(environment.name.clone()).or_default();
            if contents.len() < self.writer.archive.keep() {
                contents.push_front(task);
            }
        }
    }

    /// What could not be done, and what goes against somebody.
    pub fn set_aside(&self) -> impl Iterator<Item = SetAside> {
        let archive = &self.writer.archive;
        let archived = |name: &EnvironmentName| match archive.is_on() {
            true => {
                let place = archive.root().join(name.as_str());
                format!(", and the content from etcd is in {}", place.display())
            }
            false => String::new(),
        };
        let conflicts = self.conflicts.keys().map(move |name| SetAside {
            key: origin::home(name),
            reason: format!(
                "environment {name} was changed in this file and in etcd at the same time: the file \
                 won{}",
                archived(name)
            ),
        });
        let entry = |(key, reason): (&String, &String)| SetAside {
            key: key.clone(),
            reason: reason.clone(),
        };
        conflicts.chain(self.failures.iter().chain(&self.reports).map(entry))
    }
}

/// The files of ended environments to move away, and those of revived ones to bring back.
fn planned(files: &Files, actual: &Actual, merged: &Merged, archive: bool) -> Vec<Task> {
    let mut tasks = Vec::new();
    for refusal in &merged.refused {
        match refusal.cause {
            // Without an archive the file is all that is left.
            RefusalCause::Ended if archive => {
                let document = files.get(&refusal.file);
                let alone = document.filter(|it| it.is_faultless() && it.entries.len() == 1);
                if let Some(entry) = alone.and_then(|document| document.entry(&refusal.environment)) {
                    tasks.push(Task::MoveAway(refusal.file.clone(), entry.record.clone()));
                }
            }
            RefusalCause::Unnamed if actual.is_revived(&refusal.environment) => {
                tasks.extend(actual.ours(&refusal.environment).cloned().map(Task::Restore));
            }
            _ => {}
        }
    }
    tasks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files_out::archive::Archive;

    fn environment(version: u8) -> Arc<Environment> {
        let text = format!("name: a\nservices: [{{name: backend, version: 1.{version}}}]");
        let parsed = mayfly_core::environment_file::parse(text.as_bytes());
        Arc::new(parsed.entries[0].environment.clone())
    }

    fn versions(queue: &Queue) -> Vec<String> {
        let contents = queue.contents.values().flatten();
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
        let mut queue = Queue::new(Writer { directory, archive }, false);
        let mut files = Files::new("us".parse().unwrap());
        (0..4).for_each(|version| queue.took_effect(&mut files, &environment(version)));
        assert_eq!(versions(&queue), ["1.1", "1.2", "1.3"]);
        let under_way: Vec<Task> = std::mem::take(&mut queue.contents)
            .into_values()
            .flatten()
            .collect();
        queue.took_effect(&mut files, &environment(4));
        let fault = || Err(WriteFault::Archive("no".to_owned()));
        queue.take(under_way.into_iter().map(|task| (task, fault())).collect());
        assert_eq!(versions(&queue), ["1.2", "1.3", "1.4"]);
        assert!(queue.retry.is_some());
        let reports: Vec<_> = queue.set_aside().map(|entry| entry.reason).collect();
        assert_eq!(reports, ["no"], "once for all of them");
        let done: Vec<Task> = std::mem::take(&mut queue.contents)
            .into_values()
            .flatten()
            .collect();
        queue.take(done.into_iter().map(|task| (task, Ok(None))).collect());
        assert_eq!((queue.set_aside().count(), queue.contents.len()), (0, 0));
    }
}

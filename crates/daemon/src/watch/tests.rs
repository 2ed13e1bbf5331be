//! The state machine in virtual time, against a store that does what the test says.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use mayfly_core::keys::{Key, KeySpace, Kind};
use mayfly_core::records::SetAsides;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::*;
use crate::store::{Cause, Entry, Event};

/// What the fake store does: answers to `list` in order, and what its streams say.
#[derive(Default)]
struct Script {
    lists: Mutex<VecDeque<Result<Listing, Cause>>>,
    streams: Mutex<VecDeque<VecDeque<Said>>>,
    opened: Mutex<Vec<(i64, Instant)>>,
    asked: Mutex<Vec<Instant>>,
    reported: Notify,
}

/// One thing that a stream says; at the end of its list it is silent.
enum Said {
    Event(i64, Event),
    /// Answers the next question.
    Answer,
    Fail(Cause),
    After(Duration),
}

struct Fake(Arc<Script>);

struct FakeStream {
    script: Arc<Script>,
    said: VecDeque<Said>,
}

fn error(cause: Cause) -> StoreError {
    StoreError::new("watch /mayfly".to_owned(), cause)
}

fn unreachable() -> Cause {
    Cause::Unreachable {
        at: "etcd".to_owned(),
        reason: "connection refused".to_owned(),
    }
}

impl WatchSource for Fake {
    type Stream = FakeStream;

    async fn list(&self) -> Result<Listing, StoreError> {
        match self.0.lists.lock().unwrap().pop_front() {
            Some(answer) => answer.map_err(error),
            None => Err(error(unreachable())),
        }
    }

    async fn watch(&self, from: i64) -> Result<FakeStream, StoreError> {
        self.0.opened.lock().unwrap().push((from, Instant::now()));
        let said = self.0.streams.lock().unwrap().pop_front().unwrap_or_default();
        Ok(FakeStream {
            script: self.0.clone(),
            said,
        })
    }
}

impl Stream for FakeStream {
    async fn next(&mut self) -> Result<StreamMessage, StoreError> {
        loop {
            match self.said.front() {
                Some(Said::After(span)) => {
                    tokio::time::sleep(*span).await;
                    self.said.pop_front();
                }
                Some(Said::Answer) => {
                    self.script.reported.notified().await;
                    self.said.pop_front();
                    return Ok(StreamMessage::Alive);
                }
                None => std::future::pending::<()>().await,
                Some(_) => match self.said.pop_front() {
                    Some(Said::Event(revision, event)) => {
                        return Ok(StreamMessage::Events {
                            revision,
                            events: vec![event],
                        });
                    }
                    Some(Said::Fail(cause)) => return Err(error(cause)),
                    _ => {}
                },
            }
        }
    }

    async fn ask(&mut self) -> Result<(), StoreError> {
        self.script.asked.lock().unwrap().push(Instant::now());
        self.script.reported.notify_one();
        Ok(())
    }

    async fn give_up(self, limit: Duration) -> StoreError {
        error(Cause::Late {
            at: "etcd".to_owned(),
            limit,
        })
    }
}

fn key(name: &str) -> String {
    format!("/mayfly/environments/{name}")
}

fn entry(name: &str, revision: i64) -> Entry {
    let record = serde_json::json!({"name": name, "prefix": name, "header": name});
    Entry {
        key: key(name),
        value: record.to_string().into_bytes(),
        create_revision: 1,
        mod_revision: revision,
        lease: None,
    }
}

fn listing(revision: i64, entries: &[(&str, i64)]) -> Result<Listing, Cause> {
    Ok(Listing {
        revision,
        entries: entries
            .iter()
            .map(|(name, revision)| entry(name, *revision))
            .collect(),
    })
}

fn start_script(
    options: WatchOptions,
    lists: impl IntoIterator<Item = Result<Listing, Cause>>,
    streams: impl IntoIterator<Item = Vec<Said>>,
) -> (Watch, Arc<Script>) {
    let script = Script {
        lists: Mutex::new(lists.into_iter().collect()),
        streams: Mutex::new(streams.into_iter().map(VecDeque::from).collect()),
        ..Script::default()
    };
    let script = Arc::new(script);
    (start_with(Fake(script.clone()), options), script)
}

fn start_with<S: WatchSource>(source: S, options: WatchOptions) -> Watch {
    start(source, KeySpace::default(), &Kind::ALL, options)
}

fn delete(name: &str) -> Event {
    Event::Delete(key(name))
}

fn gone(name: &str) -> Change {
    Change::Gone(Key::Environment(name.parse().unwrap()))
}

fn put(name: &str, revision: i64) -> Change {
    Change::of(Key::Environment(name.parse().unwrap()), &entry(name, revision))
}

#[tokio::test(start_paused = true)]
async fn lists_first_then_follows_from_the_next_revision() {
    let follow = vec![
        Said::Event(8, Event::Put(entry("b", 8))),
        Said::Event(9, delete("a")),
    ];
    let (mut watch, script) = start_script(WatchOptions::default(), [listing(7, &[("a", 5)])], [follow]);
    let first = watch.next().await;
    assert_eq!(
        first,
        Batch {
            revision: 7,
            listed: true,
            changes: vec![put("a", 5)],
            set_aside: SetAsides::default(),
        }
    );
    let second = watch.next().await;
    assert_eq!((second.revision, second.listed), (8, false));
    assert_eq!(watch.next().await.changes, [gone("a")]);
    assert_eq!(script.opened.lock().unwrap()[0].0, 8);
    assert_eq!(watch.metrics().in_sync.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn every_failure_leads_to_a_listing_that_tells_what_was_missed() {
    for cause in [
        Cause::Compacted,
        Cause::Ended("no reason given".to_owned()),
        unreachable(),
    ] {
        let (mut watch, script) = start_script(
            WatchOptions::default(),
            [listing(7, &[("a", 5)]), listing(20, &[("b", 12)])],
            [vec![Said::Fail(cause)], vec![]],
        );
        watch.next().await;
        let again = watch.next().await;
        assert_eq!(
            again,
            Batch {
                revision: 20,
                listed: true,
                changes: vec![gone("a"), put("b", 12)],
                set_aside: SetAsides::default(),
            }
        );
        assert_eq!(watch.metrics().relists.get(), 1);
        // The stream of the second listing is opened by the task, which has run at the latest after this:
        timeout(Duration::from_secs(1), watch.next()).await.unwrap_err();
        assert_eq!(script.opened.lock().unwrap()[1].0, 21);
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_of_data_goes_back_even_where_the_revisions_have_overtaken_the_old_ones() {
    for (listed, expected) in [
        // Another key from before what was told; the same key, put at another time.
        (listing(20, &[("a", 5), ("b", 6)]), 6),
        (listing(20, &[("a", 3)]), 6),
        // What came since, and what has gone since.
        (listing(20, &[("a", 5), ("b", 12)]), 20),
        (listing(20, &[("a", 12)]), 20),
        (listing(20, &[]), 20),
    ] {
        let lists = [listing(7, &[("a", 5)]), listed];
        let streams = [vec![Said::Fail(unreachable())], vec![]];
        let (mut watch, script) = start_script(WatchOptions::default(), lists, streams);
        watch.next().await;
        let again = watch.next_batch_coalesced().await;
        assert_eq!((again.revision, again.listed), (expected, true), "{again:?}");
        if expected < 20 {
            let now = watch.next_batch_coalesced().await;
            assert_eq!((now.revision, now.listed, now.changes), (20, false, vec![]));
        }
        timeout(Duration::from_secs(1), watch.next()).await.unwrap_err();
        assert_eq!(script.opened.lock().unwrap()[1].0, 21);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_asked_again_at_growing_distances() {
    let start = Instant::now();
    let lists = (0..12).map(|_| Err(unreachable())).chain([listing(1, &[])]);
    let (mut watch, _) = start_script(WatchOptions::default(), lists, []);
    assert!(watch.next().await.changes.is_empty());
    let took = start.elapsed();
    assert!(
        took > Duration::from_secs(4) && took < Duration::from_secs(9),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_always_fails_at_once_is_not_tried_in_a_hot_loop() {
    let lists = (0..1000).map(|_| listing(7, &[]));
    let streams = (0..1000).map(|_| vec![Said::Fail(Cause::Ended("permission denied".to_owned()))]);
    let (mut watch, script) = start_script(WatchOptions::default(), lists, streams);
    let all = async {
        loop {
            watch.next().await;
        }
    };
    timeout(Duration::from_secs(60), all).await.unwrap_err();
    let opened = script.opened.lock().unwrap().len();
    assert!((50..130).contains(&opened), "{opened}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_stream_is_asked_and_without_an_answer_counts_as_dead() {
    let (mut watch, script) = start_script(
        WatchOptions::default(),
        [listing(7, &[]), listing(9, &[("a", 8)])],
        [vec![Said::Answer], vec![]],
    );
    let start = Instant::now();
    watch.next().await;
    let again = watch.next().await;
    assert_eq!(again.changes.len(), 1);
    // Silent for 2 s, asked, answered; silent for 2 s, asked, no answer for 2.5 s.
    assert_eq!(start.elapsed().as_millis(), 6_500);
    let asked: Vec<u64> = script
        .asked
        .lock()
        .unwrap()
        .iter()
        .map(|at| (*at - start).as_secs())
        .collect();
    assert_eq!(asked, [2, 4]);
}

#[tokio::test(start_paused = true)]
async fn lists_again_once_in_a_while_without_any_doubt() {
    let options = WatchOptions {
        silence: Duration::from_secs(3600),
        ..WatchOptions::default()
    };
    let (mut watch, _) = start_script(options, [listing(7, &[("a", 5)]), listing(9, &[])], []);
    let start = Instant::now();
    watch.next().await;
    assert_eq!(watch.next().await.changes, [gone("a")]);
    assert!(
        (270..=300).contains(&start.elapsed().as_secs()),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_suddenly_empties_is_believed_only_after_the_grace() {
    let options = WatchOptions::default().with_policy(Policy::launching(Duration::from_secs(60)));
    let (mut watch, _) = start_script(
        WatchOptions {
            silence: Duration::from_secs(3600),
            ..options
        },
        [listing(7, &[("a", 5), ("b", 6)]), listing(1, &[])],
        [
            vec![Said::Fail(unreachable())],
            vec![
                Said::After(Duration::from_secs(20)),
                Said::Event(2, Event::Put(entry("a", 2))),
            ],
        ],
    );
    watch.next().await;
    let start = Instant::now();
    let empty = watch.next().await;
    assert_eq!((empty.listed, empty.changes.len(), watch.held()), (true, 0, 2));
    assert_eq!(watch.next().await.changes, [put("a", 2)]);
    assert_eq!((start.elapsed().as_secs(), watch.held()), (20, 1));
    assert_eq!(watch.next().await.changes, [gone("b")]);
    assert_eq!((start.elapsed().as_secs(), watch.held()), (60, 0));
}

#[tokio::test(start_paused = true)]
async fn a_grace_that_ends_while_the_store_is_away_takes_nothing_away() {
    let options = WatchOptions::default().with_policy(Policy::launching(Duration::from_secs(1)));
    let away = (0..20).map(|_| Err(unreachable()));
    let lists = [listing(7, &[("a", 5)]), listing(1, &[])]
        .into_iter()
        .chain(away)
        .chain([listing(3, &[("a", 2)])]);
    let fail = || vec![Said::Fail(unreachable())];
    let (mut watch, _) = start_script(options, lists, [fail(), fail(), vec![]]);
    let start = Instant::now();
    assert_eq!(watch.next().await.changes.len(), 1);
    assert_eq!(watch.next().await.changes.len(), 0);
    let back = watch.next().await;
    assert!(start.elapsed() > Duration::from_secs(5));
    assert_eq!((back.changes, watch.held()), (vec![put("a", 2)], 0));
}

#[tokio::test(start_paused = true)]
async fn batches_that_queued_up_are_taken_together() {
    let said = (0..5)
        .map(|n| Said::Event(8 + n, Event::Put(entry("a", 8 + n))))
        .collect();
    let (mut watch, _) = start_script(WatchOptions::default(), [listing(7, &[])], [said]);
    let lost = timeout(Duration::from_secs(1), std::future::pending::<()>()).await;
    assert!(lost.is_err());
    let batch = watch.next_batch_coalesced().await;
    assert_eq!((batch.revision, batch.listed, batch.changes.len()), (12, true, 5));
}

/// Revisions begin again with the listing: together with what came before it, or after it, nobody
/// could tell which revision is of when.
#[tokio::test(start_paused = true)]
async fn the_listing_after_a_loss_of_data_is_taken_alone() {
    let said = vec![
        Said::Event(8, Event::Put(entry("b", 8))),
        Said::Event(9, Event::Put(entry("c", 9))),
        Said::Fail(unreachable()),
    ];
    let again = vec![
        Said::Event(4, Event::Put(entry("d", 4))),
        Said::Event(12, Event::Put(entry("e", 12))),
    ];
    let lists = [listing(7, &[("a", 5)]), listing(3, &[("a", 2)])];
    let (mut watch, _) = start_script(WatchOptions::default(), lists, [said, again]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut batches = Vec::new();
    for _ in 0..3 {
        let batch = watch.next_batch_coalesced().await;
        batches.push((batch.revision, batch.listed, batch.changes));
    }
    let before = vec![put("a", 5), put("b", 8), put("c", 9)];
    let loss = vec![gone("b"), gone("c"), put("a", 2)];
    let after = vec![put("d", 4), put("e", 12)];
    assert_eq!(batches, [(9, true, before), (3, true, loss), (12, false, after)]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_set_aside_until_it_can() {
    let bad = Entry {
        value: b"{}".to_vec(),
        ..entry("a", 8)
    };
    let follow = vec![
        Said::Event(8, Event::Put(bad)),
        Said::Event(9, Event::Put(entry("b", 9))),
        Said::After(Duration::from_secs(1)),
        Said::Event(10, Event::Put(entry("a", 10))),
    ];
    let (mut watch, _) = start_script(WatchOptions::default(), [listing(7, &[("a", 5)])], [follow]);
    watch.next().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let both = watch.next_batch_coalesced().await;
    let (aside, changes) = (both.set_aside, both.changes);
    assert_eq!(
        aside.reason(&key("a")),
        Some("the value is not a record: missing field `name` at line 1 column 2")
    );
    assert!(
        matches!(&changes[..], [Change::Unreadable(_), Change::Put(_)]),
        "{changes:?}"
    );
    let good = watch.next().await;
    assert_eq!(
        (good.changes, good.set_aside),
        (vec![put("a", 10)], SetAsides::default())
    );
}

struct Broken;

impl WatchSource for Broken {
    type Stream = FakeStream;

    async fn list(&self) -> Result<Listing, StoreError> {
        panic!("broken pump")
    }

    async fn watch(&self, _: i64) -> Result<FakeStream, StoreError> {
        Err(error(unreachable()))
    }
}

#[tokio::test]
async fn a_panic_inside_reaches_the_consumer() {
    let mut watch = start_with(Broken, WatchOptions::default());
    let consumer = tokio::spawn(async move { watch.next().await });
    assert!(consumer.await.unwrap_err().is_panic());
}

//! Passes on what changes: a pass over the state makes one event for all who follow it. Passes are
//! rare in proportion to how long they take. A client that lags too far behind gets the whole
//! again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mayfly_core::explain::Settings;
use mayfly_core::names::ServiceName;
use tokio::sync::{Mutex, broadcast};
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use crate::decisions::{VersionTable, router_settings};
use crate::live::Live;
use crate::pieces::Piece;
use crate::problem::Problem;
use crate::render::{Rendering, Whole};

/// Events that wait for a slow client; one that is further behind gets the whole instead.
const BACKLOG: usize = 16;
/// The shortest time between two passes, and the longest: people look at what is at most a second
/// old.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How many times as long as a pass took the next one waits.
const PROPORTION: u32 = 9;
/// A pass that takes longer leaves its thread to other answers.
const SLOW: Duration = Duration::from_millis(20);
/// Services whose versions are followed at a time: each one costs a table at each change.
const SERVICES: usize = 50;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedTopic {
    State,
    /// The versions of one service.
    Versions(ServiceName),
}

/// What a client begins with, and how it goes on.
#[derive(Debug)]
pub struct Subscription {
    /// The whole, as one event in parts.
    pub first: Vec<Piece>,
    /// What changes after it.
    pub changes: broadcast::Receiver<Piece>,
}

#[derive(Debug)]
pub struct Feeds {
    live: Arc<Live>,
    inner: Mutex<FeedState>,
}

#[derive(Debug)]
struct FeedState {
    rendering: Rendering,
    /// The change that the rendering is at, and when it came there.
    at: Option<(u64, Instant)>,
    changes: broadcast::Sender<Piece>,
    services: HashMap<ServiceName, ServiceFeed>,
    /// What the routers reported last: a table goes on with it while none of them is there.
    settings: Option<Settings>,
    /// How long the tables of all services took last.
    tables_cost: Duration,
}

#[derive(Debug)]
struct ServiceFeed {
    table: VersionTable,
    changes: broadcast::Sender<Piece>,
}

impl Feeds {
    /// Feeds that nobody follows yet.
    pub fn new(live: &Arc<Live>) -> Self {
        Self {
            live: live.clone(),
            inner: Mutex::new(FeedState {
                rendering: Rendering::default(),
                at: None,
                changes: broadcast::Sender::new(BACKLOG),
                services: HashMap::new(),
                settings: None,
                tables_cost: Duration::ZERO,
            }),
        }
    }

    /// The whole state, at most as old as a pause between two passes.
    ///
    /// # Errors
    /// When etcd has not answered yet.
    pub async fn whole(&self) -> Result<Whole, Problem> {
        self.inner.lock().await.whole(&self.live)
    }

    /// Begins to follow a topic.
    ///
    /// # Errors
    /// When etcd has not answered yet; for versions of a service also when no router reports its
    /// settings, or too many services are followed.
    pub async fn subscribe(&self, topic: &FeedTopic) -> Result<Subscription, Problem> {
        let mut inner = self.inner.lock().await;
        match topic {
            FeedTopic::State => {
                // A change that came while nobody followed made no pass, and makes none later.
                let is_behind = inner.at.is_some_and(|(at, _)| at != self.live.version());
                if is_behind && inner.changes.receiver_count() == 0 {
                    inner.pass(&self.live, true)?;
                }
                let whole = inner.whole(&self.live)?;
                let begin = format!("id: {}\nevent: state\ndata: ", whole.revision);
                Ok(Subscription {
                    first: vec![Piece::of(&begin), whole.json, Piece::of("\n\n")],
                    changes: inner.changes.subscribe(),
                })
            }
            FeedTopic::Versions(service) => {
                let state = self.live.state()?;
                let settings = router_settings(&state)?;
                if !inner.services.contains_key(service) {
                    inner.make_room()?;
                    let since = self.live.facts().unreachable_since;
                    let feed = ServiceFeed {
                        table: VersionTable::of(&state, &settings, since, service),
                        changes: broadcast::Sender::new(BACKLOG),
                    };
                    inner.services.insert(service.clone(), feed);
                }
                inner.settings = Some(settings);
                let feed = &inner.services[service];
                Ok(Subscription {
                    first: vec![feed.table.event(service)],
                    changes: feed.changes.subscribe(),
                })
            }
        }
    }

    /// Whether anybody follows the state.
    pub async fn is_followed(&self) -> bool {
        self.inner.lock().await.changes.receiver_count() > 0
    }

    /// Passes on changes, without end.
    pub async fn run(&self) {
        let mut changes = self.live.changes();
        while changes.changed().await.is_ok() {
            let pause = self.inner.lock().await.publish(&self.live);
            sleep(pause).await;
        }
    }
}

impl FeedState {
    fn whole(&mut self, live: &Live) -> Result<Whole, Problem> {
        let (version, pause) = (live.version(), self.pause());
        let is_new = |(at, since): (u64, Instant)| at == version || since.elapsed() < pause;
        if let (Some(whole), Some(true)) = (self.rendering.whole(), self.at.map(is_new)) {
            return Ok(whole.clone());
        }
        self.pass(live, true)?;
        let whole = self.rendering.whole().cloned();
        whole.ok_or_else(|| Problem::unavailable("the state could not be written; try again"))
    }

    /// Looks at everything, and passes on what has changed.
    fn pass(&mut self, live: &Live, whole: bool) -> Result<(), Problem> {
        let (version, facts) = (live.version(), live.facts());
        let state = live.state()?;
        let is_slow = self.rendering.cost > SLOW;
        let mut look = || self.rendering.pass(&state, &facts, whole);
        let change = if is_slow { block_in_place(look) } else { look() };
        self.at = Some((version, Instant::now()));
        if let Some(change) = change {
            // Nobody may follow.
            let _ = self.changes.send(change);
        }
        Ok(())
    }

    fn publish(&mut self, live: &Live) -> Duration {
        let begun = Instant::now();
        if self.changes.receiver_count() > 0 {
            let _ = self.pass(live, false);
        }
        self.forget_unfollowed();
        match self.tables_cost > SLOW {
            true => block_in_place(|| self.publish_tables(live)),
            false => self.publish_tables(live),
        }
        pause_after(begun.elapsed())
    }

    fn publish_tables(&mut self, live: &Live) {
        let begun = Instant::now();
        let since = live.facts().unreachable_since;
        if let (false, Ok(state)) = (self.services.is_empty(), live.state()) {
            self.settings = state.settings().or(self.settings.take());
            for (service, feed) in &mut self.services {
                // Without settings nobody has begun to follow.
                let Some(settings) = &self.settings else { continue };
                let table = VersionTable::of(&state, settings, since, service);
                if let Some(change) = table.change(&feed.table) {
                    let _ = feed.changes.send(change);
                }
                feed.table = table;
            }
        }
        self.tables_cost = begun.elapsed();
    }

    fn forget_unfollowed(&mut self) {
        self.services.retain(|_, feed| feed.changes.receiver_count() > 0);
    }

    /// Makes room for one more service.
    fn make_room(&mut self) -> Result<(), Problem> {
        self.forget_unfollowed();
        match self.services.len() < SERVICES {
            true => Ok(()),
            false => Err(Problem::unavailable(format!(
                "the versions of {SERVICES} services are followed already, which is the limit; try \
                 again later, or ask /v1/decide"
            ))),
        }
    }

    fn pause(&self) -> Duration {
        pause_after(self.rendering.cost)
    }
}

fn pause_after(cost: Duration) -> Duration {
    (cost * PROPORTION).clamp(PAUSE.0, PAUSE.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::keys::{Daemon, Key, KeySpace};
    use mayfly_core::records::lifetime::Moment;
    use mayfly_core::records::{Record, SetAsides};
    use mayfly_daemon::store::Store;
    use mayfly_daemon::watch::{Batch, Change, Stored};
    use serde_json::json;

    fn live() -> Arc<Live> {
        let store = Store::new(vec!["http://127.0.0.1:1".parse().unwrap()], KeySpace::default());
        Arc::new(Live::new(&store, None))
    }

    fn take(live: &Live, revision: i64, record: Record) {
        live.take(Batch {
            revision,
            listed: false,
            changes: vec![Change::Put(Stored {
                record,
                revision: revision.into(),
                lease: None,
            })],
            set_aside: SetAsides::default(),
        });
    }

    fn environment(name: &str) -> Record {
        let services = json!([{"name": "web", "version": "1"}]);
        let record = json!({"name": name, "prefix": name, "header": name, "services": services});
        Record::Environment(serde_json::from_value(record).unwrap())
    }

    fn text(pieces: &[Piece]) -> String {
        let chunks: Vec<_> = pieces.iter().flat_map(Piece::inflate).collect();
        String::from_utf8(chunks.concat()).unwrap()
    }

    #[tokio::test]
    async fn the_first_follower_begins_with_a_change_that_nobody_followed() {
        let live = live();
        let feeds = Feeds::new(&live);
        take(&live, 1, environment("prod"));
        feeds.whole().await.unwrap();
        take(&live, 2, environment("temp-1"));
        // As `run` does.
        feeds.inner.lock().await.publish(&live);
        let begun = feeds.subscribe(&FeedTopic::State).await.unwrap();
        let first = text(&begun.first);
        assert!(first.contains("\"temp-1\""), "{first}");
        assert!(first.starts_with("id: 2\n"), "{first}");
    }

    fn router(default_environment: &str) -> Record {
        let settings = json!({
            "domain": "service", "default_environment": default_environment,
            "allow_header_at_edge": false, "share_links": "off",
            "health_path": null, "redirect_to_https": null,
        });
        let status = json!({"applied_revision": 1, "detail": {"settings": settings}});
        let status = serde_json::from_value(status).unwrap();
        Record::Status(Daemon::HaproxyUpdater, "r1".parse().unwrap(), status)
    }

    async fn follow(feeds: &Feeds, service: &str) -> Result<Subscription, Problem> {
        let topic = FeedTopic::Versions(service.parse().unwrap());
        feeds.subscribe(&topic).await
    }

    #[tokio::test]
    async fn nobody_decides_without_the_settings_of_a_router() {
        let live = live();
        let feeds = Feeds::new(&live);
        take(&live, 1, environment("prod"));
        let problem = follow(&feeds, "web").await.unwrap_err();
        assert_eq!(problem.status, 503);
        assert!(problem.detail.contains("no router reports its settings"));
        take(&live, 2, router("prod"));
        let mut begun = follow(&feeds, "web").await.unwrap();
        let first = text(&begun.first);
        assert!(first.contains(r#""default":"1""#), "{first}");
        assert!(first.contains(r#""etcd_unreachable_since":null"#), "{first}");
        // The router goes: whoever follows already goes on with what it reported.
        let gone = Key::Status(Daemon::HaproxyUpdater, "r1".parse().unwrap());
        live.take(Batch {
            revision: 3,
            listed: false,
            changes: vec![Change::Gone(gone)],
            set_aside: SetAsides::default(),
        });
        take(&live, 4, environment("temp-1"));
        feeds.inner.lock().await.publish(&live);
        let change = text(&[begun.changes.try_recv().unwrap()]);
        assert!(change.contains(r#""default":"1""#), "{change}");
        assert!(change.contains(r#""versions":{"temp-1":"1"}"#), "{change}");
        assert_eq!(follow(&feeds, "web").await.unwrap_err().status, 503);
    }

    #[tokio::test]
    async fn a_table_says_since_when_it_is_old() {
        let live = live();
        let feeds = Feeds::new(&live);
        take(&live, 1, environment("prod"));
        take(&live, 2, router("prod"));
        let mut begun = follow(&feeds, "web").await.unwrap();
        let since: Moment = "2026-01-02T03:04:05Z".parse().unwrap();
        live.set_unreachable(Some(since));
        feeds.inner.lock().await.publish(&live);
        let change = text(&[begun.changes.try_recv().unwrap()]);
        let told = r#""etcd_unreachable_since":"2026-01-02T03:04:05Z""#;
        assert!(change.contains(told), "{change}");
        let again = text(&follow(&feeds, "web").await.unwrap().first);
        assert!(again.contains(told), "{again}");
        live.set_unreachable(None);
        feeds.inner.lock().await.publish(&live);
        let change = text(&[begun.changes.try_recv().unwrap()]);
        assert!(change.contains(r#""etcd_unreachable_since":null"#), "{change}");
    }

    #[tokio::test]
    async fn so_many_services_are_followed_at_a_time() {
        let live = live();
        let feeds = Feeds::new(&live);
        take(&live, 1, router("prod"));
        let mut followed = Vec::new();
        for number in 0..SERVICES {
            followed.push(follow(&feeds, &format!("web-{number}")).await.unwrap());
        }
        followed.push(follow(&feeds, "web-0").await.unwrap());
        assert_eq!(follow(&feeds, "more").await.unwrap_err().status, 503);
        followed.remove(1);
        follow(&feeds, "more").await.unwrap();
    }
}

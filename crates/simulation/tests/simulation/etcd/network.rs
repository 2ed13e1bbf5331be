//! What is between the clients and etcd, with its faults: requests and answers that are lost, late
//! or refused, clients that are cut off, an etcd that is down or frozen, and watches that fall
//! silent. A stream of events is never reordered, as with a real connection.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::ClientId;
use crate::random::Random;

/// How often faults happen, in a thousand requests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A request is not carried out, and its client learns that the connection failed.
    pub refused: u64,
    /// A request is lost, and its client learns nothing.
    pub lost: u64,
    /// A request is carried out, and its client learns nothing of it.
    pub answer_lost: u64,
    /// A request or an answer is late by up to three seconds.
    pub late: u64,
    /// Events are late by up to two seconds.
    pub late_events: u64,
    /// A watch is silent from its beginning.
    pub silent: u64,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The connection fails at once.
    Refused,
    /// It never arrives.
    Lost,
    /// It arrives after the first span, and its answer after the second, if that comes.
    Arrives(Duration, Option<Duration>),
}

/// The network.
#[derive(Debug)]
pub struct Network {
    random: Random,
    faults: Faults,
    /// Connections fail.
    down: bool,
    /// Requests wait.
    frozen: bool,
    /// Nothing of these clients gets through.
    cut: BTreeMap<ClientId, ()>,
}

impl Network {
    pub(super) fn new(random: Random) -> Self {
        Self {
            random,
            faults: Faults::default(),
            down: false,
            frozen: false,
            cut: BTreeMap::new(),
        }
    }

    /// From now on, faults happen so often.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Whether etcd runs.
    pub fn is_up(&self) -> bool {
        !self.down && !self.frozen
    }

    /// Whether connections to etcd fail.
    pub fn is_down(&self) -> bool {
        self.down
    }

    /// Ends etcd, or starts it.
    pub fn set_down(&mut self, down: bool) {
        self.down = down;
    }

    /// Freezes etcd, or lets it go on.
    pub fn set_frozen(&mut self, frozen: bool) {
        self.frozen = frozen;
    }

    /// Cuts a client off, or lets it in again.
    pub fn set_cut(&mut self, client: ClientId, cut: bool) {
        if cut {
            self.cut.insert(client, ());
        } else {
            self.cut.remove(&client);
        }
    }

    /// Whether a client is cut off.
    pub fn is_cut(&self, client: ClientId) -> bool {
        self.cut.contains_key(&client)
    }

    /// What becomes of the next request of a client.
    pub(super) fn fate(&mut self, client: ClientId) -> Fate {
        if self.is_cut(client) {
            return Fate::Lost;
        }
        if self.down || self.random.happens(self.faults.refused) {
            return Fate::Refused;
        }
        if self.random.happens(self.faults.lost) {
            return Fate::Lost;
        }
        let there = self.latency();
        let is_lost = self.random.happens(self.faults.answer_lost);
        Fate::Arrives(there, (!is_lost).then(|| self.latency()))
    }

    fn latency(&mut self) -> Duration {
        match self.random.happens(self.faults.late) {
            true => self.random.millis(10, 3000),
            false => Duration::from_micros(200 + self.random.below(2000)),
        }
    }

    /// When an event arrives that is sent now.
    pub(super) fn event_arrives(&mut self, _client: ClientId) -> Instant {
        let late = self.random.happens(self.faults.late_events);
        let span = match late {
            true => self.random.millis(10, 2000),
            false => Duration::from_micros(200 + self.random.below(2000)),
        };
        Instant::now() + span
    }

    /// Whether the next watch of a client is silent.
    pub(super) fn opens_silently(&mut self, _client: ClientId) -> bool {
        self.random.happens(self.faults.silent)
    }
}

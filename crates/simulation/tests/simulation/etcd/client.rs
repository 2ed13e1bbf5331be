//! The way of one daemon to the etcd: what its store stands on. A request is on its own once it is
//! sent: it is carried out though its sender gives up, or ends.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mayfly_core::keys::KeySpace;
use mayfly_daemon::store::{
    Answer, Cause, Endpoint, Etcd, EventStream, Guard, Lease, LeaseId, LeaseState, Page, Question, Store,
    StreamMessage, TextWrite,
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::network::Fate;
use super::{ClientId, HeldLease, LEAST_LEASE, SimulatedEtcd, State, seconds};

/// A client. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    etcd: SimulatedEtcd,
    id: ClientId,
    limit: Duration,
    connected: Gauge,
    endpoints: Vec<Endpoint>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.id)
    }
}

impl SimulatedEtcd {
    /// A store of a client.
    ///
    /// # Panics
    /// Never.
    pub fn store(&self, id: ClientId) -> Store {
        let endpoint: Result<Endpoint, _> = "http://127.0.0.1:1".parse();
        let client = Client {
            etcd: self.clone(),
            id,
            limit: Store::DEFAULT_LIMIT,
            connected: Gauge::default(),
            endpoints: endpoint.into_iter().collect(),
        };
        Store::over(Arc::new(client), KeySpace::default())
    }
}

impl Client {
    /// Sends a request, and waits for its answer, at most for the limit.
    fn call<T: Send + fmt::Debug + 'static>(
        &self,
        what: impl FnOnce() -> String + Send + 'static,
        work: impl FnOnce(&mut State, ClientId) -> Result<T, Cause> + Send + 'static,
    ) -> Answer<'_, T> {
        let (etcd, id) = (self.etcd.clone(), self.id);
        Box::pin(async move {
            let deadline = Instant::now() + self.limit;
            let fate = etcd.lock().network.fate(id);
            let answer = match fate {
                Fate::Refused => {
                    sleep(Duration::from_micros(300)).await;
                    Err(refused())
                }
                Fate::Lost => {
                    sleep_until(deadline).await;
                    Err(self.late())
                }
                Fate::Arrives(there, back) => {
                    let (sender, answered) = oneshot::channel();
                    tokio::spawn(carry_out(etcd, id, there, what, work, sender));
                    let answered = async {
                        match (answered.await, back) {
                            (Ok(answer), Some(back)) => {
                                sleep(back).await;
                                answer
                            }
                            // Nothing comes.
                            _ => std::future::pending().await,
                        }
                    };
                    match timeout_at(deadline, answered).await {
                        Ok(answer) => answer,
                        Err(_) => Err(self.late()),
                    }
                }
            };
            let away = matches!(answer, Err(Cause::Late { .. } | Cause::Unreachable { .. }));
            self.connected.set(i64::from(!away));
            answer
        })
    }

    /// The text of a request that takes what the text is of; nothing where nobody reads it.
    fn text(&self, of: impl FnOnce() -> String) -> String {
        match self.etcd.shared.trace.is_printed() {
            true => of(),
            false => String::new(),
        }
    }

    fn late(&self) -> Cause {
        Cause::Late {
            at: "etcd".to_owned(),
            limit: self.limit,
        }
    }
}

/// Carries a request out when it arrives at an etcd that works. What arrives while etcd is down, or
/// what a client sent that is cut off by then, is lost.
async fn carry_out<T: fmt::Debug>(
    etcd: SimulatedEtcd,
    id: ClientId,
    there: Duration,
    what: impl FnOnce() -> String,
    work: impl FnOnce(&mut State, ClientId) -> Result<T, Cause>,
    sender: oneshot::Sender<Result<T, Cause>>,
) {
    sleep(there).await;
    loop {
        let changed = etcd.shared.changed.notified();
        {
            let mut state = etcd.lock();
            if state.network.is_down() {
                let _ = sender.send(Err(refused()));
                return;
            }
            if state.network.is_up() {
                let answer = work(&mut state, id);
                let is_lost = state.network.is_cut(id);
                drop(state);
                etcd.shared.trace.note(|| {
                    let outcome = match &answer {
                        Ok(answer) => format!("{answer:?}").chars().take(80).collect(),
                        Err(cause) => cause.to_string(),
                    };
                    format!("{}: {} -> {outcome}", id.0, what())
                });
                etcd.shared.leases.notify_one();
                if !is_lost {
                    let _ = sender.send(answer);
                }
                return;
            }
        }
        changed.await;
    }
}

fn refused() -> Cause {
    Cause::Unreachable {
        at: "etcd".to_owned(),
        reason: "connection refused".to_owned(),
    }
}

impl Etcd for Client {
    fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    fn connected(&self) -> &Gauge {
        &self.connected
    }

    fn with_limit(&self, limit: Duration) -> Arc<dyn Etcd> {
        Arc::new(Self {
            limit,
            connected: Gauge::default(),
            ..self.clone()
        })
    }

    fn range(&self, question: Question) -> Answer<'_, Page> {
        let start = String::from_utf8_lossy(&question.start).into_owned();
        let revision = question.revision;
        self.call(
            move || format!("read {start} at {revision}"),
            move |state, _| state.data.read(&question),
        )
    }

    fn put(&self, key: String, value: Vec<u8>, lease: Option<LeaseId>) -> Answer<'_, i64> {
        let text = self.text(|| describe(&TextWrite::Put(key.clone(), value.clone(), lease)));
        self.call(
            move || text,
            move |state, id| {
                let put = TextWrite::Put(key, value, lease);
                Ok(state.write(Some(id), vec![put])?.unwrap_or_default())
            },
        )
    }

    fn delete(&self, start: String, end: Option<String>) -> Answer<'_, i64> {
        let text = format!("delete {start}");
        self.call(
            move || text,
            move |state, id| {
                let end = end.unwrap_or_else(|| format!("{start}\0"));
                let keys: Vec<String> = state
                    .data
                    .keys
                    .range(start..end)
                    .map(|(key, _)| key.clone())
                    .collect();
                let count = i64::try_from(keys.len()).unwrap_or(i64::MAX);
                state.write(Some(id), keys.into_iter().map(TextWrite::Delete).collect())?;
                Ok(count)
            },
        )
    }

    fn write(&self, guards: Vec<(String, Guard)>, writes: Vec<TextWrite>) -> Answer<'_, Option<i64>> {
        let text = self.text(|| {
            let texts: Vec<String> = writes.iter().map(describe).collect();
            format!("if {guards:?}: {}", texts.join(", "))
        });
        self.call(
            move || text,
            move |state, id| {
                if !guards.iter().all(|(key, guard)| state.data.holds(key, *guard)) {
                    return Ok(None);
                }
                let done = state.write(Some(id), writes)?;
                Ok(Some(done.unwrap_or(state.data.revision)))
            },
        )
    }

    fn is_full(&self) -> Answer<'_, bool> {
        self.call(|| "status".to_owned(), |state, _| Ok(state.full))
    }

    fn grant(&self, seconds_wanted: i64) -> Answer<'_, Lease> {
        self.call(
            move || format!("grant {seconds_wanted}s"),
            move |state, _| {
                if state.full {
                    return Err(Cause::Full);
                }
                let granted = seconds_wanted.max(LEAST_LEASE);
                state.next_lease += 1;
                let lease = state.next_lease;
                let ends = Instant::now() + seconds(granted);
                state.data.leases.insert(lease, HeldLease { granted, ends });
                Ok(Lease {
                    id: LeaseId::new(lease),
                    ttl: seconds(granted),
                })
            },
        )
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.call(
            move || format!("keep {lease}"),
            move |state, _| {
                let held = state.data.leases.get_mut(&number(lease));
                let held = held.ok_or(Cause::LeaseLost)?;
                held.ends = Instant::now() + seconds(held.granted);
                Ok(())
            },
        )
    }

    fn lease(&self, lease: LeaseId, _with_keys: bool) -> Answer<'_, Option<LeaseState>> {
        self.call(
            move || format!("life of {lease}"),
            move |state, _| Ok(state.data.state_of(number(lease))),
        )
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        self.call(
            move || format!("revoke {lease}"),
            move |state, id| match state.revoke(Some(id), number(lease)) {
                true => Ok(()),
                false => Err(Cause::LeaseLost),
            },
        )
    }

    fn watch(&self, start: String, end: String, from: i64) -> Answer<'_, Box<dyn EventStream>> {
        let text = format!("watch {start} from {from}");
        let opened = self.call(
            move || text,
            move |state, id| Ok(state.open(id, start, end, from)),
        );
        Box::pin(async move {
            let (number, arrived) = opened.await?;
            let stream = Stream {
                client: self.clone(),
                number,
                arrived,
            };
            Ok(Box::new(stream) as Box<dyn EventStream>)
        })
    }
}

fn number(lease: LeaseId) -> i64 {
    i64::from_str_radix(&lease.to_string(), 16).unwrap_or_default()
}

fn describe(write: &TextWrite) -> String {
    match write {
        TextWrite::Put(key, value, lease) => {
            let lease = lease.map(|lease| format!(" under {lease}")).unwrap_or_default();
            format!("put {key} {}{lease}", String::from_utf8_lossy(value))
        }
        TextWrite::Delete(key) => format!("delete {key}"),
    }
}

/// The client's end of a watch.
#[derive(Debug)]
struct Stream {
    client: Client,
    number: u64,
    arrived: Arc<Notify>,
}

impl EventStream for Stream {
    fn next(&mut self) -> Answer<'_, StreamMessage> {
        Box::pin(async move {
            loop {
                let next = {
                    let mut state = self.client.etcd.lock();
                    let reaches = state.network.is_up() || state.network.is_down();
                    let reaches = reaches && !state.network.is_cut(self.client.id);
                    let Some(stream) = state.streams.get_mut(&self.number) else {
                        return Err(refused());
                    };
                    match stream.sent.front() {
                        Some((at, _)) if reaches && !stream.silent => {
                            let at = *at;
                            if at <= Instant::now() {
                                let message = stream.sent.pop_front();
                                return message.map_or_else(|| Err(refused()), |(_, message)| message);
                            }
                            Some(at)
                        }
                        _ => None,
                    }
                };
                match next {
                    Some(at) => {
                        tokio::select! {
                            biased;
                            () = self.arrived.notified() => {}
                            () = sleep_until(at) => {}
                        }
                    }
                    None => self.arrived.notified().await,
                }
            }
        })
    }

    fn ask(&mut self) -> Answer<'_, ()> {
        Box::pin(async move {
            let mut state = self.client.etcd.lock();
            let hears = state.network.is_up() && !state.network.is_cut(self.client.id);
            if hears {
                let at = state.network.event_arrives(self.client.id);
                if let Some(stream) = state.streams.get_mut(&self.number) {
                    stream.send(at, Ok(StreamMessage::Alive));
                }
            }
            Ok(())
        })
    }

    fn give_up(self: Box<Self>, limit: Duration) -> Pin<Box<dyn Future<Output = Cause> + Send>> {
        self.client.connected.set(0);
        let at = "etcd".to_owned();
        Box::pin(async move { Cause::Late { at, limit } })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.client.etcd.lock().streams.remove(&self.number);
    }
}

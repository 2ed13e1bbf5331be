//! The follower with a resolver of the test's own: what it asks when, and what it yields.

use std::sync::{Condvar, Mutex};

use super::*;

const EVERY: Duration = Duration::from_secs(10);

/// A resolver that answers what the test wants: addresses, nothing, or an error.
#[derive(Default)]
struct Zone {
    answers: Mutex<BTreeMap<String, Option<Vec<&'static str>>>>,
    asked: Mutex<u32>,
    /// While there is one, no answer comes for names that begin so.
    held: (Mutex<Option<&'static str>>, Condvar),
}

impl Zone {
    fn set(&self, name: &str, answer: Option<&[&'static str]>) {
        let answer = answer.map(<[_]>::to_vec);
        self.answers.lock().unwrap().insert(name.to_owned(), answer);
    }

    /// Until it is dropped, names that begin so get no answer. A test that fails has to let its threads go, too.
    fn hold(self: &Arc<Self>, beginning: &'static str) -> HeldResolver {
        *self.held.0.lock().unwrap() = Some(beginning);
        HeldResolver(self.clone())
    }

    fn follower(self: &Arc<Self>) -> Follower {
        self.follower_at("/dev/null/no-such-file".as_ref())
    }

    fn follower_at(self: &Arc<Self>, file: &Path) -> Follower {
        let zone = self.clone();
        let resolve = move |name: &Hostname| {
            *zone.asked.lock().unwrap() += 1;
            let held = zone.held.0.lock().unwrap();
            let is_held = |held: &mut Option<&str>| held.is_some_and(|held| name.as_str().starts_with(held));
            drop(zone.held.1.wait_while(held, is_held).unwrap());
            match zone.answers.lock().unwrap().get(name.as_str()) {
                Some(Some(ips)) => Ok(ips.iter().map(|ip| ip.parse().unwrap()).collect()),
                _ => Err(io::Error::other("no such name")),
            }
        };
        Follower::with(file, EVERY, Arc::new(resolve))
    }
}

/// Whose turn is always.
fn nobody(_: &Hostname) -> Option<&'static EnvironmentName> {
    None
}

struct HeldResolver(Arc<Zone>);

impl Drop for HeldResolver {
    fn drop(&mut self) {
        *self.0.held.0.lock().unwrap() = None;
        self.0.held.1.notify_all();
    }
}

fn names(texts: &[&str]) -> BTreeSet<Hostname> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn next(follower: &mut Follower) -> (String, Option<Vec<String>>) {
    let (name, addresses) = follower.next().await;
    let texts = addresses.map(|all| all.iter().map(IpAddr::to_string).collect());
    (name.to_string(), texts)
}

fn leads(name: &str, to: &[&str]) -> (String, Option<Vec<String>>) {
    (
        name.to_owned(),
        Some(to.iter().map(ToString::to_string).collect()),
    )
}

#[tokio::test(start_paused = true)]
async fn a_new_name_is_resolved_at_once_and_only_differences_are_yielded() {
    let zone = Arc::new(Zone::default());
    let mut follower = zone.follower();
    zone.set("a", Some(&["10.0.0.1"]));
    follower.need(names(&["a"]).iter(), nobody);
    let start = Instant::now();
    assert_eq!(next(&mut follower).await, leads("a", &["10.0.0.1"]));
    assert_eq!(start.elapsed().as_secs(), 0);
    // It yields nothing until an answer differs, which the next lookup shows.
    assert!(tokio::time::timeout(EVERY * 5, follower.next()).await.is_err());
    assert!(*zone.asked.lock().unwrap() >= 5);
    zone.set("a", Some(&["10.0.0.2", "10.0.0.1"]));
    let start = Instant::now();
    assert_eq!(next(&mut follower).await, leads("a", &["10.0.0.1", "10.0.0.2"]));
    assert!(start.elapsed() <= EVERY);
    zone.set("b", Some(&["10.0.0.3"]));
    follower.need(names(&["a", "b"]).iter(), nobody);
    let start = Instant::now();
    assert_eq!(next(&mut follower).await, leads("b", &["10.0.0.3"]));
    assert_eq!(start.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_yielded_once_and_removes_no_address() {
    let zone = Arc::new(Zone::default());
    let mut follower = zone.follower();
    zone.set("a", Some(&["10.0.0.1"]));
    follower.need(names(&["a"]).iter(), nobody);
    next(&mut follower).await;
    for broken in [None, Some(&[][..])] {
        zone.set("a", broken);
        assert_eq!(next(&mut follower).await, ("a".to_owned(), None));
        assert_eq!(follower.failures().count(), 1);
        assert!(tokio::time::timeout(EVERY * 3, follower.next()).await.is_err());
        zone.set("a", Some(&["10.0.0.1"]));
        assert_eq!(next(&mut follower).await, ("a".to_owned(), None));
        assert_eq!(follower.failures().count(), 0);
    }
    follower.need([].iter(), nobody);
    assert_eq!(follower.len(), 0);
}

#[tokio::test]
async fn the_next_one_begins_with_the_last_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("names.json");
    let zone = Arc::new(Zone::default());
    let mut first = zone.follower_at(&file);
    zone.set("a", Some(&["10.0.0.1"]));
    assert!(first.need(names(&["a"]).iter(), nobody).is_empty());
    next(&mut first).await;
    mayfly_e2e::eventually(LIMIT, "it is saved", async || {
        let _ = tokio::time::timeout(Duration::from_millis(10), first.next()).await;
        first.saving.is_empty() && std::fs::read_to_string(&file).is_ok_and(|text| text.contains("10.0.0.1"))
    })
    .await;
    // The file is restored after it was removed or overwritten.
    for damage in [None, Some("{}")] {
        match damage {
            None => std::fs::remove_file(&file).unwrap(),
            Some(text) => std::fs::write(&file, text).unwrap(),
        }
        mayfly_e2e::eventually(LIMIT, "it is saved again", async || {
            first.look_at_file();
            let _ = tokio::time::timeout(Duration::from_millis(10), first.next()).await;
            first.saving.is_empty()
                && std::fs::read_to_string(&file).is_ok_and(|text| text.contains("10.0.0.1"))
        })
        .await;
    }
    drop(first);
    // The name no longer resolves, and nothing waits until that is known.
    zone.set("a", None);
    let mut second = zone.follower_at(&file);
    let known = second.need(names(&["a", "b"]).iter(), nobody);
    let expected: ResolvedAddresses = [("a".parse().unwrap(), ["10.0.0.1".parse().unwrap()].into())].into();
    assert_eq!(known, expected);
    assert_eq!(next(&mut second).await.1, None);
    // A save that is under way would replace the garbage.
    mayfly_e2e::eventually(LIMIT, "nothing is being saved", async || {
        let _ = tokio::time::timeout(Duration::from_millis(10), second.next()).await;
        second.saving.is_empty()
    })
    .await;
    std::fs::write(&file, "garbage").unwrap();
    assert!(
        zone.follower_at(&file)
            .need(names(&["a"]).iter(), nobody)
            .is_empty()
    );
}

#[tokio::test]
async fn an_answer_that_hangs_is_a_failure_and_is_taken_when_it_comes() {
    let zone = Arc::new(Zone::default());
    let mut follower = zone.follower();
    zone.set("a", Some(&["10.0.0.1"]));
    let held = zone.hold("");
    follower.need(names(&["a"]).iter(), nobody);
    follower.ask_what_is_due();
    mayfly_e2e::eventually(LIMIT, "the resolver is asked", async || {
        *zone.asked.lock().unwrap() == 1
    })
    .await;
    // The clock is not the test's while a thread is at work, so the beginning is put back.
    let begun = Instant::now().checked_sub(LIMIT).unwrap();
    follower.names.values_mut().next().unwrap().state = LookupState::Asked(begun);
    assert_eq!(next(&mut follower).await, ("a".to_owned(), None));
    assert_eq!(follower.failures().next().unwrap().1, "no answer within 5s");
    assert_eq!(*zone.asked.lock().unwrap(), 1, "nor is it asked for again");
    drop(held);
    assert_eq!(next(&mut follower).await, leads("a", &["10.0.0.1"]));
}

#[tokio::test(start_paused = true)]
async fn many_names_are_asked_for_some_at_a_time() {
    let zone = Arc::new(Zone::default());
    let mut follower = zone.follower();
    let all: Vec<String> = (0..100).map(|number| format!("n{number}")).collect();
    all.iter().for_each(|name| zone.set(name, Some(&["10.0.0.1"])));
    follower.need(
        names(&all.iter().map(String::as_str).collect::<Vec<_>>()).iter(),
        nobody,
    );
    for _ in 0..100 {
        assert!(next(&mut follower).await.1.is_some());
        assert!(follower.lookups.len() <= AT_ONCE);
    }
}

/// Puts the beginning of all lookups back: the clock is not the test's while threads are at work.
fn let_them_wait(follower: &mut Follower, span: Duration) {
    let begun = Instant::now().checked_sub(span).unwrap();
    for followed in follower.names.values_mut() {
        if matches!(followed.state, LookupState::Asked(_)) {
            followed.state = LookupState::Asked(begun);
        }
    }
}

#[tokio::test]
async fn names_that_never_answer_hold_up_nobody() {
    let zone = Arc::new(Zone::default());
    let mut follower = zone.follower();
    let mut all: Vec<String> = (0..64).map(|number| format!("never{number}")).collect();
    let _held = zone.hold("never");
    zone.set("zzz", Some(&["10.0.0.1"]));
    follower.need(
        names(&all.iter().map(String::as_str).collect::<Vec<_>>()).iter(),
        nobody,
    );
    follower.ask_what_is_due();
    assert_eq!(follower.lookups.len(), AT_ONCE);
    all.push("zzz".to_owned());
    follower.need(
        names(&all.iter().map(String::as_str).collect::<Vec<_>>()).iter(),
        nobody,
    );
    for second in 1..=4 {
        let_them_wait(&mut follower, SLOW);
        follower.ask_what_is_due();
        assert_eq!(follower.lookups.len(), (AT_ONCE * (second + 1)).min(65));
    }
    assert_eq!(next(&mut follower).await, leads("zzz", &["10.0.0.1"]));
    // Nor does it become ever more threads.
    let more: Vec<String> = (0..200).map(|number| format!("never{number}")).collect();
    follower.need(
        names(&more.iter().map(String::as_str).collect::<Vec<_>>()).iter(),
        nobody,
    );
    for _ in 0..20 {
        let_them_wait(&mut follower, SLOW);
        follower.ask_what_is_due();
    }
    assert_eq!(follower.lookups.len(), MOST_AT_ONCE);
}

/// Hundreds that answer just within a second are due again before they all had their turn.
#[tokio::test]
async fn slow_names_of_some_do_not_hold_up_a_new_name_of_another() {
    let zone = Arc::new(Zone::default());
    let mut follower = zone.follower();
    let owners: Vec<EnvironmentName> = ["flood", "mine"].map(|name| name.parse().unwrap()).into();
    let owner = |name: &Hostname| Some(&owners[usize::from(name.as_str() == "zzz")]);
    let mut all: Vec<String> = (0..400).map(|number| format!("slow{number}")).collect();
    let _held = zone.hold("slow");
    zone.set("zzz", Some(&["10.0.0.1"]));
    follower.need(
        names(&all.iter().map(String::as_str).collect::<Vec<_>>()).iter(),
        owner,
    );
    follower.ask_what_is_due();
    all.push("zzz".to_owned());
    follower.need(
        names(&all.iter().map(String::as_str).collect::<Vec<_>>()).iter(),
        owner,
    );
    // The next place that becomes free.
    let_them_wait(&mut follower, SLOW);
    follower.ask_what_is_due();
    assert!(matches!(
        follower.names[&"zzz".parse::<Hostname>().unwrap()].state,
        LookupState::Asked(_)
    ));
    assert_eq!(next(&mut follower).await, leads("zzz", &["10.0.0.1"]));
}

#[tokio::test]
async fn what_has_been_due_longest_is_asked_first() {
    let zone = Arc::new(Zone::default());
    let mut follower = zone.follower();
    let all: Vec<String> = (10..40).map(|number| format!("n{number}")).collect();
    let _held = zone.hold("");
    follower.need(
        names(&all.iter().map(String::as_str).collect::<Vec<_>>()).iter(),
        nobody,
    );
    let name: Hostname = "n39".parse().unwrap();
    let before = Instant::now().checked_sub(Duration::from_millis(1)).unwrap();
    follower.names.get_mut(&name).unwrap().state = LookupState::Due(before);
    follower.ask_what_is_due();
    assert!(matches!(follower.names[&name].state, LookupState::Asked(_)));
    assert_eq!(follower.lookups.len(), AT_ONCE);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_fails_is_asked_for_less_and_less_often() {
    let zone = Arc::new(Zone::default());
    let mut follower = zone.follower();
    follower.need(names(&["a"]).iter(), nobody);
    assert_eq!(next(&mut follower).await, ("a".to_owned(), None));
    // After 10, 20, 40, 80, 160, 300 and 300 s.
    let seconds = |seconds| Duration::from_secs(seconds);
    assert!(tokio::time::timeout(seconds(911), follower.next()).await.is_err());
    assert_eq!(*zone.asked.lock().unwrap(), 8);
    zone.set("a", Some(&["10.0.0.1"]));
    assert_eq!(next(&mut follower).await, leads("a", &["10.0.0.1"]));
    // What answers is asked as often as before.
    zone.set("a", Some(&["10.0.0.2"]));
    let begun = Instant::now();
    assert_eq!(next(&mut follower).await, leads("a", &["10.0.0.2"]));
    assert!(begun.elapsed() <= EVERY + seconds(1));
}

#[test]
fn the_system_knows_localhost() {
    assert_eq!(
        ask(&"localhost".parse().unwrap()).unwrap(),
        ["127.0.0.1".parse().unwrap()].into()
    );
    assert!(ask(&"no-such-name.invalid".parse().unwrap()).is_err());
}

//! Differences, resets, and slots that are used again.

use super::*;
use proptest::prelude::*;

fn backend(text: &str) -> BackendId {
    text.parse().unwrap()
}

fn owners(all: &[(u32, &str)]) -> Owners {
    all.iter()
        .map(|(slot, name)| (Slot(*slot), backend(name)))
        .collect()
}

fn counted(requests: u64, errors: u64, mean_ms: u64) -> Counters {
    Counters {
        requests,
        errors,
        connection_errors: 0,
        mean_ms,
    }
}

fn reading(pid: u32, started: u64, slots: &[(u32, Counters)]) -> ProcessCounters {
    ProcessCounters {
        process: Process { pid, started },
        slots: slots.iter().map(|(slot, of)| (Slot(*slot), *of)).collect(),
    }
}

/// Requests, errors and mean by backend.
fn known(traffic: &TrafficTotals) -> Vec<(String, u64, u64, Option<u64>)> {
    let all = traffic.totals();
    all.map(|(backend, total)| {
        let Requests { ended, errors, .. } = total.requests;
        (backend.to_string(), ended, errors, total.mean_ms)
    })
    .collect()
}

fn row(name: &str, requests: u64, errors: u64, mean: Option<u64>) -> (String, u64, u64, Option<u64>) {
    (name.to_owned(), requests, errors, mean)
}

#[test]
fn a_process_that_was_there_before_begins_with_nothing() {
    let of = owners(&[(1, "a@1")]);
    let mut traffic = TrafficTotals::new(1_000);
    let mixed = traffic.take(reading(7, 900, &[(1, counted(50, 5, 9))]), &of);
    assert!(mixed.is_empty());
    assert_eq!(known(&traffic), [row("a@1", 0, 0, None)]);
    // Whose requests made the mean is not known: the servers are asked.
    let mixed = traffic.take(reading(7, 900, &[(1, counted(60, 6, 9))]), &of);
    assert_eq!(mixed, [Slot(1)]);
    traffic.set_means([(Slot(1), 4), (Slot(9), 5)].into(), &of);
    assert_eq!(known(&traffic), [row("a@1", 10, 1, Some(4))]);
    // One that started later counts from its first request on.
    let mut traffic = TrafficTotals::new(1_000);
    traffic.take(reading(7, 1_000, &[(1, counted(50, 5, 9))]), &of);
    assert_eq!(known(&traffic), [row("a@1", 50, 5, Some(9))]);
}

#[test]
fn a_slot_that_is_used_again_counts_for_its_new_backend() {
    let mut traffic = TrafficTotals::new(0);
    traffic.take(
        reading(7, 1, &[(1, counted(100, 10, 20))]),
        &owners(&[(1, "a@1")]),
    );
    let free = traffic.take(reading(7, 1, &[(1, counted(101, 10, 20))]), &owners(&[]));
    assert_eq!((free, known(&traffic)), (Vec::new(), Vec::new()));
    let of = owners(&[(1, "b@1")]);
    let mixed = traffic.take(reading(7, 1, &[(1, counted(111, 10, 21))]), &of);
    assert_eq!(mixed, [Slot(1)], "HAProxy's mean is mostly of `a`");
    assert_eq!(known(&traffic), [row("b@1", 10, 0, None)]);
    let mixed = traffic.take(reading(7, 1, &[(1, counted(3_000, 10, 30))]), &of);
    assert!(mixed.is_empty(), "and by now of `b`");
    assert_eq!(known(&traffic), [row("b@1", 2_899, 0, Some(30))]);
}

#[test]
fn a_reload_goes_on_where_the_replaced_process_ends() {
    let of = owners(&[(1, "a@1")]);
    let mut traffic = TrafficTotals::new(0);
    traffic.take(reading(7, 1, &[(1, counted(100, 10, 20))]), &of);
    traffic.take(reading(8, 50, &[(1, counted(3, 1, 5))]), &of);
    // The old process has ended two more requests meanwhile.
    let old = reading(7, 1, &[(1, counted(102, 10, 20))]).slots;
    traffic.take_old(7, old.clone(), &of);
    traffic.take_old(7, old, &of);
    // Of one that was never read nothing is known.
    traffic.take_old(6, reading(6, 1, &[(1, counted(500, 0, 1))]).slots, &of);
    assert_eq!(known(&traffic), [row("a@1", 105, 11, Some(20))]);
    // In a container the new process has the number of the old one.
    traffic.take(reading(8, 90, &[(1, counted(4, 0, 6))]), &of);
    assert_eq!(known(&traffic), [row("a@1", 109, 11, Some(6))]);
    // `clear counters all`.
    traffic.take(reading(8, 90, &[(1, counted(2, 2, 6))]), &of);
    assert_eq!(known(&traffic), [row("a@1", 111, 13, Some(6))]);
}

#[test]
fn ten_minutes_are_looked_back_at() {
    let of = owners(&[(1, "a@1"), (2, "b@1")]);
    let mut traffic = TrafficTotals::new(600);
    let mut at = |seconds, a, b| {
        traffic.advance(seconds);
        let slots = [(1, counted(a, 0, 1)), (2, counted(b, 0, 1))];
        traffic.take(reading(7, 600, &slots), &of);
        let (busiest, more) = traffic.busiest();
        assert_eq!(more, 0);
        let rows = busiest.iter().map(|of| (of.service.to_string(), of.requests));
        rows.collect::<Vec<_>>()
    };
    let a = |requests| ("a".to_owned(), requests);
    let b = |requests| ("b".to_owned(), requests);
    assert_eq!(at(600, 5, 0), [a(5)]);
    assert_eq!(at(660, 5, 7), [b(7), a(5)]);
    assert_eq!(at(1_199, 6, 7), [b(7), a(6)]);
    assert_eq!(at(1_200, 6, 7), [b(7), a(1)], "the first minute is over");
    // A clock that goes back takes nothing away.
    assert_eq!(at(900, 6, 7), [b(7), a(1)]);
    assert_eq!(at(9_000, 8, 7), [a(2)]);
    // One that was hours ahead: what was counted then does not stay until these hours are over.
    assert_eq!(at(1_800, 9, 7), [a(1)]);
    assert_eq!(at(2_400, 9, 8), [b(1)]);
}

#[test]
fn many_backends_are_counted_and_a_hundred_are_named() {
    let all: Vec<(u32, String)> = (1..=250).map(|slot| (slot, format!("s{slot:03}@1"))).collect();
    let of: Owners = all
        .iter()
        .map(|(slot, name)| (Slot(*slot), backend(name)))
        .collect();
    let mut traffic = TrafficTotals::new(0);
    let slots: Vec<_> = all
        .iter()
        .map(|(slot, _)| (*slot, counted(u64::from(*slot), 0, 1)))
        .collect();
    traffic.take(reading(7, 1, &slots), &of);
    let (busiest, more) = traffic.busiest();
    assert_eq!((busiest.len(), more), (100, 150));
    assert_eq!((busiest[0].requests, busiest[99].requests), (250, 151));
}

/// What may happen to a router with four slots.
#[derive(Debug, Clone)]
enum Step {
    Requests(u32, u64, u64),
    /// A slot gets one of six backends, unless another slot has it, or none.
    Give(u32, Option<u8>),
    Read,
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u32..5, 0u64..50, 0u64..5).prop_map(|(slot, good, bad)| Step::Requests(slot, good, bad)),
        2 => (1u32..5, proptest::option::of(0u8..6)).prop_map(|(slot, name)| Step::Give(slot, name)),
        3 => Just(Step::Read),
        1 => Just(Step::Reload),
    ]
}

proptest! {
    /// Whatever happens between readings: each request is counted once, for the backend that has
    /// the slot at the next reading, for as long as it has it.
    #[test]
    fn every_request_is_counted_once(steps in proptest::collection::vec(step(), 0..80)) {
        let mut traffic = TrafficTotals::new(1);
        let mut of = Owners::new();
        let mut process = Process { pid: 10, started: 1 };
        let mut haproxy = SlotCounters::from_iter((1..5).map(|slot| (Slot(slot), Counters::default())));
        let mut unread: BTreeMap<Slot, (u64, u64)> = BTreeMap::new();
        let mut wanted: BTreeMap<BackendId, (u64, u64)> = BTreeMap::new();
        for step in steps {
            let is_read = matches!(step, Step::Read | Step::Reload);
            match step {
                Step::Requests(slot, good, bad) => {
                    let counters = haproxy.get_mut(&Slot(slot)).unwrap();
                    counters.requests += good + bad;
                    counters.errors += bad;
                    let unread = unread.entry(Slot(slot)).or_default();
                    *unread = (unread.0 + good + bad, unread.1 + bad);
                }
                Step::Give(slot, None) => drop(of.remove(&Slot(slot))),
                Step::Give(slot, Some(name)) => {
                    let name = backend(&format!("s{name}@1"));
                    if !of.values().any(|taken| *taken == name) {
                        of.insert(Slot(slot), name);
                    }
                }
                Step::Read | Step::Reload => {}
            }
            if !is_read {
                continue;
            }
            traffic.take(ProcessCounters { process, slots: haproxy.clone() }, &of);
            wanted.retain(|name, _| of.values().any(|owner| owner == name));
            for (slot, (requests, errors)) in std::mem::take(&mut unread) {
                if let Some(owner) = of.get(&slot) {
                    let total = wanted.entry(owner.clone()).or_default();
                    *total = (total.0 + requests, total.1 + errors);
                }
            }
            if matches!(step, Step::Reload) {
                process = Process { pid: process.pid + 1, started: process.started + 1 };
                haproxy.values_mut().for_each(|counters| *counters = Counters::default());
            }
            for (name, total) in traffic.totals() {
                let wanted = wanted.get(name).copied().unwrap_or_default();
                prop_assert_eq!((total.requests.ended, total.requests.errors), wanted, "{}", name);
            }
            let shown: Vec<_> = traffic.totals().map(|(name, _)| name.clone()).collect();
            let mut all: Vec<_> = of.values().cloned().collect();
            all.sort();
            prop_assert_eq!(shown, all);
        }
    }
}

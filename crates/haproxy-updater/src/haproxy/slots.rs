//! The pool of slots: which backend has which, and which are free. A slot that was freed long ago
//! is given first, so that what is left of a former backend has gone; the assignment outlives this
//! process and HAProxy's, since it is taken over from the map that HAProxy has or, failing that,
//! from the file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mayfly_core::routing::{Routing, Touched};
use mayfly_core::version::BackendId;

use crate::haproxy::tokens::Slot;

/// Which backend has which slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    total: u32,
    assigned: BTreeMap<BackendId, Slot>,
    /// Free slots, the one that was freed longest ago first.
    free: VecDeque<Slot>,
}

impl Pool {
    /// A pool of `total` free slots.
    pub fn new(total: u32) -> Self {
        Self {
            total,
            assigned: BTreeMap::new(),
            free: (1..=total).map(Slot).collect(),
        }
    }

    /// How many slots there are.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// How many backends have one.
    pub fn used(&self) -> u32 {
        self.assigned.len() as u32
    }

    /// How many no backend has. Some may still hold servers that await their end.
    pub fn free(&self) -> u32 {
        self.free.len() as u32
    }

    /// The slot of a backend.
    pub fn slot(&self, backend: &BackendId) -> Option<Slot> {
        self.assigned.get(backend).copied()
    }

    /// All backends that have a slot.
    pub fn assigned(&self) -> impl Iterator<Item = (&BackendId, Slot)> {
        self.assigned.iter().map(|(backend, slot)| (backend, *slot))
    }

    /// Takes over rows of a map of slots. Where one speaks against what is known here, the row
    /// wins, since servers are in HAProxy's slots already; where two rows name one slot, the one
    /// that is known here wins, then the first.
    pub fn adopt(&mut self, rows: &[(BackendId, Slot)]) {
        let mut known = std::mem::take(&mut self.assigned);
        let (agreed, other): (Vec<_>, Vec<_>) = rows
            .iter()
            .partition(|(backend, slot)| known.get(backend) == Some(slot));
        for (backend, _) in &other {
            known.remove(backend);
        }
        let other = other.into_iter().cloned();
        let mut taken = BTreeSet::new();
        for (backend, slot) in agreed.into_iter().cloned().chain(other).chain(known) {
            if (1..=self.total).contains(&slot.0)
                && !self.assigned.contains_key(&backend)
                && taken.insert(slot)
            {
                self.assigned.insert(backend, slot);
            }
        }
        // The order of being freed stays for those that were free; the rest have just become so.
        let was_free: Vec<Slot> = self
            .free
            .iter()
            .copied()
            .filter(|slot| !taken.contains(slot))
            .collect();
        let known_free: BTreeSet<Slot> = was_free.iter().copied().collect();
        let newly_free = (1..=self.total)
            .map(Slot)
            .filter(|slot| !taken.contains(slot) && !known_free.contains(slot));
        self.free = was_free.iter().copied().chain(newly_free).collect();
    }

    /// Gives a backend a slot that holds no server, unless it has one. `None` when there is none.
    pub fn assign(&mut self, backend: &BackendId, is_empty: impl Fn(Slot) -> bool) -> Option<Slot> {
        if let Some(slot) = self.slot(backend) {
            return Some(slot);
        }
        let place = self.free.iter().position(|slot| is_empty(*slot))?;
        let slot = self.free.remove(place)?;
        self.assigned.insert(backend.clone(), slot);
        Some(slot)
    }

    /// Takes the slot of a backend back.
    pub fn release(&mut self, backend: &BackendId) -> Option<Slot> {
        let slot = self.assigned.remove(backend)?;
        self.free.push_back(slot);
        Some(slot)
    }

    /// How many slots there should be when `waiting` more backends ask for one: doubled until at
    /// least a quarter is free, which keeps growing rare. While backends wait, a slot that still
    /// holds servers is as good as used: their connections may last for long.
    pub fn wanted_total(&self, waiting: u32, is_empty: impl Fn(Slot) -> bool) -> u32 {
        let held = match waiting {
            0 => 0,
            _ => self.free.iter().filter(|slot| !is_empty(**slot)).count() as u32,
        };
        let needed = self.used().saturating_add(held).saturating_add(waiting);
        let mut total = self.total.max(1);
        while total < MOST_SLOTS && needed.saturating_mul(4) > total.saturating_mul(3) {
            total = (total * 2).min(MOST_SLOTS);
        }
        total
    }

    /// Adds slots up to `total`; never takes one away.
    pub fn grow(&mut self, total: u32) {
        self.free.extend((self.total + 1..=total).map(Slot));
        self.total = self.total.max(total);
    }
}

/// Gives slots to the backends that have instances and none yet, and takes them from those that
/// have no instance and that no environment names (of external services from those without a server,
/// since one that is refused is still named): among the touched ones and those that wait, or among
/// all. What changes is touched; who finds no slot waits. A slot that is not empty still holds
/// servers of its former backend, and is not given on.
pub fn allot(
    pool: &mut Pool,
    routing: &Routing,
    touched: &mut Touched,
    waiting: &mut BTreeSet<BackendId>,
    everything: bool,
    is_empty: impl Fn(Slot) -> bool,
) {
    let mut backends = std::mem::take(waiting);
    backends.extend(touched.backends.iter().cloned());
    if everything {
        backends.extend(routing.backends().map(|(backend, _)| backend.clone()));
        backends.extend(pool.assigned().map(|(backend, _)| backend.clone()));
    }
    for backend in backends {
        if routing.servers(&backend).is_none() {
            let is_over = backend.version.is_outside() || !routing.is_named(&backend);
            if is_over && pool.release(&backend).is_some() {
                touched.backends.insert(backend);
            }
        } else if pool.slot(&backend).is_none() {
            match pool.assign(&backend, &is_empty) {
                Some(_) => touched.backends.insert(backend),
                None => waiting.insert(backend),
            };
        }
    }
}

/// More slots than anybody needs; a limit against filling the memory when something registers
/// without end.
pub const MOST_SLOTS: u32 = 65_536;

/// How many of them external services can have: whatever environments name, half is left for
/// instances.
pub const MOST_OUTSIDE: u32 = MOST_SLOTS / 2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backend(text: &str) -> BackendId {
        text.parse().unwrap()
    }

    #[test]
    fn the_slot_freed_longest_ago_is_given_first() {
        let mut pool = Pool::new(3);
        let all = |_| true;
        assert_eq!(pool.assign(&backend("a@1"), all), Some(Slot(1)));
        assert_eq!(pool.assign(&backend("b@1"), all), Some(Slot(2)));
        assert_eq!(pool.assign(&backend("a@1"), all), Some(Slot(1)));
        pool.release(&backend("b@1"));
        pool.release(&backend("a@1"));
        assert_eq!(pool.assign(&backend("c@1"), all), Some(Slot(3)));
        assert_eq!(
            pool.assign(&backend("d@1"), |slot| slot != Slot(2)),
            Some(Slot(1))
        );
        assert_eq!(pool.assign(&backend("e@1"), |slot| slot != Slot(2)), None);
    }

    #[test]
    fn grows_by_doubling_when_less_than_a_quarter_is_free() {
        let mut pool = Pool::new(4);
        for name in ["a@1", "b@1", "c@1"] {
            pool.assign(&backend(name), |_| true);
        }
        let all = |_| true;
        assert_eq!(pool.wanted_total(0, all), 4);
        assert_eq!(pool.wanted_total(1, all), 8);
        assert_eq!(pool.wanted_total(20, all), 32);
        pool.grow(8);
        assert_eq!((pool.total(), pool.used(), pool.free()), (8, 3, 5));
        assert_eq!(Pool::new(4).wanted_total(u32::MAX, all), MOST_SLOTS);
    }

    /// A long request would else keep a new version waiting for as long as it lasts.
    #[test]
    fn the_pool_grows_for_a_backend_that_waits_while_no_free_slot_is_empty() {
        let mut pool = Pool::new(8);
        for number in 1..=5 {
            pool.assign(&backend(&format!("s{number}@1")), |_| true);
        }
        let is_empty = |slot: Slot| slot.0 < 6;
        assert_eq!(pool.assign(&backend("s1@2"), is_empty), None);
        assert_eq!(pool.wanted_total(1, is_empty), 16);
        assert_eq!(pool.wanted_total(0, is_empty), 8, "nothing waits");
        pool.grow(16);
        assert_eq!(pool.assign(&backend("s1@2"), |slot| slot.0 > 8), Some(Slot(9)));
        assert_eq!(pool.wanted_total(0, is_empty), 16);
    }

    #[test]
    fn rows_of_haproxy_win_over_memory_and_memory_over_nothing() {
        let mut pool = Pool::new(4);
        pool.assign(&backend("a@1"), |_| true);
        pool.assign(&backend("b@1"), |_| true);
        // `a` moved to where `b` was known to be; `c` names a slot that does not exist, `d` one
        // that is taken.
        pool.adopt(&[
            (backend("a@1"), Slot(2)),
            (backend("c@1"), Slot(9)),
            (backend("d@1"), Slot(2)),
        ]);
        assert_eq!(pool.assigned().collect::<Vec<_>>(), [(&backend("a@1"), Slot(2))]);
        assert_eq!(pool.free(), 3);
    }

    /// Environments that name other addresses again and again, or more than count, would else take
    /// all slots in the end.
    #[test]
    fn an_address_that_is_refused_gives_its_slot_back_though_it_is_named() {
        use mayfly_core::index::Index;
        use mayfly_core::keys::Key;
        use mayfly_core::outside::AddressRule;
        use mayfly_core::records::Record;
        let mut index = Index::default();
        let (mut pool, mut waiting) = (Pool::new(8), BTreeSet::new());
        let mut slots = |index: &mut Index| {
            let mut touched = index.resolve();
            allot(
                &mut pool,
                index.routing(),
                &mut touched,
                &mut waiting,
                false,
                |_| true,
            );
            let all = pool.assigned().map(|(backend, _)| backend.to_string());
            all.collect::<Vec<_>>()
        };
        let record = r#"{"name":"a","prefix":"a","header":"a","services":[{"name":"s","version":"1"},
            {"name":"x","version":"http://10.0.0.1:80"},{"name":"y","version":"http://10.0.0.2:80"}]}"#;
        let put = |index: &mut Index, key: &Key, value: &str| {
            index.put(Record::decode(key, value.as_bytes()).unwrap(), 1);
        };
        put(&mut index, &Key::Environment("a".parse().unwrap()), record);
        let instance = Key::Instance("s@1".parse().unwrap(), "i".parse().unwrap());
        put(&mut index, &instance, r#"{"address":"10.0.0.3:80"}"#);
        assert_eq!(slots(&mut index).len(), 3);
        index.set_rule(AddressRule::new(Vec::new(), BTreeSet::new(), 1));
        assert_eq!(slots(&mut index), ["s@1", "x@http://10.0.0.1:80"]);
        index.gone(&instance);
        assert_eq!(slots(&mut index).len(), 2, "an instance may come back");
        const { assert!(MOST_OUTSIDE * 2 <= MOST_SLOTS) };
    }

    proptest! {
        /// Whatever happens, each slot is either free once or assigned once.
        #[test]
        fn slots_are_never_lost_or_shared(steps in proptest::collection::vec((0u8..4, 0u8..12, 0u32..14), 0..60)) {
            let mut pool = Pool::new(6);
            for (step, name, number) in steps {
                let backend: BackendId = format!("s{name}@1").parse().unwrap();
                match step {
                    0 => drop(pool.assign(&backend, |slot| slot.0 != number)),
                    1 => drop(pool.release(&backend)),
                    2 => pool.adopt(&[(backend, Slot(number)), (format!("s{number}@1").parse().unwrap(), Slot(2))]),
                    _ => pool.grow(number),
                }
                let mut seen: Vec<Slot> = pool.assigned().map(|(_, slot)| slot).chain(pool.free.iter().copied()).collect();
                seen.sort();
                prop_assert_eq!(seen, (1..=pool.total()).map(Slot).collect::<Vec<_>>());
            }
        }
    }
}

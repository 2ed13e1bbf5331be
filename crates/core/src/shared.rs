//! Values that thousands of owners have in common, each kept once: the service and the version that
//! environments choose. An owner has eight bytes for each. A value that nobody has any more is
//! forgotten the next time that there are twice as many, so what that costs follows what is added.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// All values of one kind.
#[derive(Debug)]
pub(crate) struct Interner<T> {
    values: HashSet<Arc<T>>,
    /// How many there may be before those are forgotten that nobody has.
    most: usize,
}

/// Fewer values than this are not worth a look.
const FEW: usize = 1024;

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self {
            values: HashSet::new(),
            most: FEW,
        }
    }
}

impl<T: Eq + Hash> Interner<T> {
    /// The one copy of a value.
    pub(crate) fn of(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.values.get(&value) {
            return known.clone();
        }
        if self.values.len() >= self.most {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.most = FEW.max(2 * self.values.len());
        }
        let value = Arc::new(value);
        self.values.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one() {
        let mut shared = Interner::default();
        let [a, again, b] = ["a", "a", "b"].map(|value| shared.of(value));
        assert!(Arc::ptr_eq(&a, &again) && !Arc::ptr_eq(&a, &b));
        assert_eq!((*a, *b), ("a", "b"));
    }

    #[test]
    fn what_nobody_has_is_forgotten() {
        let mut shared = Interner::default();
        let kept = shared.of(0);
        for value in 1..10 * FEW {
            shared.of(value);
        }
        assert!(shared.values.len() <= FEW + 1 && Arc::ptr_eq(&kept, &shared.of(0)));
    }
}

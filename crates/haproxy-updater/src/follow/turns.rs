//! Which host names are asked for next. Environments take turns, so that one with many names holds
//! up none with few. At each turn a name of which nothing is known yet comes first, since requests
//! for it get a 503, then what has been due longest.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use mayfly_core::names::{EnvironmentName, Hostname};
use tokio::time::Instant;

/// A name that is to be asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due<'a> {
    pub(super) name: &'a Hostname,
    /// The environment that waits for its turn; none for a name that no file has chosen, whose turn
    /// it always is.
    pub(super) owner: Option<&'a EnvironmentName>,
    /// Whether nothing is known of it yet.
    pub(super) is_new: bool,
    pub(super) since: Instant,
}

impl Due<'_> {
    /// What is asked for first.
    fn urgency(&self) -> (Reverse<bool>, Instant) {
        (Reverse(self.is_new), self.since)
    }
}

/// Chooses as many names as there is room for. `asked` has the environment of each that is being
/// asked for: it has had its turn.
pub(super) fn choose<'a>(
    mut due: Vec<Due<'a>>,
    asked: &[&EnvironmentName],
    room: usize,
) -> Vec<&'a Hostname> {
    let mut turns: BTreeMap<&EnvironmentName, usize> = BTreeMap::new();
    for owner in asked {
        *turns.entry(owner).or_default() += 1;
    }
    due.sort_by_key(Due::urgency);
    let mut queue: Vec<(usize, Due)> = Vec::with_capacity(due.len());
    for one in due {
        let turn = match one.owner {
            None => 0,
            Some(owner) => {
                let next = turns.entry(owner).or_default();
                *next += 1;
                *next - 1
            }
        };
        queue.push((turn, one));
    }
    queue.sort_by_key(|(turn, one)| (*turn, one.urgency()));
    queue.into_iter().take(room).map(|(_, one)| one.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Names with their environments, and for how many seconds each has been due, unless it is new.
    struct Names(Vec<(Option<EnvironmentName>, Hostname, Option<u64>)>);

    impl Names {
        fn add(&mut self, owner: &str, names: impl Iterator<Item = String>, due: Option<u64>) {
            let owner: Option<EnvironmentName> = owner.parse().ok();
            let all = names.map(|name| (owner.clone(), name.parse().unwrap(), due));
            self.0.extend(all);
        }

        fn choose(&self, asked: &[&str], room: usize) -> Vec<String> {
            let now = Instant::now();
            let due = self.0.iter().map(|(owner, name, due)| Due {
                name,
                owner: owner.as_ref(),
                is_new: due.is_none(),
                since: now.checked_sub(Duration::from_secs(due.unwrap_or(0))).unwrap(),
            });
            let asked: Vec<EnvironmentName> = asked.iter().map(|name| name.parse().unwrap()).collect();
            let asked: Vec<&EnvironmentName> = asked.iter().collect();
            let chosen = choose(due.collect(), &asked, room);
            chosen.iter().map(ToString::to_string).collect()
        }
    }

    fn many(beginning: &str, count: usize) -> impl Iterator<Item = String> {
        (0..count).map(move |number| format!("{beginning}{number:03}"))
    }

    #[tokio::test]
    async fn a_new_name_waits_for_no_flood_and_a_flood_of_new_ones_for_no_old_one() {
        let mut names = Names(Vec::new());
        // Hundreds that are asked for again and again, and hundreds that are new.
        for flood in ["f0", "f1", "f2", "f3"] {
            names.add(flood, many(&format!("old-{flood}-"), 100), Some(60));
            names.add(flood, many(&format!("new-{flood}-"), 100), None);
        }
        names.add("mine", many("mine", 1), None);
        names.add("other", many("other", 2), Some(5));
        names.add("", many("instance", 1), Some(1));
        let chosen = names.choose(&["f0"; 16], 16);
        for name in ["mine000", "other000", "other001", "instance000"] {
            assert!(chosen.contains(&name.to_owned()), "{name} in {chosen:?}");
        }
        assert_eq!(chosen.len(), 16);
        // Who has been asked for most comes last.
        assert!(!chosen.iter().any(|name| name.contains("f0")), "{chosen:?}");
        assert_eq!(names.choose(&["mine"; 2], 9).len(), 9);
        assert!(!names.choose(&["mine"; 2], 5).contains(&"mine000".to_owned()));
    }

    #[tokio::test]
    async fn within_an_environment_new_names_come_first_then_those_due_longest() {
        let mut names = Names(Vec::new());
        names.add("e", many("late", 1), Some(9));
        names.add("e", many("later", 1), Some(1));
        names.add("e", many("fresh", 2), None);
        let expected = ["fresh000", "fresh001", "late000", "later000"];
        assert_eq!(names.choose(&[], 9), expected);
        assert_eq!(names.choose(&["e"; 7], 2), expected[..2]);
        assert!(names.choose(&[], 0).is_empty());
    }
}

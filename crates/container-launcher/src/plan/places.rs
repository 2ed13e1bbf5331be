//! Which backends get the places of `--max-containers`. They are handed out in turns: one to each
//! backend that an environment needs, then a second one to each that wants two, and so on. The rest
//! is for containers that no environment needs at present. So every backend that is needed gets its
//! first instance before another gets its second one.

/// What a backend wants of the places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) wants: usize,
    pub(super) has: usize,
    /// Whether some environment needs it.
    pub(super) is_needed: bool,
}

/// How many of the places each gets. Within a turn a backend that has its place keeps it; then the
/// order decides.
pub(super) fn hand_out(wishes: &[Wish], mut places: usize) -> Vec<usize> {
    let mut given = vec![0; wishes.len()];
    for is_needed in [true, false] {
        let class: Vec<(usize, &Wish)> = wishes
            .iter()
            .enumerate()
            .filter(|(_, wish)| wish.is_needed == is_needed)
            .collect();
        let most = class.iter().map(|(_, wish)| wish.wants).max().unwrap_or_default();
        for turn in 1..=most {
            if places == 0 {
                return given;
            }
            for has_it in [true, false] {
                let comes = |wish: &Wish| wish.wants >= turn && (wish.has >= turn) == has_it;
                let served = class.iter().filter(|(_, wish)| comes(wish)).take(places);
                let served: Vec<usize> = served.map(|(at, _)| *at).collect();
                places -= served.len();
                for at in served {
                    given[at] += 1;
                }
            }
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `100/4` wants a hundred and has four; `1/1?` is one that no environment needs.
    fn check(wishes: &str, places: usize, expected: &[usize]) {
        let wish = |text: &str| {
            let (wants, has) = text.trim_end_matches('?').split_once('/').unwrap();
            Wish {
                wants: wants.parse().unwrap(),
                has: has.parse().unwrap(),
                is_needed: !text.ends_with('?'),
            }
        };
        let all: Vec<Wish> = wishes.split(' ').map(wish).collect();
        assert_eq!(hand_out(&all, places), expected, "{wishes}");
    }

    #[test]
    fn the_first_instance_of_each_comes_before_the_second_of_any() {
        check("100/4 1/0", 4, &[3, 1]);
        check("100/0 100/0 1/0", 6, &[3, 2, 1]);
        check("3/3 2/2", 9, &[3, 2]);
        check("2/0", 0, &[0]);
    }

    #[test]
    fn within_a_turn_a_backend_keeps_its_place() {
        check("1/0 1/1", 1, &[0, 1]);
        check("2/1 2/2", 3, &[1, 2]);
    }

    #[test]
    fn backends_that_are_not_needed_get_the_rest() {
        check("3/3? 2/0", 4, &[2, 2]);
        check("3/3? 9/0", 4, &[0, 4]);
        check("3/3? 1/1", 9, &[3, 1]);
    }

    proptest! {
        #[test]
        fn no_place_is_wasted_or_given_twice(
            wishes in proptest::collection::vec((0usize..6, 0usize..6, any::<bool>()), 0..8),
            places in 0usize..20,
        ) {
            let wishes: Vec<Wish> =
                wishes.into_iter().map(|(wants, has, is_needed)| Wish { wants, has, is_needed }).collect();
            let given = hand_out(&wishes, places);
            let wanted: usize = wishes.iter().map(|wish| wish.wants).sum();
            prop_assert_eq!(given.iter().sum::<usize>(), wanted.min(places));
            for (one, got) in wishes.iter().zip(&given) {
                prop_assert!(*got <= one.wants);
                for (other, has) in wishes.iter().zip(&given) {
                    // None is two places ahead of one that is needed and wants another.
                    prop_assert!(!one.is_needed || *got == one.wants || *has <= got + 1, "{:?} {:?}", other, given);
                }
            }
        }
    }
}

//! Deciding change by change comes to the same as deciding the whole, and that to what the rule says.

use proptest::prelude::*;

use super::*;

type Claimants = BTreeMap<u8, (u8, Vec<(Claim, bool)>)>;

fn prefix(text: &str) -> Claim {
    Claim::Prefix(text.parse().unwrap())
}

fn header(text: &str) -> Claim {
    Claim::Header(text.parse().unwrap())
}

/// The rule in its plainest form: who is accepted, and who has what of the others' claims.
fn by_the_rule(claimants: &Claimants) -> BTreeMap<u8, Vec<(Claim, u8)>> {
    let mut order: Vec<_> = claimants.iter().map(|(id, (rank, _))| (*rank, *id)).collect();
    order.sort_unstable();
    let claims = |id: &u8, claim: &Claim, had: bool| claimants[id].1.contains(&(claim.clone(), had));
    let mut decided: BTreeMap<u8, Vec<(Claim, u8)>> = BTreeMap::new();
    for (place, (_, id)) in order.iter().enumerate() {
        let rivals = claimants[id].1.iter().filter_map(|(claim, had)| {
            let earlier = order[..place].iter();
            let mut others = if *had { earlier } else { order.iter() }.map(|(_, other)| other);
            let had_it = others.find(|other| *other != id && claims(other, claim, true));
            let mut earlier = order[..place].iter().map(|(_, other)| other).filter(|_| !had);
            let got_it = earlier.find(|other| claims(other, claim, false) && decided[other].is_empty());
            Some((claim.clone(), *had_it.or(got_it)?))
        });
        let rivals = rivals.collect();
        decided.insert(*id, rivals);
    }
    decided
}

fn decided(claims: &Claims<u8, u8>) -> BTreeMap<u8, Vec<(Claim, u8)>> {
    let rivals = |id: &u8| {
        claims
            .rivals(id)
            .map(|(claim, other)| (claim.clone(), *other))
            .collect()
    };
    claims.claimants.keys().map(|id| (*id, rivals(id))).collect()
}

proptest! {
    /// Whatever is put and removed in which order, and however seldom it is settled.
    #[test]
    fn change_by_change_is_the_whole(
        steps in prop::collection::vec(
            (0..7u8, prop::option::weighted(0.8, (0..4u8, "[pqr]", any::<bool>(), "[hij]", any::<bool>())), any::<bool>()),
            1..40,
        ),
    ) {
        let (mut claims, mut all) = (Claims::default(), Claimants::new());
        let mut known: BTreeMap<u8, Vec<(Claim, u8)>> = BTreeMap::new();
        for (id, step, settles) in steps {
            match step {
                Some((rank, p, had_p, h, had_h)) => {
                    let claimed = vec![(prefix(&p), had_p), (header(&h), had_h)];
                    claims.put(id, rank, claimed.clone());
                    all.insert(id, (rank, claimed));
                }
                None => {
                    claims.remove(&id);
                    all.remove(&id);
                    known.remove(&id);
                }
            }
            if !settles {
                continue;
            }
            let reported = claims.settle();
            let expected = by_the_rule(&all);
            prop_assert_eq!(&decided(&claims), &expected);
            let mut whole = Claims::default();
            for (id, (rank, claimed)) in &all {
                whole.put(*id, *rank, claimed.clone());
            }
            whole.settle();
            prop_assert_eq!(decided(&whole), expected.clone());
            for (id, rivals) in &expected {
                prop_assert_eq!(claims.is_accepted(id), rivals.is_empty());
                // Whoever is not told of has what it had.
                prop_assert!(reported.contains_key(id) || known.get(id) == Some(rivals), "{}", id);
                // Whoever gains or loses what it claims is reported as such, however often it was
                // looked at.
                let before = known.get(id).is_some_and(Vec::is_empty);
                prop_assert!(before == rivals.is_empty() || reported[id], "{}", id);
            }
            // No claim is two's.
            for claim in ["p", "q", "r"].map(prefix).into_iter().chain(["h", "i", "j"].map(header)) {
                let claimants = claims.queues.of(&claim).iter();
                let holders = claimants.filter(|(_, _, id)| claims.is_accepted(id));
                prop_assert!(holders.count() <= 1);
            }
            known = expected;
        }
    }
}

#[test]
fn a_change_costs_no_more_than_what_comes_after_it() {
    let mut claims = Claims::default();
    for id in 0..1000 {
        claims.put(
            id,
            id,
            [(prefix(&format!("p{id}")), false), (header("shared"), false)],
        );
    }
    assert_eq!(claims.settle().len(), 1000);
    claims.put(3, 3, [(prefix("other"), false), (header("own"), false)]);
    // It is accepted now, and those behind it lose nothing.
    let settled = claims.settle();
    assert!(settled[&3] && settled.values().filter(|differs| **differs).count() == 1);
    claims.put(3, 3, [(prefix("other"), false), (header("own"), false)]);
    assert_eq!(claims.settle(), [(3, false)].into());
}

#[test]
fn files_have_an_order() {
    let environment = |name: &str, rest: &str| -> Environment {
        let text = format!(r#"{{"name": "{name}", "prefix": "p", "header": "h"{rest}}}"#);
        serde_json::from_str(&text).unwrap()
    };
    let (x, other) = (environment("x", ""), environment("x", r#", "protected": true"#));
    let seniority = |before| Seniority::of(before, "b", &x);
    assert_eq!(seniority(None), Seniority::New);
    assert_eq!(seniority(Some(("a", &x))), Seniority::Moved);
    assert_eq!(seniority(Some(("b", &other))), Seniority::Kept);
    let changed = Environment {
        prefix: "q".parse().unwrap(),
        ..other.clone()
    };
    assert_eq!(seniority(Some(("b", &changed))), Seniority::Changed);
    let new = Seniority::New;
    assert!(rank(new, &other, "z") < rank(new, &x, "a") && rank(new, &x, "a") < rank(new, &x, "b"));
    // Only of new ones a protected one is first.
    assert!(rank(Seniority::Moved, &other, "z") > rank(Seniority::Moved, &x, "a"));
}

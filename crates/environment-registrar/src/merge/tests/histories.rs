//! Random histories of files, others, etcd and the clock: whatever happens, a merge is sound and settles.

use super::*;

#[derive(Debug, Clone)]
enum Step {
    /// A file with environments: name, prefix, and what else they say.
    Save(String, Vec<(String, String, usize)>),
    Publish,
    End(String, bool),
    Keep(String),
    Restart,
    Later,
}

const ELSE: [&str; 8] = [
    "",
    "",
    ", bad: 1",
    ", protected: true",
    ", description: new",
    ", expires: 1h",
    ", expires: 2030-01-31T11:00:00Z",
    // A part that may be about any environment.
    "}\n- {description: nobody",
];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let environments = prop::collection::vec(("[xyz]", "[pqr]", 0..ELSE.len()), 0..3);
    let step = prop_oneof![
        6 => ("[abc]", environments).prop_map(|(file, environments)| Step::Save(file, environments)),
        4 => Just(Step::Publish),
        2 => ("[xyz]", prop::bool::weighted(0.2)).prop_map(|(name, lost)| Step::End(name, lost)),
        1 => "[xyz]".prop_map(Step::Keep),
        1 => Just(Step::Restart),
        1 => Just(Step::Later),
    ];
    prop::collection::vec(step, 1..20)
}

proptest! {
    /// Whatever is saved, ends and is kept in which order: no two accepted environments share a prefix or header, none
    /// clashes by name with somebody else's, none has ended; a second merge changes nothing, what is faultless and has
    /// neither a rival nor ended is accepted, and once published nothing is left to write.
    #[test]
    fn merges_are_sound_and_stable(steps in steps(), foreign in proptest::option::of(("[xyz]", "[pqr]"))) {
        let mut case = Case::new();
        if let Some((name, prefix)) = &foreign {
            case.foreign(name, prefix);
        }
        let foreign = foreign.map(|(name, _)| name);
        for step in steps {
            let publish = matches!(step, Step::Publish);
            match step {
                Step::Save(file, environments) => {
                    let mut text = "# file\n".to_owned();
                    for (name, prefix, more) in environments {
                        text += &format!("- {{name: {name}, prefix: {prefix}{}}}\n", ELSE[more]);
                    }
                    case.save(&file, &text);
                }
                Step::Publish => {
                    case.publish().merge();
                }
                Step::End(name, lost) if foreign.as_ref() != Some(&name) => {
                    case.end(&name, lost);
                }
                Step::Keep(name) if foreign.as_ref() != Some(&name) => {
                    case.keep(&name);
                }
                Step::End(..) | Step::Keep(_) => {}
                Step::Restart => {
                    case.restart();
                }
                Step::Later => {
                    case.terms.now += Duration::from_secs(1800);
                    case.changes.all = true;
                    case.merge();
                }
            }
            let (mut prefixes, mut headers) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
            for (name, environment) in &case.merged.accepted {
                prop_assert!(prefixes.insert(environment.prefix.clone()) && headers.insert(environment.header.clone()));
                prop_assert_eq!(name, &environment.name);
                prop_assert!(foreign.as_ref().is_none_or(|other| other != name.as_str()));
                prop_assert!(case.mirror.ended(environment).is_none());
                let document = case.library.get(file_of(environment).unwrap());
                let is_newest = |entry: &Entry| entry.environment == *environment;
                let older = document.is_some_and(|it| it.is_about(name) && !it.entry(name).is_some_and(is_newest));
                prop_assert_eq!(case.merged.outdated(name).is_some(), older, "{}", name);
            }
            if publish {
                case.publish().merge();
                let plan = case.plan();
                let puts: Vec<_> = plan.puts.iter().map(|put| &put.environment.name).collect();
                for name in case.merged.accepted.keys() {
                    let life = case.mirror.life(name).unwrap();
                    prop_assert_eq!(life.refused.as_ref(), case.merged.outdated(name));
                }
                prop_assert!(puts.is_empty() && plan.deletes.is_empty() && plan.ends.is_empty(), "{:?}", plan);
            }
            let first = case.merged.clone();
            case.changes.all = true;
            case.merge();
            prop_assert_eq!(&first.accepted, &case.merged.accepted);
            prop_assert_eq!(whom(&first), whom(&case.merged));
            prop_assert_eq!(&first.outdated, &case.merged.outdated);
            for (file, document) in case.library.files() {
                for entry in &document.entries {
                    let name = &entry.environment.name;
                    let refused = case.merged.refused.iter().any(|r| r.file == file && r.environment == *name);
                    let accepted = case.merged.accepted.get(name) == Some(&entry.environment);
                    prop_assert!(refused || accepted, "{} of {} is neither", name, file);
                }
            }
        }
    }
}

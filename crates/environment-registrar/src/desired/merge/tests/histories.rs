//! Random histories of files, others, etcd and the clock: whatever happens, a merge is sound and settles, and merging
//! change by change comes to the same as merging everything ([`Case::merge`] looks at that).

use super::*;

#[derive(Debug, Clone)]
enum HistoryStep {
    /// A file with environments: name, prefix, and what else they say.
    Save(String, Vec<(String, String, usize)>),
    /// The same for two files at once.
    SaveBoth(Vec<(String, String, usize)>, Vec<(String, String, usize)>),
    /// Another writer registers an environment with this prefix.
    Foreign(String, String),
    Publish,
    End(String, bool),
    Keep(String),
    Restart,
    Later,
}

const ELSE: [&str; 11] = [
    "",
    "",
    ", bad: 1",
    ", protected: true",
    ", description: new",
    ", header: h",
    ", header: h",
    ", header: x",
    ", expires: 1h",
    ", expires: 2030-01-31T11:00:00Z",
    // A part that may be about any environment.
    "}\n- {description: nobody",
];

fn steps() -> impl Strategy<Value = Vec<HistoryStep>> {
    let environments = || prop::collection::vec(("[wxyz]", "[pqr]", 0..ELSE.len()), 0..3);
    let step = prop_oneof![
        6 => ("[abc]", environments()).prop_map(|(file, environments)| HistoryStep::Save(file, environments)),
        2 => (environments(), environments()).prop_map(|(a, b)| HistoryStep::SaveBoth(a, b)),
        1 => ("[wxyz]", "[pqr]").prop_map(|(name, prefix)| HistoryStep::Foreign(name, prefix)),
        4 => Just(HistoryStep::Publish),
        2 => ("[wxyz]", prop::bool::weighted(0.2)).prop_map(|(name, lost)| HistoryStep::End(name, lost)),
        1 => "[wxyz]".prop_map(HistoryStep::Keep),
        1 => Just(HistoryStep::Restart),
        1 => Just(HistoryStep::Later),
    ];
    prop::collection::vec(step, 1..20)
}

fn text(environments: Vec<(String, String, usize)>) -> String {
    let entries = environments
        .into_iter()
        .map(|(name, prefix, more)| format!("- {{name: {name}, prefix: {prefix}{}}}\n", ELSE[more]));
    format!("# file\n{}", entries.collect::<String>())
}

proptest! {
    /// Whatever is saved, ends and is kept in which order: no two accepted environments share a
    /// prefix or header, none clashes by name with another writer's, none has ended; a second merge
    /// changes nothing, what is faultless and has neither a rival nor ended is accepted, and once
    /// published nothing is left to write.
    #[test]
    fn merges_are_sound_and_stable(steps in steps()) {
        let mut case = Case::new();
        for step in steps {
            let is_foreign = |case: &Case, name: &str| case.actual.other(&name.parse().unwrap()).is_some();
            let publish = matches!(step, HistoryStep::Publish);
            match step {
                HistoryStep::Save(file, environments) => {
                    case.save(&file, &text(environments));
                }
                HistoryStep::SaveBoth(a, b) => {
                    case.take("a", &text(a));
                    case.save("b", &text(b));
                }
                HistoryStep::Foreign(name, prefix) => {
                    case.foreign(&name, &prefix);
                }
                HistoryStep::Publish => {
                    case.publish().merge();
                }
                HistoryStep::End(name, lost) => {
                    case.end(&name, lost);
                }
                HistoryStep::Keep(name) if !is_foreign(&case, &name) => {
                    case.keep(&name);
                }
                HistoryStep::Keep(_) => {}
                HistoryStep::Restart => {
                    case.restart();
                }
                HistoryStep::Later => {
                    case.terms.now += Duration::from_secs(1800);
                    case.changes.all = true;
                    case.merge();
                }
            }
            let (mut prefixes, mut headers) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
            for (name, environment) in &case.merged.accepted {
                prop_assert!(prefixes.insert(environment.prefix.clone()) && headers.insert(environment.header.clone()));
                prop_assert_eq!(name, &environment.name);
                prop_assert!(!is_foreign(&case, name.as_str()));
                prop_assert!(case.actual.ended(environment).is_none());
                let document = case.files.get(file_of(environment).unwrap());
                let is_newest = |entry: &EnvironmentEntry| entry.record == *environment;
                let older = document.is_some_and(|it| it.is_about(name) && !it.entry(name).is_some_and(is_newest));
                prop_assert_eq!(case.merged.outdated(name).is_some(), older, "{}", name);
            }
            if publish {
                case.publish().merge();
                let plan = case.plan();
                let puts: Vec<_> = plan.puts.iter().map(|put| put.name()).collect();
                for name in case.merged.accepted.keys() {
                    let life = case.actual.life(name).unwrap();
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
            for (file, document) in case.files.iter() {
                for entry in &document.entries {
                    let name = &entry.record.name;
                    let refused = case.merged.refused.iter().any(|r| r.file == file && r.environment == *name);
                    let accepted = case.merged.accepted.get(name) == Some(&entry.record);
                    prop_assert!(refused || accepted, "{} of {} is neither", name, file);
                }
            }
        }
    }
}

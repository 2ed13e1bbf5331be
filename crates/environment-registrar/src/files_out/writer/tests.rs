//! The tasks on real files.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

fn environment(version: u8) -> Arc<Environment> {
    let text = format!("name: a\nservices: [{{name: backend, version: 1.{version}}}]");
    let mut environment = parse(text.as_bytes()).entries[0].environment.clone();
    environment.source = Some(mayfly_core::records::Source {
        registrar: "us".parse().unwrap(),
        file: "a.yaml".to_owned(),
    });
    Arc::new(environment)
}

struct Case {
    root: tempfile::TempDir,
    writer: Writer,
}

impl Case {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("envs");
        fs::create_dir(&directory).unwrap();
        let archive = Archive::new(None, &directory, 10).unwrap();
        let writer = Writer { directory, archive };
        Self { root, writer }
    }

    fn path(&self) -> PathBuf {
        self.writer.directory.join("a.yaml")
    }

    fn file(&self) -> Option<Vec<u8>> {
        fs::read(self.path()).ok()
    }

    fn archived(&self) -> String {
        let newest = self.writer.archive.newest(&"a".parse().unwrap()).unwrap();
        String::from_utf8(newest.map(|newest| newest.bytes).unwrap_or_default()).unwrap()
    }

    fn does(&self, task: &Task) -> bool {
        self.writer.carry_out(task).unwrap().is_some()
    }
}

#[test]
fn the_octets_of_a_file_are_archived_where_it_holds_nothing_else() {
    let case = Case::new();
    let archive = |version| Task::Archive(environment(version), SystemTime::now(), None);
    let text = "# mine\nname: a\nservices: [{name: backend, version: 1.1}]\n";
    fs::write(case.path(), text).unwrap();
    case.does(&archive(1));
    assert_eq!(case.archived(), text);
    // It says something else by now, or says more.
    case.does(&archive(2));
    assert!(
        case.archived()
            .starts_with("# as etcd had it: registrar us, file \"a.yaml\"\nname: a\n"),
        "{}",
        case.archived()
    );
    fs::write(case.path(), format!("{text}---\nname: b\n")).unwrap();
    case.does(&archive(1));
    assert!(
        case.archived().ends_with("version: '1.1'\n"),
        "{}",
        case.archived()
    );
}

#[test]
fn the_file_of_an_ended_environment_moves_away_only_as_it_was() {
    let case = Case::new();
    let away = Task::MoveAway("a.yaml".to_owned(), environment(1));
    let text = "# mine\nname: a\nservices: [{name: backend, version: 1.1}]\n";
    for other in [
        "name: a\nservices: [{name: backend, version: 1.2}]\n",
        "name: a\nservices: [{name: backend, version: 1.1}]\n---\nname: b\n",
        "name: a\nservices: [{name: backend, version: 1.1}]\n---\n[\n",
        "",
    ] {
        fs::write(case.path(), other).unwrap();
        assert!(!case.does(&away) && case.file().is_some(), "{other}");
    }
    let target = case.root.path().join("target.yaml");
    fs::write(&target, text).unwrap();
    fs::remove_file(case.path()).unwrap();
    std::os::unix::fs::symlink(&target, case.path()).unwrap();
    assert!(!case.does(&away) && case.file().is_some(), "a link stays");
    fs::remove_file(case.path()).unwrap();
    fs::write(case.path(), text).unwrap();
    // Without an archive nothing goes.
    fs::write(case.root.path().join("archive"), "in the way").unwrap();
    assert!(
        matches!(case.writer.carry_out(&away), Err(WriteFault::Archive(reason)) if reason.contains("--archive"))
    );
    assert!(case.file().is_some());
    fs::remove_file(case.root.path().join("archive")).unwrap();
    assert!(case.does(&away) && case.file().is_none());
    assert_eq!(case.archived(), text);
    assert!(!case.does(&away), "it can be done twice");
}

#[test]
fn the_file_of_a_revived_environment_returns() {
    let case = Case::new();
    let text = "# mine\nname: a\nservices: [{name: backend, version: 1.1}]\n";
    fs::write(case.path(), text).unwrap();
    assert!(case.does(&Task::MoveAway("a.yaml".to_owned(), environment(1))));
    let restore = Task::Restore(environment(1));
    assert!(case.does(&restore));
    assert_eq!(case.file().unwrap(), text.as_bytes(), "comments included");
    assert!(!case.does(&restore), "it can be done twice");
    fs::write(case.path(), "name: b").unwrap();
    assert!(
        matches!(case.writer.carry_out(&restore), Err(WriteFault::File(reason)) if reason.contains("a.yaml"))
    );
    assert_eq!(case.file().unwrap(), b"name: b");
    // The source of a record is text from etcd.
    let mut hostile = (*environment(2)).clone();
    for file in ["../a.yaml", "/tmp/a.yaml", ".a.yaml", "a", ""] {
        hostile.source.as_mut().unwrap().file = file.to_owned();
        fs::remove_file(case.path()).unwrap();
        assert!(case.does(&Task::Restore(Arc::new(hostile.clone()))));
        assert_eq!(case.file().unwrap(), to_yaml(&hostile).into_bytes(), "{file}");
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn of_a_file_with_several_environments_each_is_archived_with_its_mode() {
    let case = Case::new();
    let text = "- name: a\n  services: [{name: backend, version: 1.1}]\n- name: b\n";
    fs::write(case.path(), text).unwrap();
    fs::set_permissions(case.path(), fs::Permissions::from_mode(0o600)).unwrap();
    case.does(&Task::Archive(environment(1), SystemTime::now(), None));
    let newest = case.writer.archive.newest(&"a".parse().unwrap()).unwrap();
    assert_eq!(newest.unwrap().mode, 0o600);
}

#[test]
fn who_may_read_a_file_may_read_its_archived_content_and_nobody_else() {
    let case = Case::new();
    let set = |mode| fs::set_permissions(case.path(), fs::Permissions::from_mode(mode)).unwrap();
    let newest = || {
        case.writer
            .archive
            .newest(&"a".parse().unwrap())
            .unwrap()
            .unwrap()
    };
    fs::write(
        case.path(),
        "name: a\nservices: [{name: backend, version: 1.1}]\n",
    )
    .unwrap();
    set(0o640);
    case.does(&Task::Archive(environment(1), SystemTime::now(), None));
    assert_eq!(newest().mode, 0o640);
    set(0o600);
    assert!(case.does(&Task::MoveAway("a.yaml".to_owned(), environment(1))));
    assert_eq!(newest().mode, 0o600);
    // It comes back as it was; one that etcd had otherwise meanwhile, too.
    for version in [1, 2] {
        assert!(case.does(&Task::Restore(environment(version))));
        assert_eq!(mode(&case.path()), 0o600, "{version}");
        fs::remove_file(case.path()).unwrap();
    }
    // So does a copy of what another writer made of it, and it keeps what a person gives it.
    assert!(case.does(&Task::Copy(environment(3))));
    assert_eq!(mode(&case.path()), 0o600);
    set(0o660);
    assert!(case.does(&Task::Copy(environment(4))));
    assert_eq!((mode(&case.path()), newest().mode), (0o660, 0o660));
    assert!(case.does(&Task::DeleteCopy("a".parse().unwrap())));
    assert_eq!(newest().mode, 0o660);
}

#[derive(Debug, Clone)]
enum HistoryStep {
    /// A person saves this, perhaps onto a copy as it stands.
    Save(u8, bool),
    Remove,
    Copy(u8),
    DeleteCopy,
}

fn step() -> impl Strategy<Value = HistoryStep> {
    prop_oneof![
        (0..4u8, any::<bool>()).prop_map(|(n, append)| HistoryStep::Save(n, append)),
        Just(HistoryStep::Remove),
        (0..3u8).prop_map(HistoryStep::Copy),
        (0..3u8).prop_map(HistoryStep::Copy),
        Just(HistoryStep::DeleteCopy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever we do in whatever order, what a person wrote stays, and what is overwritten or deleted is archived.
    #[test]
    fn nothing_of_a_person_is_touched(steps in prop::collection::vec(step(), 1..20)) {
        let case = Case::new();
        let ours: BTreeSet<Vec<u8>> = (0..3).map(|version| copy(&environment(version)).unwrap()).collect();
        for step in steps {
            let before = case.file();
            let task = match step {
                HistoryStep::Save(n, append) => {
                    let mut text = before.filter(|_| append).unwrap_or_default();
                    text.extend_from_slice(format!("# {n}\n").as_bytes());
                    fs::write(case.path(), text).unwrap();
                    continue;
                }
                HistoryStep::Remove => {
                    let _ = fs::remove_file(case.path());
                    continue;
                }
                HistoryStep::Copy(version) => Task::Copy(environment(version)),
                HistoryStep::DeleteCopy => Task::DeleteCopy("a".parse().unwrap()),
            };
            case.writer.carry_out(&task).unwrap();
            let (after, was_ours) = (case.file(), before.as_ref().is_none_or(|before| ours.contains(before)));
            match &task {
                Task::Copy(environment) if was_ours => prop_assert_eq!(after, Some(copy(environment).unwrap())),
                Task::DeleteCopy(_) if was_ours => prop_assert_eq!(after, None),
                _ => prop_assert_eq!(&after, &before),
            }
            if let Some(before) = before.filter(|before| was_ours && case.file().as_ref() != Some(before)) {
                prop_assert_eq!(case.archived().into_bytes(), without_mark(&before));
            }
        }
    }
}

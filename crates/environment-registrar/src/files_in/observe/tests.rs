//! The ways in which people and tools save files, on a real directory.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;

use super::*;
use crate::files_in::scan::Content;

const LIMIT: Duration = Duration::from_secs(20);

struct Case {
    root: tempfile::TempDir,
    observer: Observer,
}

impl Case {
    /// A directory `envs` with one file, looked through until nothing is left to look at.
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("envs")).unwrap();
        fs::write(root.path().join("envs/a.yaml"), "first").unwrap();
        let observer = Observer::new(&root.path().join("envs"), None);
        let mut case = Self { root, observer };
        assert_eq!(case.until("a.yaml", Some("first")).await, ["first"]);
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Looks when told until the file holds this text (`None`: is gone); gives every content it was read with.
    async fn until(&mut self, name: &str, wanted: Option<&str>) -> Vec<String> {
        let mut read = Vec::new();
        let work = async {
            loop {
                let found = match self.observer.next().await {
                    ScanScope::All => match self.observer.scan(KnownFiles::default()).await {
                        Ok(mut scan) => scan
                            .files
                            .remove(name)
                            .map_or(Some(None), |found| found.map(Some)),
                        Err(_) => None,
                    },
                    ScanScope::Files(names) => {
                        let looked = self.observer.look(names).await;
                        looked
                            .into_iter()
                            .find(|(looked, _)| looked == name)
                            .map(|(_, found)| found)
                    }
                };
                // Nothing was said of this file.
                let Some(found) = found else { continue };
                let text = found.map(|found| match found.content {
                    Content::Bytes(bytes) => String::from_utf8(bytes).unwrap(),
                    Content::Unreadable(reason) => reason,
                });
                read.extend(text.clone());
                if text.as_deref() == wanted {
                    return;
                }
            }
        };
        tokio::time::timeout(LIMIT, work)
            .await
            .unwrap_or_else(|_| panic!("{name} never became {wanted:?}"));
        read
    }
}

#[tokio::test]
async fn written_in_place() {
    let mut case = Case::new().await;
    fs::write(case.path("envs/a.yaml"), "second").unwrap();
    assert_eq!(
        case.until("a.yaml", Some("second")).await,
        ["second"],
        "only the whole file is read"
    );
}

#[tokio::test]
async fn written_bit_by_bit() {
    let mut case = Case::new().await;
    let mut file = File::create(case.path("envs/a.yaml")).unwrap();
    file.write_all(b"sec").unwrap();
    file.sync_all().unwrap();
    // Something else happens meanwhile, the whole directory is looked through, and still nobody reads the half.
    fs::write(case.path("envs/b.yaml"), "b").unwrap();
    case.until("b.yaml", Some("b")).await;
    case.observer.next_scan = Instant::now();
    assert_eq!(case.observer.next().await, ScanScope::All);
    assert_eq!(
        case.observer.scan(KnownFiles::default()).await.unwrap().files["a.yaml"],
        None
    );
    file.write_all(b"ond").unwrap();
    drop(file);
    assert_eq!(case.until("a.yaml", Some("second")).await, ["second"]);
}

#[tokio::test]
async fn renamed_over_it() {
    let mut case = Case::new().await;
    fs::write(case.path("envs/.a.yaml.tmp"), "second").unwrap();
    fs::rename(case.path("envs/.a.yaml.tmp"), case.path("envs/a.yaml")).unwrap();
    assert_eq!(case.until("a.yaml", Some("second")).await, ["second"]);
    fs::rename(case.path("envs/a.yaml"), case.path("envs/b.yaml")).unwrap();
    assert_eq!(case.until("a.yaml", None).await, [""; 0]);
    fs::write(case.path("outside"), "third").unwrap();
    fs::rename(case.path("outside"), case.path("envs/b.yaml")).unwrap();
    case.until("b.yaml", Some("third")).await;
}

#[tokio::test]
async fn deleted_and_created() {
    let mut case = Case::new().await;
    fs::remove_file(case.path("envs/a.yaml")).unwrap();
    case.until("a.yaml", None).await;
    fs::write(case.path("envs/a.yaml"), "second").unwrap();
    assert_eq!(case.until("a.yaml", Some("second")).await, ["second"]);
}

#[tokio::test]
async fn linked() {
    let mut case = Case::new().await;
    fs::write(case.path("one"), "one").unwrap();
    fs::hard_link(case.path("one"), case.path("envs/hard.yaml")).unwrap();
    case.until("hard.yaml", Some("one")).await;
    fs::create_dir(case.path("envs/other")).unwrap();
    fs::write(case.path("envs/other/one"), "one").unwrap();
    symlink("other/one", case.path("envs/soft.yaml")).unwrap();
    case.until("soft.yaml", Some("one")).await;
    // The file behind the link is changed in another directory. Looking through everything learns of that directory.
    case.observer.scan(KnownFiles::default()).await.unwrap();
    fs::write(case.path("envs/other/one"), "two").unwrap();
    case.until("soft.yaml", Some("two")).await;
}

#[tokio::test]
async fn swapped_as_config_maps_are() {
    let mut case = Case::new().await;
    let generation = |case: &Case, name: &str, text: &str| {
        fs::create_dir(case.path(&format!("envs/{name}"))).unwrap();
        fs::write(case.path(&format!("envs/{name}/m.yaml")), text).unwrap();
        symlink(name, case.path("envs/..data_tmp")).unwrap();
        fs::rename(case.path("envs/..data_tmp"), case.path("envs/..data")).unwrap();
    };
    generation(&case, "..2030_01", "one");
    symlink("..data/m.yaml", case.path("envs/m.yaml")).unwrap();
    case.until("m.yaml", Some("one")).await;
    generation(&case, "..2030_02", "two");
    fs::remove_dir_all(case.path("envs/..2030_01")).unwrap();
    case.until("m.yaml", Some("two")).await;
}

#[tokio::test]
async fn the_directory_is_a_link_that_is_swapped() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    for (directory, text) in [("one", "one"), ("two", "two")] {
        fs::create_dir_all(path(directory).join("envs")).unwrap();
        fs::write(path(directory).join("envs/a.yaml"), text).unwrap();
    }
    symlink("one", path("current")).unwrap();
    let observer = Observer::new(&path("current/envs"), None);
    let mut case = Case { root, observer };
    case.until("a.yaml", Some("one")).await;
    symlink("two", case.path("new")).unwrap();
    fs::rename(case.path("new"), case.path("current")).unwrap();
    case.until("a.yaml", Some("two")).await;
    fs::write(case.path("two/envs/a.yaml"), "three").unwrap();
    case.until("a.yaml", Some("three")).await;
}

#[test]
fn without_events_nobody_waits_for_a_close() {
    let root = tempfile::tempdir().unwrap();
    let mut observer = Observer::new(&root.path().join("nowhere"), None);
    observer.pending.written("a.yaml", Instant::now());
    observer.watch_anew();
    assert!(observer.watcher.is_none() && observer.pending.writing().is_empty());
}

#[tokio::test]
async fn a_folder_that_goes_is_reported_no_longer() {
    let mut case = Case::new().await;
    fs::create_dir(case.path("team")).unwrap();
    fs::write(case.path("team/x.yaml"), "x").unwrap();
    fs::rename(case.path("team"), case.path("envs/team")).unwrap();
    for reported in [1, 0] {
        let work = async {
            while case.observer.asides().len() != reported {
                if case.observer.next().await == ScanScope::All {
                    case.observer.scan(KnownFiles::default()).await.unwrap();
                }
            }
        };
        tokio::time::timeout(LIMIT, work).await.unwrap();
        if reported > 0 {
            fs::remove_dir_all(case.path("envs/team")).unwrap();
        }
    }
}

#[tokio::test]
async fn the_directory_goes_and_comes_back() {
    let mut case = Case::new().await;
    fs::rename(case.path("envs"), case.path("away")).unwrap();
    let gone = async {
        loop {
            if case.observer.next().await == ScanScope::All
                && case.observer.scan(KnownFiles::default()).await.is_err()
            {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    assert!(!case.observer.is_there());
    fs::create_dir(case.path("envs")).unwrap();
    fs::write(case.path("envs/a.yaml"), "second").unwrap();
    case.until("a.yaml", Some("second")).await;
    assert!(case.observer.is_there());
    fs::write(case.path("envs/a.yaml"), "third").unwrap();
    case.until("a.yaml", Some("third")).await;
}

#[tokio::test]
async fn a_missing_file_means_nothing_while_git_is_at_work() {
    let mut case = Case::new().await;
    fs::create_dir(case.path(".git")).unwrap();
    assert!(case.observer.is_believed());
    fs::write(case.path(".git/index.lock"), "").unwrap();
    assert!(!case.observer.is_believed());
    assert!(case.observer.doubt().unwrap().contains("index.lock"));
    fs::remove_file(case.path(".git/index.lock")).unwrap();
    // What git did last may not have been looked at yet.
    assert!(!case.observer.is_believed());
    assert_eq!(case.observer.doubt(), None);
    assert!(case.observer.is_believed());
}

#[tokio::test]
async fn polling_sees_changes_and_reads_no_file_that_is_still_growing() {
    let mut case = Case::new().await;
    case.observer = Observer::new(&case.path("envs"), Some(Duration::from_millis(50)));
    case.until("a.yaml", Some("first")).await;
    fs::write(case.path("envs/a.yaml"), "second").unwrap();
    case.until("a.yaml", Some("second")).await;
    fs::remove_file(case.path("envs/a.yaml")).unwrap();
    case.until("a.yaml", None).await;
    assert!(case.observer.watcher.is_none());
}

#[test]
fn a_look_without_a_reason_is_seldom_where_it_takes_long() {
    for (took, next) in [(0, 30), (6, 30), (40, 200), (1_000, 600)] {
        assert_eq!(
            pause(Duration::from_millis(took)),
            Duration::from_secs(next),
            "{took} ms"
        );
    }
}

#[tokio::test]
async fn a_small_file_is_read_before_many_large_ones() {
    let mut case = Case::new().await;
    let names = ["a.yaml", "b.yaml", "c.yaml", "z.yaml"];
    for name in &names[..3] {
        fs::write(case.path(&format!("envs/{name}")), "x".repeat(600_000)).unwrap();
    }
    fs::write(case.path("envs/z.yaml"), "small").unwrap();
    let mut left: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
    let mut rounds = Vec::new();
    while !left.is_empty() {
        let looked = case.observer.look(left).await;
        rounds.push(looked.into_iter().map(|(name, _)| name).collect::<Vec<_>>());
        left = case.observer.pending.take_settled(Instant::now());
        left.retain(|name| !rounds.iter().flatten().any(|done| done == name));
    }
    assert_eq!(rounds, [vec!["z.yaml", "a.yaml"], vec!["b.yaml"], vec!["c.yaml"]]);
}

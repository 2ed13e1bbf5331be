//! What is in place at any moment, and what becomes of files that others have changed.

use super::*;

fn open(dir: &tempfile::TempDir) -> HaproxyFiles {
    let path = dir.path().join("shared");
    let path = path
        .to_str()
        .expect("a path of ASCII")
        .parse()
        .expect("a path for haproxy.cfg");
    HaproxyFiles::open(&path, "/no/such/haproxy".as_ref()).expect("a directory")
}

fn version(number: u64, config: &str, edge: &str) -> FilesVersion {
    let maps = BTreeMap::from([(Map::Table(Table::Edge), MapText::Text(edge.to_owned()))]);
    let config = Some(config.to_owned());
    FilesVersion {
        number,
        texts: Texts { config, maps },
    }
}

#[test]
fn every_map_is_there_from_the_first_state_on_and_an_older_state_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = open(&dir);
    assert_eq!((files.present_total(), files.present_slots()), (0, vec![]));
    files
        .write(version(
            2,
            "backend slot-1\nbackend slot-12 from slots\n",
            "www prod\n",
        ))
        .expect("written");
    files.write(version(1, "old", "old\n")).expect("passed over");
    assert_eq!(files.present_total(), 12);
    let read = |map: Map| std::fs::read_to_string(map.path(&files.dir.join("maps"))).expect("a map");
    assert_eq!(read(Map::Table(Table::Edge)), "www prod\n");
    assert!(
        Map::ALL
            .into_iter()
            .filter(|map| *map != Map::Table(Table::Edge))
            .all(|map| read(map).is_empty())
    );
    files.restore("good").expect("restored");
    assert_eq!(files.present_config().as_deref(), Some("good"));
}

#[test]
fn the_first_configuration_waits_for_the_maps_and_no_other_does() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = open(&dir);
    let edge = PathBuf::from(Map::Table(Table::Edge).path(&files.dir.join("maps")));
    std::fs::create_dir_all(edge.join("in the way")).expect("a directory");
    files
        .write(version(1, "first", ""))
        .expect_err("a map that cannot be written");
    assert_eq!(files.present_config(), None);
    files.restore("earlier").expect("written");
    files
        .write(version(2, "later", ""))
        .expect_err("a map that cannot be written");
    assert_eq!(files.present_config().as_deref(), Some("later"));
}

/// HAProxy may be started from what is there at any moment.
#[test]
fn no_environment_is_there_while_nobody_knows_to_whom_it_is_open() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = open(&dir);
    let [access, headers] = [Table::Access, Table::Headers]
        .map(|table| PathBuf::from(Map::Table(table).path(&files.dir.join("maps"))));
    let all = |number| {
        let mut version = version(number, "good", "www h\n");
        let rows = [(Table::Access, "a a:users\n"), (Table::Headers, "h a\n")];
        let rows = rows.map(|(table, text)| (Map::Table(table), MapText::Text(text.to_owned())));
        version.texts.maps.extend(rows);
        version
    };
    files.write(all(1)).expect("written");
    std::fs::remove_file(&access).expect("removed");
    // A change elsewhere, which brings other maps only; then a state that is broken off before the maps.
    let mut other = all(2);
    other.texts.maps.remove(&Map::Table(Table::Access));
    let damage = files.write(other).expect("written");
    assert!(is_as(&access, b"", MODE) && is_as(&headers, b"", MODE));
    let expected = [Table::Access, Table::Headers].map(Map::Table);
    assert_eq!(damage.maps, BTreeSet::from(expected));
    assert_eq!(files.write(all(3)).expect("written"), Stale::default());
    assert!(is_as(&access, b"a a:users\n", MODE) && is_as(&headers, b"h a\n", MODE));

    std::fs::remove_file(&access).expect("removed");
    let slots = PathBuf::from(Map::Table(Table::Hosts).path(&files.dir.join("maps")));
    std::fs::remove_file(&slots).expect("removed");
    std::fs::create_dir_all(slots.join("in the way")).expect("a directory");
    let mut blocked = all(4);
    let text = MapText::Text(String::new());
    blocked.texts.maps.insert(Map::Table(Table::Hosts), text);
    files.write(blocked).expect_err("a map that cannot be written");
    assert!(is_as(&access, b"a a:users\n", MODE));
}

#[test]
fn changes_by_other_programs_are_seen_and_repaired() {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    let files = open(&dir);
    let maps = files.dir.join("maps");
    let path = |map: Map| PathBuf::from(map.path(&maps));
    let (edge, witness) = (path(Map::Table(Table::Edge)), path(Map::Witness));
    let config = files.config();
    let config = config.as_path();
    let all = |number| {
        let mut version = version(number, "good config\n", "www prod\n");
        let texts = Map::ALL.map(|map| (map, MapText::Text(String::new())));
        for (map, text) in texts {
            version.texts.maps.entry(map).or_insert(text);
        }
        version
    };
    assert_eq!(files.write(all(1)).expect("written"), Stale::default());
    assert_eq!(files.damage(), Stale::default());

    let only_config = Stale {
        config: true,
        ..Stale::default()
    };
    let only = |map: Map| Stale {
        maps: BTreeSet::from([map]),
        ..Stale::default()
    };
    type Damage<'a> = (&'a str, Stale, Box<dyn Fn() + 'a>);
    let damages: [Damage<'_>; 6] = [
        (
            "cut",
            only_config.clone(),
            Box::new(|| fs::write(config, "goo").expect("cut")),
        ),
        (
            "no text",
            only_config.clone(),
            Box::new(|| fs::write(config, b"\xff").expect("written")),
        ),
        (
            "config gone",
            only_config,
            Box::new(|| fs::remove_file(config).expect("removed")),
        ),
        (
            "emptied",
            only(Map::Table(Table::Edge)),
            Box::new(|| fs::write(&edge, "").expect("emptied")),
        ),
        (
            "map gone",
            only(Map::Witness),
            Box::new(|| fs::remove_file(&witness).expect("removed")),
        ),
        (
            "hidden",
            only(Map::Table(Table::Edge)),
            Box::new(|| fs::set_permissions(&edge, fs::Permissions::from_mode(0o000)).expect("a mode")),
        ),
    ];
    for (number, (what, expected, damage)) in (2..).zip(damages) {
        damage();
        assert_eq!(files.damage(), expected, "{what}");
        // What another version does not bring stays damaged, and is returned.
        let none = FilesVersion {
            number,
            texts: Texts {
                config: None,
                maps: BTreeMap::new(),
            },
        };
        assert_eq!(files.write(none).expect("written"), expected, "{what}");
        assert_eq!(
            files.write(all(number)).expect("written"),
            Stale::default(),
            "{what}"
        );
        assert_eq!(files.damage(), Stale::default(), "{what}");
        assert_eq!(files.present_config().as_deref(), Some("good config\n"), "{what}");
        assert!(
            is_as(&edge, b"www prod\n", MODE) && is_as(&witness, b"", MODE),
            "{what}"
        );
    }
    fs::remove_dir_all(files.dir.as_path()).expect("removed");
    files.write(all(20)).expect("written");
    assert!(is_as(&edge, b"www prod\n", MODE));

    // Touched and not changed: nothing to write, and no reason to look again.
    let file = fs::File::options().append(true).open(&edge).expect("a file");
    file.set_modified(std::time::UNIX_EPOCH).expect("a time");
    assert_eq!(files.damage(), only(Map::Table(Table::Edge)));
    let before = Stamp::of(&edge);
    files.write(all(21)).expect("written");
    assert_eq!(Stamp::of(&edge), before);
    assert_eq!(files.damage(), Stale::default());
}

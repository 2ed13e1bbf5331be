//! Files of environments or definitions named on a command line: a file, a directory for the files
//! in it, or `-` for standard input. A file that cannot be read is a fault of that file alone.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use mayfly_core::file::{Parsed, SIZE_LIMIT, is_yaml_file, too_long};
use mayfly_core::lint::Note;
use mayfly_core::yaml::Mark;

mod aside;

pub use aside::{Aside, OUTSIDE, aside, target};

/// How the content of a file of a kind is read.
type Parse<Name, Found> = fn(&[u8]) -> Parsed<Name, Found>;

/// Reads what the arguments name, in their order; each with its name as it is to be shown. `parse`
/// is that of the kind of files: [`mayfly_core::environment_file::parse`] or
/// [`mayfly_core::definition_file::parse`].
pub fn read<Name: Ord, Found>(
    arguments: &[PathBuf],
    parse: Parse<Name, Found>,
) -> Vec<(String, Parsed<Name, Found>)> {
    let mut files = Vec::new();
    for argument in arguments {
        if argument == Path::new("-") {
            files.push(("(standard input)".to_owned(), content(io::stdin().lock(), parse)));
        } else if argument.is_dir() {
            match inside(argument) {
                Ok((paths, asides)) => {
                    files.extend(paths.iter().map(|path| entry(argument, path, parse)));
                    // What the registrar would not read is no good file; a directory in it may be
                    // meant.
                    let asides = asides.into_iter().filter(|aside| !aside.is_folder);
                    files.extend(asides.map(|Aside { name, reason, .. }| {
                        (
                            shown(&argument.join(name)),
                            Parsed::unreadable(Mark::START, reason),
                        )
                    }));
                }
                Err(error) => files.push((shown(argument), unreadable(&error))),
            }
        } else {
            files.push(named(argument, parse));
        }
    }
    files
}

/// The directories in directories of the arguments that nobody looks into although there are files
/// in them, by the path to show. Not those that are arguments themselves, or are looked into
/// `besides`.
pub fn notes(arguments: &[&[PathBuf]], besides: &[PathBuf]) -> Vec<Note> {
    let all = || arguments.iter().copied().flatten();
    let given = all().chain(besides);
    let given: Vec<PathBuf> = given.filter_map(|path| path.canonicalize().ok()).collect();
    let mut notes = Vec::new();
    for argument in all() {
        let Ok((_, asides)) = inside(argument) else {
            continue;
        };
        for Aside { name, reason, .. } in asides.into_iter().filter(|aside| aside.is_folder) {
            let path = argument.join(name);
            if path.canonicalize().is_ok_and(|real| !given.contains(&real)) {
                notes.push(Note {
                    file: shown(&path),
                    message: reason.to_owned(),
                });
            }
        }
    }
    notes
}

/// The files of a directory, by name, and what only looks like some.
fn inside(directory: &Path) -> io::Result<(Vec<PathBuf>, Vec<Aside>)> {
    let (mut paths, mut asides) = (Vec::new(), Vec::new());
    for entry in directory.read_dir()? {
        let entry = entry?;
        if let Some(aside) = aside(directory, &entry) {
            asides.push(aside);
        } else if entry.file_name().to_str().is_some_and(is_yaml_file) {
            // Also a link that leads nowhere, which is to be reported.
            paths.push(entry.path());
        }
    }
    paths.sort();
    asides.sort();
    Ok((paths, asides))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// An entry of a directory, as the registrar would take it.
fn entry<Name: Ord, Found>(
    directory: &Path,
    path: &Path,
    parse: Parse<Name, Found>,
) -> (String, Parsed<Name, Found>) {
    if path.is_symlink() && matches!(target(directory, path), Ok(None)) {
        return (shown(path), Parsed::unreadable(Mark::START, OUTSIDE));
    }
    named(path, parse)
}

fn named<Name: Ord, Found>(path: &Path, parse: Parse<Name, Found>) -> (String, Parsed<Name, Found>) {
    // The length is looked at before the content, so that a huge file costs nothing. A pipe has
    // none.
    let parsed = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > SIZE_LIMIT => {
            Parsed::unreadable(Mark::START, too_long(metadata.len()))
        }
        Ok(_) => File::open(path).map_or_else(|error| unreadable(&error), |file| content(file, parse)),
        Err(error) => match fs::symlink_metadata(path) {
            Err(own) if own.kind() == ErrorKind::NotFound => {
                Parsed::unreadable(Mark::START, "there is no such file")
            }
            // A link that leads nowhere, or a place that nobody can look at.
            _ => unreadable(&error),
        },
    };
    (shown(path), parsed)
}

fn content<Name: Ord, Found>(source: impl Read, parse: Parse<Name, Found>) -> Parsed<Name, Found> {
    let mut content = Vec::new();
    match source.take(SIZE_LIMIT + 1).read_to_end(&mut content) {
        Ok(_) => parse(&content),
        Err(error) => unreadable(&error),
    }
}

fn unreadable<Name: Ord, Found>(error: &io::Error) -> Parsed<Name, Found> {
    Parsed::unreadable(Mark::START, format!("cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::environment_file;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_directory_stands_for_its_environment_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("b.yml"), "name: b").unwrap();
        fs::write(path.join("a.yaml"), "name: a").unwrap();
        fs::write(path.join(".hidden.yaml"), "[").unwrap();
        fs::write(path.join("notes.txt"), "[").unwrap();
        fs::write(path.join("UPPER.YAML"), "name: c").unwrap();
        fs::create_dir(path.join("team")).unwrap();
        fs::write(path.join("team/d.yaml"), "name: d").unwrap();
        fs::create_dir(path.join("sub.yaml")).unwrap();
        symlink("nowhere", path.join("dangling.yaml")).unwrap();
        File::create(path.join("huge.yaml"))
            .unwrap()
            .set_len(100 << 20)
            .unwrap();
        let arguments = [
            path.to_owned(),
            path.join("notes.txt"),
            path.join("gone.yaml"),
            path.join("a.yaml/below.yaml"),
        ];
        let files = read(&arguments, environment_file::parse);
        let outcome: Vec<_> = files
            .iter()
            .map(|(name, parsed)| {
                let faults: Vec<_> = parsed.faults.iter().map(|fault| fault.message.as_str()).collect();
                (
                    Path::new(name).file_name().unwrap().to_str().unwrap(),
                    faults.join(" "),
                )
            })
            .collect();
        for ((found, fault), (name, part)) in outcome.iter().zip([
            ("a.yaml", ""),
            ("b.yml", ""),
            ("dangling.yaml", "cannot be read: No such file"),
            ("huge.yaml", "the file has 104857600 bytes"),
            ("UPPER.YAML", "its name does not end"),
            ("sub.yaml", "neither a file nor a link"),
            ("notes.txt", "not YAML"),
            ("gone.yaml", "there is no such file"),
            // It cannot be told whether it is there.
            ("below.yaml", "cannot be read: Not a directory"),
        ]) {
            assert_eq!(*found, name);
            assert!(
                fault.starts_with(part) && fault.is_empty() == part.is_empty(),
                "{name}: {fault}"
            );
        }
        assert_eq!(outcome.len(), 9);
        let notes_of = |arguments: &[&[PathBuf]]| notes(arguments, &[]).len();
        assert_eq!(notes_of(&[&arguments]), 1);
        assert_eq!(
            notes_of(&[&arguments, &[path.join("team")]]),
            0,
            "it is looked into"
        );
        assert_eq!(notes(&[&arguments], &[path.join("team")]).len(), 0);
    }

    #[test]
    fn a_link_out_of_its_directory_is_refused_as_the_registrar_refuses_it() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("envs");
        fs::create_dir_all(directory.join("..data")).unwrap();
        fs::write(root.path().join("x"), "name: x").unwrap();
        fs::write(directory.join("..data/y"), "name: y").unwrap();
        symlink("../x", directory.join("out.yaml")).unwrap();
        symlink("..data/y", directory.join("within.yaml")).unwrap();
        // The directory itself may be reached by a link.
        symlink("envs", root.path().join("current")).unwrap();
        let faults_of = |argument: &str| -> Vec<Vec<String>> {
            let files = read(&[root.path().join(argument)], environment_file::parse);
            let faults = files.into_iter().map(|(_, parsed)| parsed.faults);
            faults
                .map(|faults| faults.into_iter().map(|fault| fault.message).collect())
                .collect()
        };
        let expected = [vec![OUTSIDE.to_owned()], vec![]];
        assert_eq!(faults_of("envs"), expected);
        assert_eq!(faults_of("current"), expected);
        // Who names a link means the file at its end.
        assert_eq!(faults_of("envs/out.yaml"), [Vec::<String>::new()]);
    }
}

//! Files come into a directory as a whole and over nothing: a new project is made beside its place
//! and renamed, and a single file comes into its place only if nothing is there.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use mayfly_daemon::file::write_new;

use super::files::{DIRECTORIES, FileKind, MARK, ProjectFile, ProjectSettings, SETTINGS_NAME};
use super::host;

/// What is in the place of a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlaceFound {
    /// No directory, or an empty one.
    Nothing,
    /// A project that an init has made.
    Ours,
    /// Something else, with the name of an entry.
    Foreign(String),
}

/// Looks at the place.
///
/// # Errors
/// When it is no directory, or cannot be read.
pub fn look(directory: &Path) -> anyhow::Result<PlaceFound> {
    let cannot = || format!("cannot read the directory {}", directory.display());
    let mut entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(PlaceFound::Nothing),
        Err(error) => return Err(error).with_context(cannot),
    };
    let Some(first) = entries.next() else {
        return Ok(PlaceFound::Nothing);
    };
    let name = first.with_context(cannot)?.file_name();
    match fs::read_to_string(directory.join(SETTINGS_NAME)) {
        Ok(text) if text.starts_with(MARK) => Ok(PlaceFound::Ours),
        _ => Ok(PlaceFound::Foreign(name.to_string_lossy().into_owned())),
    }
}

/// A project on its way; dropped, nothing of it is left.
#[derive(Debug)]
pub struct StagedProject(PathBuf);

impl StagedProject {
    /// Beside its place, in the same file system. What killed ones have left there goes.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(directory: &Path) -> anyhow::Result<Self> {
        let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
            bail!("{} cannot be a project: name a directory", directory.display());
        };
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        let start = format!(".{}.mayfly-init.", name.to_string_lossy());
        clear_away(parent, &start);
        let path = parent.join(format!("{start}{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let staged = Self(path);
        for (name, mode, _) in DIRECTORIES {
            make_directory(&staged.0.join(name), mode)?;
        }
        Ok(staged)
    }

    /// Where it is until then.
    pub fn path(&self) -> PathBuf {
        self.0.clone()
    }

    /// Writes one of its files.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &ProjectFile) -> anyhow::Result<()> {
        let path = self.0.join(&file.path);
        make_parent(&path)?;
        write(&path, file)?;
        match file.has_group {
            true => give(&path, Gift::Group, &ProjectSettings::read(&self.0)?),
            false => Ok(()),
        }
    }

    /// Puts it into its place.
    ///
    /// # Errors
    /// When something has come there meanwhile, or it cannot be renamed.
    pub fn finish(self, directory: &Path) -> anyhow::Result<()> {
        give_away(&self.0, &ProjectSettings::read(&self.0)?)?;
        // Over an empty directory, and over nothing else.
        fs::rename(&self.0, directory).with_context(|| format!("cannot create {}", directory.display()))
    }
}

impl Drop for StagedProject {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what inits that were killed have left.
fn clear_away(parent: &Path, start: &str) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_dead = name
            .strip_prefix(start)
            .and_then(|id| id.parse::<u32>().ok())
            .is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists());
        if is_dead {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileAdded {
    Written,
    /// It is there, with the same content.
    Kept,
    /// It is there, with another content.
    Differs,
}

/// Writes a file of a project if it is missing.
///
/// # Errors
/// When it cannot be read or written.
pub fn add(directory: &Path, file: &ProjectFile) -> anyhow::Result<FileAdded> {
    let path = directory.join(&file.path);
    match fs::read(&path) {
        Ok(content) if content == file.content.as_bytes() => return Ok(FileAdded::Kept),
        Ok(content) if file.kind == FileKind::Extended && content.starts_with(file.content.as_bytes()) => {
            return Ok(FileAdded::Kept);
        }
        Ok(_) => return Ok(FileAdded::Differs),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    for (name, mode, _) in DIRECTORIES {
        if !directory.join(name).exists() {
            make_directory(&directory.join(name), mode)?;
            give_away(directory, &ProjectSettings::read(directory)?)?;
        }
    }
    make_parent(&path)?;
    Ok(match write_new(&path, file.content.as_bytes(), file.mode)? {
        true => FileAdded::Written,
        // Another program was faster.
        false => FileAdded::Differs,
    })
}

fn make_parent(path: &Path) -> anyhow::Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))
}

fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    let made = fs::create_dir(path).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)));
    made.with_context(|| format!("cannot create {}", path.display()))
}

/// Gives the directories that the registrar writes to to its user.
fn give_away(directory: &Path, settings: &ProjectSettings) -> anyhow::Result<()> {
    for (name, _, is_of_registrar) in DIRECTORIES {
        if is_of_registrar {
            give(&directory.join(name), Gift::All, settings)?;
        }
    }
    Ok(())
}

/// What of a file is given away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Gift {
    Group,
    All,
}

/// Gives a file to the user of the registrar, or to its group. Only root can, and only then that
/// user is another one.
///
/// # Errors
/// When the settings name no user, or the file cannot be given.
pub fn give(path: &Path, gift: Gift, settings: &ProjectSettings) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let Some((user, group)) = host::ids(settings.get("MAYFLY_OWNER")) else {
        bail!("MAYFLY_OWNER in {SETTINGS_NAME} is not a user and a group, such as 10001:10001");
    };
    let user_given = Some(user).filter(|_| gift == Gift::All);
    std::os::unix::fs::chown(path, user_given, Some(group))
        .with_context(|| format!("cannot give {} to {user}:{group}", path.display()))
}

fn write(path: &Path, file: &ProjectFile) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(file.mode);
    let written = options.open(path).and_then(|mut opened| {
        opened.write_all(file.content.as_bytes())?;
        // Whatever the umask is: other users read some of the files in their containers.
        opened.set_permissions(Permissions::from_mode(file.mode))?;
        opened.sync_all()
    });
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::answers::InitAnswers;
    use crate::init::files;
    use crate::init::host::HostFacts;

    fn settings() -> ProjectSettings {
        ProjectSettings::new(
            &InitAnswers::new("shop", "shop.example", 80),
            &HostFacts::unknown(None),
            "mayfly",
            &files::LauncherLimits::default(),
        )
    }

    fn stage(directory: &Path) -> StagedProject {
        let staged = StagedProject::new(directory).unwrap();
        for file in files::wanted(&settings()) {
            staged.write(&file).unwrap();
        }
        staged
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_project_comes_as_a_whole() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("a/shop");
        assert_eq!(look(&directory).unwrap(), PlaceFound::Nothing);
        let staged = stage(&directory);
        assert!(!directory.exists());
        staged.finish(&directory).unwrap();
        assert_eq!(look(&directory).unwrap(), PlaceFound::Ours);
        assert_eq!(names(&parent.path().join("a")), ["shop"]);
        let mode = |name: &str| fs::metadata(directory.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            [mode("passwords"), mode("passwords/web"), mode("mayfly")],
            [0o700, 0o644, 0o755]
        );
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("shop");
        drop(stage(&directory));
        assert_eq!(names(parent.path()), [""; 0]);
        // No process has this id. The third one is of another program.
        fs::create_dir(parent.path().join(".shop.mayfly-init.4194999")).unwrap();
        fs::create_dir(parent.path().join(".shop.mayfly-init.1")).unwrap();
        fs::create_dir(parent.path().join(".shop.mayfly-init.x")).unwrap();
        drop(StagedProject::new(&directory).unwrap());
        assert_eq!(
            names(parent.path()),
            [".shop.mayfly-init.1", ".shop.mayfly-init.x"]
        );
    }

    #[test]
    fn what_came_meanwhile_stays() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("shop");
        let staged = stage(&directory);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("theirs"), "x").unwrap();
        assert!(staged.finish(&directory).is_err());
        assert_eq!(names(parent.path()), ["shop"]);
        assert_eq!(names(&directory), ["theirs"]);
        assert_eq!(
            look(&directory).unwrap(),
            PlaceFound::Foreign("theirs".to_owned())
        );
    }

    #[test]
    fn over_a_project_only_what_is_missing_is_written() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("shop");
        stage(&directory).finish(&directory).unwrap();
        fs::write(directory.join("mayfly"), "mine").unwrap();
        fs::remove_file(directory.join("docker-compose.yml")).unwrap();
        fs::remove_dir_all(directory.join("passwords")).unwrap();
        let add = || -> Vec<(String, FileAdded)> {
            let settings = ProjectSettings::read(&directory).unwrap();
            let files = files::wanted(&settings).into_iter();
            files
                .map(|file| (file.path.clone(), add(&directory, &file).unwrap()))
                .collect()
        };
        let (first, second) = (add(), add());
        for (path, became) in first {
            let expected = match &*path {
                "mayfly" => FileAdded::Differs,
                "docker-compose.yml" => FileAdded::Written,
                path if path.starts_with("passwords/") => FileAdded::Written,
                _ => FileAdded::Kept,
            };
            assert_eq!(became, expected, "{path}");
        }
        // Passwords are random, so those that are there differ, and stay.
        assert!(second.iter().all(|(_, became)| *became != FileAdded::Written));
        assert_eq!(fs::read_to_string(directory.join("mayfly")).unwrap(), "mine");
        let mode = fs::metadata(directory.join("passwords"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(names(&directory.join("passwords")).len(), 10);
    }

    #[test]
    fn a_file_in_the_place_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(look(&file).is_err());
        fs::write(parent.path().join(".env"), "OTHER=1\n").unwrap();
        assert!(matches!(look(parent.path()).unwrap(), PlaceFound::Foreign(_)));
    }
}

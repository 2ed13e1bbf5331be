//! `<dir>/tls`: the certificates that are in use, where HAProxy reads them when it starts or
//! reloads, and haproxy-updater after a restart. Readable by the two of them alone, which are
//! perhaps two users of one group.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use mayfly_daemon::file::write_if_different;

use crate::certificates::certificate::Certificate;
use crate::certificates::choice::{Certificates, default_of};
use crate::haproxy::tls::{CRT_LIST, CertificateName, CertificatePlace};

const MODE: u32 = 0o640;
const DIRECTORY_MODE: u32 = 0o750;

/// The certificates that lie there; one that cannot be read is none.
pub fn read(directory: &Path) -> Certificates {
    let list = std::fs::read_to_string(directory.join(CRT_LIST)).unwrap_or_default();
    let names = list
        .lines()
        .filter_map(|line| line.rsplit('/').next()?.parse().ok());
    let certificate = |name: CertificateName| {
        let bytes = std::fs::read(directory.join(name.as_str())).ok()?;
        Some((name, Arc::new(Certificate::read(&bytes).ok()?)))
    };
    names.filter_map(certificate).collect()
}

/// Makes the directory hold exactly these. The list goes after what it names, and what it names no
/// more goes last. Blocks.
///
/// # Errors
/// When a file cannot be written.
pub fn write(directory: &Path, certificates: &Certificates) -> anyhow::Result<()> {
    let Some((_, default)) = default_of(certificates) else {
        return Ok(());
    };
    if !directory.is_dir() {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
        let mode = std::fs::Permissions::from_mode(DIRECTORY_MODE);
        std::fs::set_permissions(directory, mode)
            .with_context(|| format!("cannot set the mode of {}", directory.display()))?;
    }
    let named = certificates
        .iter()
        .map(|(name, certificate)| (CertificatePlace::Named(name.clone()), certificate));
    let mut list = String::new();
    let mut paths = BTreeSet::<PathBuf>::from([directory.join(CRT_LIST)]);
    for (place, certificate) in [(CertificatePlace::Default, default)].into_iter().chain(named) {
        let path = directory.join(place.to_string());
        write_if_different(&path, certificate.pem().as_bytes(), MODE)?;
        list.push_str(&format!("{}\n", path.display()));
        paths.insert(path);
    }
    write_if_different(&directory.join(CRT_LIST), list.as_bytes(), MODE)?;
    let entries = std::fs::read_dir(directory)
        .with_context(|| format!("cannot look into the directory {}", directory.display()))?;
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let is_pem = path.extension().is_some_and(|ending| ending == "pem");
        if is_pem && !paths.contains(&path) {
            std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Removes what [`write`] has made, when TLS is no longer served: private keys are not to stay
/// where nobody needs them. Other files stay, and the directory with them. Says whether there was
/// anything. The list goes last, so that a later call removes what this one could not. Blocks.
///
/// # Errors
/// When something cannot be removed.
pub fn remove(directory: &Path) -> anyhow::Result<bool> {
    let list = directory.join(CRT_LIST);
    let Ok(text) = std::fs::read_to_string(&list) else {
        return Ok(false);
    };
    let listed = text.lines().map(Path::new);
    let ours = listed.filter(|path| path.parent() == Some(directory));
    for path in ours.chain([list.as_path()]) {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != ErrorKind::DirectoryNotEmpty => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(true),
    }
}

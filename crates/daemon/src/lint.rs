//! The checks of `mayfly lint` and `environment-registrar check`: files are read here and judged by
//! [`mayfly_core::lint`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mayfly_core::lint::{Around, Checked, check_among};
use mayfly_core::outside::{AddressRule, MOST};
use mayfly_core::{definition_file, environment_file};

use crate::args::AddressArgs;
use crate::input::{notes, read};

/// What is checked, and what is around it: files, directories, or `-` for standard input.
#[derive(Debug, Default)]
pub struct Lint<'a> {
    /// Files of environments.
    pub files: &'a [PathBuf],
    /// Files of service definitions.
    pub services: &'a [PathBuf],
    /// Files of environments that are there already, and not checked.
    pub beside: &'a [PathBuf],
    /// The same of service definitions.
    pub services_beside: &'a [PathBuf],
    /// The directory of environments as it was before, with its folder `services`.
    pub before: Option<&'a Path>,
}

impl Lint<'_> {
    /// Reads and checks everything, as routers with this flag would.
    pub fn check(&self, addresses: &AddressArgs) -> Checked {
        let before: Vec<PathBuf> = self.before.map(Path::to_owned).into_iter().collect();
        let services_before = before.iter().map(|before| before.join("services"));
        let services_before: Vec<PathBuf> = services_before.filter(|services| services.is_dir()).collect();
        let mut environments_before = read(&before, environment_file::parse);
        for (file, _) in &mut environments_before {
            // By the name that the file had, wherever what was before is kept.
            if let Some(name) = Path::new(file).file_name() {
                *file = name.to_string_lossy().into_owned();
            }
        }
        let mut checked = check_among(
            &read(self.files, environment_file::parse),
            &read(self.services, definition_file::parse),
            Around {
                beside: &read(self.beside, environment_file::parse),
                definitions_beside: &read(self.services_beside, definition_file::parse),
                before: &environments_before,
                definitions_before: &read(&services_before, definition_file::parse),
            },
            &AddressRule::new(addresses.allow_address.clone(), BTreeSet::new(), MOST),
        );
        let directories = [self.files, self.services, self.beside, self.services_beside];
        checked.notes.extend(notes(&directories, &before));
        checked
    }
}

/// 1 if there is a fault.
pub fn exit_code(checked: &Checked) -> ExitCode {
    if checked.faults == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

//! The command lines of all programs, for the tests that compare and describe them.

use clap::{Command, CommandFactory as _};

/// Each as clap has it, by name.
pub fn programs() -> [Command; 7] {
    [
        container_launcher::args::Arguments::command(),
        container_registrar::args::Arguments::command(),
        dns_updater::args::Arguments::command(),
        environment_registrar::args::Arguments::command(),
        haproxy_updater::args::Arguments::command(),
        mayfly::args::command(),
        mayfly_web::args::Arguments::command(),
    ]
}

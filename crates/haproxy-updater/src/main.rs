//! Configures a running HAProxy from etcd, and keeps it up to date. See the library for the chain
//! of its steps.

use std::process::ExitCode;

use haproxy_updater::args::Arguments;

fn main() -> ExitCode {
    let arguments: Arguments = mayfly_daemon::args::parse();
    let common = arguments.common.clone();
    mayfly_daemon::run::with_one_thread(&common, |signals| async {
        haproxy_updater::run(arguments, signals.shutdown()?).await
    })
}

//! Makes a running HAProxy route by the content of etcd. See the library for the chain of its
//! steps.

use std::process::ExitCode;

use haproxy_updater::args::Arguments;

fn main() -> ExitCode {
    let arguments: Arguments = mayfly_daemon::args::parse();
    let common = arguments.common.clone();
    mayfly_daemon::run::with_one_thread(&common, |shutdown| haproxy_updater::run(arguments, shutdown))
}

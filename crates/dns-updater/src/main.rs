//! Writes the hosts file of dnsmasq from etcd. See the library for the chain of its steps.

use std::process::ExitCode;

use dns_updater::args::Arguments;

fn main() -> ExitCode {
    let arguments: Arguments = mayfly_daemon::args::parse();
    let common = arguments.common.clone();
    mayfly_daemon::run::with_one_thread(&common, |signals| dns_updater::run(arguments, signals))
}

//! `mayfly dump`: writes what only etcd has into a file, of one revision. [`file`] is the format,
//! and [`kept`] says which keys belong into a dump; both are `mayfly restore`'s, too.

pub mod file;
pub mod kept;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use mayfly_core::records::lifetime::Moment;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::file::write_atomically;
use mayfly_daemon::output::{self, complain, printable};
use mayfly_daemon::store::Store;

use file::Header;
use kept::Contents;

/// Password hashes of environments are in a dump, and so is whatever a definition passes to its
/// containers.
const MODE: u32 = 0o600;

const EXAMPLES: &str = "\
Examples:
  mayfly dump /var/backups/mayfly.dump     writes the file with mode 600, over an earlier one
  mayfly dump | ssh backup 'cat >mayfly.dump'
  mayfly dump | head -n 1                  shows the header: version, prefix, revision, number of records
  mayfly restore /var/backups/mayfly.dump --dry-run

A dump has environments, their histories and ends, service definitions, static DNS records, and the instances that
were registered with --permanent. It does not have the records that running daemons write again (other instances,
drains, leaders, routers, status, traffic), requests of operators (confirmations, relaunches), and keys that Mayfly
cannot read. `left_out` in the header counts these. Each unreadable key is also printed to standard error.

The file is text. Its first line is a header, and each further line is one record: {\"key\": ..., \"value\": ...}. The
header has the number of the records and their SHA-256.

Exit codes: 0 success; 1 etcd does not answer or has no keys of Mayfly, or the file cannot be written; 2 wrong command
line.";

/// Writes the records that exist only in etcd to a file, for `mayfly restore`
///
/// All records of a dump are of one revision of etcd. The file is replaced in one step, so an
/// interrupted dump leaves the earlier file as it was. A dump has password hashes: keep it secret.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Writes the dump to this file; without FILE, or with `-`, prints the dump
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Writes a dump.
///
/// # Errors
/// When etcd does not answer or has nothing of Mayfly, or the file can't be written.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let (header, text) = dump(&store, SystemTime::now()).await?;
    match args.file.as_deref().filter(|file| *file != Path::new("-")) {
        None => output::print_as_it_is(&text)?,
        Some(file) => {
            write_atomically(file, text.as_bytes(), MODE)?;
            let revision = header.revision;
            let records = header.records_in_words();
            output::print(&format!(
                "{}: {records} of revision {revision}\n",
                printable(&file.display().to_string())
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn dump(store: &Store, now: SystemTime) -> anyhow::Result<(Header, String)> {
    let listing = store.list(&store.keyspace().everything()).await?;
    if listing.entries.is_empty() {
        return Err(store.unused());
    }
    let contents = Contents::of(store.keyspace(), listing);
    for (key, reason) in &contents.unreadable {
        complain(&format!("left out: {}: {}", printable(key), printable(reason)));
    }
    Ok(file::write(store.keyspace(), &contents, Moment::of(now)))
}

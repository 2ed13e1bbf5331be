//! `mayfly restore`: registers again what `mayfly dump` wrote. [`plan`] says what that changes;
//! this shows it, and carries it out in transactions that take effect only if nothing has changed
//! since.

mod plan;

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};
use mayfly_core::keys::Kind;
use mayfly_core::shorten::counted;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, TextTable, complain, printable};
use mayfly_daemon::store::{Guard, LeaseId, Store, Write};

use crate::dump::file::{self, DumpedRecord, relative};
use crate::dump::kept::Contents;
use plan::{RestoreAction, RestorePlan, RestoreStep};

/// Larger files are not read: etcd itself holds 8 GiB at most, and Mayfly far less.
const LIMIT: u64 = 4 << 30;
/// The kinds of keys that a dump has, as the plan shows them.
const KINDS: [Kind; 6] = [
    Kind::Definition,
    Kind::Dns,
    Kind::Instance,
    Kind::Environment,
    Kind::History,
    Kind::Ended,
];

const EXAMPLES: &str = "\
Examples:
  mayfly restore mayfly.dump --dry-run      shows what would happen
  mayfly restore mayfly.dump                adds missing records, if etcd has no other records
  mayfly restore mayfly.dump --replace      makes etcd equal to the dump
  ssh backup cat mayfly.dump | mayfly restore -

Without --replace, the command only adds records. If etcd has a record that the dump lacks or that differs, such as one
that was written after the dump, the command writes nothing and ends with 1.

The command first checks the whole file. It then writes up to 100 records in one transaction, each environment together
with its history. If the command is interrupted, run it again: it skips the records that etcd has already.

An environment with `expires` ends at the same time as before. If that time has passed, only the environment's history
is restored. If the environment was extended after the dump, it stays, with its newer history. An `idle` time starts
again.

Exit codes: 0 restored; 1 refused, the dump is not complete, or etcd does not answer; 2 wrong command line.";

/// Restores the records that `mayfly dump` wrote
///
/// Daemons may keep running, and no request fails. The command never touches the records that
/// daemons write themselves: running instances, routers, status.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The dump, or `-` for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Changes and deletes records, too, so that etcd has exactly the records of the dump
    #[arg(long)]
    pub replace: bool,

    /// Shows what would happen, and writes nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// Restores a dump.
///
/// # Errors
/// When the file is no complete dump, it would change what is there, or etcd does not answer.
pub async fn run(common: &CommonArgs, args: &Args) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let dumped = read(&store, &args.file)?;
    let mut written = 0;
    // Whoever changes something at the same moment makes us look again.
    for attempt in 0..5 {
        let now = SystemTime::now();
        let listing = store.list(&store.keyspace().everything()).await?;
        let plan = RestorePlan::of(&dumped, &Contents::of(store.keyspace(), listing), now);
        if attempt == 0 {
            output::print(&text(&store, &plan))?;
        }
        if !args.replace && !plan.only_adds() {
            bail!("{}", refusal(&plan, written));
        }
        if plan.is_done() {
            output::print(&match written {
                0 => "etcd has every record of the dump already\n".to_owned(),
                count => format!("restored: {} changed\n", counted(count, "key")),
            })?;
        }
        if args.dry_run || plan.is_done() {
            return Ok(ExitCode::SUCCESS);
        }
        let all = carry_out(&store, &plan, &mut written).await;
        if all.with_context(|| stopped(written))? {
            output::print(&format!("restored: {} changed\n", counted(written, "key")))?;
            if plan.count(Some(Kind::Environment), RestoreAction::Delete) > 1 {
                complain(
                    "note: routers keep environments that vanish together: \
                     see `mayfly status`, then run `mayfly confirm haproxy-updater`",
                );
            }
            return Ok(ExitCode::SUCCESS);
        }
    }
    bail!(
        "another writer keeps changing the same records; {}",
        stopped(written)
    )
}

fn read(store: &Store, file: &Path) -> anyhow::Result<Vec<DumpedRecord>> {
    let shown = match file == Path::new("-") {
        true => "standard input".to_owned(),
        false => printable(&file.display().to_string()),
    };
    let mut bytes = Vec::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().lock().take(LIMIT).read_to_end(&mut bytes),
        false => File::open(file).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes)),
    };
    read.with_context(|| format!("cannot read {shown}"))?;
    let text = String::from_utf8(bytes).ok();
    let text =
        text.with_context(|| format!("cannot restore {shown}: the text is not UTF-8, so it is no dump"))?;
    let (header, dumped) = file::read(store.keyspace(), &text)
        .with_context(|| format!("cannot restore {shown}; nothing was changed"))?;
    output::print(&format!(
        "{shown}: {} of revision {}, dumped at {} from {} by Mayfly {}\n",
        header.records_in_words(),
        header.revision,
        header.at,
        printable(&header.prefix),
        printable(&header.version),
    ))?;
    Ok(dumped)
}

fn refusal(plan: &RestorePlan, written: usize) -> String {
    let (changed, deleted) = (
        plan.count(None, RestoreAction::Replace),
        plan.count(None, RestoreAction::Delete),
    );
    let happened = match written {
        0 => "nothing was changed".to_owned(),
        count => format!("{} changed already", counted(count, "key")),
    };
    format!(
        "etcd differs from the dump: --replace would change {} and delete {}; {happened}. To make etcd \
         equal to the dump, run the command again with --replace",
        counted(changed, "record"),
        counted(deleted, "record")
    )
}

fn stopped(written: usize) -> String {
    format!(
        "{} changed so far; run the same command again to continue",
        counted(written, "key")
    )
}

/// The plan for people: a table, and every key that is changed, deleted or over.
fn text(store: &Store, plan: &RestorePlan) -> String {
    let mut table = TextTable::new(["RECORDS", "CREATE", "CHANGE", "DELETE", "KEEP"]);
    for kind in KINDS {
        let counts = [
            RestoreAction::Create,
            RestoreAction::Replace,
            RestoreAction::Delete,
            RestoreAction::Keep,
        ]
        .map(|change| plan.count(Some(kind), change).to_string());
        table.row([kind.to_string()].into_iter().chain(counts));
    }
    let lines = plan.steps.iter().filter_map(|step| {
        let what = match step.change {
            RestoreAction::Replace => "change",
            RestoreAction::Delete => "delete",
            RestoreAction::Over => "left out, because it has expired:",
            RestoreAction::Create | RestoreAction::Keep => return None,
        };
        Some(format!("{what} {}\n", relative(store.keyspace(), &step.key)))
    });
    table.render() + &lines.collect::<String>()
}

/// Carries out every transaction and counts the records that were restored; false when another
/// writer has changed something since it was read.
async fn carry_out(store: &Store, plan: &RestorePlan, written: &mut usize) -> anyhow::Result<bool> {
    for transaction in plan.transactions() {
        let mut leases = Vec::new();
        let done = commit(store, &transaction, &mut leases).await;
        if !matches!(done, Ok(true)) {
            for lease in leases {
                // A lease that stays costs nothing but its time.
                let _ = store.revoke_unused(lease).await;
            }
        }
        if !done? {
            return Ok(false);
        }
        *written += transaction.len();
    }
    Ok(true)
}

async fn commit(
    store: &Store,
    transaction: &[&RestoreStep],
    leases: &mut Vec<LeaseId>,
) -> anyhow::Result<bool> {
    let (mut guards, mut writes) = (Vec::new(), Vec::new());
    for step in transaction {
        let mut guard = step.before.map_or(Guard::Absent, Guard::ModRevision);
        if let Some(instance) = &step.leaving {
            // A router goes on with an instance that only vanishes.
            let farewell = instance.clone().farewell();
            match store.put_if(&step.key, farewell, None, guard).await? {
                Some(revision) => guard = Guard::ModRevision(revision),
                None => return Ok(false),
            }
        }
        guards.push((step.key.clone(), guard));
        writes.push(match step.change {
            RestoreAction::Delete => Write::Delete(step.key.clone()),
            _ => {
                let lease = match step.ttl {
                    Some(ttl) => Some(store.grant(ttl).await?.id),
                    None => None,
                };
                leases.extend(lease);
                Write::Put(step.key.clone(), step.value.clone(), lease)
            }
        });
    }
    ensure!(!writes.is_empty(), "a transaction has no step");
    Ok(store.write_if_all(&guards, writes).await?.is_some())
}

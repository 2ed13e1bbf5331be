//! What every Mayfly daemon shares: arguments, logs, shutdown, retry, the etcd store with
//! list+watch and leases, the status record and the admin endpoint. The only crate that knows
//! etcd-client.
//!
//! The chain of a daemon: [`args`] -> [`run::main`] (which starts [`logs`] and [`shutdown`]) ->
//! [`store::Store`] -> [`watch::Watch`] (batches of changes, through every doubt) -> the daemon's
//! own work -> [`lease::Advertiser`] and [`status::StatusReporter`] (what it says of itself) ->
//! [`admin`]. [`tasks`], [`retry`], [`advice`], [`failure`], [`file`], [`input`], [`lint`], [`output`]
//! and [`own_address`] serve them all. [`environments`] and [`instances`] write the records that
//! several programs write.
//!
//! ```no_run
//! # use std::{process::ExitCode, time::Duration};
//! # use mayfly_core::{keys::Daemon, trust::Policy};
//! # use mayfly_daemon::{admin, args::CommonArgs, lease::Advertiser, shutdown::Shutdown, status::StatusReporter};
//! # use mayfly_daemon::{tasks::Tasks, watch::{self, WatchOptions}};
//! # use prometheus_client::registry::Registry;
//! async fn run(common: &CommonArgs, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
//!     let (tasks, store, readiness) = (Tasks::new(), common.store()?, admin::Readiness::new());
//!     let mut registry = Registry::default();
//!     let metrics = admin::CommonMetrics::register(&mut registry, "dns-updater", env!("CARGO_PKG_VERSION"), &store);
//!     let options = WatchOptions::default().with_policy(Policy::naming(Duration::from_secs(60)));
//!     let mut watch = watch::watch(&store, store.keyspace().naming(), options);
//!     admin::CommonMetrics::register_watch(&mut registry, &watch.metrics());
//!     let advertiser = Advertiser::start(&tasks, &store, Duration::from_secs(15));
//!     let status = StatusReporter::new(&advertiser, Daemon::DnsUpdater, common.node()?, &metrics);
//!     admin::start(&tasks, common.admin, &readiness, registry).await?;
//!     tasks
//!         .supervise(async {
//!             loop {
//!                 tokio::select! {
//!                     () = shutdown.begun() => break,
//!                     batch = watch.next_batch_coalesced() => {
//!                         // ... the daemon's own work ...
//!                         status.applied(batch.revision, vec![]);
//!                         readiness.set_ready();
//!                     }
//!                 }
//!             }
//!             // An etcd that is gone must not hold up the end: the record then vanishes with its lease.
//!             let _ = advertiser.shutdown(Duration::from_secs(2)).await;
//!             Ok(ExitCode::SUCCESS)
//!         })
//!         .await
//! }
//! ```

#![deny(missing_docs)]

pub mod admin;
pub mod advice;
pub mod args;
mod clock;
#[cfg(feature = "docker")]
pub mod docker;
pub mod election;
pub mod environments;
pub mod failure;
pub mod file;
pub mod input;
pub mod instances;
pub mod lease;
pub mod lint;
pub mod logs;
pub mod metrics;
pub mod output;
pub mod own_address;
pub mod retry;
pub mod run;
pub mod shutdown;
pub mod status;
pub mod store;
mod systemd;
pub mod tasks;
pub mod watch;

//! Every fault in its short form. `scripts/faults.sh` runs the same in full length.

use mayfly_e2e::faults;

macro_rules! tests {
    ($($name:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                faults::check(stringify!($name)).await;
            }
        )*

        #[test]
        fn each_fault_has_a_test() {
            let all: Vec<_> = faults::all().iter().map(|fault| fault.name).collect();
            assert_eq!(all, [$(stringify!($name)),*]);
        }
    };
}

tests! {
    etcd_killed
    etcd_frozen
    etcd_compacted
    etcd_emptied
    cluster_killed
    cluster_partitioned
    cluster_rolling
    haproxy_killed
    haproxy_changed
    refusing_address_comes_and_goes
    updater_killed
    registrar_killed
    git_half
    container_registrar_killed
    instance_killed
    registry_emptied
    launcher_broken
    two_routers
    host_partitioned
    disk_full
    names_restarted
    clock_jumps
}

/// From the programs of this checkout to themselves: that of another version is a matter of
/// `scripts/upgrade.sh`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade() {
    let programs = mayfly_e2e::process::binary("mayfly").unwrap();
    let upgrades = faults::upgrades(programs.parent().unwrap());
    faults::check_of(&upgrades, "upgrade_registrars_first").await;
}

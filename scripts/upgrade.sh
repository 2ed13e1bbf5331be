#!/usr/bin/env bash
# Replaces the daemons of an earlier version by those of this one and back, under load. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
    cat <<'END'
Usage: scripts/upgrade.sh EARLIER [FAULT...]

Starts a whole Mayfly of an earlier version on loopback, replaces its daemons one after the other by those of this checkout,
and then goes back. After each step, changes of all kinds must be in effect within seconds. etcd has records with unknown
fields and without optional ones. The tool of both versions must read the status. Every answer to a steady load is
checked. Does so in two orders: registrars first, and routers first. Prints a table as scripts/faults.sh does; exits with
1 when a request failed or a promise was not kept.

  EARLIER   a commit, tag or branch, which is built below target/upgrade; or a directory with the programs
  FAULT     upgrade_registrars_first or upgrade_routers_first; without any, both

Example:
  scripts/upgrade.sh 8ba6845
END
}

# programs EARLIER: the directory with the programs, which are built unless EARLIER is that directory.
programs() {
    local commit root
    if [ -d "$1" ]; then
        (cd "$1" && pwd)
        return
    fi
    commit=$(git rev-parse --verify --quiet --short "$1^{commit}") || die "there is no commit and no directory $1"
    root=${CARGO_TARGET_DIR:-$PWD/target}/upgrade/$commit
    if [ ! -d "$root/source" ]; then
        mkdir -p "$root/new"
        git archive "$commit" | tar --extract --directory "$root/new"
        mv "$root/new" "$root/source"
    fi
    say "building the programs of $commit in $root"
    (cd "$root/source" && CARGO_TARGET_DIR=$root/target cargo build --locked --quiet --workspace --bins) >&2
    printf '%s\n' "$root/target/debug"
}

main() {
    local argument before
    for argument in "$@"; do
        case $argument in -h | --help) usage && exit 0 ;; esac
    done
    [ $# -gt 0 ] || usage_error "the earlier version is missing"
    ensure_tools
    ensure_servers
    before=$(programs "$1")
    say "building the programs of this checkout"
    cargo build --locked --quiet --workspace --bins
    printf '%s, %s, from %s to %s\n\n' "$(date +%F)" "$(server_versions)" "$1" \
        "$(git describe --always --dirty 2>/dev/null || echo unknown)"
    exec "${CARGO_TARGET_DIR:-target}/debug/mayfly-faults" --before "$before" "${@:2}"
}

main "$@"

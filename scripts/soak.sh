#!/usr/bin/env bash
# Runs a whole Mayfly for an hour under random faults, changes and load. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
    cat <<'END'
Usage: scripts/soak.sh [--hours N | --minutes N] [--seed S] [--rate N]

Starts a whole Mayfly on loopback. Random faults that overlap hit etcd, HAProxy, dnsmasq, the daemons and the instances.
Versions change meanwhile, environments and addresses come and go, and every answer to a steady load is checked. In the
first half, every process may be killed. In the second half, Mayfly's daemons, HAProxy and dnsmasq live on, and the slopes
of their memory and descriptors are measured. Prints what happened. Exits with 1 when a request failed that need not
fail, when a process grew, or when anything did not come right again.

  --hours, --minutes   how long, an hour by default
  --seed               chooses the faults and their times, 1 by default
  --rate               requests a second, 600 by default

Examples:
  scripts/soak.sh --minutes 10 --seed 7
  scripts/versions.sh newer ./scripts/soak.sh --hours 1
END
}

for argument in "$@"; do
    case $argument in -h | --help) usage && exit 0 ;; esac
done
ensure_tools
ensure_servers
say "building release binaries"
cargo build --profile faults --locked --quiet --workspace
heading
exec "${CARGO_TARGET_DIR:-target}/faults/mayfly-soak" "$@"

#!/usr/bin/env bash
# Breaks each part of Mayfly under load and says what was kept of its promises. Installs first what
# is missing. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
    cat <<'END'
Usage: scripts/faults.sh [--short] [FAULT...]

Builds release binaries, starts Mayfly on loopback and on networks of its own, and breaks one part after the other while at
least 1,000 requests a second are sent whose answers are checked. Prints the table of docs/reliability.md: fault, requests, failed, time
to converge; exits with 1 when a promise was not kept. A whole run takes at most 15 minutes on two cores.

  --short   the short forms, with less load, which ./scripts/test.sh runs too

  FAULT     such as etcd_killed; without any, all of them. A name that there is not is answered by those that there are.

Needs root. Installs what is missing and says so, as scripts/test.sh does, which names it.
END
}

for argument in "$@"; do
    case $argument in -h | --help) usage && exit 0 ;; esac
done
[ "$(id -u)" -eq 0 ] || die "the faults need networks, disks and engines of their own: run this as root"
ensure_tools
ensure_servers
say "building release binaries (that unwind: one fault that panics does not end the others)"
cargo build --profile faults --locked --quiet --workspace
ulimit -n "$(ulimit -Hn)"
heading
exec "${CARGO_TARGET_DIR:-target}/faults/mayfly-faults" "$@"

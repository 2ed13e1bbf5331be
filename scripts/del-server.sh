#!/usr/bin/env bash
# Adds and deletes servers of HAProxy under load: does it survive? See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
    cat <<'END'
Usage: scripts/del-server.sh [--seconds N] [--delay SECONDS] [--servers refuse|close|both] [--same] [--clients N]

Adds four servers to a HAProxy, disables them some milliseconds later and deletes them, again and again, while 64 clients
send requests that HAProxy tries again elsewhere. Prints what came of it, and exits with 1 when HAProxy ended by itself.

  --seconds   how long, 300 by default
  --delay     how long a disabled server waits for `del server`, 0 by default; haproxy-updater waits 3 s
  --servers   refuse: nothing listens at their address (default); close: they close each connection without an answer,
              so that HAProxy repeats the whole request; both: two of each
  --same      repeats a failed try at the same server a second later; Mayfly's configuration tries another one at once.
              A request then points to a disabled server for up to 6 s, so a HAProxy with the fault ends within seconds
  --clients   how many clients, 64 by default

Examples:
  scripts/del-server.sh --delay 3
  scripts/del-server.sh --same --seconds 30
  scripts/versions.sh newer ./scripts/del-server.sh --servers both

The same with all of Mayfly: scripts/faults.sh refusing_address_comes_and_goes
END
}

for argument in "$@"; do
    case $argument in -h | --help) usage && exit 0 ;; esac
done
ensure_tools
ensure_servers
say "building the load"
cargo build --profile faults --locked --quiet --package mayfly-e2e --bin mayfly-del-server
# Above the table, so that a table that was kept says what it is of.
printf '%s, %s\n\n' "$(date +%F)" "$(haproxy -v | head -n 1)"
exec "${CARGO_TARGET_DIR:-target}/faults/mayfly-del-server" "$@"

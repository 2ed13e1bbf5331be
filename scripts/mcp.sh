#!/usr/bin/env bash
# Calls every tool of `mayfly mcp` with the client of the protocol's own Python package.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$ROOT/scripts/lib.sh"

PYTHON=${PYTHON:-python3}
PROGRAMS=${PROGRAMS:-$ROOT/target/debug}
VENV=$ROOT/target/mcp-client
WORK=$(mktemp -d)
ETCD=

usage() {
    cat <<'TEXT'
usage: scripts/mcp.sh

Installs the package `mcp` in target/mcp-client, starts an etcd, and calls every tool of `mayfly mcp`.
It needs network for the installation, and the programs in target/debug. It is no step of
scripts/test.sh: the end-to-end tests speak the protocol themselves (`mcp::`).

  --help    prints this text

environment:
  PYTHON      a Python 3.10 or newer with venv (default python3)
  PROGRAMS    the directory of the program mayfly (default target/debug)
TEXT
}

clean() {
    [ -z "$ETCD" ] || kill "$ETCD" 2>/dev/null || true
    rm -rf "$WORK"
}

main() {
    case ${1:-} in
    --help | -h) usage && exit 0 ;;
    ?*) usage_error "unknown argument $1" ;;
    esac
    trap clean EXIT
    if [ ! -x "$VENV/bin/pip" ]; then
        "$PYTHON" -m venv "$VENV"
    fi
    "$VENV/bin/pip" install --quiet --disable-pip-version-check mcp jsonschema
    local client peer
    client=http://127.0.0.1:$(free_port)
    peer=http://127.0.0.1:$(free_port)
    etcd --data-dir "$WORK/etcd" --listen-client-urls "$client" --advertise-client-urls "$client" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" \
        --initial-cluster "default=$peer" >"$WORK/log" 2>&1 &
    ETCD=$!
    local tries
    for ((tries = 0; tries < 200; tries++)); do
        ! curl --silent --fail "$client/health" >/dev/null || break
        sleep 0.05
    done
    "$VENV/bin/python" "$ROOT/scripts/mcp-client.py" "$PROGRAMS/mayfly" "$client"
}

main "$@"

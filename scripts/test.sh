#!/usr/bin/env bash
# Runs every check of Mayfly on this machine, and installs first what is missing. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

# The oldest Rust that Mayfly promises to work with; Cargo.toml says the same to cargo.
OLDEST_RUST=1.85
# The newest cargo-deny that this Rust can build.
CARGO_DENY=0.18.3

STEPS=(format lint deny build unit e2e demo)

usage() {
    cat <<EOF
Usage: scripts/test.sh [STEP...]

Runs every check, or only the steps that are named:

  format   rustfmt finds nothing to change
  lint     clippy finds nothing, in any target
  deny     licences, sources and bans of all dependencies (cargo-deny)
  build    every program, with which the end-to-end tests run
  unit     unit, golden, property and documentation tests
  e2e      end-to-end tests against real etcd, HAProxy, dnsmasq and Docker engines of their own
  demo     ./demo/start.sh --yes and ./demo/stop.sh, in Docker

Installs what is missing and says so: Debian's haproxy, dnsmasq-base, etcd-server, etcd-client, docker-registry, openssl, git,
libfaketime, systemd, docker.io, iproute2, protobuf-compiler and libprotobuf-dev (none of their services is started), a C linker, Rust
$OLDEST_RUST where Debian has it, cargo-deny by cargo, and a running Docker for the demo. Tests with a Docker engine
of their own need root. Tests run with cargo-nextest where it is installed, else with cargo test. Ends with the time
of each step and the number of tests.
EOF
}

# step NAME COMMAND...: runs one step and notes its time. Not in a condition, so that `set -e` holds in the command.
TIMES=()
STEP='' STARTED=0
step() {
    STEP=$1 STARTED=$SECONDS
    shift
    say "$STEP"
    "$@"
    TIMES+=("$(printf '%5d s  %s' "$((SECONDS - STARTED))" "$STEP")")
    STEP=''
}

# What the runners printed; the tests are counted from it.
LOG=$(mktemp)

finish() {
    local code=$?
    trap - EXIT
    if [ "$code" -ne 0 ] && [ -n "$STEP" ]; then
        TIMES+=("$(printf '%5d s  %s: FAILED' "$((SECONDS - STARTED))" "$STEP")")
    fi
    [ ${#TIMES[@]} -eq 0 ] || summary
    rm -f "$LOG"
    exit "$code"
}
trap finish EXIT

# --- What is missing -----------------------------------------------------------------------------

# Whether version $1 is at least version $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

rust_version() { rustc --version 2>/dev/null | awk '{print $2}'; }

ensure_rust() {
    local found offered
    if have cargo && have rustc; then
        found=$(rust_version)
        at_least "$found" "$OLDEST_RUST" && have cargo-clippy && have cargo-fmt && return 0
    fi
    have apt-cache || die "Rust $OLDEST_RUST or newer with clippy and rustfmt is needed (found: ${found:-none})"
    as_root apt-get update >/dev/null 2>&1 || true
    offered=$(apt-cache policy rustc | awk '/Candidate:/ && $2 != "(none)" {print $2}')
    if [ -n "${found:-}" ] && at_least "$found" "$OLDEST_RUST"; then
        die "Rust $found is installed without clippy or rustfmt: add them ('rustup component add clippy rustfmt')"
    fi
    at_least "${offered:-0}" "$OLDEST_RUST" ||
        die "Rust $OLDEST_RUST or newer is needed (found: ${found:-none}, Debian here offers: ${offered:-none}): install it by rustup"
    install_missing cargo rustc rustfmt rust-clippy
    hash -r
    found=$(rust_version)
    at_least "$found" "$OLDEST_RUST" || die "$(command -v rustc) is Rust $found and hides the one that was installed"
}

ensure_tools() {
    ensure_rust
    # etcd-client's build needs protoc and the well-known .proto files.
    install_missing protobuf-compiler libprotobuf-dev
    have cc || install_missing gcc libc6-dev
}

ensure_deny() {
    cargo deny --version >/dev/null 2>&1 && return 0
    detail "installing cargo-deny $CARGO_DENY with cargo (some minutes, once)"
    # Without optimisation: it runs for a second, and builds in half the time.
    cargo install cargo-deny --version "$CARGO_DENY" --locked --debug --quiet
    PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
}

# --- The steps -----------------------------------------------------------------------------------

run_format() { cargo fmt --all -- --check; }

run_lint() { cargo clippy --workspace --all-targets --locked -- -D warnings; }

run_deny() {
    ensure_deny
    cargo deny --locked check --hide-inclusion-graph bans licenses sources
}

run_build() { cargo build --workspace --locked; }

# run_tests e2e|unit: with nextest where it is, which runs each test in a process of its own.
# Always --workspace, so that dependencies are built once with one set of features.
run_tests() {
    local what=$1
    if cargo nextest --version >/dev/null 2>&1; then
        local filter='package(mayfly-e2e)' threads
        threads=$(nproc)
        # Those wait for times to pass more than they work.
        if [ "$what" = e2e ]; then threads=$((threads * 3 / 2)); else filter="not $filter"; fi
        cargo nextest run --workspace --locked --no-fail-fast --test-threads "$threads" -E "$filter" 2>&1 | tee -a "$LOG"
        if [ "$what" = unit ]; then
            cargo test --workspace --locked --doc 2>&1 | tee -a "$LOG"
        fi
    elif [ "$what" = e2e ]; then
        cargo test --package mayfly-e2e --locked --no-fail-fast 2>&1 | tee -a "$LOG"
    else
        cargo test --workspace --exclude mayfly-e2e --locked --no-fail-fast 2>&1 | tee -a "$LOG"
    fi
}

run_demo() {
    ensure_docker
    ensure_compose
    local code=0
    ./demo/start.sh --yes </dev/null || code=$?
    ./demo/stop.sh </dev/null || die "demo/stop.sh failed"
    return "$code"
}

# The tests of both kinds of runner, counted from what they printed.
summary() {
    say "time of each step"
    printf '    %s\n' "${TIMES[@]}" >&2
    [ -s "$LOG" ] || return 0
    awk '
        { gsub(/\033\[[0-9;]*m/, "") }
        # nextest: "Summary [ 1.3s] 10 tests run: 9 passed (1 slow), 1 failed, 0 skipped"
        / tests? run: / { count() }
        # cargo test: "test result: ok. 9 passed; 1 failed; ..."
        /^test result: / { count() }
        function count() {
            if (match($0, /[0-9]+ passed/)) passed += substr($0, RSTART)
            if (match($0, /[0-9]+ failed/)) failed += substr($0, RSTART)
        }
        END { printf "%d passed, %d failed\n", passed, failed }' "$LOG"
}

main() {
    local chosen=() wanted known
    for wanted in "$@"; do
        case $wanted in
            -h | --help) usage && exit 0 ;;
        esac
        known=
        for known in "${STEPS[@]}" ''; do
            [ "$known" != "$wanted" ] || break
        done
        [ -n "$known" ] || usage_error "there is no step $wanted"
        chosen+=("$wanted")
    done
    [ ${#chosen[@]} -gt 0 ] || chosen=("${STEPS[@]}")
    # The end-to-end tests start the programs that were built.
    [[ " ${chosen[*]} " != *' e2e '* || " ${chosen[*]} " == *' build '* ]] || chosen=(build "${chosen[@]}")

    step 'what the checks need' ensure_tools
    for wanted in "${chosen[@]}"; do
        case $wanted in
            format) step 'format' run_format ;;
            lint) step 'lint' run_lint ;;
            deny) step 'licences, sources, bans' run_deny ;;
            build) step 'build' run_build ;;
            unit)
                # Tests of the store and of rendered files run etcd and `haproxy -c`.
                step 'servers for the tests' ensure_servers
                step 'unit, golden, property and documentation tests' run_tests unit
                ;;
            e2e)
                step 'servers for the tests' ensure_servers
                step 'end-to-end tests' run_tests e2e
                ;;
            demo) step 'demo' run_demo ;;
        esac
    done
}

main "$@"

#!/usr/bin/env bash
# Runs every check of Mayfly on this machine, and installs first what is missing. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

# The newest cargo-deny that this Rust can build.
CARGO_DENY=0.18.3

RUST+=(cargo-clippy cargo-fmt)

STEPS=(format deny build lint unit e2e versions demo)

usage() {
    cat <<EOF
Usage: scripts/test.sh [STEP...]

Runs every check, or only the steps that are named:

  format   rustfmt finds nothing to change
  deny     licences, sources and bans of all dependencies (cargo-deny)
  build    every program, with which the end-to-end tests run, and every test
  lint     clippy finds nothing, in any target
  unit     unit, golden, property and documentation tests, and the check of README.md and docs/
  e2e      end-to-end tests against real etcd, HAProxy, dnsmasq and Docker engines of their own
  versions the tests that touch HAProxy again, with HAProxy, etcd and dnsmasq of another Debian release (scripts/versions.sh)
  demo     ./demo/start.sh --yes, the commands of docs/tutorial.md, ./demo/stop.sh, and those of docs/adopt.md, in Docker

e2e, versions and demo start the programs of the build, and run it first if it is not named.

Installs what is missing and says so: Debian's haproxy, dnsmasq-base, etcd-server, etcd-client, docker-registry, openssl, git,
libfaketime, systemd, docker.io (on Debian 13 also docker-cli), iproute2, shellcheck, curl, prometheus (for promtool),
chromium, chromium-driver, openssh-client, openssh-server, redis-server, python3-redis, protobuf-compiler and
libprotobuf-dev (none of their services is started), a C linker, Rust $OLDEST_RUST where Debian has it, cargo-deny by
cargo, and a running Docker with compose for the demo. Tests with a Docker engine of their own need root. Tests run with
cargo-nextest where it is installed, else with cargo test. Ends with the time of each step and the number of tests.
EOF
}

# step NAME COMMAND...: runs one step and notes its time. Not in a condition, so that `set -e` holds
# in the command.
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
# What runs beside the tests, and takes the time in which they wait: process and output, by name.
declare -A BESIDE=() BESIDE_LOG=()

finish() {
    local code=$?
    trap - EXIT
    if [ "$code" -ne 0 ] && [ -n "$STEP" ]; then
        TIMES+=("$(printf '%5d s  %s: FAILED' "$((SECONDS - STARTED))" "$STEP")")
    fi
    [ ${#TIMES[@]} -eq 0 ] || summary
    local process
    for process in "${BESIDE[@]}"; do
        # With all that it started.
        kill -- "-$process" 2>/dev/null || true
    done
    rm -f "$LOG" "${BESIDE_LOG[@]}"
    exit "$code"
}
trap finish EXIT

# --- What is missing -----------------------------------------------------------------------------

ensure_deny() {
    cargo deny --version >/dev/null 2>&1 && return 0
    detail "installing cargo-deny $CARGO_DENY with cargo (some minutes, once)"
    # Without optimisation and debug info: it runs for a second, and builds in less than half the time.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install cargo-deny --version "$CARGO_DENY" --locked --debug --quiet
    PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
}

# --- The steps -----------------------------------------------------------------------------------

run_format() { cargo fmt --all -- --check; }

# In the directory of the build, which has built the macros and build scripts that it needs.
run_lint() { cargo clippy --workspace --all-targets --locked -- -D warnings; }

run_deny() {
    ensure_deny
    cargo deny --locked check --hide-inclusion-graph bans licenses sources
}

# With the tests: these want more of some dependencies, which would be built a second time for them.
run_build() { cargo build --workspace --all-targets --locked; }

# run_tests e2e|unit: with nextest where it is, which runs each test in a process of its own.
# Always --workspace, so that dependencies are built once with one set of features.
run_tests() {
    local what=$1
    if cargo nextest --version >/dev/null 2>&1; then
        local filter='package(mayfly-e2e)' threads
        # Most tests wait for servers and engines more than they work, so there are more of them
        # than processors.
        threads=$(($(nproc) * 3 / 2))
        [ "$what" = e2e ] || filter="not $filter"
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

# beside NAME COMMAND...: starts a command that takes only the time that the tests leave.
beside() {
    local name=$1
    shift
    detail "beside the tests: $name"
    BESIDE_LOG[$name]=$(mktemp)
    set -m
    nice -n 19 "$@" >"${BESIDE_LOG[$name]}" 2>&1 </dev/null &
    set +m
    BESIDE[$name]=$!
}

# await NAME: waits for the end of what runs beside, if it was started.
await() {
    local name=$1 process=${BESIDE[$1]:-}
    [ -n "$process" ] || return 0
    unset "BESIDE[$name]"
    if wait "$process"; then
        return 0
    fi
    tail -n 60 "${BESIDE_LOG[$name]}" >&2
    die "$name failed: see the last lines above"
}

start_images() {
    ensure_docker
    ensure_compose
    # Then those of the shop, which docs/adopt.md finds.
    # shellcheck disable=SC2016 # the inner shell expands it
    beside 'the images of the demo' bash -c './scripts/build.sh --quick && cd demo/shop && exec "$@" build' images \
        "${COMPOSE[@]}"
}

# The groups of end-to-end tests that depend most on what HAProxy, dnsmasq and etcd do.
GROUPS_OF_VERSIONS=(access dns edge etcd_auth hostile internal links no_reload outside protocols tls updater)

# run_versions: what touches HAProxy, with the versions that this machine does not have. All other tests run with them by
# `scripts/versions.sh other ./scripts/test.sh unit e2e`.
run_versions() {
    local group groups=() one='' other=(./scripts/versions.sh other)
    "${other[@]}" >/dev/null
    for group in "${GROUPS_OF_VERSIONS[@]}"; do
        groups+=("$group::")
        one+="${one:+|}$group"
    done
    if cargo nextest --version >/dev/null 2>&1; then
        "${other[@]}" cargo nextest run --workspace --locked --no-fail-fast --test-threads "$(($(nproc) * 3 / 2))" \
            -E "package(haproxy-updater) & test(/^tests::/) | package(mayfly-e2e) & test(/^($one)::/) | binary(etcd)" \
            2>&1 | tee -a "$LOG"
        return
    fi
    "${other[@]}" cargo test --package haproxy-updater --locked --no-fail-fast -- tests:: 2>&1 | tee -a "$LOG"
    "${other[@]}" cargo test --package mayfly-daemon --test etcd --locked --no-fail-fast 2>&1 | tee -a "$LOG"
    "${other[@]}" cargo test --package mayfly-e2e --test e2e --locked --no-fail-fast -- "${groups[@]}" 2>&1 | tee -a "$LOG"
}

run_demo() {
    ensure_docker
    ensure_compose
    await 'the images of the demo'
    local code=0
    ./demo/start.sh --yes </dev/null || code=$?
    [ "$code" -ne 0 ] || "${CARGO_TARGET_DIR:-target}/debug/e2e-blocks" docs/tutorial.md || code=$?
    ./demo/stop.sh </dev/null || die "demo/stop.sh failed"
    [ "$code" -ne 0 ] || run_adoption || code=$?
    return "$code"
}

# The shop of demo/shop is adopted by the commands of docs/adopt.md, with the images of the demo.
run_adoption() {
    local code=0 name program=target/build/mayfly
    remove_adopted
    # The page takes the program from where scripts/build.sh leaves one for real use, which comes back afterwards.
    [ ! -e $program ] || [ -e $program.kept ] || mv $program $program.kept
    install -D -m 755 "${CARGO_TARGET_DIR:-target}/debug/mayfly" $program
    # Its last commands bring the shop back by its own compose file, at a port that nothing else has.
    SHOP_PORT=18481 MAYFLY_IMAGES=$(quick_account) "${CARGO_TARGET_DIR:-target}/debug/e2e-blocks" docs/adopt.md || code=$?
    rm $program
    [ ! -e $program.kept ] || mv $program.kept $program
    if [ "$code" -ne 0 ]; then
        for name in $(adopted); do
            "${DOCKER[@]}" logs --tail 5 "$name" 2>&1 | sed "s/^/$name: /" >&2 || true
        done
    fi
    remove_adopted
    return "$code"
}

# The containers of that page, also those that its launcher has started.
adopted() {
    local label
    for label in project=shop-mayfly project=mayfly-demo-shop; do
        "${DOCKER[@]}" ps --all --filter "label=com.docker.compose.$label" --format '{{.Names}}'
    done
    "${DOCKER[@]}" ps --all --filter label=mayfly.launcher=/shop-mayfly --format '{{.Names}}'
}

# Removes the shop, which the page brings back at its end, and what it has left if one of its commands failed.
remove_adopted() {
    local name names kind
    # The launcher first, since it would start its containers again.
    for name in $(adopted | grep container-launcher) $(adopted); do
        "${DOCKER[@]}" rm --force --volumes "$name" >/dev/null 2>&1 || true
    done
    for kind in network volume; do
        for name in shop-mayfly mayfly-demo-shop; do
            names=$("${DOCKER[@]}" "$kind" ls --quiet --filter "label=com.docker.compose.project=$name")
            # shellcheck disable=SC2086 # one word each
            [ -z "$names" ] || "${DOCKER[@]}" "$kind" rm $names >/dev/null || true
        done
    done
    rm -rf demo/shop/mayfly demo/shop/environments
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
    # They start the programs that were built.
    [[ ! " ${chosen[*]} " =~ ' '(e2e|versions|demo)' ' || " ${chosen[*]} " == *' build '* ]] || chosen=(build "${chosen[@]}")

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
                [[ " ${chosen[*]} " != *' demo '* ]] || step 'Docker for the demo' start_images
                step 'end-to-end tests' run_tests e2e
                ;;
            versions)
                step 'servers for the tests' ensure_servers
                step 'tests that touch HAProxy, with other versions' run_versions
                ;;
            demo) step 'demo' run_demo ;;
        esac
    done
}

main "$@"

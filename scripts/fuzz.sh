#!/usr/bin/env bash
# Runs the properties about hostile input many times, and hostile requests at a real HAProxy. See
# --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

CASES=100000
REQUESTS=200000

usage() {
    cat <<END
Usage: scripts/fuzz.sh [--requests N] [--seed N] [CASES]

Runs each property about hostile input (a test whose name begins with any_) with CASES cases ($CASES), in a release build that
checks for overflow, and sends hostile requests ($REQUESTS) to both listeners of a real HAProxy. Prints a table; exits with 1 when
one of them has failed, and then says what failed. A whole run takes at most 10 minutes on two cores, beside the build.

  --requests N   how many requests; 0 for none
  --seed N       the seed of the requests; by default another one each time. A failure prints its seed

proptest writes what it finds beside the test, to *.proptest-regressions. Keep that file: its cases are tried first from
then on.
Installs what is missing and says so.
END
}

# The test programs of the workspace without those of mayfly-e2e: the directory of the crate and the
# program, one a line. A program that an integration test starts is built, too, but is not listed.
programs() {
    cargo test --workspace --exclude mayfly-e2e --profile fuzz --locked --no-run --lib --tests --message-format=json |
        sed -n -E 's|.*"manifest_path":"([^"]*)/Cargo.toml".*"profile":\{[^}]*"test":true\}.*"executable":"([^"]+)".*|\1\t\2|p'
}

# property DIRECTORY PROGRAM TEST LOGS: runs one and prints its line of the table.
property() {
    local log start=$EPOCHREALTIME result=passed
    log=$(mktemp "$4/log.XXXXXX")
    (cd "$1" && PROPTEST_CASES=$CASES "$2" --exact "$3" >"$log" 2>&1) || result=FAILED
    printf '%-100s %9d %7.1f s  %s\n' "${1##*/} $3" "$CASES" "$(seconds "$start")" "$result"
    [ "$result" = passed ] || touch "$4/failed"
}

# seconds START: how long ago that was.
seconds() { awk -v from="$1" -v to="$EPOCHREALTIME" 'BEGIN { print to - from }'; }

requests() {
    local log="$LOGS/requests" start=$EPOCHREALTIME result=passed
    local test=hostile::no_request_reaches_an_environment_that_it_is_not_entitled_to
    MAYFLY_HOSTILE_REQUESTS=$REQUESTS MAYFLY_HOSTILE_SEED=$SEED \
        cargo test --locked --package mayfly-e2e --test e2e -- --exact "$test" --nocapture >"$log" 2>&1 || result=FAILED
    printf '%-100s %9d %7.1f s  %s\n' "requests at HAProxy, seed $SEED" "$REQUESTS" "$(seconds "$start")" "$result"
    grep '^seed ' "$log" >&2 || true
    [ "$result" = passed ] || touch "$LOGS/failed"
}

main() {
    SEED=$RANDOM
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage && exit 0 ;;
            --requests | --seed)
                [ $# -gt 1 ] || usage_error "$1 needs a number"
                if [ "$1" = --seed ]; then SEED=$2; else REQUESTS=$2; fi
                shift
                ;;
            *) CASES=$1 ;;
        esac
        shift
    done
    local number
    for number in "$CASES" "$REQUESTS" "$SEED"; do
        [[ $number =~ ^[0-9]+$ ]] || usage_error "'$number' is not a number"
    done
    ensure_tools
    ensure_servers
    LOGS=$(mktemp -d)
    trap 'rm -rf "$LOGS"' EXIT

    say "building the tests"
    local directory program test
    programs >"$LOGS/programs"
    if [ "$REQUESTS" -gt 0 ]; then
        cargo build --workspace --locked --quiet
        cargo test --locked --quiet --package mayfly-e2e --test e2e --no-run
    fi
    while IFS=$'\t' read -r directory program; do
        "$program" --list >"$LOGS/list" 2>&1 || die "$program does not list its tests: $(tail -n 1 "$LOGS/list")"
        while read -r test; do
            printf '%s\0' "$directory" "$program" "$test" "$LOGS"
        done < <(sed -n -E 's/^(([a-z0-9_]+::)*any_[a-z0-9_]+): test$/\1/p' "$LOGS/list")
    done <"$LOGS/programs" >"$LOGS/properties"
    [ -s "$LOGS/properties" ] || die "no property was found"

    say "$CASES cases of each property"
    export CASES
    export -f property seconds
    # shellcheck disable=SC2016 # the inner shell expands them
    xargs -0 -n 4 -P "$(nproc)" bash -c 'property "$@"' property <"$LOGS/properties"
    if [ "$REQUESTS" -gt 0 ]; then
        say "$REQUESTS hostile requests"
        requests
    fi
    [ ! -e "$LOGS/failed" ] || {
        grep -h -a -A 12 'panicked at' -r "$LOGS" | cut -c 1-2000 >&2 || true
        die "not everything passed"
    }
}

main "$@"

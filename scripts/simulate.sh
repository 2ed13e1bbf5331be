#!/usr/bin/env bash
# Runs the simulation of the daemons with many seeds, replays one, or brings mended faults back.
# See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

SEEDS=100000
SEED=1
PROFILE=fuzz
MUTANTS=crates/simulation/mutants

usage() {
    cat <<END
Usage: scripts/simulate.sh [--seeds N] [--seed N]
       scripts/simulate.sh --replay N
       scripts/simulate.sh --mutants [--seeds N] [NAME...]

Runs the loops of the daemons in virtual time against a simulated etcd, with changes and faults that follow from a seed. Prints
each seed that fails, with the command that replays it; exits with 1 if there is one. It stops after five.

  --seeds N    how many seeds ($SEEDS; with --mutants at most 1000 for each)
  --seed N     the first seed ($SEED)
  --replay N   runs one seed and prints everything that happens; MAYFLY_LOG=debug adds the logs of the daemons
  --mutants    brings each fault of $MUTANTS back into a copy of the last commit, and prints how many seeds
               find it; with NAMEs only these. Each needs a build of the daemons

Examples:
  scripts/simulate.sh --seeds 10000 --seed 100001
  scripts/simulate.sh --replay 42
Installs what is missing and says so.
END
}

# Builds the simulation and prints the path of its program.
program() {
    cargo test --locked --package mayfly-simulation --profile "$PROFILE" --no-run --message-format=json |
        sed -n -E 's|.*"name":"simulation".*"executable":"([^"]+)".*|\1|p' | tail -n 1
}

# mutant PATCH: takes a mend out of the copy, runs seeds until one fails, and puts it back.
mutant() {
    local name log program start=$EPOCHREALTIME
    name=$(basename "$1" .patch)
    log=$(mktemp)
    git -C "$COPY" apply "$PWD/$1" || die "$1 does not apply: the code has changed since it was written"
    program=$(cd "$COPY" && CARGO_TARGET_DIR=$TARGET program)
    if MAYFLY_SIM_SEEDS=$SEEDS MAYFLY_SIM_SEED=$SEED MAYFLY_SIM_FAILURES=1 "$program" seeds_in_order --ignored --nocapture >"$log" 2>&1; then
        printf '%-60s not found by %s seeds\n' "$name" "$SEEDS"
    else
        printf '%-60s found by seed %s\n' "$name" "$(sed -n -E 's/.*--replay ([0-9]+).*/\1/p' "$log" | head -n 1)"
        sed -n -E '/^seed [0-9]+:/,/^to see/p' "$log" | sed -n '2,3p'
    fi
    git -C "$COPY" apply --reverse "$PWD/$1"
    detail "$(awk -v from="$start" -v to="$EPOCHREALTIME" 'BEGIN { printf "%.0f s", to - from }')"
    rm -f "$log"
}

mutants() {
    local patch
    TARGET=$PWD/target
    COPY=$TARGET/mutants
    git worktree remove --force "$COPY" 2>/dev/null || true
    git worktree add --quiet --detach "$COPY" HEAD
    trap 'git worktree remove --force "$COPY"' EXIT
    [ $# -gt 0 ] || set -- "$MUTANTS"/*.patch
    for patch in "$@"; do
        case $patch in *.patch) ;; *) patch=$MUTANTS/$patch.patch ;; esac
        mutant "$patch"
    done
}

main() {
    local replay='' all_mutants='' names=()
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage && exit 0 ;;
            --seeds | --seed | --replay)
                [[ ${2:-} =~ ^[0-9]+$ ]] || usage_error "$1 needs a number"
                case $1 in --seeds) SEEDS=$2 ;; --seed) SEED=$2 ;; *) replay=$2 ;; esac
                shift
                ;;
            --mutants) all_mutants=yes && SEEDS=1000 PROFILE=dev ;;
            -*) usage_error "unknown option $1" ;;
            *) names+=("$1") ;;
        esac
        shift
    done
    ensure_tools
    if [ -n "$all_mutants" ]; then
        mutants "${names[@]}"
        return
    fi
    [ ${#names[@]} -eq 0 ] || usage_error "unknown argument ${names[0]}"
    say "building the simulation"
    local program
    if [ -n "$replay" ]; then PROFILE=dev; fi
    program=$(program)
    if [ -n "$replay" ]; then
        MAYFLY_SIM_REPLAY=$replay MAYFLY_SIM_TRACE=1 "$program" --exact replay --nocapture
    else
        say "$SEEDS seeds from $SEED on"
        MAYFLY_SIM_SEEDS=$SEEDS MAYFLY_SIM_SEED=$SEED "$program" seeds_of --nocapture
    fi
}

main "$@"

#!/usr/bin/env bash
# Removes what start.sh brought up: containers, networks and volumes. Images and the build cache
# stay.
set -euo pipefail

DEMO=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../scripts/lib.sh
. "$DEMO/../scripts/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$DEMO/lib.sh"

main() {
    case ${1:-} in
    '') ;;
    -h | --help)
        cat <<'TEXT'
usage: demo/stop.sh

Removes the containers, networks and volumes of the demo, and the containers that its launcher has started. The images, the
build cache and the files in demo/run stay.

environment: MAYFLY_PROJECT, as it was given to start.sh
TEXT
        exit 0
        ;;
    *) usage_error "unknown argument '$1'" ;;
    esac

    find_docker || die "cannot reach a Docker engine: start it, if the demo ran here"
    find_compose || die "compose is missing: install docker-compose"
    cd "$DEMO"
    export COMPOSE_PROJECT_NAME
    COMPOSE_PROJECT_NAME=${MAYFLY_PROJECT:-$(saved COMPOSE_PROJECT_NAME)}
    COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-mayfly-demo}
    say "removing the demo $COMPOSE_PROJECT_NAME: containers, networks and volumes"
    remove_launched
    compose_quietly --profile more down --volumes --remove-orphans
    rm -f .env
    say "done"
}

main "$@"

#!/usr/bin/env bash
# A guided tour of Mayfly on this machine: starts the whole system, shows what it does, and checks
# every step.
set -euo pipefail
umask 022 # the environment-registrar must be able to read what is copied for it

DEMO=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../scripts/lib.sh
. "$DEMO/../scripts/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$DEMO/lib.sh"

YES=no
STEP=0
STARTED=no
LOAD_PIDS=()
WORK=$(mktemp -d)

usage() {
    cat <<'TEXT'
usage: demo/start.sh [--yes]

Starts Mayfly with docker-compose on this machine - etcd, HAProxy, dnsmasq, the daemons, and two demo services
in two versions - and shows, step by step, what it does. Every step prints a command, runs it, and checks the answer.
The system is left running; demo/stop.sh removes it.

  --yes     does not ask between the steps; the exit code is 0 only if every step was verified
  --help    prints this text

environment:
  MAYFLY_HTTP_PORT      the port of 127.0.0.1 for the demo (default 80; if that is taken, another one, which is printed)
  MAYFLY_WEB_PORT       the port of 127.0.0.1 for the page (default 8620; if that is taken, another one, which is printed)
  MAYFLY_SUBNET         the network of the containers, a /24 such as 172.31.250.0/24 (default: the first free one of some)
  MAYFLY_PROJECT        the name of the compose project (default mayfly-demo)
  DOCKER_ACCOUNT_NAME   the images' names begin with this and -quick (default mayfly)

Docker, compose, curl and git are installed from Debian if they are missing.
TEXT
}

main() {
    while [ $# -gt 0 ]; do
        case $1 in
        -y | --yes) YES=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) usage_error "unknown argument '$1'" ;;
        esac
        shift
    done
    if [ $YES = no ] && ! [ -t 0 ]; then
        usage_error "there is no terminal for questions: use --yes"
    fi
    trap cleanup EXIT
    trap 'leave 130' INT
    trap 'leave 143' TERM
    # Input is for the tour; the commands that it runs would read it.
    exec 3<&0 </dev/null

    have curl || install_missing curl ca-certificates
    have git || install_missing git
    ensure_docker
    ensure_compose
    "$DEMO/../scripts/build.sh" --quick
    cd "$DEMO"
    settle
    URL=http://127.0.0.1:$MAYFLY_HTTP_PORT/

    bring_up
    show_production
    add_instances
    create_dev
    create_qa
    ask_mayfly
    ask_page
    make_mistakes
    change_production
    remove_dev
    start_what_is_needed
    retire_what_is_not
    release_without_a_gap
    farewell
}

# leave CODE: the person ends the tour; the containers keep running.
leave() {
    if [ $STARTED = yes ]; then
        printf '\nThe tour ends here; the containers still run. Remove everything: demo/stop.sh\n' >&2
    fi
    STARTED=no
    exit "$1"
}

cleanup() {
    local code=$? pid
    for pid in "${LOAD_PIDS[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    rm -rf "$WORK"
    if [ $code -ne 0 ] && [ $STARTED = yes ]; then
        printf '\nThe tour stopped in step %s. The containers still run; their last log lines:\n' "$STEP" >&2
        "${COMPOSE[@]}" logs --no-color --tail=10 etcd haproxy haproxy-updater dns-updater environment-registrar \
            container-registrar container-launcher frontend-v1-a-registrar >&2 2>&1 || true
        printf 'More: %s logs, in %s. Remove everything: demo/stop.sh\n' "${COMPOSE[*]}" "$DEMO" >&2
    fi
}

# step TITLE TEXT: begins a step of the tour.
step() {
    if [ "$STEP" -gt 0 ] && [ $YES = no ]; then
        read -r -u 3 -p "    Enter for the next step " || leave 1
    fi
    STEP=$((STEP + 1))
    printf '\n%s%s. %s%s\n' "$BOLD" "$STEP" "$1" "$PLAIN" >&2
    printf '%s\n' "$2" | fold -s -w 100 | sed 's/^/    /' >&2
}

# try COMMAND: prints the command, runs it in this shell, shows its answer and keeps that in ANSWER.
try() {
    local code=0
    printf '    %s$ %s%s\n' "$BOLD" "$1" "$PLAIN" >&2
    eval "$1" >"$WORK/answer" 2>&1 </dev/null || code=$?
    ANSWER=$(cat "$WORK/answer")
    # Without compose's lines about what is about to happen: other lines say that it has happened.
    sed -E '/\.\.\.[[:space:]]*$/d; / (Creating|Created|Starting|Stopping)[[:space:]]*$/d; s/^/      /' "$WORK/answer" >&2
    return $code
}

# page HOST: the page that a browser gets from there.
page() { curl --silent --max-time 10 --header "Host: $1" "$URL"; }

# expect TEXT...: each text is in the last answer.
expect() {
    local text
    for text in "$@"; do
        [[ $ANSWER == *"$text"* ]] || die "the answer does not contain '$text'"
    done
    good "the answer contains: $(joined "$@")"
}

# await SECONDS HOST TEXT...: waits until the page contains each text; sets WAITED to the
# milliseconds that it took.
await() {
    local limit=$(($1 * 1000)) host=$2 begun text answer missing
    shift 2
    begun=$(now)
    while :; do
        answer=$(page "$host" || true)
        missing=
        for text in "$@"; do
            [[ $answer == *"$text"* ]] || missing=$text
        done
        WAITED=$(($(now) - begun))
        [ -n "$missing" ] || return 0
        if [ "$WAITED" -ge "$limit" ]; then
            printf '%s\n' "$answer" >&2
            die "$host did not answer '$missing' within $((limit / 1000)) s: see its last answer above"
        fi
        sleep 0.01
    done
}

# await_output SECONDS TEXT COMMAND...: waits until the command's output contains the text.
await_output() {
    local limit=$1 wanted=$2 begun output
    shift 2
    begun=$(now)
    while :; do
        output=$("$@" 2>&1 || true)
        [[ $output != *"$wanted"* ]] || return 0
        if [ $(($(now) - begun)) -ge $((limit * 1000)) ]; then
            printf '%s\n' "$output" | tail -n 20 >&2
            die "'$*' did not print '$wanted' within $limit s: see its last output above"
        fi
        sleep 0.2
    done
}

# Milliseconds since 1970.
now() {
    local microseconds=${EPOCHREALTIME/[.,]/}
    printf %s $((microseconds / 1000))
}

joined() {
    local text line=
    for text in "$@"; do
        line+=${line:+; }$(tr -s ' ' <<<"$text")
    done
    printf %s "$line"
}

ask() { printf "curl -s -H 'Host: %s' %s" "$1" "$URL"; }

bring_up() {
    step "Start everything" "These are etcd, HAProxy and dnsmasq as Debian ships them, five daemons of Mayfly, and the services \
frontend and backend in versions 0.0.1 and 0.0.2. One container-registrar registers all instances by the labels of their \
containers; only frontend-v1-a has its own registrar beside it. There is one environment: prod. (All commands of this tour run \
in $DEMO.)"
    fresh_environments
    fresh_services
    fresh_repository
    # Containers that an earlier tour has added.
    compose_quietly --profile more rm --stop --force -v "${MORE[@]}"
    remove_launched
    STARTED=yes
    try "${COMPOSE[*]} up -d"
    try "cat run/environments/prod.yaml"
    await 90 www.example.com "environment  prod" "frontend     0.0.1" "backend      0.0.1"
    good "www.example.com answers"
    # The next steps need the version that no environment uses yet.
    await_output 60 'backends/backend/0.0.2/' registered
    await_output 60 'backends/frontend/0.0.2/' registered
    good "all instances are registered in etcd"
}

# The keys of all live instances.
registered() { "${COMPOSE[@]}" exec -T etcd etcdctl get --prefix --keys-only "/$COMPOSE_PROJECT_NAME/backends/"; }

show_production() {
    step "Production" "HAProxy finds the environment by the host name. frontend calls http://backend.service/ by name, and \
HAProxy chooses the backend by the header x-mayfly that frontend forwards. The page shows which instances answered."
    try "$(ask www.example.com)"
    expect "environment  prod" "frontend     0.0.1" "backend      0.0.1" "backend saw  x-mayfly: prod"
    try "$(ask www-nobody.example.com)"
    expect "404" "www-nobody.example.com"
}

add_instances() {
    step "More instances" "A new instance needs no configuration: the container-registrar registers it as soon as it \
passes its check, and HAProxy starts to use it without a reload."
    try "${COMPOSE[*]} --profile more up -d frontend-v1-b backend-v1-b"
    await 60 www.example.com "frontend-v1-b"
    await 60 www.example.com "backend-v1-b"
    try "for i in 1 2 3 4 5 6 7 8; do $(ask www.example.com) | grep ' on '; done | sort | uniq -c"
    expect frontend-v1-a frontend-v1-b backend-v1-a backend-v1-b
    try "${COMPOSE[*]} exec -T frontend-v1-a-registrar container-registrar list"
    expect frontend backend 0.0.1 0.0.2
}

create_dev() {
    step "A new environment: dev" "An environment is a small file. This one uses the latest frontend that runs, and the newest \
backend within a range. Copied into the directory that the environment-registrar watches, it answers at once."
    try "cat environments/dev.yaml"
    try "cp environments/dev.yaml run/environments/"
    await 10 www-dev.example.com "environment  dev" "frontend     0.0.2" "backend      0.0.2"
    good "www-dev.example.com answers $WAITED ms after the file was saved (including the time of a curl)"
    try "$(ask www-dev.example.com)"
    expect "environment  dev" "frontend     0.0.2" "backend      0.0.2" "backend saw  x-mayfly: dev"
    try "$(ask www.example.com)"
    expect "environment  prod" "frontend     0.0.1" "backend      0.0.1"
}

create_qa() {
    step "Another environment: qa" "It extends prod and names only what differs: the backend. The same running containers serve \
all environments."
    try "cat environments/qa.yaml"
    try "cp environments/qa.yaml run/environments/"
    await 10 www-qa.example.com "environment  qa" "frontend     0.0.1" "backend      0.0.2"
    good "www-qa.example.com answers $WAITED ms after the file was saved"
    try "$(ask www-qa.example.com)"
    expect "environment  qa" "frontend     0.0.1" "backend      0.0.2" "backend saw  x-mayfly: qa"
}

ask_mayfly() {
    local mayfly="${COMPOSE[*]} exec -T environment-registrar mayfly"
    step "Ask" "mayfly is the operator's tool. It shows what runs and what is missing, where a request goes and why, and when \
a change is in force everywhere. It reads etcd and resolves with the code of the routers."
    try "$mayfly wait qa --timeout 20s"
    try "$mayfly status"
    expect prod dev qa complete
    try "$mayfly explain http://www-qa.example.com/"
    expect "frontend@0.0.1" "inherited from prod"
    try "$mayfly explain qa backend"
    expect "backend@0.0.2"
}

ask_page() {
    local api=http://127.0.0.1:$MAYFLY_WEB_PORT
    step "The page and the API" "mayfly-web shows the same in a browser, at $api/. Its API is for programs that must not \
reach etcd: a job of CI waits for an environment, and a consumer of a queue asks which version of a service keeps a message."
    try "curl --silent '$api/v1/environments/qa?wait=20s'"
    expect '"ready": true'
    try "curl --silent '$api/v1/decide?service=backend&value=qa'"
    expect '"version": "0.0.2"'
    try "curl --silent $api/v1/state | grep -o '\"name\":\"[a-z0-9-]*\"'"
    expect prod dev qa
}

make_mistakes() {
    step "A mistake does no harm" "A file with a mistake is set aside, and the log names the place and what would be right. No \
environment is affected."
    try "cp environments/mistake.yaml run/environments/"
    await_output 10 versoin "${COMPOSE[@]}" logs --no-color --tail=20 environment-registrar
    try "${COMPOSE[*]} exec -T environment-registrar mayfly lint /etc/mayfly/environments/mistake.yaml || true"
    expect "mistake.yaml:5:5" "did you mean \`version\`"
    try "rm run/environments/mistake.yaml"
    try "$(ask www-qa.example.com)"
    expect "environment  qa" "frontend     0.0.1" "backend      0.0.2"
}

# load FILE HOST PAUSE: asks a host for pages until $WORK/enough exists, 20 over each connection and
# a pause after them, in seconds; for ten minutes at most.
load() {
    local end=$((SECONDS + 600))
    while [ ! -e "$WORK/enough" ] && [ $SECONDS -lt $end ]; do
        # The status of every request counts; curl's own exit code adds nothing.
        curl --silent --max-time 10 --header "Host: $2" --write-out '\nstatus %{http_code}\n' \
            "$URL?[1-20]" >>"$1" || true
        sleep "$3"
    done
}

# begin_load PAUSE HOST...: begins to ask each of the hosts.
begin_load() {
    local pause=$1 host
    shift
    rm -f "$WORK/enough" "$WORK"/load.*
    LOAD_BEGUN=$(now)
    detail "(the load begins)"
    for host in "$@"; do
        load "$WORK/load.${#LOAD_PIDS[@]}" "$host" "$pause" &
        LOAD_PIDS+=($!)
    done
}

# end_load: ends it, and prints how many requests there were; none may have failed.
end_load() {
    local requests failed
    touch "$WORK/enough"
    wait "${LOAD_PIDS[@]}"
    LOAD_PIDS=()
    requests=$(count '^status ')
    failed=$((requests - $(count '^status 200$')))
    detail "$requests requests in $((($(now) - LOAD_BEGUN) / 1000)) s, $failed failed"
    if [ "$failed" -ne 0 ]; then
        cat "$WORK"/load.* | grep -B 12 '^status ' | grep -v '^status 200' | grep -B 12 '^status ' | head -n 30 >&2 || true
        die "$failed of $requests requests failed"
    fi
    [ "$requests" -ge 100 ] || die "the load was only $requests requests"
}

count() { cat "$WORK"/load.* | grep -c "$1" || true; }

# await_load PATTERN WHAT: waits until the load, which pauses between its requests, has met an
# answer with PATTERN.
await_load() {
    local end=$((SECONDS + 10))
    while [ "$(count "$1")" -eq 0 ]; do
        [ $SECONDS -lt $end ] || die "the load never met $2"
        sleep 0.05
    done
}

change_production() {
    local before after
    step "Change production under load" "Two clients ask www.example.com as fast as they can. Meanwhile prod moves to 0.0.2, \
new instances of 0.0.2 start, the first ones stop, and prod moves back. No request may fail."
    before=$(reloads)
    begin_load 0 www.example.com www.example.com
    sleep 1
    try "sed -i 's/0\.0\.1/0.0.2/' run/environments/prod.yaml"
    await 10 www.example.com "frontend     0.0.2" "backend      0.0.2"
    await_load '^frontend     0\.0\.2 ' "frontend 0.0.2"
    good "www.example.com answers from 0.0.2, $WAITED ms after the file was saved"
    try "${COMPOSE[*]} --profile more up -d frontend-v2-b backend-v2-b"
    await 60 www.example.com "frontend-v2-b"
    await 60 www.example.com "backend-v2-b"
    good "the new instances answer, too"
    try "${COMPOSE[*]} stop frontend-v2-a backend-v2-a"
    good "the first instances of 0.0.2 were drained and deregistered"
    await 10 www.example.com "frontend-v2-b" "backend-v2-b"
    try "sed -i 's/0\.0\.2/0.0.1/' run/environments/prod.yaml"
    await 10 www.example.com "frontend     0.0.1" "backend      0.0.1"
    good "and back to 0.0.1, $WAITED ms after the file was saved"
    sleep 1
    end_load
    after=$(reloads)
    detail "frontend 0.0.1: $(count '^frontend     0\.0\.1 ')   frontend 0.0.2: $(count '^frontend     0\.0\.2 ')"
    detail "backend  0.0.1: $(count '^backend      0\.0\.1 ')   backend  0.0.2: $(count '^backend      0\.0\.2 ')"
    detail "reloads of HAProxy meanwhile: $((after - before))"
    [ "$(count '^frontend     0\.0\.1 ')" -gt 0 ] || die "the load never met frontend 0.0.1"
    [ "$after" -eq "$before" ] || die "HAProxy was reloaded $((after - before)) times"
    good "no request failed, and HAProxy was not reloaded"

    try "${COMPOSE[*]} up -d"
    await 60 www-dev.example.com "frontend-v2-a"
}

remove_dev() {
    step "Remove an environment" "When the file of dev is deleted, the environment ends after a second of grace (some editors \
save by deleting and creating a file). The containers stay: compose has started them."
    try "rm run/environments/dev.yaml"
    await 10 www-dev.example.com "410"
    good "www-dev.example.com is gone $WAITED ms after its file"
    try "$(ask www-dev.example.com)"
    expect "410: the environment dev ended at " "its file is gone"
    try "$(ask www-qa.example.com)"
    expect "environment  qa" "backend      0.0.2"
    try "cp environments/dev.yaml run/environments/"
    await 10 www-dev.example.com "environment  dev" "frontend     0.0.2"
    good "and back"
}

start_what_is_needed() {
    local mayfly="${COMPOSE[*]} exec -T environment-registrar mayfly" missing
    step "Versions that do not run yet" "temp-1 asks for frontend 0.0.3-rc.1 and backend 0.0.3, which have images but no \
containers. Files in /etc/mayfly/services say how to start both, and the container-launcher starts them. This frontend calls \
backend by its name, too. This time the file of the environment comes by git: each push to main is checked, and what is on main \
is in force. Clients ask www.example.com and www-qa.example.com until the end of the tour."
    # The person's own settings of git must not affect the tour.
    export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
    missing=$(launched '{{.Names}}')
    [ -z "$missing" ] || die "the launcher has already started $missing, which no environment asks for"
    write_lint
    try "cat run/services/frontend.yaml run/services/backend.yaml"
    try "../deploy/git/init-environments-repo.sh --lint run/mayfly run/repository.git run/environments"
    try "git clone --quiet run/repository.git run/checkout"
    git -C run/checkout config user.name "the tour"
    git -C run/checkout config user.email tour@example.com
    begin_load 0.2 www.example.com www-qa.example.com
    try "cp environments/temp-1.yaml run/checkout/ && cat run/checkout/temp-1.yaml"
    try "git -C run/checkout add temp-1.yaml && git -C run/checkout commit -qm temp-1"
    try "git -C run/checkout push -q origin HEAD:main"
    expect "1 written"
    try "$mayfly wait temp-1 --timeout 90s"
    expect "temp-1 is in force everywhere"
    try "$(ask www-temp-1.example.com)"
    expect "environment  temp-1" "frontend     0.0.3-rc.1" "backend      0.0.3" "backend saw  x-mayfly: temp-1"
    # The launcher reports it a moment after the instance is registered.
    await_output 10 running "${COMPOSE[@]}" exec -T environment-registrar mayfly status
    try "$mayfly status"
    expect "frontend@0.0.3-rc.1" "backend@0.0.3" running leading
    try "${DOCKER[*]} ps --filter label=mayfly.launcher=/$COMPOSE_PROJECT_NAME"
    expect "$DOCKER_ACCOUNT_NAME/frontend:0.0.3-rc.1" "$DOCKER_ACCOUNT_NAME/backend:0.0.3"
    ask_for_etcd "$(launched '{{.Names}}' | head -n 1)"
}

# ask_for_etcd CONTAINER: etcd asks for no password here, so a container that any push can start
# must not reach it.
ask_for_etcd() {
    local etcd probe
    etcd=$(containers '{{.ID}}' --filter label=com.docker.compose.service=etcd)
    etcd=$("${DOCKER[@]}" inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$etcd")
    probe="timeout 3 bash -c \"exec 3<>/dev/tcp/$etcd/2379\" 2>/dev/null && echo etcd answers || echo no way to etcd"
    try "${COMPOSE[*]} exec -T container-registrar bash -c '$probe'"
    expect "etcd answers"
    try "${DOCKER[*]} exec $1 bash -c '$probe'"
    expect "no way to etcd"
}

retire_what_is_not() {
    step "Retire what is not needed" "A push deletes the file, and the environment ends. When no environment has needed the two \
versions for 20 s (by default for an hour), the launcher drains, stops and removes both containers. It never touches what \
compose has started."
    try "git -C run/checkout rm -q temp-1.yaml && git -C run/checkout commit -qm 'temp-1 is done'"
    try "git -C run/checkout push -q origin HEAD:main"
    expect "1 deleted"
    await 10 www-temp-1.example.com "410"
    good "www-temp-1.example.com is gone $WAITED ms after the push"
    await_output 10 "unused, will be retired at" "${COMPOSE[@]}" exec -T environment-registrar mayfly status
    try "${COMPOSE[*]} exec -T environment-registrar mayfly status | tail -n 5"
    expect "frontend@0.0.3-rc.1" "backend@0.0.3" "unused, will be retired at"
    await_gone 60
    good "both containers were retired"
    [[ $(registered) != */0.0.3* ]] || die "an instance of 0.0.3 is still registered"
    try "$(ask www-qa.example.com)"
    expect "environment  qa" "backend      0.0.2"
}

release_without_a_gap() {
    local mayfly="${COMPOSE[*]} exec -T environment-registrar mayfly" before
    step "Production changes to a version that does not run yet" "prod now asks for backend 0.0.3. It keeps backend 0.0.1 until \
the container-launcher has started 0.0.3 and 0.0.3 answers. Then prod changes, and no request fails."
    before=$(reloads)
    try "sed -i '/backend/{n;s/0\.0\.1/0.0.3/}' run/environments/prod.yaml && cat run/environments/prod.yaml"
    try "$mayfly wait prod --timeout 90s"
    try "$(ask www.example.com)"
    expect "environment  prod" "frontend     0.0.1" "backend      0.0.3"
    await_load '^backend      0\.0\.3 ' "backend 0.0.3"
    try "sed -i 's/0\.0\.3/0.0.1/' run/environments/prod.yaml"
    await 10 www.example.com "backend      0.0.1"
    good "and back to 0.0.1, $WAITED ms after the file was saved"
    end_load
    detail "backend  0.0.1: $(count '^backend      0\.0\.1 ')   backend  0.0.3: $(count '^backend      0\.0\.3 ')"
    [ "$(reloads)" -eq "$before" ] || die "HAProxy was reloaded $(($(reloads) - before)) times"
    good "no request failed, here and while temp-1 came and went, and HAProxy was not reloaded"
}

# await_gone SECONDS: waits until all containers that the launcher has started are gone.
await_gone() {
    local end=$((SECONDS + $1))
    while [ -n "$(launched '{{.Names}}')" ]; do
        [ $SECONDS -lt $end ] || die "these containers were not retired within $1 s: $(launched '{{.Names}} ({{.Status}})')"
        sleep 0.2
    done
}

# How often HAProxy has been reloaded, from the status that haproxy-updater keeps in etcd.
reloads() {
    local status
    status=$("${COMPOSE[@]}" exec -T etcd etcdctl get --print-value-only "/$COMPOSE_PROJECT_NAME/status/haproxy-updater/demo")
    [[ $status =~ \"reloads\":([0-9]+) ]] || die "the status of haproxy-updater names no reloads: $status"
    printf %s "${BASH_REMATCH[1]}"
}

farewell() {
    printf '\n%s%s%s\n' "$BOLD" "All steps verified. The system is left running." "$PLAIN" >&2
    cat >&2 <<TEXT
    Ask it:           $(ask www-dev.example.com)
    In a browser:     http://www-dev.example.com${MAYFLY_HTTP_PORT_SUFFIX}/, if /etc/hosts has this line:
                      127.0.0.1 www.example.com www-dev.example.com www-qa.example.com
    The page:         http://127.0.0.1:$MAYFLY_WEB_PORT/
    Try environments: put files into $DEMO/run/environments, or push them: cd $DEMO/run/checkout
    Look inside:      cd $DEMO; ${COMPOSE[*]} ps; ${COMPOSE[*]} logs -f haproxy-updater
    Remove it all:    $DEMO/stop.sh
TEXT
}

main "$@"

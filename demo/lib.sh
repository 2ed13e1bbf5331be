# shellcheck shell=bash disable=SC2034 # some names are for the scripts that source this
# What start.sh and stop.sh share: the settings of the compose project, which they keep in .env.
# Sourced after scripts/lib.sh, with DEMO set to this directory.

# The instances that only the tour starts.
MORE=(frontend-v1-b backend-v1-b frontend-v2-b backend-v2-b)

# saved NAME: the value that .env has for it, or nothing.
saved() {
    [ -f "$DEMO/.env" ] || return 0
    sed -n "s/^$1=//p" "$DEMO/.env" | tail -n 1
}

# compose_quietly ARGUMENT...: runs compose, and shows what it said only if it failed.
compose_quietly() {
    local output
    output=$("${COMPOSE[@]}" "$@" 2>&1 </dev/null) || {
        printf '%s\n' "$output" >&2
        die "'${COMPOSE[*]} $*' failed"
    }
}

# containers FORMAT [FILTER]...: this project's containers, a line for each.
containers() {
    "${DOCKER[@]}" ps --all --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --format "$@"
}

# launched FORMAT: the containers that this demo's launcher has started, a line for each. They are
# known by its key prefix.
launched() {
    "${DOCKER[@]}" ps --all --filter "label=mayfly.launcher=/$COMPOSE_PROJECT_NAME" --format "$1"
}

# Removes what the launcher has started, and the launcher first, which would start it again.
remove_launched() {
    local ids
    compose_quietly rm --stop --force container-launcher
    ids=$(launched '{{.ID}}')
    # shellcheck disable=SC2086 # one word each
    [ -z "$ids" ] || "${DOCKER[@]}" rm --force --volumes $ids >/dev/null
}

# Decides on project name, port and network, finds the engine's socket, exports them and saves them
# in .env, where compose finds them, too.
settle() {
    export COMPOSE_PROJECT_NAME MAYFLY_HTTP_PORT MAYFLY_WEB_PORT MAYFLY_SUBNET MAYFLY_DNS DOCKER_ACCOUNT_NAME
    export MAYFLY_DOCKER_SOCKET MAYFLY_DOCKER_GROUP
    DOCKER_ACCOUNT_NAME=$(quick_account)
    choose_project
    choose_port
    choose_page_port
    choose_subnet
    find_socket
    MAYFLY_DNS=${MAYFLY_SUBNET%.*}.53
    cat >"$DEMO/.env" <<TEXT
# Written by start.sh; compose reads it in this directory.
COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME
DOCKER_ACCOUNT_NAME=$DOCKER_ACCOUNT_NAME
MAYFLY_HTTP_PORT=$MAYFLY_HTTP_PORT
MAYFLY_WEB_PORT=$MAYFLY_WEB_PORT
MAYFLY_SUBNET=$MAYFLY_SUBNET
MAYFLY_DNS=$MAYFLY_DNS
MAYFLY_DOCKER_SOCKET=$MAYFLY_DOCKER_SOCKET
MAYFLY_DOCKER_GROUP=$MAYFLY_DOCKER_GROUP
TEXT
    MAYFLY_HTTP_PORT_SUFFIX=:$MAYFLY_HTTP_PORT
    if [ "$MAYFLY_HTTP_PORT" = 80 ]; then
        MAYFLY_HTTP_PORT_SUFFIX=
    fi
}

# The project is named mayfly-demo, unless the demo of another checkout has that name.
choose_project() {
    local directory
    COMPOSE_PROJECT_NAME=${MAYFLY_PROJECT:-$(saved COMPOSE_PROJECT_NAME)}
    COMPOSE_PROJECT_NAME=${COMPOSE_PROJECT_NAME:-mayfly-demo}
    [[ $COMPOSE_PROJECT_NAME =~ ^[a-z0-9][a-z0-9_-]*$ ]] ||
        usage_error "MAYFLY_PROJECT='$COMPOSE_PROJECT_NAME' is not a name for a compose project"
    directory=$(containers '{{.Label "com.docker.compose.project.working_dir"}}' | grep . | sort -u | head -n 1 || true)
    if [ -n "$directory" ] && [ "$directory" != "$DEMO" ]; then
        if [ -n "${MAYFLY_PROJECT:-}" ]; then
            die "the project $COMPOSE_PROJECT_NAME belongs to $directory: choose another MAYFLY_PROJECT"
        fi
        COMPOSE_PROJECT_NAME=mayfly-demo-$(printf %s "$DEMO" | cksum | cut -d ' ' -f 1)
        say "the demo of $directory is up; this one is the project $COMPOSE_PROJECT_NAME beside it"
    fi
}

# The port that was asked for, or that of the running demo, or the first free one.
choose_port() {
    local wanted running port
    running=$(running_port haproxy 8000)
    wanted=${MAYFLY_HTTP_PORT:-${running:-80}}
    if ! [[ $wanted =~ ^[1-9][0-9]{0,4}$ ]] || [ "$wanted" -gt 65535 ]; then
        usage_error "MAYFLY_HTTP_PORT='$wanted' is not a port (1 to 65535)"
    fi
    for port in "$wanted" 8080 8088 8090 18080 18088 28080 38080; do
        if [ "$port" = "$running" ] || ! listening "$port"; then
            [ "$port" = "$wanted" ] || say "port $wanted of 127.0.0.1 is taken: the demo uses port $port"
            MAYFLY_HTTP_PORT=$port
            return
        fi
    done
    die "port $wanted is taken, and so are all that were tried instead: set MAYFLY_HTTP_PORT to a free one"
}

# The port of the page: what was asked for, or that of the running demo, or the first free one.
choose_page_port() {
    local wanted running port
    running=$(running_port mayfly-web 8620)
    wanted=${MAYFLY_WEB_PORT:-${running:-8620}}
    if ! [[ $wanted =~ ^[1-9][0-9]{0,4}$ ]] || [ "$wanted" -gt 65535 ]; then
        usage_error "MAYFLY_WEB_PORT='$wanted' is not a port (1 to 65535)"
    fi
    for port in "$wanted" 8621 8622 18620 28620 38620; do
        if [ "$port" = "$running" ] || ! listening "$port"; then
            MAYFLY_WEB_PORT=$port
            return
        fi
    done
    die "port $wanted is taken, and so are all that were tried instead: set MAYFLY_WEB_PORT to a free one"
}

# running_port SERVICE PORT: where the running demo publishes this port of a service, or nothing.
running_port() {
    local id
    id=$(containers '{{.ID}}' --filter "label=com.docker.compose.service=$1" --filter status=running | head -n 1)
    [ -n "$id" ] || return 0
    "${DOCKER[@]}" port "$id" "$2/tcp" 2>/dev/null | sed -n '1s/.*://p'
}

# listening PORT: whether something listens there on the loopback.
listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# The network that was asked for, or that of the present demo, or the first that overlaps no other.
choose_subnet() {
    local own candidate used
    if [ -n "${MAYFLY_SUBNET:-}" ]; then
        [[ $MAYFLY_SUBNET =~ ^([0-9]{1,3}\.){3}0/24$ ]] ||
            usage_error "MAYFLY_SUBNET='$MAYFLY_SUBNET' is not a network such as 172.31.250.0/24"
        return
    fi
    own=$(subnets "${COMPOSE_PROJECT_NAME}_mayfly")
    if [[ $own =~ ^([0-9]{1,3}\.){3}0/24$ ]]; then
        MAYFLY_SUBNET=$own
        return
    fi
    # Routes as well: a network of the host's own, such as a VPN, must stay reachable.
    # shellcheck disable=SC2046 # one word each
    used=$(
        subnets $("${DOCKER[@]}" network ls --quiet)
        awk 'NR > 1 && $8 != "00000000" {print $2 "/" $8}' /proc/net/route
    )
    for candidate in 172.31.250.0/24 172.30.250.0/24 10.250.250.0/24 192.168.250.0/24 10.111.222.0/24; do
        if ! overlaps "$candidate" "$used"; then
            [ "$candidate" = 172.31.250.0/24 ] || say "172.31.250.0/24 is taken: the demo uses the network $candidate"
            MAYFLY_SUBNET=$candidate
            return
        fi
    done
    die "every network that was tried overlaps another: set MAYFLY_SUBNET to a free one such as 10.1.2.0/24"
}

# The engine's socket, and the group that may use it: the containers that do are no root.
find_socket() {
    local endpoint
    endpoint=$("${DOCKER[@]}" context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || true)
    endpoint=${endpoint:-${DOCKER_HOST:-unix:///var/run/docker.sock}}
    [[ $endpoint == unix://* ]] ||
        die "the demo needs an engine on this machine, for its socket; yours is at $endpoint"
    MAYFLY_DOCKER_SOCKET=${endpoint#unix://}
    MAYFLY_DOCKER_GROUP=$(stat --dereference --format %g "$MAYFLY_DOCKER_SOCKET") ||
        die "cannot find out the group of the engine's socket $MAYFLY_DOCKER_SOCKET"
}

# subnets NETWORK...: the subnets of those networks of Docker, one a line.
subnets() {
    "${DOCKER[@]}" network inspect --format '{{range .IPAM.Config}}{{println .Subnet}}{{end}}' "$@" 2>/dev/null | grep . || true
}

# overlaps NETWORK USED: whether the network shares addresses with one of the lines of USED, which
# are in the notation of Docker (172.17.0.0/16) or that of /proc/net/route (hexadecimal, lowest byte
# first: 000011AC/0000FFFF).
overlaps() {
    local line base mask own_base own_mask
    own_base=$(number "${1%/*}")
    own_mask=$((0xFFFFFFFF << (32 - ${1#*/}) & 0xFFFFFFFF))
    while read -r line; do
        if [[ $line =~ ^([0-9.]+)/([0-9]+)$ ]] && [[ $line == *.* ]]; then
            base=$(number "${BASH_REMATCH[1]}")
            mask=$((0xFFFFFFFF << (32 - BASH_REMATCH[2]) & 0xFFFFFFFF))
        elif [[ $line =~ ^([0-9A-F]{8})/([0-9A-F]{8})$ ]]; then
            base=$(swapped "${BASH_REMATCH[1]}")
            mask=$(swapped "${BASH_REMATCH[2]}")
        else
            continue
        fi
        # Two networks overlap exactly if they are the same under the shorter of both masks.
        if (((base & mask & own_mask) == (own_base & mask & own_mask))); then
            return 0
        fi
    done <<<"$2"
    return 1
}

# number A.B.C.D: the address as one number.
number() {
    local a b c d
    IFS=. read -r a b c d <<<"$1"
    printf %s $(((a << 24) + (b << 16) + (c << 8) + d))
}

# swapped HEX: eight hexadecimal digits, lowest byte first, as a number.
swapped() { printf %s $((0x${1:6:2}${1:4:2}${1:2:2}${1:0:2})); }

# The tour begins with prod alone. Files of an earlier one that are not its own are kept aside.
fresh_environments() {
    local file
    mkdir -p "$DEMO/run/environments"
    for file in "$DEMO"/run/environments/*; do
        [ -e "$file" ] || continue
        case ${file##*/} in
        prod.yaml | dev.yaml | qa.yaml | mistake.yaml | temp-1.yaml) rm -f "$file" ;;
        *) set_aside "environments/${file##*/}" ;;
        esac
    done
    cp "$DEMO/environments/prod.yaml" "$DEMO/run/environments/"
}

# The repository and its clone may hold somebody's work, too.
fresh_repository() {
    local name
    for name in repository.git checkout; do
        [ ! -e "$DEMO/run/$name" ] || set_aside "$name"
    done
}

# set_aside NAME: moves a file of run/ out of the way of the tour; it replaces one of that name that
# was set aside before.
set_aside() {
    mkdir -p "$DEMO/run/aside"
    rm -rf "$DEMO/run/aside/${1##*/}"
    mv "$DEMO/run/$1" "$DEMO/run/aside/"
    say "the tour begins with prod alone: moved ${1##*/} to $DEMO/run/aside"
}

# What services are, in the network of this project.
fresh_services() {
    mkdir -p "$DEMO/run/services"
    cp "$DEMO"/services/*.yaml "$DEMO/run/services/"
}

# The operator's tool for the hooks of the repository, which check what is pushed: from its image,
# so that nothing has to be installed. It reads the files of the directory that it is started in, as
# whoever starts it.
write_lint() {
    cat >"$DEMO/run/mayfly" <<TEXT
#!/bin/sh
exec ${DOCKER[*]} run --rm --network none --user "\$(id -u):\$(id -g)" --volume "\$PWD:\$PWD:ro" --workdir "\$PWD" \\
    --entrypoint mayfly $DOCKER_ACCOUNT_NAME/environment-registrar "\$@"
TEXT
    chmod 755 "$DEMO/run/mayfly"
}

# shellcheck shell=bash disable=SC2034 # some names are for the scripts that source this
# What the scripts of this repository share: messages, installing what is missing, and finding
# Docker. It is sourced, never run; the caller has set `set -euo pipefail`.

# The account in the names of the images that scripts/build.sh builds with --quick and without. Only those without are for
# real use, so neither ever has the other's names.
account() { printf '%s\n' "${DOCKER_ACCOUNT_NAME:-mayfly}"; }
quick_account() { printf '%s-quick\n' "$(account)"; }

# Messages go to standard error, so that standard output stays usable in a pipe.
if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
    BOLD=$'\e[1m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'
else
    BOLD='' RED='' GREEN='' PLAIN=''
fi

# say TEXT...: one line about what happens now.
say() { printf '%s==>%s %s\n' "$BOLD" "$PLAIN" "$*" >&2; }

# detail TEXT...: an indented line that belongs to the last `say`.
detail() { printf '    %s\n' "$*" >&2; }

# good TEXT...: a check that passed.
good() { printf '    %sok%s: %s\n' "$GREEN" "$PLAIN" "$*" >&2; }

# die TEXT...: says what failed and ends the script with exit code 1.
die() {
    printf '%serror:%s %s\n' "$RED" "$PLAIN" "$*" >&2
    exit 1
}

# usage_error TEXT...: as die, for wrong arguments, with exit code 2.
usage_error() {
    printf '%serror:%s %s (see --help)\n' "$RED" "$PLAIN" "$*" >&2
    exit 2
}

# have COMMAND: whether a command of that name can be run.
have() { command -v "$1" >/dev/null 2>&1; }

# as_root COMMAND...: runs the command as root, through sudo where this user is not root.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif have sudo; then
        sudo "$@"
    else
        die "'$*' needs root: run this script as root, or install sudo"
    fi
}

# is_installed PACKAGE: whether the Debian package is installed.
is_installed() {
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# install_missing PACKAGE...: installs those of the Debian packages that are missing, and says
# which.
install_missing() {
    local package log missing=()
    have apt-get || die "cannot install $*: this is not a Debian system; install the equivalent by hand"
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "installing from Debian: ${missing[*]}"
    log=$(mktemp)
    # The lists may be absent or too old to name a version that the mirror still has.
    if ! { as_root apt-get update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"; } \
        >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        rm -f "$log"
        die "cannot install ${missing[*]}: see apt-get's last lines above"
    fi
    rm -f "$log"
}

# install_without_services PACKAGE...: as install_missing, but no package starts its service: the
# tests start their own HAProxy and etcd, and a service on a default port could be in the way.
install_without_services() {
    local package missing=() policy=/usr/sbin/policy-rc.d
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ -e "$policy" ]; then
        install_missing "${missing[@]}"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    # In a subshell, so that the policy is lifted also when the installation ends the script.
    local failed=0
    (install_missing "${missing[@]}") || failed=1
    as_root rm -f "$policy"
    [ "$failed" -eq 0 ] || exit 1
    detail "their services were not started"
}

# free_port: a port of loopback on which nothing listens; it needs PYTHON.
free_port() {
    "$PYTHON" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# heading: the day and what the run that follows is of. It stands above the tables, so that tables that were
# kept say it.
heading() {
    printf '%s, %s, commit %s\n\n' "$(date +%F)" "$(server_versions)" \
        "$(git describe --always --dirty 2>/dev/null || echo unknown)"
}

# DOCKER is how this user runs the docker client; find_docker changes it to `sudo docker` where
# needed.
DOCKER=(docker)

# find_docker: whether an engine answers, directly or through sudo.
find_docker() {
    have docker || return 1
    DOCKER=(docker)
    docker info >/dev/null 2>&1 && return 0
    if [ "$(id -u)" -ne 0 ] && have sudo && sudo docker info >/dev/null 2>&1; then
        DOCKER=(sudo docker)
        return 0
    fi
    return 1
}

# ensure_docker: installs docker.io from Debian where no docker client is, and starts the engine
# where none answers.
ensure_docker() {
    local packages log waited
    find_docker && return 0
    if ! have docker || { [ -z "${DOCKER_HOST:-}" ] && ! have dockerd; }; then
        packages=(docker.io)
        # From Debian 13 on the client is a package of its own.
        if apt-cache show docker-cli >/dev/null 2>&1; then
            packages+=(docker-cli)
        fi
        install_missing "${packages[@]}"
        # Only now are the lists certain to be there.
        if ! have docker; then
            install_missing docker-cli
        fi
    fi
    find_docker && return 0
    [ -z "${DOCKER_HOST:-}" ] || die "no Docker engine answers at DOCKER_HOST=$DOCKER_HOST"
    if [ -d /run/systemd/system ]; then
        say "no Docker engine answers: starting docker.service"
        as_root systemctl start docker || die "docker.service did not start: see 'journalctl -u docker'"
    else
        log=/var/log/dockerd.log
        say "no Docker engine answers: starting dockerd (its log: $log)"
        # An engine that was killed leaves its pid file behind, and the next one refuses to start
        # over it.
        # shellcheck disable=SC2016 # the inner shell expands these
        as_root sh -c 'if [ -s /var/run/docker.pid ] && ! kill -0 "$(cat /var/run/docker.pid)" 2>/dev/null; then
                           rm -f /var/run/docker.pid
                       fi
                       setsid dockerd >"$1" 2>&1 </dev/null &' sh "$log"
    fi
    for ((waited = 0; waited < 120; waited++)); do
        find_docker && return 0
        sleep 0.5
    done
    [ -z "${log:-}" ] || as_root tail -n 15 "$log" >&2 || true
    die "no Docker engine answered within 60 s"
}

# COMPOSE is how compose is run here: `docker compose` (v2) or `docker-compose` (1.29 and v2).
COMPOSE=()

# ensure_compose: finds compose, or installs docker-compose from Debian. Needs ensure_docker first.
ensure_compose() {
    find_compose && return 0
    install_missing docker-compose
    find_compose || die "docker-compose is installed but does not run: try 'docker-compose version'"
}

# find_compose: whether compose can be run; sets COMPOSE.
find_compose() {
    if "${DOCKER[@]}" compose version >/dev/null 2>&1; then
        COMPOSE=("${DOCKER[@]}" compose)
    elif have docker-compose && docker-compose version >/dev/null 2>&1; then
        COMPOSE=("${DOCKER[@]:0:${#DOCKER[@]}-1}" docker-compose)
    else
        return 1
    fi
}

# The oldest Rust that Mayfly promises to work with; Cargo.toml says the same to cargo.
OLDEST_RUST=1.85

# at_least FOUND OLDEST: whether version $1 is at least version $2.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

rust_version() { rustc --version 2>/dev/null | awk '{print $2}'; }

# RUST is what a script needs of Rust; scripts/test.sh adds its checkers.
RUST=(cargo rustc)

# ensure_rust: finds what RUST names, or installs it where Debian has a version that is new enough.
ensure_rust() {
    local found offered program is_whole=1
    for program in "${RUST[@]}"; do
        have "$program" || is_whole=''
    done
    if have cargo && have rustc; then
        found=$(rust_version)
        at_least "$found" "$OLDEST_RUST" && [ -n "$is_whole" ] && return 0
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

# ensure_tools: what every build of the workspace needs.
ensure_tools() {
    ensure_rust
    # etcd-client's build needs protoc and the well-known .proto files.
    install_missing protobuf-compiler libprotobuf-dev
    have cc || install_missing gcc libc6-dev
}

# ensure_servers: what the end-to-end tests start, by their packages, without their services.
ensure_servers() {
    local missing=()
    have haproxy || [ -x /usr/sbin/haproxy ] || missing+=(haproxy)
    # dnsmasq-base is the program alone; the package dnsmasq would add a service on port 53.
    have dnsmasq || [ -x /usr/sbin/dnsmasq ] || missing+=(dnsmasq-base)
    have etcd || missing+=(etcd-server)
    # etcdctl, with which deploy/etcd-roles.sh works.
    have etcdctl || missing+=(etcd-client)
    # Tests of servers behind TLS make certificates.
    have openssl || missing+=(openssl)
    # For the tests in which the clock jumps.
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(libfaketime)
    # From which the engines of the launcher pull.
    have docker-registry || missing+=(docker-registry)
    # systemd-analyze, which reads the units; nothing of it is started.
    have systemd-analyze || missing+=(systemd)
    # Environment files are deployed by `git push`, too.
    have git || missing+=(git)
    # For the documents: their shell blocks are checked by the one, and ask with the other.
    have shellcheck || missing+=(shellcheck)
    have curl || missing+=(curl)
    # The tests of `mayfly local` start an sshd of their own.
    have ssh || missing+=(openssh-client)
    [ -x /usr/sbin/sshd ] || missing+=(openssh-server)
    # promtool, which checks the alert rules.
    have promtool || missing+=(prometheus)
    # For the example of queues.
    have redis-server || missing+=(redis-server)
    [ -d /usr/lib/python3/dist-packages/redis ] || missing+=(python3-redis)
    # For the pages that people see: a real browser, and what drives it.
    have chromium || missing+=(chromium)
    have chromedriver || missing+=(chromium-driver)
    # For tests with a Docker engine of their own, which they connect by ip; from Debian 13 on the
    # client is apart.
    have ip || [ -x /usr/sbin/ip ] || missing+=(iproute2)
    have dockerd || [ -x /usr/sbin/dockerd ] || missing+=(docker.io)
    if ! have docker && apt-cache show docker-cli >/dev/null 2>&1; then
        missing+=(docker-cli)
    fi
    [ ${#missing[@]} -eq 0 ] || install_without_services "${missing[@]}"
    # Where a user who is not root runs this, Debian's PATH lacks sbin.
    export PATH="$PATH:/usr/sbin"
    detail "$(server_versions)"
}

# server_versions: the versions of the servers in PATH, in a line; fails if one of them does not run.
server_versions() {
    # The programs are read to the end: one whose pipe is closed early would fail.
    local haproxy etcd dnsmasq
    haproxy=$(haproxy -v | awk 'NR == 1 {print $3}') &&
        etcd=$(etcd --version | awk 'NR == 1 {print $3}') &&
        dnsmasq=$(dnsmasq --version | awk 'NR == 1 {print $3}') &&
        printf 'HAProxy %s, etcd %s, dnsmasq %s\n' "${haproxy%%-*}" "$etcd" "$dnsmasq"
}

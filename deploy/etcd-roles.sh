#!/usr/bin/env bash
# Gives each of Mayfly's programs a user in etcd, with a role that covers only the keys that the
# program needs. See --help.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../scripts/lib.sh
. "$HERE/../scripts/lib.sh"

PROGRAMS=(environment-registrar container-registrar container-launcher haproxy-updater dns-updater
    operator local web)

usage() {
    cat <<TEXT
usage: deploy/etcd-roles.sh --passwords DIR [--router NAME,...] [--prefix KEY] [--etcd URL,...]
                            [--enable]

Makes a user and a role in etcd (3.4 or newer) for each of Mayfly's programs, or updates them. It
uses etcdctl. Run it again after each upgrade of Mayfly; you may run it at any time. The users, each
with a role of the same name:

  mayfly-environment-registrar  writes environments, their histories and ends, service definitions
  mayfly-container-registrar    writes instances
  mayfly-container-launcher     reads environments, instances and definitions; writes drains, the
                                key of the leader, its confirmation and relaunches
  mayfly-haproxy-updater        reads instances, drains and environments; writes the records of all
                                routers (see --router)
  mayfly-haproxy-updater@NAME   the same, but writes only the record of the router NAME
  mayfly-dns-updater            reads instances, environments, static names and routers
  mayfly-operator               for mayfly, and for commands of daemons that list records, register
                                permanent instances or set static names; reads everything of
                                Mayfly; writes environments and their ends, confirmations,
                                relaunches, instances and static names
  mayfly-local                  for mayfly local on the machines of developers: reads everything of
                                Mayfly; writes environments whose names begin with local-, and
                                instances
  mayfly-web                    for mayfly-web: reads everything of Mayfly; writes nothing

Each daemon but mayfly-web also writes status records of its own kind. No role covers a key outside
the prefix.

  --passwords DIR   the directory with a file for each user, which contains the password. A missing
                    file is made (random password, mode 600). If the file cannot be made, the new
                    user is left out, with a warning. To change a password, replace the file and run
                    this script again; then copy the file to the daemon's host. The password of root
                    is different: this script logs in with it, so change it with etcdctl user passwd
                    root. A password has no white space.
  --router NAME,... makes a user mayfly-haproxy-updater@NAME for each router, in place of one user
                    for all routers. NAME is the --node of that haproxy-updater. With this user,
                    one router's host cannot change the records of the others. May be repeated.
                    Later runs update these roles without the flag.
  --prefix KEY      the beginning of all keys, as the daemons' --prefix (default: MAYFLY_PREFIX,
                    else /mayfly). It also names the users: with /team/mayfly they begin with
                    team+mayfly-
  --etcd URL,...    where etcd is (default: ETCDCTL_ENDPOINTS, else http://127.0.0.1:2379). For TLS
                    set etcdctl's own variables ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY
  --enable          makes the user root (its password: DIR/root), and enables authentication. Before
                    that, etcd accepts every client. So first give all daemons their users: until
                    then, they work without a login
  --help            this text

A role limits which keys a program can write. It does not limit a host, except with --router: a host
that registers containers may write the instances of all services, and the host of an
environment-registrar may write all environments. The keys of these records do not contain a host,
so etcd cannot distinguish their writers.

If authentication is enabled already, DIR/root must contain root's password. The script passes no
password in the arguments of a program.

Examples:
  deploy/etcd-roles.sh --passwords /etc/mayfly/passwords
  deploy/etcd-roles.sh --passwords /etc/mayfly/passwords --router edge-1,edge-2
  haproxy-updater --etcd-user mayfly-haproxy-updater \\
      --etcd-password-file /etc/mayfly/passwords/mayfly-haproxy-updater
  deploy/etcd-roles.sh --passwords /etc/mayfly/passwords --enable
  ETCDCTL_CACERT=ca.pem deploy/etcd-roles.sh --passwords passwords --etcd https://etcd-1:2379
TEXT
}

# permissions PROGRAM[@NODE]: prints what its role covers: for each range of keys a line "TYPE FIRST
# END", END not included (`0` is the byte after `/`), or "TYPE KEY". A range that a program reads at
# once has to be one range here: crates/core/src/keys.rs names them.
permissions() {
    local p=$PREFIX
    case $1 in
        environment-registrar)
            echo "readwrite $p/environments/ $p/history0"
            echo "readwrite $p/ended/ $p/ended0"
            echo "readwrite $p/services/ $p/services0"
            echo "read $p/backends/ $p/backends0"
            ;;
        container-registrar) echo "readwrite $p/backends/ $p/backends0" ;;
        container-launcher)
            echo "read $p/backends/ $p/services0"
            echo "readwrite $p/drains/ $p/drains0"
            echo "readwrite $p/leaders/container-launcher"
            echo "readwrite $p/confirmations/container-launcher"
            echo "readwrite $p/relaunches/ $p/relaunches0"
            ;;
        haproxy-updater)
            echo "read $p/backends/ $p/environments0"
            echo "readwrite $p/routers/ $p/routers0"
            echo "readwrite $p/traffic/ $p/traffic0"
            ;;
        haproxy-updater@*)
            echo "read $p/backends/ $p/environments0"
            echo "readwrite $p/routers/${1#*@}"
            echo "readwrite $p/status/haproxy-updater/${1#*@}"
            echo "readwrite $p/traffic/${1#*@}"
            return
            ;;
        dns-updater) echo "read $p/backends/ $p/routers0" ;;
        web)
            echo "read $p/backends/ $p/traffic0"
            return
            ;;
        local)
            echo "read $p/backends/ $p/traffic0"
            # `.` is the byte after `-`.
            echo "readwrite $p/environments/local- $p/environments/local."
            echo "readwrite $p/backends/ $p/backends0"
            return
            ;;
        operator)
            echo "read $p/backends/ $p/traffic0"
            echo "readwrite $p/environments/ $p/history0"
            echo "readwrite $p/ended/ $p/ended0"
            echo "readwrite $p/confirmations/ $p/confirmations0"
            echo "readwrite $p/relaunches/ $p/relaunches0"
            echo "readwrite $p/backends/ $p/backends0"
            echo "readwrite $p/dns/ $p/dns0"
            return
            ;;
    esac
    echo "readwrite $p/status/$1/ $p/status/${1}0"
}

# The output of etcdctl, which ends the script with etcd's message when it fails.
etcdctl_() {
    local output
    if ! output=$(etcdctl "$@" 2>&1); then
        # The last line is the reason; it repeats no password.
        die "etcdctl ${*:1:3}: ${output##*$'\n'}"
    fi
    printf '%s\n' "$output"
}

# make_password FILE: puts a random password into a new file, if that can be.
make_password() (
    umask 077
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$1.new" && echo >>"$1.new" && mv "$1.new" "$1"
)

# password_file NAME: the file of that user's password.
password_file() {
    local file=$PASSWORDS/$1
    [ -s "$file" ] || die "$file is empty"
    ! tr -d '\r\n' <"$file" | grep -q '[[:space:]]' ||
        die "the password in $file has white space, at which etcdctl would cut it off"
    printf '%s\n' "$file"
}

# ensure_password NAME: makes the file of that user's password if it is missing. Fails if it cannot.
ensure_password() {
    [ ! -e "$PASSWORDS/$1" ] || return 0
    # Another password would lock out whoever uses the one that is not here.
    ! grep -qxF -- "$1" <<<"$USERS" ||
        die "etcd has the user $1 already, and $PASSWORDS/$1 is missing: write its password into" \
            "that file, or a new password to change it"
    make_password "$PASSWORDS/$1" || return
    detail "made a password: $PASSWORDS/$1"
}

# ensure_user NAME ROLE: makes the user if it is missing, and sets its password and role.
ensure_user() {
    local file what=passwd
    grep -qxF -- "$1" <<<"$USERS" || what=add
    file=$(password_file "$1")
    etcdctl_ user "$what" "$1" --interactive=false <"$file" >/dev/null
    etcdctl_ user grant-role "$1" "$2" >/dev/null
}

# found ROLE: what a role covers now, in the form of `permissions`.
found() {
    etcdctl_ role get "$1" | awk '
        /^KV Read:/ { kind = 1; next }
        /^KV Write:/ { kind = 2; next }
        /^\t/ && kind {
            range = $1
            if (range ~ /^\[/) {
                sub(/^\[/, "", range); sub(/,$/, "", range)
                end = $2; sub(/\)$/, "", end)
                range = range " " end
            }
            kinds[range] += kind
        }
        END { split("read write readwrite", names); for (range in kinds) print names[kinds[range]], range }'
}

# ensure_role NAME PROGRAM: makes the role if it is missing, grants the keys that it should cover,
# and revokes all others.
ensure_role() {
    local wanted present line kind range
    grep -qxF -- "$1" <<<"$ROLES" || etcdctl_ role add "$1" >/dev/null
    wanted=$(permissions "$2" | LC_ALL=C sort)
    present=$(found "$1" | LC_ALL=C sort)
    while read -r line; do
        grep -qxF -- "$line" <<<"$present" && continue
        # shellcheck disable=SC2086 # its parts are words of their own
        etcdctl_ role grant-permission "$1" $line >/dev/null
        detail "$1: $line"
    done <<<"$wanted"
    while read -r kind range; do
        [ -n "$kind" ] || continue
        # One that stays with another kind has been changed above.
        cut -d' ' -f2- <<<"$wanted" | grep -qxF -- "$range" && continue
        # shellcheck disable=SC2086 # a key, or the two ends of a range
        etcdctl_ role revoke-permission "$1" $range >/dev/null
        detail "$1: no more $kind $range"
    done <<<"$present"
}

# routers BASE: the names of the routers that have a role of their own, by the arguments or by an
# earlier run.
routers() {
    local role
    printf '%s\n' "${ROUTERS[@]}"
    while read -r role; do
        [[ $role != "$1-haproxy-updater@"* ]] || printf '%s\n' "${role#*@}"
    done <<<"$ROLES"
}

main() {
    local enable='' base program name router
    local -a names
    ROUTERS=()
    PREFIX=${MAYFLY_PREFIX:-/mayfly} PASSWORDS=
    while [ $# -gt 0 ]; do
        case $1 in
            -h | --help) usage && exit 0 ;;
            --enable) enable=1 ;;
            --passwords | --prefix | --etcd | --router)
                [ $# -gt 1 ] || usage_error "$1 needs a value"
                case $1 in
                    --passwords) PASSWORDS=$2 ;;
                    --prefix) PREFIX=$2 ;;
                    --router) IFS=, read -ra names <<<"$2" && ROUTERS+=("${names[@]}") ;;
                    --etcd) export ETCDCTL_ENDPOINTS=$2 ;;
                esac
                shift
                ;;
            --passwords=*) PASSWORDS=${1#*=} ;;
            --prefix=*) PREFIX=${1#*=} ;;
            --router=*) IFS=, read -ra names <<<"${1#*=}" && ROUTERS+=("${names[@]}") ;;
            --etcd=*) export ETCDCTL_ENDPOINTS=${1#*=} ;;
            *) usage_error "unknown argument '$1'" ;;
        esac
        shift
    done
    [ -n "$PASSWORDS" ] || usage_error "--passwords DIR is missing"
    [[ $PREFIX =~ ^(/[A-Za-z0-9][A-Za-z0-9_.-]*)+$ ]] ||
        usage_error "--prefix $PREFIX is not a slash and a name, such as /mayfly"
    for router in "${ROUTERS[@]}"; do
        [[ $router =~ ^[A-Za-z0-9_.-]{1,128}$ ]] ||
            usage_error "--router $router is not the name of a node: use letters, digits, _ . -"
    done
    have etcdctl || die "etcdctl is missing (Debian: etcd-client)"
    mkdir -p -m 700 "$PASSWORDS"
    export ETCDCTL_API=3
    if [ -e "$PASSWORDS/root" ]; then
        # An etcd without authentication takes no notice.
        ETCDCTL_USER=root ETCDCTL_PASSWORD=$(tr -d '\r\n' <"$PASSWORDS/root")
        export ETCDCTL_USER ETCDCTL_PASSWORD
    fi
    if ! USERS=$(etcdctl user list 2>&1); then
        case $USERS in
            *'user name is empty'*)
                die "etcd asks for users already: write root's password into $PASSWORDS/root"
                ;;
            *) die "etcdctl user list: ${USERS##*$'\n'}" ;;
        esac
    fi
    ROLES=$(etcdctl_ role list)

    say "roles for the keys below $PREFIX, and users with passwords in $PASSWORDS"
    base=${PREFIX#/}
    base=${base//\//+}
    mapfile -t names < <(routers "$base" | sort -u | sed '/^$/d')
    for program in "${PROGRAMS[@]}" "${names[@]/#/haproxy-updater@}"; do
        name=$base-$program
        if [ "$program" = haproxy-updater ] && [ ${#names[@]} -gt 0 ]; then
            # The one for all routers is what the users of their own are to replace.
            grep -qxF -- "$name" <<<"$USERS" || continue
            detail "$name may still write all routers: when no host uses it any more," \
                "run \`etcdctl user delete $name\`"
        fi
        ensure_role "$name" "$program"
        # The password of a router from an earlier run may lie on its host only.
        if [[ $program != *@* ]] || [[ " ${ROUTERS[*]} " == *" ${program#*@} "* ]] ||
            [ -e "$PASSWORDS/$name" ]; then
            # A project of an earlier Mayfly has no password for a program that is new.
            if ! ensure_password "$name"; then
                detail "warning: no user $name: $PASSWORDS/$name is missing and cannot be made;" \
                    "write a password into that file, and run this again"
                continue
            fi
            ensure_user "$name" "$name"
        fi
        good "$name"
    done
    [ -n "$enable" ] || return 0
    grep -qxF root <<<"$ROLES" || etcdctl_ role add root >/dev/null
    ensure_password root || die "$PASSWORDS/root is missing and cannot be made"
    ensure_user root root
    ETCDCTL_USER=root ETCDCTL_PASSWORD=$(tr -d '\r\n' <"$PASSWORDS/root")
    export ETCDCTL_USER ETCDCTL_PASSWORD
    etcdctl_ auth enable >/dev/null
    good "etcd asks for users from now on"
}

main "$@"

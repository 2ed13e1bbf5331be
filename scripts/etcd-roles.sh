#!/usr/bin/env bash
# Gives each of Mayfly's programs a user in etcd with a role that covers only the keys that it needs. See --help.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$HERE/lib.sh"

PROGRAMS=(environment-registrar container-registrar container-launcher haproxy-updater dns-updater operator)

usage() {
    cat <<TEXT
usage: scripts/etcd-roles.sh --passwords DIR [--router NAME,...] [--prefix KEY] [--etcd URL,...] [--enable]

Makes in etcd (3.4 or newer), by etcdctl, a role and a user for each of Mayfly's programs, or brings them up to date; run it again
whenever you like, also after an update of Mayfly. The users, each with a role of its name:

  mayfly-environment-registrar   writes environments, their histories and service definitions
  mayfly-container-registrar     writes instances
  mayfly-container-launcher      reads environments, instances and definitions; writes drains, its lead and its confirmation
  mayfly-haproxy-updater         reads instances, drains and environments; writes all routers (see --router)
  mayfly-haproxy-updater@NAME    the same for one router: writes only the records of the router NAME
  mayfly-dns-updater             reads what has a name; writes nothing else
  mayfly-operator                for mayfly, and for commands of the others that list, register for good or set names:
                                 reads everything of Mayfly; writes environments, confirmations, instances and static names

Each daemon writes its own kind of status records, too. No role covers a key outside the prefix.

  --passwords DIR   a file with the password of each user, named like it. One that is missing is made (random, mode 600); replace one
                    and run this again to change it in etcd, then give it to the daemon: it takes a changed file by itself
                    (not root's, which this script logs in with: etcdctl user passwd root).
                    A password has no white space.
  --router NAME,... makes a user mayfly-haproxy-updater@NAME for each router in place of the one for all; NAME is what its
                    haproxy-updater has as --node. The password of one router's host then gives no access to the records of
                    the others. May be repeated. Later runs keep the roles that were made so up to date without it
  --prefix KEY      the beginning of all keys, as the daemons' --prefix (default: MAYFLY_PREFIX, else /mayfly). It also names the users:
                    with /team/mayfly they begin with team+mayfly-
  --etcd URL,...    where etcd is (default: ETCDCTL_ENDPOINTS, else http://127.0.0.1:2379). For TLS set etcdctl's own variables
                    ETCDCTL_CACERT, ETCDCTL_CERT and ETCDCTL_KEY
  --enable          makes the user root (its password: DIR/root), and has etcd ask for users from now on. Without it nobody is refused
                    anything yet: give all daemons their users first, they go on without a login until then
  --help            this text

A role limits a kind of keys, not a host, except with --router: any host that registers containers may write the instances
of all services, and any host of an environment-registrar all environments. These records do not belong to a host, so etcd
cannot tell their writers apart.

Where authentication is enabled already, DIR/root has to hold root's password. No password stands in the arguments of a program.

Examples:
  scripts/etcd-roles.sh --passwords /etc/mayfly/passwords
  scripts/etcd-roles.sh --passwords /etc/mayfly/passwords --router edge-1,edge-2
  haproxy-updater --etcd-user mayfly-haproxy-updater --etcd-password-file /etc/mayfly/passwords/mayfly-haproxy-updater
  scripts/etcd-roles.sh --passwords /etc/mayfly/passwords --enable
  ETCDCTL_CACERT=ca.pem scripts/etcd-roles.sh --passwords passwords --etcd https://etcd-1:2379
TEXT
}

# permissions PROGRAM[@NODE]: what its role covers, a line "TYPE FIRST END" for each range of keys, END not included (`0` is the octet after
# `/`), or "TYPE KEY". Ranges that a program reads at once have to be one range here: crates/core/src/keys.rs names them.
permissions() {
    local p=$PREFIX
    case $1 in
        environment-registrar)
            echo "readwrite $p/environments/ $p/history0"
            echo "readwrite $p/services/ $p/services0"
            echo "read $p/backends/ $p/backends0"
            ;;
        container-registrar) echo "readwrite $p/backends/ $p/backends0" ;;
        container-launcher)
            echo "read $p/backends/ $p/services0"
            echo "readwrite $p/drains/ $p/drains0"
            echo "readwrite $p/leaders/container-launcher"
            echo "readwrite $p/confirmations/container-launcher"
            ;;
        haproxy-updater)
            echo "read $p/backends/ $p/environments0"
            echo "readwrite $p/routers/ $p/routers0"
            ;;
        haproxy-updater@*)
            echo "read $p/backends/ $p/environments0"
            echo "readwrite $p/routers/${1#*@}"
            echo "readwrite $p/status/haproxy-updater/${1#*@}"
            return
            ;;
        dns-updater) echo "read $p/backends/ $p/routers0" ;;
        operator)
            echo "read $p/backends/ $p/status0"
            echo "readwrite $p/environments/ $p/history0"
            echo "readwrite $p/confirmations/ $p/confirmations0"
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

# password_file NAME: the file of that user's password, made where it is missing.
password_file() {
    local file=$PASSWORDS/$1
    if [ ! -e "$file" ]; then
        (umask 077 && od -An -N24 -tx1 /dev/urandom | tr -d ' \n' >"$file.new" && echo >>"$file.new" && mv "$file.new" "$file")
        detail "made a password: $file"
    fi
    [ -s "$file" ] || die "$file is empty"
    ! tr -d '\r\n' <"$file" | grep -q '[[:space:]]' || die "the password in $file has white space in it, at which etcdctl would cut it off"
    printf '%s\n' "$file"
}

# ensure_user NAME ROLE: makes the user if it is missing, and sets its password and role.
ensure_user() {
    local file what=passwd
    grep -qxF -- "$1" <<<"$USERS" || what=add
    # Another password would lock out whoever uses the one that is not here.
    [ "$what" = add ] || [ -e "$PASSWORDS/$1" ] ||
        die "etcd has the user $1 already, and $PASSWORDS/$1 is missing: put its password there, or a new one to change it"
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

# ensure_role NAME PROGRAM: makes the role if it is missing, gives what it should cover, and takes the rest.
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

# routers BASE: the names of the routers that have a role of their own, by the arguments or by an earlier run.
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
    [[ $PREFIX =~ ^(/[A-Za-z0-9][A-Za-z0-9_.-]*)+$ ]] || usage_error "--prefix $PREFIX is not a slash and a name, as /mayfly"
    for router in "${ROUTERS[@]}"; do
        [[ $router =~ ^[A-Za-z0-9_.-]{1,128}$ ]] || usage_error "--router $router is no name of a node: letters, digits, _ . -"
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
            *'user name is empty'*) die "etcd asks for users already: $PASSWORDS/root has to hold root's password" ;;
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
            detail "$name may still write all routers: when no host uses it any more, run \`etcdctl user delete $name\`"
        fi
        ensure_role "$name" "$program"
        # The password of a router from an earlier run may lie on its host only.
        if [[ $program != *@* ]] || [[ " ${ROUTERS[*]} " == *" ${program#*@} "* ]] || [ -e "$PASSWORDS/$name" ]; then
            ensure_user "$name" "$name"
        fi
        good "$name"
    done
    [ -n "$enable" ] || return 0
    grep -qxF root <<<"$ROLES" || etcdctl_ role add root >/dev/null
    ensure_user root root
    ETCDCTL_USER=root ETCDCTL_PASSWORD=$(tr -d '\r\n' <"$PASSWORDS/root")
    export ETCDCTL_USER ETCDCTL_PASSWORD
    etcdctl_ auth enable >/dev/null
    good "etcd asks for users from now on"
}

main "$@"

#!/usr/bin/env bash
# A host on which all of Mayfly runs at its default ports, and on it a script: host.sh DIRECTORY PROGRAMS SCRIPT.
# It is the first process of namespaces of its own (mounts, network, processes, host name), so nothing of it is
# left when it ends. DIRECTORY gets its files; PROGRAMS is where the programs of Mayfly and of the demo are.
set -euo pipefail

D=$1 PROGRAMS=$2 SCRIPT=$3
export PATH="$PROGRAMS:$PATH:/usr/sbin:/sbin"
EDGE=127.0.0.1:80 INTERNAL=127.0.0.2

fail() {
    printf 'the host does not start: %s\n' "$1" >&2
    tail -n 5 "$D"/log/* >&2
    exit 70
}

# start NAME COMMAND...: in the background, with a log of its own.
start() {
    local name=$1
    shift
    "$@" >"$D/log/$name" 2>&1 </dev/null &
}

# await WHAT COMMAND...: until it succeeds.
await() {
    local what=$1 tries
    shift
    for ((tries = 0; tries < 400; tries++)); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.05
    done
    fail "$what"
}

is_registered() { [ "$(etcdctl get --prefix --keys-only /mayfly/backends/ | grep -c .)" -eq 4 ]; }

has_router() { etcdctl get --prefix --keys-only /mayfly/routers/ | grep -q .; }

mkdir -p "$D"/{etc,log,etcd,hosts,haproxy/run,home,srv,work}

# An /etc of its own, with nothing of Mayfly in it but two empty directories.
cp -a /etc/. "$D/etc"
rm -rf "$D/etc/mayfly" "$D/etc/resolv.conf"
mkdir -p "$D"/etc/mayfly/{environments,services}
echo 'nameserver 127.0.0.1' >"$D/etc/resolv.conf"
printf '127.0.0.1 localhost\n127.0.1.1 host-1\n' >"$D/etc/hosts"
mount --bind "$D/etc" /etc
mount --bind "$D/srv" /srv
hostname host-1

# One address of a private network, with the default route, as `auto` looks for.
ip link set lo up
ip link add eth0 type veth peer name eth1
ip address add 10.0.0.5/24 dev eth0
ip link set eth0 up
ip link set eth1 up
ip route add default dev eth0

start etcd etcd --data-dir "$D/etcd" --log-level warn
await 'etcd answers' curl --fail --silent http://127.0.0.1:2379/health
start haproxy-updater haproxy-updater --dir "$D/haproxy" --edge-bind $EDGE --internal-bind $INTERNAL:80 \
    --advertise $INTERNAL
start dns-updater dns-updater watch --hosts-file "$D/hosts/mayfly"
start mayfly-web mayfly-web
start environment-registrar environment-registrar watch
await 'haproxy.cfg is there' test -s "$D/haproxy/haproxy.cfg"
start haproxy haproxy -W -db -S "$D/haproxy/run/master.sock,mode,660" -f "$D/haproxy/haproxy.cfg"
start dnsmasq dnsmasq --conf-file=/dev/null --keep-in-foreground --log-facility=- --pid-file= --user=root \
    --no-resolv --no-hosts --no-poll --hostsdir="$D/hosts" --local=/service/ --address=/example.com/127.0.0.1 \
    --listen-address=127.0.0.1 --bind-interfaces
port=20000
for service in frontend backend; do
    for version in 0.0.1 0.0.2; do
        port=$((port + 1))
        start "$service-$version" "$service" --port $port --service-version $version --instance "$service-$version"
        start "$service-$version-registrar" \
            container-registrar register $service $version 127.0.0.1 $port --check /health
    done
done
await 'instances are registered' is_registered
await 'the router is registered' has_router
await 'the edge answers' curl --fail --silent http://$EDGE/.mayfly/health
await 'the API answers' curl --fail --silent --output /dev/null http://127.0.0.1:8620/v1/state
await 'dnsmasq answers' getent hosts www-dev.example.com

cd "$D/work"
# Without what the tests and this script set, as a shell of an operator is; but etcdctl waits longer than its 5 s, for
# tests run side by side.
env --ignore-environment PATH="$PATH" HOME="$D/home" LANG=C.UTF-8 TERM=dumb GIT_CONFIG_NOSYSTEM=1 \
    ETCDCTL_COMMAND_TIMEOUT=60s bash "$SCRIPT" </dev/null

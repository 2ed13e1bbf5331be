#!/bin/sh
# Waits for the configuration that haproxy-updater writes into the shared directory, then becomes
# HAProxy in master-worker mode, with the master socket through which the updater reloads.
set -eu

directory=${MAYFLY_HAPROXY_DIR:-/var/lib/mayfly/haproxy}
trap 'exit 0' INT TERM USR1

if [ ! -s "$directory/haproxy.cfg" ]; then
    echo "haproxy: waiting for $directory/haproxy.cfg, which haproxy-updater writes" >&2
    while [ ! -s "$directory/haproxy.cfg" ]; do
        sleep 0.1
    done
fi
mkdir -p "$directory/run"
# HAProxy would treat the sockets of a killed HAProxy as live ones.
rm -f "$directory"/run/*.sock
echo "haproxy: starting with $directory/haproxy.cfg" >&2
exec haproxy -W -db -S "$directory/run/master.sock,mode,660" -f "$directory/haproxy.cfg" "$@"

#!/bin/sh
# Hands a certificate to haproxy-updater: writes certificate, chain and key atomically as one file
# into its directory. Runs as a deploy hook of certbot, as a hook of lego, or by hand.
set -eu

usage() {
    cat <<'END'
Usage: certificate-hook.sh [NAME CHAIN KEY]

Writes CHAIN, then KEY, into NAME.pem in the directory that haproxy-updater reads
(--edge-certificates). Without arguments it reads the variables of certbot (RENEWED_LINEAGE) or lego
(LEGO_CERT_DOMAIN, LEGO_CERT_PATH, LEGO_CERT_KEY_PATH).

  MAYFLY_EDGE_CERTIFICATES   the directory; default /etc/mayfly/certificates

The directory must belong to the user that runs this, usually root, and nobody else may write to it.
The directory's group may read the file, and no other user may.
END
}

if [ $# -eq 3 ]; then
    name=$1 chain=$2 key=$3
elif [ $# -ne 0 ]; then
    usage
    [ "$1" = --help ] && exit 0
    exit 2
elif [ -n "${RENEWED_LINEAGE:-}" ]; then
    name=$(basename "$RENEWED_LINEAGE")
    chain=$RENEWED_LINEAGE/fullchain.pem key=$RENEWED_LINEAGE/privkey.pem
elif [ -n "${LEGO_CERT_PATH:-}" ]; then
    name=$LEGO_CERT_DOMAIN chain=$LEGO_CERT_PATH key=$LEGO_CERT_KEY_PATH
else
    usage >&2
    exit 2
fi

directory=${MAYFLY_EDGE_CERTIFICATES:-/etc/mayfly/certificates}
fail() {
    echo "certificate-hook.sh: $1" >&2
    exit 1
}
# A wildcard's name begins with a star.
name=$(printf '%s' "$name" | tr '*' '_')
case $name in
'' | .* | */*) fail "'$name' is not a file name" ;;
esac
pem=$(cat -- "$chain" && echo && cat -- "$key")

# Whoever may write to the directory could make root write elsewhere, through links.
CDPATH='' cd -- "$directory"
[ "$(stat -c %u .)" = "$(id -u)" ] || fail "$directory does not belong to the user that runs this"
[ -z "$(find . -prune -perm /022)" ] || fail "others may write to $directory: chmod go-w $directory"
umask 077
new=$(mktemp "./.$name.XXXXXX")
trap 'rm -f -- "$new"' EXIT
printf '%s\n' "$pem" >"$new"
chgrp -h -- "$(stat -c %g .)" "$new"
chmod 640 "$new"
mv -T -- "$new" "$name.pem"
trap - EXIT

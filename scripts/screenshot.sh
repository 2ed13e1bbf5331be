#!/usr/bin/env bash
# Makes the picture of the page that README.md shows. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

PICTURE=docs/images/page.png
# Bytes that it may have, since everybody who clones the repository gets it.
MOST=150000

usage() {
    cat <<END
Usage: scripts/screenshot.sh

Makes $PICTURE: the page of mayfly-web in Chromium, with real daemons on a real etcd. It runs the
end-to-end test of the page, which takes the picture on its way. Further pictures (dark, and of a
small screen) are left in target/screenshots.

Installs what scripts/test.sh installs for its end-to-end tests, Debian's chromium and
chromium-driver among it.
END
}

case ${1:-} in
    '') ;;
    -h | --help) usage && exit 0 ;;
    *) usage_error "unexpected argument: $1" ;;
esac

say 'what the tests need'
ensure_servers
ensure_tools

say 'build'
cargo build --workspace --all-targets --locked

say 'pictures'
export MAYFLY_SCREENSHOTS=$PWD/target/screenshots
rm -rf "$MAYFLY_SCREENSHOTS"
mkdir -p "$MAYFLY_SCREENSHOTS" "$(dirname "$PICTURE")"
cargo test --workspace --locked --test e2e -- --exact page::the_page_follows_and_explains_by_keyboard
size=$(stat --format=%s "$MAYFLY_SCREENSHOTS/page.png")
[ "$size" -le "$MOST" ] || die "$MAYFLY_SCREENSHOTS/page.png has $size bytes, more than $MOST"
cp "$MAYFLY_SCREENSHOTS/page.png" "$PICTURE"
good "$PICTURE has $size bytes; the others are in ${MAYFLY_SCREENSHOTS#"$PWD"/}"

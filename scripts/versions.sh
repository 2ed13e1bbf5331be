#!/usr/bin/env bash
# Runs a command with HAProxy, etcd and dnsmasq of another Debian release. See --help.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib.sh
source "$HERE/scripts/lib.sh"

# The releases with the oldest and the newest versions that Mayfly supports.
OLDER=bookworm
NEWER=trixie

# The Debian packages, and the programs in them.
PACKAGES=(haproxy etcd-server etcd-client dnsmasq-base)
PROGRAMS=(haproxy etcd etcdctl dnsmasq)

usage() {
    cat <<END
Usage: scripts/versions.sh [newer|older|other] [COMMAND [ARGUMENT...]]

Runs COMMAND with another set of haproxy, etcd, etcdctl and dnsmasq first in PATH:

  newer   Debian 13: HAProxy 3.0, etcd 3.5, dnsmasq 2.91 (default)
  older   Debian 12: HAProxy 2.6, etcd 3.4, dnsmasq 2.90
  other   the one of the two that this machine's Debian release does not have

Downloads the Debian packages with the libraries that they need, and unpacks them below target/versions. Nothing of
them is installed. A set that is there is used again. On a machine of the set's own Debian release, the programs are
those of the machine. Without COMMAND, prints the directory of the programs. Installs patchelf if it is missing.

Examples:
  scripts/versions.sh newer haproxy -v
  scripts/versions.sh newer ./scripts/test.sh e2e
  scripts/versions.sh older ./scripts/faults.sh --short
END
}

# machine_release: the code name of this machine's Debian.
machine_release() { (source /etc/os-release && printf '%s' "${VERSION_CODENAME:-none}"); }

# repositories RELEASE: the addresses of Debian's archive for a release, as this machine's apt knows them.
repositories() {
    # shellcheck disable=SC2016 # apt-get replaces it
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' "Codename: $1"
}

# archive: the address of Debian's archive.
archive() {
    local found release
    release=$(machine_release)
    found=$(repositories "$release")
    if [ -z "$found" ]; then
        # apt has no lists yet, as in a fresh container image.
        as_root apt-get update >/dev/null 2>&1 || true
        found=$(repositories "$release")
    fi
    [ -n "$found" ] || die "apt-get has no archive of Debian's release $release in its sources"
    printf '%s' "${found%%$'\n'*}"
}

# own_apt ROOT ARGUMENT...: apt-get with lists, a cache and a (empty) status of its own below ROOT.
own_apt() {
    local root=$1
    shift
    apt-get -q -o Dir::Etc::SourceList="$root/apt/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::State="$root/apt" -o Dir::State::Lists="$root/apt/lists" -o Dir::State::Status="$root/apt/status" \
        -o Dir::Cache="$root/apt/cache" -o APT::Sandbox::User=root -o Acquire::Languages=none \
        -o APT::Install-Recommends=false -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
        -o Acquire::Retries=3 -o Debug::NoLocking=true "$@"
}

# unpack RELEASE ROOT: downloads the packages with all that they depend on, and unpacks them in ROOT/root.
unpack() {
    local release=$1 root=$2 keys=/usr/share/keyrings/debian-archive-keyring.gpg log package
    [ -e "$keys" ] || install_missing debian-archive-keyring
    mkdir -p "$root"/apt/{lists,cache/archives}/partial "$root/root"
    : >"$root/apt/status"
    printf 'deb [signed-by=%s] %s %s main\n' "$keys" "$(archive)" "$release" >"$root/apt/sources.list"
    log=$root/apt/log
    if ! { own_apt "$root" update && own_apt "$root" install --yes --download-only "${PACKAGES[@]}"; } \
        >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        die "cannot download ${PACKAGES[*]} of $release: see apt-get's last lines above"
    fi
    for package in "$root"/apt/cache/archives/*.deb; do
        dpkg-deb --extract "$package" "$root/root"
    done
}

# link ROOT: copies the programs to ROOT/bin, each bound to the unpacked libraries. A wrapper that calls the loader would
# not do: HAProxy's master executes itself again on a reload.
link() {
    local root=$1 program file loader interpreter libraries
    libraries=$(find "$root/root" -name '*.so*' -printf '%h\n' | grep -E '/lib/[^/]+$' | sort -u | paste -s -d :)
    mkdir -p "$root/bin.new"
    for program in "${PROGRAMS[@]}"; do
        file=$(find "$root/root" -path "*bin/$program" -type f | head -n 1)
        [ -n "$file" ] || die "$program is in none of the packages ${PACKAGES[*]}"
        cp "$file" "$root/bin.new/$program"
        # Statically linked programs have no interpreter.
        loader=$(patchelf --print-interpreter "$file" 2>/dev/null) || continue
        interpreter=$(find "$root/root" -name "${loader##*/}" | head -n 1)
        [ -n "$interpreter" ] || die "$program needs $loader, which no package contains"
        patchelf --set-interpreter "$interpreter" --force-rpath --set-rpath "$libraries" "$root/bin.new/$program"
    done
    rm -rf "${root:?}/bin"
    mv "$root/bin.new" "$root/bin"
}

# prepare RELEASE ROOT: makes the set unless it is complete. Several may call it at a time.
prepare() {
    local release=$1 root=$2
    mkdir -p "$root"
    exec 9>"$root/lock"
    flock 9
    # The programs name their libraries by absolute paths, so a tree that was moved is made again.
    if [ "$(cat "$root/made" 2>/dev/null)" != "$root" ]; then
        say "unpacking ${PACKAGES[*]} of Debian's release $release in $root"
        install_missing patchelf
        rm -rf "${root:?}"/{apt,bin,bin.new,made,root}
        unpack "$release" "$root"
        link "$root"
        # Only the libraries are needed from now on, and the lists are large.
        rm -rf "$root/apt" "$root"/root/{etc,usr/bin,usr/sbin,usr/share,var}
        PATH=$root/bin:$PATH server_versions >/dev/null || die "the unpacked programs in $root/bin do not run"
        printf '%s' "$root" >"$root/made"
    fi
    exec 9>&-
}

main() {
    local own release=$NEWER root
    own=$(machine_release)
    case ${1:-} in
        -h | --help) usage && exit 0 ;;
        newer) shift ;;
        older) release=$OLDER && shift ;;
        other)
            [ "$own" != "$NEWER" ] || release=$OLDER
            shift
            ;;
    esac
    have apt-get || die "this works on Debian only; put other versions into PATH by hand"
    if [ "$own" = "$release" ]; then
        say "this machine runs Debian's release $release: its own programs are used"
        ensure_servers
        [ $# -gt 0 ] || exit 0
        exec "$@"
    fi
    root=${CARGO_TARGET_DIR:-$HERE/target}
    mkdir -p "$root"
    root=$(cd "$root" && pwd)/versions/$release
    prepare "$release" "$root"
    export PATH="$root/bin:$PATH"
    say "programs of Debian's release $release are first in PATH"
    detail "$(server_versions)"
    if [ $# -eq 0 ]; then
        printf '%s\n' "$root/bin"
        exit 0
    fi
    exec "$@"
}

main "$@"

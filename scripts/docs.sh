#!/usr/bin/env bash
# Builds the documents into a site with search. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

# The newest that Rust 1.85 can build, and the version of mdbook-mermaid for it.
MDBOOK=0.4.52
MERMAID=0.15.0

SITE=target/docs

usage() {
    cat <<END
Usage: scripts/docs.sh [build|serve]

Builds README.md, CHANGELOG.md, SECURITY.md and docs/ into a site with search. docs/SUMMARY.md is its table of contents.

  build   write the site to $SITE/book (the default)
  serve   build it, serve it at http://127.0.0.1:3000, and build it again when a page changes

Installs mdbook $MDBOOK and mdbook-mermaid $MERMAID by cargo where they are missing (some minutes, once).
END
}

ensure_mdbook() {
    PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    [ "$(mdbook --version 2>/dev/null)" = "mdbook v$MDBOOK" ] || cargo_install mdbook "$MDBOOK"
    [ "$(mdbook-mermaid --version 2>/dev/null)" = "mdbook-mermaid $MERMAID" ] || cargo_install mdbook-mermaid "$MERMAID"
}

cargo_install() {
    ensure_rust
    detail "installing $1 $2 with cargo (some minutes, once)"
    # Both need the same crates, so they are built in one place.
    CARGO_TARGET_DIR=target/docs-tools cargo install "$1" --version "$2" --locked --debug --quiet
}

# collect: the pages as they are in the tree, and beside them the files that they link to, so that
# relative links hold.
collect() {
    local page target path
    mkdir -p "$SITE/src"
    cp -p README.md CHANGELOG.md SECURITY.md "$SITE/src"
    cp -pR docs "$SITE/src"
    rm "$SITE/src/docs/SUMMARY.md" "$SITE/src/docs/book.toml"
    # Its links are relative to docs/, those of the site's to the root.
    sed -E 's#\]\(([^.)])#](docs/\1#; s#\]\(\.\./#](#' docs/SUMMARY.md >"$SITE/src/SUMMARY.md"
    cp docs/book.toml "$SITE/book.toml"
    for page in README.md CHANGELOG.md SECURITY.md $(find docs -name '*.md'); do
        while read -r target; do
            path=$(realpath --canonicalize-missing --relative-to=. "$(dirname "$page")/$target")
            case $path in
                docs/* | *.md | ../*) ;;
                *) add "$path" ;;
            esac
        done < <(grep -oE '\]\([^)# ]+' "$page" | cut -c 3- | grep -v ://)
    done
}

# add PATH: a file or directory that a page links to. A directory gets a page that lists what is in
# it.
add() {
    local file
    [ -e "$1" ] && ! [ -e "$SITE/src/$1" ] || return 0
    mkdir -p "$(dirname "$SITE/src/$1")"
    cp -pR "$1" "$SITE/src/$1"
    [ -d "$1" ] || return 0
    {
        printf '<!DOCTYPE html><meta charset="utf-8"><title>%s</title><h1>%s</h1><ul>\n' "$1" "$1"
        (cd "$1" && find . -type f -not -name index.html | sort) | while read -r file; do
            printf '<li><a href="%s">%s</a></li>\n' "$file" "${file#./}"
        done
        printf '</ul>\n'
    } >"$SITE/src/$1/index.html"
}

build() {
    rm -rf "$SITE/src"
    collect
    # Its two scripts come to lie beside book.toml, which names them.
    local output
    output=$(mdbook-mermaid install "$SITE" 2>&1) || die "mdbook-mermaid cannot prepare $SITE: $output"
    mdbook build "$SITE"
}

serve() {
    local watching
    build
    # mdbook looks at the collected pages, so they are collected again when one has changed.
    while sleep 1; do
        if [ -n "$(find README.md CHANGELOG.md SECURITY.md docs -newer "$SITE/src/SUMMARY.md" -print -quit)" ]; then
            collect
        fi
    done &
    watching=$!
    # shellcheck disable=SC2064 # the process of now
    trap "kill $watching" EXIT
    mdbook serve "$SITE" --hostname 127.0.0.1 --port 3000
}

main() {
    case ${1:-build} in
        -h | --help) usage ;;
        build | serve)
            ensure_mdbook
            "${1:-build}"
            ;;
        *) usage_error "there is no command $1" ;;
    esac
}

main "$@"

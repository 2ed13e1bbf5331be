#!/usr/bin/env bash
# Counts what shows whether the code stays small and says each idea once. See --help.
set -euo pipefail

usage() {
    cat <<'END'
Usage: scripts/counts.sh [DIRECTORY]

Prints the counts of the checkout in DIRECTORY, by default the one that this script is in. Product
code is what crates/*/src holds without the crates of tests and measures (e2e, bench), files named
tests.rs or below tests/, and items after `#[cfg(test)]`.

  lines         product lines of each crate, and those that are neither blank nor a comment
  decoders      modules that parse a key or a value of etcd: they call `keyspace.parse`,
                `keyspace.kind`, `records::parse`, `records::parse_*`, `records::draining` or
                `records::amended`; core::keys and core::records themselves are left out
  pub mod       public modules in the lib.rs of binaries (crates other than core, daemon and state)
  homonyms      names of structs, enums, traits and type aliases, none of them private, that
                several modules define
  flags         arguments of clap with a `long` name
  short docs    documentation comments of at most four words
  long modules  files of more than 600 lines, tests included
  no head       files without a `//!` comment at their beginning, tests included
END
}

case ${1:-} in
    -h | --help) usage && exit 0 ;;
esac
cd "${1:-"$(dirname "${BASH_SOURCE[0]}")/.."}"
[ -d crates ] || { echo "error: $PWD has no crates/" >&2 && exit 2; }

PLAIN=$(mktemp -d)
trap 'rm -rf "$PLAIN"' EXIT

sources() { find crates demo/services -name '*.rs' -not -path '*/target/*' | LC_ALL=C sort; }

product() {
    sources | grep -E '^crates/[^/]+/src/' | grep -vE '^crates/(e2e|bench)/|/tests\.rs$|/tests/'
}

# without_tests FILE: the file without the items after #[cfg(test)].
without_tests() {
    awk '
        function indent(line) { match(line, /^ */); return RLENGTH }
        # An item ends with its brace, or in its line.
        depth != "" { if (indent($0) == depth && $0 ~ /^ *\}/) depth = ""; next }
        waits { if ($0 ~ /^ *#\[/) next
                waits = 0
                if ($0 !~ /[;}]$/) depth = indent($0)
                next }
        /^ *#\[cfg\(test\)\]$/ { waits = 1; next }
        { print }' "$1"
}

while read -r file; do
    mkdir -p "$PLAIN/$(dirname "$file")"
    without_tests "$file" >"$PLAIN/$file"
done < <(product)

ROOT=$PWD
cd "$PLAIN"

echo 'lines (product)                all    code'
# print_lines NAME FOLDER
print_lines() {
    local all code
    all=$(find "$2" -name '*.rs' -exec cat {} + | wc -l)
    code=$(find "$2" -name '*.rs' -exec cat {} + | grep -cvE '^ *(//.*)?$' || true)
    printf '  %-24s %7d %7d\n' "$1" "$all" "$code"
}
for crate in crates/*/; do
    print_lines "$(basename "$crate")" "$crate"
done
print_lines total crates

# each_name: the names of types that are not private, with the module that defines each.
each_name() {
    grep -rnoE --include='*.rs' '^ *pub(\([^)]*\))? (struct|enum|trait|type) [A-Za-z0-9_]+' crates |
        awk -F: '{ count = split($3, word, " "); print word[count], $1 }' | LC_ALL=C sort -u
}

# An attribute of clap can go over several lines.
flags() {
    find crates -name '*.rs' -exec cat {} + | awk '
        /#\[arg\(/ { text = ""; inside = 1 }
        inside { text = text $0 }
        inside && /\)\]/ { if (text ~ /[( ,]long/) count++; inside = 0 }
        END { print count + 0 }'
}

# Adjacent lines are one comment; `///` of a code block and the like count as words.
short_docs() {
    find crates -name '*.rs' -exec awk '
        function done() { if (words && words <= 4) print FILENAME; words = 0 }
        FNR == 1 { done() }
        /^ *\/\/\/ / { words += NF - 1; next }
        /^ *\/\/\/$/ { next }
        { done() }
        END { done() }' {} + | wc -l
}

PARSERS='keyspace(\(\))?\.(parse|kind)\('
PARSERS+='|records::(parse(_[a-z]+)?|draining|amended)(::<[^>]*>)?\('
OWN='^crates/core/src/(keys|records)(\.rs|/)'
decoders=$(grep -rlE --include='*.rs' "$PARSERS" crates | grep -cvE "$OWN" || true)
calls=$(grep -rE --include='*.rs' "$PARSERS" crates | grep -cvE "$OWN" || true)
public=$(find crates -path '*/src/lib.rs' | grep -vE '^crates/(core|daemon|state)/' |
    xargs -r grep -hE '^pub mod ' | wc -l || true)
homonyms=$(each_name | awk '{ count[$1]++; where[$1] = where[$1] " " $2 }
    END { for (name in count) if (count[name] > 1) print count[name], name }' | sort -k1,1nr -k2)

cd "$ROOT"
long=$(sources | xargs wc -l | awk '$1 > 600 && $2 != "total"' | wc -l)
headless=$(sources | xargs awk 'FNR == 1 && !/^\/\/!/ { count++ } END { print count + 0 }')
cd "$PLAIN"

echo
printf '  %-24s %7d\n' \
    'modules (product)' "$(find crates -name '*.rs' | wc -l)" \
    'decoders: modules' "$decoders" \
    'decoders: calls' "$calls" \
    'pub mod in binaries' "$public" \
    'homonyms: names' "$(grep -c . <<<"$homonyms" || true)" \
    'homonyms: types' "$(awk '{ sum += $1 } END { print sum + 0 }' <<<"$homonyms")" \
    'flags' "$(flags)" \
    'short docs' "$(short_docs)" \
    'long modules' "$long" \
    'no head' "$headless"
awk '{ text = text sprintf(" %s (%d)", $2, $1) } END { if (NR) print "\nhomonyms:" text }' \
    <<<"$homonyms" | fold -s -w 100

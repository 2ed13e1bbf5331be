# shellcheck shell=bash disable=SC2034 # some names are for the hooks that source this
# What the two hooks of a repository of environment files share. Sourced, never run; git has set
# GIT_DIR and, in pre-receive, where the objects are that are not accepted yet. The settings are
# those of init-environments-repo.sh.

# Names are judged as UTF-8, whatever the account's locale is.
export LC_ALL=C.UTF-8
# A pushed refs/replace/* would show the check another object than everybody else sees.
export GIT_NO_REPLACE_OBJECTS=1

# The limits of a push: branches and tags, entries at the top of a tree and in its services, bytes
# of the files of a tree, and bytes of a file (the registrar's own limit). Then those of what stays:
# branches and tags, and KiB of all objects.
MAX_REFS=20
MAX_FILES=2000
MAX_BYTES=$((64 << 20))
MAX_FILE=$((1 << 20))
MAX_KEPT=100
MAX_REPOSITORY=$((1 << 20))

BRANCH=$(git config --get mayfly.branch || echo main)
DIRECTORY=$(git config --get mayfly.environments || true)
SERVICES=$(git config --get mayfly.services || true)
REPOSITORY=$(git rev-parse --absolute-git-dir)
# What was put into the directories by a push: a line for each file, the object that it was, a tab
# and its name in the tree. The object is `-` while the file is on its way.
MANIFEST=$REPOSITORY/mayfly-deployed

# tell TEXT...: a line for the person who pushes; git shows it with `remote: ` in front.
tell() { printf 'mayfly: %s\n' "$*" >&2; }

# is_missing OBJECT: whether it is the name of no object, as git says for what was or will be not
# there.
is_missing() { [[ $1 != *[!0]* ]]; }

# is_yaml_file NAME: as the registrar takes it.
is_yaml_file() { [[ $1 == ?*.yaml || $1 == ?*.yml ]] && [[ $1 != [.#]* ]]; }

# is_like_yaml NAME: whether a person may take it for one of the files.
is_like_yaml() {
    local name=${1,,}
    # An editor may add .txt and hide it.
    is_yaml_file "${name%.txt}"
}

# is_plain NAME: whether it is the name of a file in a directory that can be written and shown: a
# tree may hold any bytes but NUL. Marks of direction would show another name.
DIRECTIONS=$'\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff'
is_plain() {
    [[ $1 != */* && $1 != . && $1 != .. && $1 != *["$DIRECTIONS"]* && $1 != *[[:cntrl:]]* ]] &&
        # A dot matches no byte that is not part of UTF-8.
        [[ $1 =~ ^.+$ ]] && has_length_of_name "$1"
}

# has_length_of_name NAME: whether a file system takes a name of so many bytes.
has_length_of_name() {
    local LC_ALL=C
    [ ${#1} -le 255 ]
}

# quoted NAME: prints a name that may hold anything.
quoted() (
    LC_ALL=C
    printf '%q' "${1:0:100}"
)

# is_definition NAME: whether a file of the tree is one of service definitions rather than of
# environments.
is_definition() { [[ $1 == services/* ]]; }

# place NAME: sets PLACE to where a file of the tree goes.
place() {
    if is_definition "$1"; then
        PLACE=$SERVICES/${1#services/}
    else
        PLACE=$DIRECTORY/$1
    fi
}

# read_tree COMMIT: sets OBJECTS to the files at the top of the tree and in its folder services, by
# name, STRANGE to why some can't be deployed, a line each, and REFUSED to why the tree is neither
# written nor taken at all; UNTAKEN to what only looks like a file, and FOLDERS to the objects of
# other folders, by name. It looks at names and sizes only. Fails if there is no such tree.
declare -A OBJECTS DEPLOYED FOREIGN FOLDERS
STRANGE=() REFUSED=() UNTAKEN=()
read_tree() {
    local tree services='' entries=0 bytes=0
    OBJECTS=() STRANGE=() REFUSED=() UNTAKEN=() FOLDERS=()
    # A commit's tree: anything else, such as a tag of a blob, has none.
    tree=$(git rev-parse --quiet --verify "$1^{tree}") || return 1
    read_entries "$tree" '' || return 1
    # By its object, so that no name at the top can pass for a file in it.
    [ -z "$services" ] || read_entries "$services" services/ || return 1
    if [ "$bytes" -gt "$MAX_BYTES" ]; then
        REFUSED+=("the files have $bytes bytes together, at most $MAX_BYTES are accepted: push less")
    fi
}

# read_entries TREE PREFIX: one directory of read_tree, whose variables it changes.
read_entries() {
    local record='' rest entry name mode type object size
    while IFS= read -r -d '' record && [ "$record" != end ]; do
        entry=${record#*$'\t'} rest=${record%%$'\t'*}
        mode=${rest%% *} rest=${rest#* }
        type=${rest%% *} rest=${rest#* }
        object=${rest%% *} size=${rest##* }
        name=$2$entry
        entries=$((entries + 1))
        if [ "$entries" -gt "$MAX_FILES" ]; then
            rest="push fewer, or put several environments into one file"
            REFUSED+=("there are more than $MAX_FILES files at the top and in services: $rest")
            return 0
        elif ! is_plain "$entry"; then
            rest="characters, bytes that are not UTF-8, or more than 255 bytes: rename the file"
            REFUSED+=("$(quoted "$name"): a name with slashes, control or direction $rest")
        elif [ "$name" = services ] && [ "$type" = tree ]; then
            [ -z "$services" ] ||
                REFUSED+=("$name: the tree has two entries of this name: commit it again")
            services=$object
        elif ! is_yaml_file "$entry" || [ "$type" = tree ]; then
            if [ "$type" = tree ]; then
                [[ $entry == [.#]* ]] || FOLDERS[$name]=$object
            elif is_like_yaml "$entry"; then
                UNTAKEN+=("$name")
            fi
        elif [ -n "${OBJECTS[$name]:-}" ]; then
            REFUSED+=("$name: the tree has two entries of this name: commit it again")
        elif [ "$type" != blob ] || [[ $mode != 100* ]]; then
            STRANGE+=("$name: a link is not accepted: push the file itself")
        elif [ "$size" -gt "$MAX_FILE" ]; then
            STRANGE+=("$name: the file has $size bytes, at most $MAX_FILE are accepted: split it")
        else
            OBJECTS[$name]=$object
            bytes=$((bytes + size))
        fi
    done < <(git ls-tree -z -l --full-tree "$1" && printf 'end\0')
    # Half a tree would look as if the other half had been deleted.
    [ "$record" = end ] && return 0
    tell "git cannot read the whole tree $1"
    return 1
}

# write_out DIRECTORY NAME...: writes these of OBJECTS into an empty directory, by their names;
# those of definitions without services/ if STRIP is yes. One process writes them all. Its index
# holds nothing else, so no pushed .gitattributes has a say, and git itself refuses names that leave
# the directory.
write_out() {
    local directory=$1 name shown
    shift
    for name; do
        shown=$name
        [ "${STRIP:-no}" = no ] || shown=${name#services/}
        printf '100644 %s\t%s\0' "${OBJECTS[$name]}" "$shown"
    done | GIT_DIR=$REPOSITORY GIT_INDEX_FILE=$directory/.index git update-index -z --index-info &&
        GIT_DIR=$REPOSITORY GIT_INDEX_FILE=$directory/.index GIT_WORK_TREE=$directory \
            GIT_ATTR_NOSYSTEM=1 git -c core.attributesFile=/dev/null -c core.autocrlf=false \
            checkout-index --all &&
        rm -f -- "$directory/.index"
}

# read_manifest: sets DEPLOYED to the objects that were put into the directories, by name. A name
# that leaves them can only be from hooks that let it pass: what is there is not touched.
read_manifest() {
    local object name
    DEPLOYED=()
    [ -e "$MANIFEST" ] || return 0
    while IFS=$'\t' read -r object name; do
        [ -n "$name" ] || continue
        if is_plain "${name#services/}"; then
            DEPLOYED[$name]=$object
        else
            tell "note: $MANIFEST has the name $(quoted "$name")," \
                "which no file of the directories can have: inspect that file"
        fi
    done <"$MANIFEST"
}

# find_foreign: sets FOREIGN to the names in OBJECTS in whose place there is a file that no push has
# put there, and that is another than the object.
find_foreign() {
    local name index PLACE names=() paths=() objects=()
    FOREIGN=()
    for name in "${!OBJECTS[@]}"; do
        [ -z "${DEPLOYED[$name]:-}" ] || continue
        place "$name"
        if [ -f "$PLACE" ] && [ -r "$PLACE" ]; then
            names+=("$name") paths+=("$PLACE")
        elif [ -e "$PLACE" ] || [ -L "$PLACE" ]; then
            FOREIGN[$name]=yes
        fi
    done
    [ ${#names[@]} -gt 0 ] || return 0
    mapfile -t objects < <(printf '%s\n' "${paths[@]}" | git hash-object --no-filters --stdin-paths)
    for index in "${!names[@]}"; do
        name=${names[index]}
        [ "${objects[index]:-}" = "${OBJECTS[$name]}" ] || FOREIGN[$name]=yes
    done
}

# check_directory DIRECTORY: whether files can be put into a directory; else tells why not.
check_directory() {
    if [ -z "$1" ]; then
        tell "this repository does not know where its files go: run init-environments-repo.sh again"
    elif [ ! -d "$1" ]; then
        tell "there is no directory $1 on this server: create it, writable by $(id -un)"
    elif [ ! -w "$1" ] || [ ! -x "$1" ]; then
        tell "$(id -un) may not write into $1: it belongs to $(stat -c '%U, mode %a' -- "$1")"
    else
        return 0
    fi
    return 1
}

# check_directories: the same for all that OBJECTS and DEPLOYED need.
check_directories() {
    check_directory "$DIRECTORY" || return 1
    local name
    for name in "${!OBJECTS[@]}" "${!DEPLOYED[@]}"; do
        if is_definition "$name"; then
            check_directory "$SERVICES"
            return
        fi
    done
}

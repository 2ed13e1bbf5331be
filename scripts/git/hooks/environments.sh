# shellcheck shell=bash disable=SC2034 # some names are for the hooks that source this
# What the two hooks of a repository of environment files share. Sourced, never run; git has set GIT_DIR and, in
# pre-receive, where the objects are that are not accepted yet. The settings are those of init-environments-repo.sh.

BRANCH=$(git config --get mayfly.branch || echo main)
DIRECTORY=$(git config --get mayfly.environments || true)
SERVICES=$(git config --get mayfly.services || true)
# What was put into the directories by a push: a line for each file, the object that it was, a tab and its name in the
# tree. The object is `-` while the file is on its way.
MANIFEST=$(git rev-parse --absolute-git-dir)/mayfly-deployed

# tell TEXT...: a line for the person who pushes; git shows it with `remote: ` in front.
tell() { printf 'mayfly: %s\n' "$*" >&2; }

# is_missing OBJECT: whether it is the name of no object, as git says for what was or will be not there.
is_missing() { [[ $1 != *[!0]* ]]; }

# is_yaml_file NAME: as the registrar takes it.
is_yaml_file() { [[ $1 == ?*.yaml || $1 == ?*.yml ]] && [[ $1 != [.#]* ]]; }

# is_definition NAME: whether a file of the tree is one of service definitions rather than of environments.
is_definition() { [[ $1 == services/* ]]; }

# place NAME: sets PLACE to where a file of the tree goes.
place() {
    if is_definition "$1"; then
        PLACE=$SERVICES/${1#services/}
    else
        PLACE=$DIRECTORY/$1
    fi
}

# read_tree COMMIT: sets OBJECTS to the files at the top of the tree and in its folder services, by name, and STRANGE to
# those that can't be taken, a line of reason each.
declare -A OBJECTS DEPLOYED
STRANGE=()
read_tree() {
    local record mode type object name
    OBJECTS=() STRANGE=()
    # A commit's tree: anything else, such as a tag of a blob, has none.
    git rev-parse --quiet --verify "$1^{tree}" >/dev/null || return 1
    while IFS= read -r -d '' record; do
        name=${record#*$'\t'}
        read -r mode type object <<<"${record%%$'\t'*}"
        is_yaml_file "${name#services/}" || continue
        if [[ $name == *[[:cntrl:]]* ]]; then
            STRANGE+=("$(printf '%q' "$name"): the name holds control characters: rename the file")
        elif [ "$type" = tree ]; then
            continue
        elif [ "$type" != blob ] || [ "$mode" = 120000 ]; then
            STRANGE+=("$name: a link is not taken: put the file itself there")
        else
            OBJECTS[$name]=$object
        fi
    done < <(git ls-tree -z --full-tree "$1" && git ls-tree -z --full-tree "$1" services/)
    # Half a tree would look as if the other half had been deleted.
    wait $!
}

# read_manifest: sets DEPLOYED to the objects that were put into the directories, by name.
read_manifest() {
    local object name
    DEPLOYED=()
    [ -e "$MANIFEST" ] || return 0
    while IFS=$'\t' read -r object name; do
        [ -z "$name" ] || DEPLOYED[$name]=$object
    done <"$MANIFEST"
}

# is_foreign NAME OBJECT: whether there is a file in its place that no push has put there, and that is another than the
# object.
is_foreign() {
    [ -z "${DEPLOYED[$1]:-}" ] || return 1
    local PLACE
    place "$1"
    [ -e "$PLACE" ] || [ -L "$PLACE" ] || return 1
    ! git cat-file blob "$2" | cmp --silent - "$PLACE"
}

# check_directory DIRECTORY: whether files can be put into a directory; else tells why not.
check_directory() {
    if [ -z "$1" ]; then
        tell "this repository does not know where its files go: run init-environments-repo.sh again"
    elif [ ! -d "$1" ]; then
        tell "there is no directory $1 on this server: make it, for $(id -un) to write into"
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

# shellcheck shell=bash disable=SC2034 # some names are for the hooks that source this
# What the two hooks of a repository of environment files share. Sourced, never run; git has set GIT_DIR and, in
# pre-receive, where the objects are that are not accepted yet. The settings are those of init-environments-repo.sh.

BRANCH=$(git config --get mayfly.branch || echo main)
DIRECTORY=$(git config --get mayfly.environments || true)
# What was put into the directory by a push: a line for each file, the object that it was, a tab and its name. The object
# is `-` while the file is on its way.
MANIFEST=$(git rev-parse --absolute-git-dir)/mayfly-deployed

# tell TEXT...: a line for the person who pushes; git shows it with `remote: ` in front.
tell() { printf 'mayfly: %s\n' "$*" >&2; }

# is_missing OBJECT: whether it is the name of no object, as git says for what was or will be not there.
is_missing() { [[ $1 != *[!0]* ]]; }

# is_environment_file NAME: as the registrar takes it.
is_environment_file() { [[ $1 == ?*.yaml || $1 == ?*.yml ]] && [[ $1 != [.#]* ]]; }

# read_tree COMMIT: sets OBJECTS to the environment files at the top of the tree, by name, and STRANGE to those that
# can't be taken, a line of reason each.
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
        is_environment_file "$name" || continue
        if [[ $name == *[[:cntrl:]]* ]]; then
            STRANGE+=("$(printf '%q' "$name"): the name holds control characters: rename the file")
        elif [ "$type" = tree ]; then
            continue
        elif [ "$type" != blob ] || [ "$mode" = 120000 ]; then
            STRANGE+=("$name: a link is not taken: put the file itself there")
        else
            OBJECTS[$name]=$object
        fi
    done < <(git ls-tree -z --full-tree "$1")
    # Half a tree would look as if the other half had been deleted.
    wait $!
}

# read_manifest: sets DEPLOYED to the objects that were put into the directory, by name.
read_manifest() {
    local object name
    DEPLOYED=()
    [ -e "$MANIFEST" ] || return 0
    while IFS=$'\t' read -r object name; do
        [ -z "$name" ] || DEPLOYED[$name]=$object
    done <"$MANIFEST"
}

# is_foreign NAME OBJECT: whether a file of that name is in the directory that no push has put there, and that is
# another than the object.
is_foreign() {
    [ -z "${DEPLOYED[$1]:-}" ] || return 1
    [ -e "$DIRECTORY/$1" ] || [ -L "$DIRECTORY/$1" ] || return 1
    ! git cat-file blob "$2" | cmp --silent - "$DIRECTORY/$1"
}

# check_directory: whether files can be put into the directory; else tells why not.
check_directory() {
    if [ -z "$DIRECTORY" ]; then
        tell "this repository does not know where its files go: run init-environments-repo.sh again"
    elif [ ! -d "$DIRECTORY" ]; then
        tell "there is no directory $DIRECTORY on this server: make it, for $(id -un) to write into"
    elif [ ! -w "$DIRECTORY" ] || [ ! -x "$DIRECTORY" ]; then
        tell "$(id -un) may not write into $DIRECTORY: it belongs to $(stat -c '%U, mode %a' -- "$DIRECTORY")"
    else
        return 0
    fi
    return 1
}

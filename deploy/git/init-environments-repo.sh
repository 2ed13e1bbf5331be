#!/usr/bin/env bash
# Makes a bare git repository whose branch main is what the environment registrar watches. See
# --help.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../../scripts/lib.sh
. "$HERE/../../scripts/lib.sh"

usage() {
    cat <<TEXT
usage: deploy/git/init-environments-repo.sh [--branch NAME] [--lint MAYFLY] REPOSITORY
                                            [DIRECTORY [SERVICES]]

Makes the bare git repository REPOSITORY. A push to its branch main puts the environment files
into DIRECTORY, which an environment-registrar watches, and the service definitions of its folder
services into SERVICES (default: services beside DIRECTORY):

  pre-receive    refuses a push to main with a bad file. File, line and reason appear in the
                 pusher's terminal. Files are also compared with each other and with those of the
                 directories: a name, prefix, header or service that two files claim is refused.
                 So is a push that deletes a protected environment, or one that others extend
                 (git push -o force deletes it). Other branches are checked too, but not refused.
  post-receive   puts the files of main into the directories, each as a whole, and deletes those
                 that main no longer has.

In an existing repository it renews the hooks and the settings. DIRECTORY, SERVICES, --branch and
--lint then keep their values unless they are given. Run it after each upgrade of Mayfly: the hooks
tell the pusher when they are older than these scripts.

A push may change 20 branches and tags. A tree may have 2,000 files at its top and in services, of
64 MiB together and 1 MiB each. A larger push is refused on every branch. git accepts 64 MiB at once
(git config receive.maxInputSize in REPOSITORY). REPOSITORY keeps 100 branches and tags, and accepts
no push once its objects have 1 GiB.

git unpacks a push before any hook runs, and 1 MB of it can be 1 GiB unpacked. So let pushes by ssh
arrive through REPOSITORY/hooks/limited.sh, which gives each process of git 20 s of CPU and 1 GiB of
memory, and allows nothing but git. In sshd_config, for the account that receives pushes:

  Match User git
      ForceCommand /srv/git/environments.git/hooks/limited.sh

Only *.yaml and *.yml at the top of the tree and in the folder services count. The hook tells the
pusher about other folders with such files, and about names such as UPPER.YAML. The hooks keep
files in the directories that no push put there. They also keep what the registrar writes or
archives there, until the file changes in git. The next push completes an interrupted deployment;
or at once: REPOSITORY/hooks/post-receive --all

  --branch NAME   the branch that is deployed (default: main)
  --lint MAYFLY   the program mayfly (default: MAYFLY_LINT, else the one in PATH)
  --help          this text

The account that pushes needs the right to write into the directories. With one account for git and
for the files, as here, nobody needs root.

Example:
  deploy/git/init-environments-repo.sh /srv/git/environments.git /etc/mayfly/environments
  git clone git@host:/srv/git/environments.git && cd environments
  git add temp-1.yaml && git commit -m 'temp-1' && git push origin HEAD:main
TEXT
}

# setting NAME: what the repository was set up with, if it is there.
setting() { git --git-dir="$repository" config --get "mayfly.$1" 2>/dev/null || true; }

# for_account: why a directory can't be used.
for_account() {
    printf 'cannot be written by %s: run this as the account that receives pushes' "$(id -un)"
}

main() {
    local branch='' lint=${MAYFLY_LINT:-} arguments=()
    while [ $# -gt 0 ]; do
        case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --branch | --lint)
            [ $# -gt 1 ] || usage_error "$1 needs a value"
            if [ "$1" = --branch ]; then branch=$2; else lint=$2; fi
            shift
            ;;
        --branch=*) branch=${1#*=} ;;
        --lint=*) lint=${1#*=} ;;
        -*) usage_error "unknown argument '$1'" ;;
        *) arguments+=("$1") ;;
        esac
        shift
    done
    case ${#arguments[@]} in
    1 | 2 | 3) ;;
    *) usage_error "give a repository, a directory, and perhaps one for service definitions" ;;
    esac
    local repository=${arguments[0]} directory=${arguments[1]:-} services=${arguments[2]:-} hook
    have git || die "git is needed: install it (Debian: apt-get install git)"
    have flock || die "flock is needed: install it (Debian: apt-get install util-linux)"

    # What is not given stays as it was.
    [ -n "$directory" ] || directory=$(setting environments)
    [ -n "$directory" ] ||
        usage_error "'$repository' has not been set up yet: give the directory of environments, too"
    [ -n "$branch" ] || branch=$(setting branch)
    [ -n "$branch" ] || branch=main
    git check-ref-format "refs/heads/$branch" || usage_error "'$branch' is no name of a branch"

    [ -n "$lint" ] || lint=$(command -v -- "$(setting lint)") || lint=$(command -v mayfly) ||
        die "the program mayfly is needed to check pushes: name it with --lint, or put it into PATH"
    lint=$(command -v "$lint") || die "the program of --lint or MAYFLY_LINT cannot be run"
    lint=$(realpath "$lint")

    mkdir -p -- "$directory" || die "cannot make the directory '$directory'"
    directory=$(cd -- "$directory" && pwd)
    [ -w "$directory" ] || die "'$directory' $(for_account)"
    if [ -n "$services" ]; then
        mkdir -p -- "$services" || die "cannot make the directory '$services'"
        services=$(cd -- "$services" && pwd)
        [ -w "$services" ] || die "'$services' $(for_account)"
    else
        # Nobody has to have definitions: who pushes one where this fails is told so then.
        services=$(setting services)
        [ -n "$services" ] || services=${directory%/*}/services
        mkdir -- "$services" 2>/dev/null || true
    fi
    [ "$services" != "$directory" ] ||
        die "'$services' is for the environments: name another directory for service definitions"

    # An existing repository keeps everything but the hooks and the settings here.
    git init --quiet --bare --initial-branch="$branch" -- "$repository" ||
        die "cannot make the repository '$repository'"
    repository=$(cd -- "$repository" && pwd)
    for hook in pre-receive post-receive environments.sh limited.sh; do
        install -m 755 "$HERE/hooks/$hook" "$repository/hooks/$hook"
    done
    git -C "$repository" config mayfly.environments "$directory"
    git -C "$repository" config mayfly.services "$services"
    git -C "$repository" config mayfly.branch "$branch"
    git -C "$repository" config mayfly.lint "$lint"
    # With which the hooks compare themselves.
    git -C "$repository" config mayfly.scripts "$HERE"
    # git itself looks at what is pushed: names with slashes, two entries of one name.
    git -C "$repository" config receive.fsckObjects true
    # An operator's own limit stays.
    git -C "$repository" config --get receive.maxInputSize >/dev/null ||
        git -C "$repository" config receive.maxInputSize 64m
    # For `git push -o force`.
    git -C "$repository" config receive.advertisePushOptions true
    # The hooks set the same for themselves.
    git -C "$repository" config core.useReplaceRefs false

    say "pushes to '$branch' of $repository go to $directory, service definitions to $services"
    [ -w "$services" ] ||
        detail "service definitions are refused until $(id -un) can write into $services"
    detail "checked by $lint"
    detail "try: git clone '$repository' environments"
}

main "$@"

#!/usr/bin/env bash
# Makes a bare git repository whose branch main is what the environment registrar watches. See --help.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$HERE/../lib.sh"

usage() {
    cat <<TEXT
usage: scripts/git/init-environments-repo.sh [--branch NAME] [--lint MAYFLY] REPOSITORY DIRECTORY [SERVICES]

Makes the bare git repository REPOSITORY, or brings the hooks of one that is there up to date, so that a push to its
branch main puts the environment files into DIRECTORY, which an environment-registrar watches, and the service definitions
of its folder services into SERVICES (default: services beside DIRECTORY):

  pre-receive    refuses a push to main with a bad file: file, line and reason stand in the pusher's terminal, names,
                 prefixes and headers that two files claim, and services that two define, included. Other branches are
                 checked too, but not refused.
  post-receive   puts the files of main into the directories, each as a whole, and deletes those that main no longer has.

Only *.yaml and *.yml at the top of the tree and in the folder services count. Files of the directories that did not come
by a push are left alone, and so is what the registrar writes or archives there, until the file changes in git. An interrupted deployment is
completed by the next push, or at once by: REPOSITORY/hooks/post-receive --all

  --branch NAME   the branch that is deployed (default: main)
  --lint MAYFLY   the program mayfly (default: MAYFLY_LINT, else the one in PATH)
  --help          this text

Who pushes needs the right to write into the directories: with one account for git and for the files, as here, nobody needs
root.

Example:
  scripts/git/init-environments-repo.sh /srv/git/environments.git /etc/mayfly/environments
  git clone git@host:/srv/git/environments.git && cd environments
  git add temp-1.yaml && git commit -m 'temp-1' && git push origin HEAD:main
TEXT
}

main() {
    local branch=main lint=${MAYFLY_LINT:-} arguments=()
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
    [ ${#arguments[@]} -eq 2 ] || [ ${#arguments[@]} -eq 3 ] ||
        usage_error "a repository, a directory and perhaps one for service definitions are wanted"
    local repository=${arguments[0]} directory=${arguments[1]} services=${arguments[2]:-} hook
    have git || die "git is needed: install it (Debian: apt-get install git)"
    have flock || die "flock is needed: install it (Debian: apt-get install util-linux)"
    git check-ref-format "refs/heads/$branch" || usage_error "'$branch' is no name of a branch"

    [ -n "$lint" ] || lint=$(command -v mayfly) ||
        die "the program mayfly is needed to check pushes: name it with --lint, or put it into PATH"
    lint=$(command -v "$lint") || die "the program of --lint or MAYFLY_LINT cannot be run"
    lint=$(realpath "$lint")

    mkdir -p -- "$directory" || die "cannot make the directory '$directory'"
    directory=$(cd -- "$directory" && pwd)
    [ -w "$directory" ] || die "'$directory' cannot be written by $(id -un): run this as the account that receives pushes"
    if [ -n "$services" ]; then
        mkdir -p -- "$services" || die "cannot make the directory '$services'"
        services=$(cd -- "$services" && pwd)
        [ -w "$services" ] || die "'$services' cannot be written by $(id -un): run this as the account that receives pushes"
    else
        # Nobody has to have definitions: who pushes one where this fails is told so then.
        services=${directory%/*}/services
        mkdir -- "$services" 2>/dev/null || true
    fi
    [ "$services" != "$directory" ] || die "'$services' is for the environments: name another directory for service definitions"

    # An existing repository keeps everything but the hooks and the settings here.
    git init --quiet --bare --initial-branch="$branch" -- "$repository" || die "cannot make the repository '$repository'"
    repository=$(cd -- "$repository" && pwd)
    for hook in pre-receive post-receive environments.sh; do
        install -m 755 "$HERE/hooks/$hook" "$repository/hooks/$hook"
    done
    git -C "$repository" config mayfly.environments "$directory"
    git -C "$repository" config mayfly.services "$services"
    git -C "$repository" config mayfly.branch "$branch"
    git -C "$repository" config mayfly.lint "$lint"

    say "pushes to '$branch' of $repository go to $directory, service definitions to $services"
    [ -w "$services" ] || detail "service definitions are refused until there is $services, for $(id -un) to write into"
    detail "checked by $lint"
    detail "try: git clone '$repository' environments"
}

main "$@"

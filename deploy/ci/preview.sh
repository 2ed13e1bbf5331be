#!/bin/sh
# Makes, changes and removes the preview of a pull request. See --help.
set -eu

usage() {
    cat <<'TEXT'
usage: preview.sh up | down

  up      writes the environment of a pull request into the repository of environments, waits until
          the environment answers, and prints the comment for the pull request: the link, or the
          reason of a failure
  down    removes the environment, waits until it has ended, and prints the comment

All settings are environment variables:

  PREVIEW_REPOSITORY       the repository of environments, such as
                           git@mayfly.example.com:/srv/git/environments.git
  PREVIEW_BRANCH           its branch that is deployed (default: main)
  PREVIEW_API              mayfly-web: https://ops.example.com/mayfly
  PREVIEW_API_TOKEN        the token of mayfly-web, if it requires one
  PREVIEW_SSH_KEY          the ssh key for pushes, as text; without it, git uses its own keys
  PREVIEW_KNOWN_HOSTS      lines of known_hosts for the host of the repository; needed with a key
  PREVIEW_NUMBER           the number of the pull request
  PREVIEW_JOB              a number that is greater for each newer job, so that an older job that is
                           late changes nothing; without it, `down` always removes the preview
  PREVIEW_SERVICES         up: the versions, such as "backend=pr-123-4f2a9c1 frontend=1.2.0"
  PREVIEW_EXTENDS          up: the base environment, for all other services (default: qa)
  PREVIEW_NAME             the name of previews without the number (default: pr, as in pr-123)
  PREVIEW_LIFE             up: the preview expires this long after the last push, unless it is
                           removed before: 30min, 8h or 14d (default: 14d)
  PREVIEW_TIMEOUT          up: how many seconds to wait for an answer (default: 300)
  PREVIEW_HEAD_REPOSITORY  up: the repository of the pull request's branch
  PREVIEW_BASE_REPOSITORY  up: the repository that receives the pull request. If the two differ, the
                           pull request comes from a fork, and nothing starts

Exit codes: 0 done, or nothing to do, because a newer job has run or the pull request comes from a
fork (the script then prints no comment); 1 failed, with the reason in the comment; 2 a setting is
wrong. The script logs to standard error.

Example:
  PREVIEW_REPOSITORY=/srv/git/environments.git PREVIEW_API=http://127.0.0.1:8620 \
  PREVIEW_NUMBER=123 PREVIEW_JOB=1 PREVIEW_SERVICES=backend=0.0.2 preview.sh up
TEXT
}

note() { printf 'preview: %s\n' "$*" >&2; }

wrong() {
    note "$*"
    note "preview.sh --help lists all settings"
    exit 2
}

# nothing REASON: ends the job where there is nothing to do, and nothing to say on the pull request.
nothing() {
    note "$*"
    exit 0
}

# heading: the first line of a comment, by which a forge finds the comment again.
heading() { printf '<!-- mayfly preview %s -->\n' "$name"; }

# failed REASON [FILE]: ends the job with a comment. The lines of the file come from elsewhere:
# four blanks make each of them code, from which no Markdown gets out.
failed() {
    note "$1"
    heading
    # shellcheck disable=SC2016 # the backticks are Markdown
    printf 'The preview `%s` failed: %s\n' "$name" "$1"
    if [ -n "${2:-}" ] && [ -s "$2" ]; then
        printf '\n'
        tail -n 30 "$2" | LC_ALL=C tr -d '\000-\010\013-\037\177' | cut -c 1-500 | sed 's/^/    /'
    fi
    exit 1
}

is_number() {
    case $1 in '' | *[!0-9]* | ??????????????????*) return 1 ;; esac
}

is_label() {
    case $1 in '' | -* | *- | *[!a-z0-9-]*) return 1 ;; esac
}

read_settings() {
    repository=${PREVIEW_REPOSITORY:-} branch=${PREVIEW_BRANCH:-main} api=${PREVIEW_API:-}
    number=${PREVIEW_NUMBER:-} job=${PREVIEW_JOB:-} timeout=${PREVIEW_TIMEOUT:-300}
    prefix=${PREVIEW_NAME:-pr} base=${PREVIEW_EXTENDS:-qa} life=${PREVIEW_LIFE:-14d}
    api=${api%/}
    [ -n "$repository" ] || wrong "PREVIEW_REPOSITORY is not set"
    [ -n "$api" ] || wrong "PREVIEW_API is not set"
    is_number "$number" || wrong "PREVIEW_NUMBER is not a number: '$number'"
    is_number "$timeout" || wrong "PREVIEW_TIMEOUT is not a number of seconds: '$timeout'"
    { is_label "$prefix" && [ ${#prefix} -le 40 ]; } ||
        wrong "PREVIEW_NAME is not 40 lower-case letters, digits and hyphens at most: '$prefix'"
    [ -z "${PREVIEW_SSH_KEY:-}" ] || [ -n "${PREVIEW_KNOWN_HOSTS:-}" ] ||
        wrong "PREVIEW_KNOWN_HOSTS is not set: without it any host could take the push"
    name=$prefix-$number
    if [ "$action" = down ]; then
        [ -z "$job" ] || is_number "$job" || wrong "PREVIEW_JOB is not a number: '$job'"
        return 0
    fi
    is_number "$job" || wrong "PREVIEW_JOB is not a number: '$job'"
    is_label "$base" || wrong "PREVIEW_EXTENDS is not the name of an environment: '$base'"
    case $base in
    "$prefix"-*[!0-9]*) ;;
    "$prefix"-*) wrong "PREVIEW_EXTENDS is a preview, which ends with its pull request: '$base'" ;;
    esac
    unit=${life#"${life%%[!0-9]*}"} count=${life%%[!0-9]*}
    case $unit in
    s) unit=1 ;;
    min) unit=60 ;;
    h) unit=3600 ;;
    d) unit=86400 ;;
    *) unit=0 ;;
    esac
    { [ "$unit" -gt 0 ] && is_number "$count" && [ ${#count} -le 6 ] && [ "$count" -gt 0 ]; } ||
        wrong "PREVIEW_LIFE is not a span of time such as 8h or 14d: '$life'"
    life=$((count * unit))
    services=''
    # No name of a file is put in the place of a version.
    set -f
    for service in ${PREVIEW_SERVICES:-}; do
        version=${service#*=} service=${service%%=*}
        is_label "$service" ||
            wrong "PREVIEW_SERVICES has no service before the first = in '$service'"
        case $version in
        '' | "$service" | [.-]* | *[!A-Za-z0-9._-]*)
            wrong "PREVIEW_SERVICES has no version of $service: '$version'"
            ;;
        esac
        services="$services
  - name: $service
    version: \"$version\""
    done
    [ -n "$services" ] || wrong "PREVIEW_SERVICES has no service, such as backend=pr-123-4f2a9c1"
}

# prepare: makes a directory for the job, and tells git how to log in.
prepare() {
    umask 077
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 143' TERM
    trap 'exit 130' INT
    if [ -n "${PREVIEW_SSH_KEY:-}" ]; then
        printf '%s\n' "$PREVIEW_SSH_KEY" >"$work/key"
        printf '%s\n' "$PREVIEW_KNOWN_HOSTS" >"$work/hosts"
        # git gives it to a shell, which reads the quotes.
        # shellcheck disable=SC2089
        GIT_SSH_COMMAND="ssh -i '$work/key' -o IdentitiesOnly=yes -o BatchMode=yes"
        GIT_SSH_COMMAND="$GIT_SSH_COMMAND -o UserKnownHostsFile='$work/hosts'"
        GIT_SSH_COMMAND="$GIT_SSH_COMMAND -o StrictHostKeyChecking=yes"
        # shellcheck disable=SC2090
        export GIT_SSH_COMMAND
    fi
    # The job of a forge is in a repository of its own, which is none of ours.
    unset GIT_INDEX_FILE GIT_WORK_TREE GIT_OBJECT_DIRECTORY
    GIT_DIR=$work/git GIT_TERMINAL_PROMPT=0 LC_ALL=C
    GIT_AUTHOR_NAME=preview GIT_AUTHOR_EMAIL=preview@mayfly.invalid
    GIT_COMMITTER_NAME=preview GIT_COMMITTER_EMAIL=preview@mayfly.invalid
    export GIT_DIR GIT_TERMINAL_PROMPT LC_ALL
    export GIT_AUTHOR_NAME GIT_AUTHOR_EMAIL GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL
    git init --quiet --bare
}

# fetch: sets `tip` to the newest commit, and `last`, `did` and `done_by` to the newest commit of
# this preview, what it did and by which job. That is in its message, and stays when its file is
# gone.
fetch() {
    git fetch --quiet --no-tags "$repository" "+refs/heads/$branch:refs/mayfly/tip" \
        2>"$work/errors" || return 1
    tip=$(git rev-parse refs/mayfly/tip)
    found=$(git log -1 --topo-order --extended-regexp --format='%H %s' \
        --grep="^preview $name (up|down) [0-9]+\$" "$tip") || return 1
    last=${found%% *} did='' done_by=0
    case $found in
    *" preview $name up "*) did=up done_by=${found##* } ;;
    *" preview $name down "*) did=down done_by=${found##* } ;;
    esac
    is_number "$done_by" || done_by=0
}

# has_file: whether the newest commit has the file of the preview.
has_file() { git cat-file -e "$tip:$name.yaml" 2>/dev/null; }

# commit: sets `ours` to a commit on the newest one that has or lacks the file. There is no work
# tree, so nothing of the repository is written anywhere.
commit() {
    export GIT_INDEX_FILE="$work/index"
    rm -f "$work/index"
    git read-tree "$tip" || return 1
    if [ "$action" = up ]; then
        blob=$(git hash-object -w --stdin <"$work/file") || return 1
        git update-index --add --cacheinfo "100644,$blob,$name.yaml" || return 1
    else
        # Mode 0 removes the entry; any object will do.
        printf '0 %s\t%s\n' "$tip" "$name.yaml" | git update-index --index-info || return 1
    fi
    tree=$(git write-tree) || return 1
    ours=$(git commit-tree "$tree" -p "$tip" -m "preview $name $action $job") || return 1
}

# is_outdated: whether a newer job has written or removed the preview.
is_outdated() {
    [ "$done_by" -gt "$job" ] || { [ "$action $did" = 'up down' ] && [ "$done_by" -eq "$job" ]; }
}

# is_removed: whether there is nothing to remove, and no late job could write the file again.
is_removed() {
    ! has_file && { [ "$job" -eq 0 ] || { [ "$did" = down ] && [ "$done_by" -ge "$job" ]; }; }
}

# push: pushes the preview. Others push at the same time, so it begins again where it was too late.
push() {
    until=$(($(date +%s) + 60)) refused_on=''
    while :; do
        if fetch; then
            [ -n "$job" ] || job=$done_by
            ! is_outdated ||
                nothing "$name: nothing is changed: job $did $done_by came after job $job"
            if [ "$action" = down ] && is_removed; then
                note "$name is not in the repository"
                ours=$last
                return 0
            fi
            commit || failed "git cannot make the commit"
            if git push --quiet "$repository" "$ours:refs/heads/$branch" 2>"$work/errors"; then
                note "pushed $name"
                return 0
            fi
            # While another push is deployed, the hooks see its files and not yet its commit. So a
            # refusal counts when a second try on the same commit meets it, too.
            if grep -q 'hook declined' "$work/errors"; then
                [ "$refused_on" != "$tip" ] ||
                    failed "the repository of environments refuses it:" "$work/errors"
                refused_on=$tip
            fi
        fi
        [ "$(date +%s)" -lt "$until" ] ||
            failed "git cannot push to the repository of environments:" "$work/errors"
        sleep 1
    done
}

# headers: prints what logs in to mayfly-web. It goes through a pipe, so that it is in no file and no
# argument.
headers() {
    [ -z "${PREVIEW_API_TOKEN:-}" ] || printf 'authorization: Bearer %s\n' "$PREVIEW_API_TOKEN"
}

# ask PATH [ARGUMENT...]: asks mayfly-web; sets `code` to the status, and 000 where none comes.
ask() {
    path=$1
    shift
    code=$(headers | curl --silent --show-error --max-time 30 --header @- \
        --output "$work/answer" --write-out '%{http_code}' --get "$@" \
        "$api/v1/environments/$path" 2>"$work/errors") || code=000
}

# is_ours: whether the preview is still as this job left it, as far as that can be found out.
is_ours() { ! fetch || [ "$last" = "$ours" ]; }

# answered_wrong: ends the job where no further try changes what mayfly-web says.
answered_wrong() {
    case $code in
    400 | 401 | 403 | 404 | 405 | 421)
        failed "mayfly-web at PREVIEW_API answers $code:" "$work/answer"
        ;;
    esac
}

# await: waits until the preview answers; fails when it cannot, or does not in time.
await() {
    until=$(($(date +%s) + timeout)) refusals=0 undefined=0
    while :; do
        ask "$name" --data wait=5s --data-urlencode "mark=$mark"
        is_ours || nothing "$name: a newer job has taken over"
        [ "$code" != 200 ] || return 0
        answered_wrong
        if [ "$code" = 504 ]; then
            ! grep -q '"failing"' "$work/answer" || return 1
            # What a registrar says is of the file that it has read last: perhaps not of this one.
            ! grep -q '"refused"' "$work/answer" || refusals=$((refusals + 1))
            [ "$refusals" -lt 2 ] || return 1
            # Something else may be about to start it, or to write the definition.
            if grep -q '"no-definition"' "$work/answer"; then
                undefined=$((undefined + 1))
            else
                undefined=0
            fi
            [ "$undefined" -lt 6 ] || return 1
        else
            sleep 1
        fi
        [ "$(date +%s)" -lt "$until" ] || return 1
    done
}

# comment: prints what mayfly-web says about the preview.
comment() {
    ask "$name/markdown"
    [ "$code" = 200 ] ||
        failed "it was pushed, and mayfly-web does not answer ($code):" "$work/errors"
    heading
    cat "$work/answer"
}

up() {
    if [ "${PREVIEW_HEAD_REPOSITORY:-}" != "${PREVIEW_BASE_REPOSITORY:-}" ]; then
        nothing "$name: nothing starts for a fork: it comes from '${PREVIEW_HEAD_REPOSITORY:-}'"
    fi
    now=$(date +%s)
    # GNU and busybox, else BSD.
    end=$(date -u -d "@$((now + life))" +%Y-%m-%dT%H:%M:%SZ 2>/dev/null ||
        date -u -r "$((now + life))" +%Y-%m-%dT%H:%M:%SZ)
    # No other push has this mark, so it shows when the registrar has read this one.
    mark="(job $job.$now.$$)"
    cat >"$work/file" <<FILE
# Written by deploy/ci/preview.sh: the next job writes it again.
name: $name
extends: $base
description: "pull request $number $mark"
expires: $end
services:$services
FILE
    push
    if await; then
        comment
        return 0
    fi
    note "$name does not answer"
    comment
    # The version before this one may still answer.
    ! grep -q ' answers at ' "$work/answer" || printf '\nWhat was pushed last is not in force.\n'
    exit 1
}

down() {
    push
    until=$(($(date +%s) + 60))
    while :; do
        ask "$name"
        # A proxy has a 404 of its own, and so has another path.
        if [ "$code" = 404 ] && grep -q '"status": 404' "$work/answer" &&
            ! grep -q 'no such call' "$work/answer"; then
            break
        fi
        is_ours || nothing "$name: a newer job has taken over"
        [ "$code" = 200 ] || answered_wrong
        [ "$(date +%s)" -lt "$until" ] ||
            failed "its file is removed, and the environment is still there"
        sleep 1
    done
    heading
    # shellcheck disable=SC2016 # the backticks are Markdown
    printf 'The preview `%s` is removed.\n' "$name"
}

action=${1:-}
case $action in
-h | --help)
    usage
    exit 0
    ;;
up | down) [ $# -eq 1 ] || wrong "one argument is expected: up or down" ;;
*) wrong "one argument is expected: up or down" ;;
esac
for program in git curl; do
    command -v "$program" >/dev/null || wrong "the program $program is needed"
done
read_settings
prepare
"$action"

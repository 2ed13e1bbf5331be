#!/usr/bin/env bash
# Runs a git command that came by ssh with limits, and no other command. For ForceCommand in
# sshd_config, or command="..." in authorized_keys:
#
#   limited.sh [SECONDS [MIB [FILES]]]
#
# With FILES, such as 'pr-*.yaml', a push may change only files with such names, and only on the
# branch that is deployed: for a key of CI. Each file may hold only the environment of its own name,
# which may not be protected.
#
# Each process has SECONDS (20) of CPU and MIB (1024) of memory. git unpacks a push before any hook
# runs, and a small pack can hold a thousand times its size. Where a limit is met, git tells the
# pusher of an `abnormal exit` or `out of memory`, and the push changes nothing. Only where
# post-receive meets it, the push was taken already, and is not deployed, or not all of it: the next
# push completes that, or `post-receive --all`.
set -euo pipefail

ulimit -t "${1:-20}"
ulimit -v $((${2:-1024} << 10))
# For pre-receive.
[ -z "${3:-}" ] || export MAYFLY_PUSH_FILES=$3

if [ -z "${SSH_ORIGINAL_COMMAND:-}" ]; then
    echo 'mayfly: this account allows only git: use git clone, git fetch and git push' >&2
    exit 1
fi

# What git needs to keep within the memory: by default it maps whole packs, holds files up to
# 512 MiB, and starts a thread for each CPU. git shell runs only what git itself asks for.
exec git -c core.packedGitWindowSize=32m -c core.packedGitLimit=256m -c core.bigFileThreshold=2m \
    -c pack.threads=1 shell -c "$SSH_ORIGINAL_COMMAND"

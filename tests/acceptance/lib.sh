# What the acceptance scripts share: a scratch directory, a store mounted in it, and an end that
# leaves nothing mounted whatever happens. Sourced, not run.
#
# LMFS            the binary under test (default: target/release/lmfs)
# LMFS_SCRATCH    where scratch directories are made (default: /var/tmp)
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
LMFS=${LMFS:-$ROOT/target/release/lmfs}
PATH=$ROOT/target/tools/bin:$PATH
SCRATCH=$(mktemp -d "${LMFS_SCRATCH:-/var/tmp}/lmfs-XXXXXX")
STORE=$SCRATCH/store
MNT=$SCRATCH/mnt

finish() {
    local code=${1:-$?} dir
    trap - EXIT
    cd /
    # shellcheck disable=SC2046
    kill $(jobs -p) 2>/dev/null || true
    # The last mounted goes first.
    awk -v below="$SCRATCH/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac |
        while read -r dir; do
            "$LMFS" -q umount "$dir" 2>/dev/null || umount "$dir" 2>/dev/null ||
                umount -l "$dir" || true
        done
    rm -rf --one-file-system "$SCRATCH"
    exit "$code"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() { printf '%s\n' "$*"; }
ok() { printf 'ok    %s\n' "$*"; }
fail() {
    printf 'FAIL  %s\n' "$*" >&2
    exit 1
}

# An empty store, mounted; arguments go to lmfs mount.
fresh() {
    rm -rf "$STORE"
    mkdir -p "$MNT"
    "$LMFS" -q mkfs "$STORE"
    "$LMFS" mount "$STORE" "$MNT" "$@"
}

# Unmounts and mounts the same store.
again() {
    "$LMFS" umount "$MNT"
    "$LMFS" mount "$STORE" "$MNT" "$@"
}

# A number of the status: status KEY
status() { "$LMFS" status "$MNT" --json | sed -n "s/^  \"$1\": \(.*[^,]\),\?$/\1/p"; }

# Modes, owners, times in nanoseconds, sizes, link counts and targets of all below a directory.
listing() { (cd "$1" && find . -printf '%P|%M|%U:%G|%T@|%n|%l|%y\n' -type f -printf '  %s\n' | sort); }

# The same contents and metadata: same NAME A B
same() {
    diff -r --no-dereference "$2" "$3" >/dev/null || fail "$1: contents differ"
    # A directory's link count is the file system's own business.
    diff <(listing "$2" | grep -v '|d$' ) <(listing "$3" | grep -v '|d$') >"$SCRATCH/diff" ||
        { head "$SCRATCH/diff"; fail "$1: metadata differ"; }
    diff <(listing "$2" | grep '|d$' | cut -d'|' -f1-4) \
        <(listing "$3" | grep '|d$' | cut -d'|' -f1-4) >"$SCRATCH/diff" ||
        { head "$SCRATCH/diff"; fail "$1: metadata of directories differ"; }
    ok "$1"
}

# Milliseconds of a monotonic clock.
now_ms() { awk '{ printf "%d", $1 * 1000 }' /proc/uptime; }

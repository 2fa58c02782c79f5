#!/bin/bash
# The deep model's network, from folders of text to weights that `lmfs model import` reads.
#
#   training/run.sh reproduce     parts CORPUS, counts and traces its halves, trains MINUTES minutes, exports WORK/run/final
#   training/run.sh continue      goes on: with the interrupted run if there is one, else from before the last decay
#
# CORPUS   folders of text, each with one folder per kind (prose docs zh code logs data)
# LMFS     the program (lmfs); its example `trace` is built from this tree
# WORK     where traces, states and results go (about 5 GB), on the file system of CORPUS
# MINUTES  length of this run (180); DECAY minutes of it in which the rate falls to zero (two fifths)
# RATE     scale of the learning rate (1)
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${WORK:?folder for traces, states and results}" "${LMFS:=lmfs}" "${MINUTES:=180}"
: "${DECAY:=$((MINUTES * 2 / 5))}" "${RATE:=1}"
mkdir -p "$WORK/traces"
python=$WORK/venv/bin/python
if [ ! -x "$python" ]; then
  python3 -m venv "$WORK/venv"
  "$python" -m pip install -q -r "$here/requirements.txt"
fi
idle() { nice -n 19 "$python" "$here/$@"; }

case ${1:-} in
  reproduce)
    : "${CORPUS:?folders of text}"
    # shellcheck disable=SC2086  # several folders
    idle split.py --corpus $CORPUS --out "$WORK/parts"
    for half in a b; do
      export XDG_DATA_HOME=$WORK
      nice -n 19 "$LMFS" model train --corpus "$WORK/parts/$half" --name "half-$half" --memory 19M
      "$LMFS" model export "half-$half" --output "$WORK/half-$half.lmfsmodel"
    done
    (cd "$here/.." && cargo build --release --example trace)
    # Each with the prior that has not seen it.
    for part in "held a" "b a" "a b"; do
      read -r text prior <<<"$part"
      mkdir -p "$WORK/traces/$text"
      for kind in prose docs zh code logs data; do
        echo "$WORK/half-$prior.lmfsmodel" "$WORK/parts/$text/$kind" "$WORK/traces/$text/$kind"
      done
    done | nice -n 19 xargs -P "$(nproc)" -n 3 "${CARGO_TARGET_DIR:-$here/../target}/release/examples/trace"
    from=
    ;;
  continue)
    state=$WORK/run/last.pt
    [ -e "$state" ] || state=$WORK/run/stable.pt
    [ -e "$state" ] || { echo "$WORK/run holds no state: run 'reproduce' first" >&2; exit 1; }
    from="--from-state $state"
    ;;
  *) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
# shellcheck disable=SC2086  # `from` is an option and its value
idle train.py --traces "$WORK/traces" --run "$WORK/run" --minutes "$MINUTES" --decay-minutes "$DECAY" --rate "$RATE" $from

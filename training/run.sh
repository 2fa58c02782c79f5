#!/bin/bash
# The deep model's network, from folders of text to weights that `lmfs model import` reads.
#
#   training/run.sh reproduce     parts CORPUS, counts half of it, traces the rest, trains MINUTES minutes, exports WORK/run/final
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
    (
      export XDG_DATA_HOME=$WORK
      nice -n 19 "$LMFS" model train --corpus "$WORK/parts/counted" --name half --memory 19M
      "$LMFS" model export half --output "$WORK/half.lmfsmodel"
    )
    (cd "$here/.." && cargo build --release --example trace)
    for part in held trained; do
      for kind in prose docs zh code logs data; do
        echo "$WORK/parts/$part/$kind" "$WORK/traces/$part-$kind"
      done
    done | nice -n 19 xargs -P "$(nproc)" -n 2 "${CARGO_TARGET_DIR:-$here/../target}/release/examples/trace" "$WORK/half.lmfsmodel"
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

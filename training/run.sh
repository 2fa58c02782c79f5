#!/bin/bash
# The deep model, from a folder of text to weights that `lmfs model import` reads.
#
#   training/run.sh reproduce     prepares CORPUS (and MORE), trains MINUTES minutes, exports WORK/run/final, evaluates it
#   training/run.sh continue      goes on: with the interrupted run if there is one, else from before the last decay
#
# CORPUS   folder of text, one folder per kind (prose docs zh code logs data)
# MORE     further such folders, for instance logs made by data/record.sh, data/vary.py and data/generate.py
# WORK     where tokens, states and results go (about 1 GB)
# MINUTES  length of this run (180); DECAY minutes of it in which the rate falls to zero (a third)
# RATE     scale of the learning rate (1)
# START    exported model to start from instead of from nothing; its tokenizer is taken as well
set -eu
here=$(cd "$(dirname "$0")" && pwd)
: "${WORK:?folder for tokens, states and results}" "${MINUTES:=180}"
: "${DECAY:=$((MINUTES / 3))}" "${RATE:=1}" "${START:=}" "${MORE:=}"
mkdir -p "$WORK/tokens"
python=$WORK/venv/bin/python
if [ ! -x "$python" ]; then
  python3 -m venv "$WORK/venv"
  "$python" -m pip install -q -r "$here/requirements.txt"
fi
idle() { nice -n 19 "$python" "$here/$@"; }

case ${1:-} in
  reproduce)
    : "${CORPUS:?folder of text}"
    [ -z "$START" ] || install -m 644 "$START/tokenizer.json" "$WORK/tokenizer.json"
    n=0
    for folder in "$CORPUS" $MORE; do
      idle prepare.py --corpus "$folder" --tokenizer "$WORK/tokenizer.json" --out "$WORK/tokens/$((n++))"
    done
    from=${START:+--from-model "$START"}
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
idle train.py --tokens "$WORK"/tokens/* --tokenizer "$WORK/tokenizer.json" --run "$WORK/run" --minutes "$MINUTES" --decay-minutes "$DECAY" --rate "$RATE" $from
idle evaluate.py --model "$WORK/run/final" ${START:+"$START"} --tokens "$WORK"/tokens/*

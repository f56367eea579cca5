#!/usr/bin/env bash
# Trains a tiny network for 10,000 steps, or as many as the argument says, saves every 100, and samples the process:
# fails if resident memory or open files have grown between the first fifth of the run and its end. Linux only: reads
# /proc.
set -euo pipefail
cd "$(dirname "$0")/.."

steps="${1:-10000}"
train="${CARGO_TARGET_DIR:-target}/debug/train"
[ -x "$train" ] || cargo build --workspace --locked --bin train
folder="$(mktemp -d)"
pid=""
trap '[ -z "$pid" ] || kill "$pid" 2>/dev/null; rm -rf "$folder"' EXIT

# Twenty steps per epoch.
"$train" --net resnet8 --branches 2 --data shapes --limit-train 80 --limit-test 8 --batch 4 --epochs $((steps / 20)) \
    --lr 0.01 --device "${ONFLY_DEVICE:-cpu}" --save-every 100 --out "$folder/run" >/dev/null 2>"$folder/err" &
pid=$!
while kill -0 "$pid" 2>/dev/null; do
    resident="$(awk '/^VmRSS:/ { print $2 }' "/proc/$pid/status" 2>/dev/null || true)"
    files="$(ls "/proc/$pid/fd" 2>/dev/null | wc -l)"
    records=0
    [ ! -e "$folder/run/metrics.jsonl" ] || records="$(wc -l <"$folder/run/metrics.jsonl")"
    [ -z "$resident" ] || [ "$records" -eq 0 ] || echo "$((records / 2 * 20)) $resident $files" >>"$folder/samples"
    sleep 1
done
wait "$pid" || { cat "$folder/err" >&2; exit 1; }
pid=""

awk -v steps="$steps" '
    { if ($1 <= steps / 5) { if ($2 > early) early = $2; if ($3 > files) files = $3 }
      if ($2 > late) late = $2; if ($3 > most) most = $3; last = $2; n++ }
    END {
        printf "%d steps, %d samples: resident %d kB at most in the first fifth, %d kB at most, %d kB last; %d files open at most, then %d\n",
            steps, n, early, late, last, files, most
        if (n < 5 || early == 0) { print "too few samples: give more steps"; exit 1 }
        if (last > early * 1.02 + 1024 || most > files + 1) { print "it grows"; exit 1 }
    }' "$folder/samples"

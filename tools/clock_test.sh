#!/usr/bin/env bash
# Sets the clock back and forth by years while a run trains (through libfaketime: apt-get install faketime), and
# compares it, bit for bit, with a run whose clock was left alone. Linux only.
set -euo pipefail
cd "$(dirname "$0")/.."

train="${CARGO_TARGET_DIR:-target}/debug/train"
[ -x "$train" ] || cargo build --workspace --locked --bin train
library="$(find /usr/lib -name 'libfaketime.so.1' | head -n 1)"
[ -n "$library" ] || { echo "libfaketime is not there: apt-get install faketime" >&2; exit 1; }
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

run() {
    "$train" --net resnet8 --branches 2 --data shapes --limit-train 96 --limit-test 50 --batch 16 --epochs 40 --lr 0.02 \
        --device cpu --save-every 1m --out "$1" >/dev/null
}
run "$folder/left alone"

echo "+0" >"$folder/clock"
jumps=0
# Setting the clock does not move the monotonic one.
(
    export LD_PRELOAD="$library" FAKETIME_TIMESTAMP_FILE="$folder/clock" FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1
    run "$folder/set"
) &
pid=$!
while kill -0 "$pid" 2>/dev/null; do
    for offset in -3650d +3650d -1d +1h +0; do
        echo "$offset" >"$folder/clock"
        jumps=$((jumps + 1))
        sleep 0.1
    done
done
wait "$pid"
for file in last.safetensors best.safetensors; do
    cmp "$folder/left alone/$file" "$folder/set/$file"
done
# Removes the figures that depend on the machine.
strip() { sed -E 's/"images_per_second":[^,]*,//g' "$1"; }
diff <(strip "$folder/left alone/metrics.jsonl") <(strip "$folder/set/metrics.jsonl")
echo "the clock was set $jumps times in a run of 40 epochs: same weights, same metrics"

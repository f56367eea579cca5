#!/bin/sh
# Checks, tunes and measures a GPU with the contents of pack.sh's folder, and writes one page on it; or trains
# CIFAR-10:
#
#     run.sh FOLDER --minutes M --out OUT [--device D] [--train DATA]
#
# FOLDER is the packed folder (`.` within it), DATA the folder with the pieces that pack.sh --data made, or one that
# holds cifar10/. Requirements: a shell, coreutils, and a Vulkan driver; for pieces, tar and gzip. After each step all
# results so far are in OUT: JSON, steps.tsv, page.md. A step that fails is recorded, and the next one runs.
# Exit status: 0 if every step succeeded or was skipped, 1 if one failed or was cut short, 2 for wrong usage.
set -u

# For each step: the share of the remaining time that it may take, in per cent, and the least number of seconds with
# which it runs. Time that a step does not use is left to those after it. Profiles share a line.
SHARES='
devices          50   2
selftest-quick   35  10
bench-untuned    20   5
tune             35  20
tune-f16         30  40
bench            35  10
profile          25   5
bench-before     20   5
pytorch          60  20
bench-after      50   5
pytorch-compile  50  60
pytorch-more     50  30
selftest        100  20
data             60   2
bench-training   15   5
train-alone      55  10
train-one       100  10
'
MEASURE='devices selftest-quick bench-untuned tune tune-f16 bench
    profile-resnet32-3 profile-resnet32-3-shapes profile-resnet110-3 profile-resnet110-3-shapes
    bench-before pytorch bench-after pytorch-compile pytorch-more selftest'
# Steps on a software adapter: small networks, no tuning and no comparison.
SOFTWARE='devices selftest-quick bench profile-resnet8-3 profile-resnet8-3-shapes selftest'
TRAIN='devices data tune bench-training train-alone train-one'
# Seconds between asking a step to end and killing it.
GRACE=5

usage() {
    echo "$1; usage: run.sh FOLDER --minutes M --out OUT [--device D] [--train DATA]" >&2
    exit 2
}

folder='' minutes='' out='' device=gpu data=''
while [ $# -gt 0 ]; do
    case "$1" in
        --minutes | --out | --device | --train)
            [ -n "${2:-}" ] || usage "$1 lacks its value"
            case "$1" in
                --minutes) minutes=$2 ;;
                --out) out=$2 ;;
                --device) device=$2 ;;
                --train) data=$2 ;;
            esac
            shift 2
            ;;
        -*) usage "there is no option $1" ;;
        *)
            [ -z "$folder" ] || usage "there is one FOLDER, not $folder and $1"
            folder=$1
            shift
            ;;
    esac
done
seconds=${minutes%s}
case "$seconds" in
    '' | 0* | *[!0-9]*) usage "--minutes takes a whole number above 0, or seconds as in 90s" ;;
esac
[ "$seconds" != "$minutes" ] || seconds=$((60 * minutes))
given=$seconds
[ -n "$out" ] || usage "--out names the folder for the results"
if ! { [ -x "$folder/train" ] && [ -x "$folder/hardware" ]; }; then
    usage "'$folder' is no folder of pack.sh: it lacks train or hardware"
fi
[ ! -e "$out/calls.tsv" ] || usage "$out holds results already: name another folder"
[ -z "$data" ] || [ -d "$data" ] || usage "--train takes a folder, and '$data' is none"
command -v timeout >/dev/null || usage "this system lacks the command timeout (coreutils)"
mkdir -p "$out/logs" || exit 1

absolute() { (cd "$1" && pwd); }
folder=$(absolute "$folder") out=$(absolute "$out")
[ -z "$data" ] || data=$(absolute "$data")
end=$(($(date +%s) + seconds - 2))
call=$(date -u '+%Y-%m-%d %H:%M:%S')
kind=measure plan=$MEASURE
[ -z "$data" ] || kind=train plan=$TRAIN
# Tuning results are kept with the measurements, unless the caller names another place.
export ONFLY_CACHE_DIR="${ONFLY_CACHE_DIR:-$out/cache}"
# Without a desktop session, Mesa's layer for choosing among GPUs prints an error for every enumeration of adapters.
[ -n "${XDG_RUNTIME_DIR:-}" ] || export NODEVICE_SELECT=1
libraries=${LD_LIBRARY_PATH:-}
loader="the system's"
problems=0
child='' name='' limit='' started=''

left() { echo $((end - $(date +%s))); }
# Joins a text into one line without tabs.
flat() { printf '%s' "$1" | tr -s '\t\r\n ' ' '; }
# Last message of a step: its last error, or else its last non-empty line.
last_line() {
    tail -n 20 "$1" | {
        last='' error=''
        while IFS= read -r line; do
            case "$line" in
                'error: '*) error=$line ;;
                *[![:space:]]*) last=$line ;;
            esac
        done
        printf '%s\n' "${error:-$last}"
    } | cut -c 1-300
}
# has FILE TEXT: tells whether a line of the file contains the text, ignoring case.
has() {
    text=$(printf '%s' "$2" | tr '[:upper:]' '[:lower:]')
    tr '[:upper:]' '[:lower:]' <"$1" | while IFS= read -r line; do
        case "$line" in *"$text"*) echo yes && break ;; esac
    done | { read -r _; }
}

# Writes the known facts of this call; again when there are more.
write_call() {
    packed=$(cat "$folder/PACKED" 2>/dev/null)
    printf '%s\t' "$call" "$kind" "$given" "$(flat "$device")" "$loader" "$(uname -srm)" "$(flat "$packed")" \
        >"$out/calls.part"
    printf '%s\n' "$(flat "$plan")" >>"$out/calls.part"
    mv "$out/calls.part" "$out/calls.tsv"
}

make_page() { "$folder/hardware" page "$out" || echo "the page could not be made" >&2; }

# record SECONDS OUTCOME STATUS NOTE: records the end of the step $name.
record() {
    # In a single write, so that a kill leaves the line whole or leaves it out.
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$call" "$name" "$1" "$limit" "$2" "$3" "$(flat "$4")" >>"$out/steps.tsv"
    rm -f "$out/running"
    make_page
    printf '%-27s %5s s  %s\n' "$name" "${1:--}" "$2$([ "$2" = ok ] || printf ': %s' "$(flat "$4")")"
}

skip() {
    name=$1 limit=''
    record '' skipped '' "$2"
}

finish() {
    make_page
    echo
    "$folder/hardware" summary "$out"
    echo "page: $out/page.md"
}

stop() {
    trap '' INT TERM HUP
    if [ -n "$child" ]; then
        kill -TERM "$child" 2>/dev/null
        wait "$child"
        record $(($(date +%s) - started)) stopped '' 'run.sh was asked to end'
    fi
    finish
    exit 1
}
trap stop INT TERM HUP

# Prints the seconds that step $1 may take; nothing if too few are left.
limit_of() {
    echo "$SHARES" | while read -r step share least; do
        case "$1" in
            "$step" | "$step"-resnet*)
                seconds=$(($(left) * share / 100))
                [ "$seconds" -lt "$least" ] || echo "$seconds"
                ;;
        esac
    done
}

# step NAME OUTPUT COMMAND...: runs the command within its time. If OUTPUT is given, the command's output becomes that
# file once it has succeeded.
step() {
    name=$1 output=$2
    shift 2
    limit=$(limit_of "$name")
    if [ -z "$limit" ]; then
        skip "$name" "too little time was left: $(left) s"
        return 1
    fi
    echo "$name" >"$out/running"
    make_page
    log="$out/logs/$name.txt"
    printed=$log
    [ -z "$output" ] || printed="$out/$output.part"
    started=$(date +%s)
    timeout -k "$GRACE" "$limit" "$@" >"$printed" 2>"$log" </dev/null &
    child=$!
    wait "$child"
    status=$?
    child=''
    seconds=$(($(date +%s) - started))
    case $status in
        0) outcome='ok' ;;
        # The status of pytorch.py when there is no PyTorch or no accelerator.
        3) outcome='skipped' ;;
        *)
            outcome='failed'
            # 124: it was asked to end at its limit; 137: it was killed, by its limit if that was over.
            if [ "$status" -eq 124 ] || { [ "$status" -eq 137 ] && [ "$seconds" -ge "$limit" ]; }; then
                outcome='cut'
            fi
            problems=$((problems + 1))
            ;;
    esac
    if [ -n "$output" ] && [ $outcome = ok ]; then
        mv "$printed" "$out/$output"
    elif [ -n "$output" ]; then
        rm -f "$printed"
    fi
    record "$seconds" $outcome $status "$(last_line "$log")"
    [ $outcome = ok ]
}

# ours NAME OUTPUT ARGUMENT...: runs a step of the program on the device.
ours() {
    name=$1 output=$2
    shift 2
    step "$name" "$output" env LD_LIBRARY_PATH="$libraries" "$folder/train" "$@" --device "$device"
}

# theirs NAME ARGUMENT...: runs a step of PyTorch.
theirs() {
    name=$1
    shift
    if ! command -v python3 >/dev/null; then
        skip "$name" 'there is no python3 here'
        return 1
    fi
    step "$name" '' python3 "$folder/pytorch.py" --json "$out/$name.json" "$@"
}

hardware_in() { has "$1" ' GPU)' || has "$1" '(other)'; }

# Lists the adapters, by the system's Vulkan loader; by the packed one if the system's finds none, or no hardware.
devices() {
    # The packed loader may work even if the system's fails altogether.
    step devices devices.txt env LD_LIBRARY_PATH="$libraries" "$folder/train" devices || : >"$out/devices.txt"
    if ! hardware_in "$out/devices.txt" && [ -d "$folder/lib" ]; then
        more="${libraries:+$libraries:}$folder/lib"
        timeout -k 5 60 env LD_LIBRARY_PATH="$more" "$folder/train" devices >"$out/devices.part" \
            2>>"$out/logs/devices.txt"
        if hardware_in "$out/devices.part"; then
            loader="the packed one: without it no hardware is found"
        elif has "$out/devices.part" ' backend ' && ! has "$out/devices.txt" ' backend '; then
            loader="the packed one: without it no adapter is found"
        else
            more=''
        fi
        if [ -n "$more" ]; then
            libraries=$more
            mv "$out/devices.part" "$out/devices.txt"
        fi
        rm -f "$out/devices.part"
    fi
    if [ "$device" = gpu ] && ! hardware_in "$out/devices.txt"; then
        name='hardware' limit=''
        record '' failed '' "no hardware adapter is found (devices.txt lists all); --device NAME takes another one"
        return 1
    fi
}

# Tells whether the requested device is a software adapter.
software() {
    [ "$device" != gpu ] && [ "$device" != cpu ] && {
        while IFS= read -r line; do
            case "$line" in *'(software)') printf '%s\n' "$line" ;; esac
        done <"$out/devices.txt" >"$out/software.part"
        has "$out/software.part" "$device"
        found=$?
        rm -f "$out/software.part"
        return $found
    }
}

# profile NET BRANCHES BATCH: profiles by kernel, and by kernel and shape.
profile() {
    for form in '' --by-shape; do
        ours "profile-$1-$2${form:+-shapes}" "profile-$1-$2${form:+-shapes}.json" profile --net "$1" --branches "$2" \
            --batch "$3" --data shapes --limit-train 512 --limit-test 256 --json ${form:+"$form"}
    done
}

tune() {
    ours "$1" '' tune --net resnet32 --branches 3 --batch 128 --data shapes --limit-train 512 --limit-test 256 \
        --precision "$2"
}

bench() {
    which=$1
    shift
    ours "$which" '' bench "$@" --json "$out/$which.json"
}

measure() {
    ours selftest-quick '' selftest --quick --json "$out/selftest-quick.json"
    bench bench-untuned --untuned --nets resnet32:3
    tune tune f32
    tune tune-f16 f16
    # One second per network, since there are many.
    bench bench --seconds 1
    profile resnet32 3 128
    profile resnet110 3 128
    bench bench-before --nets resnet32:3 --batches 128,1024
    theirs pytorch --nets resnet32:3 --batches 128,1024 --seconds 1 \
        --modes eager,graph,eager-tf32,graph-tf32,eager-f16,graph-f16
    bench bench-after --nets resnet32:3 --batches 128,1024
    theirs pytorch-compile --nets resnet32:3 --batches 128,1024 --seconds 1 --modes compile,compile-tf32,compile-f16
    theirs pytorch-more --nets resnet32:1,resnet110:3 --batches 128,1024 --seconds 1 \
        --modes eager,graph,eager-f16,graph-f16
    ours selftest '' selftest --json "$out/selftest.json"
}

measure_software() {
    ours selftest-quick '' selftest --quick --json "$out/selftest-quick.json"
    bench bench --nets resnet8:1,resnet8:3 --batches 4
    profile resnet8 3 2
    ours selftest '' selftest --json "$out/selftest.json"
}

# Unpacks CIFAR-10 from three pieces, or takes the folder as it is; either way its files are verified.
unpack() {
    # shellcheck disable=SC2016 # The quoted names are the inner shell's.
    step data '' sh -euc '
        train=$1 data=$2
        cd "$data"
        if [ ! -d cifar10 ]; then
            sum=$(cat cifar10.tar.gz.1 cifar10.tar.gz.2 cifar10.tar.gz.3 | sha256sum)
            if [ "${sum%% *}" != "$(cat cifar10.sha256)" ]; then
                echo "the three pieces in $data together have another SHA-256 than cifar10.sha256 says: copy them again"
                exit 1
            fi
            rm -rf cifar10.part
            mkdir cifar10.part
            cat cifar10.tar.gz.1 cifar10.tar.gz.2 cifar10.tar.gz.3 | tar -xzf - -C cifar10.part
            mv cifar10.part/cifar10 cifar10
            rmdir cifar10.part
        fi
        "$train" fetch cifar10 --verify --data-dir .' unpack "$folder/train" "$data"
}

# train_one NAME BRANCHES METHOD EPOCHS: runs a training. Its best weights are kept; one that was cut can be resumed.
train_one() {
    ours "$1" '' --net resnet32 --branches "$2" --method "$3" --epochs "$4" --data cifar10 --data-dir "$data" \
        --out "$out/runs/$1" || return 1
    rm -f "$out/runs/$1/last.safetensors" "$out/runs/$1"/*.previous.safetensors "$out/runs/$1/lock"
    make_page
}

train_networks() {
    unpack || return 1
    tune tune f32
    bench bench-training --nets resnet32:1,resnet32:3 --batches 128 --precision f32
    # Starting twice takes some seconds.
    epochs=$("$folder/hardware" epochs --seconds $(($(left) - 20)) "$out/bench-training.json" 2>"$out/logs/epochs.txt")
    if [ -z "$epochs" ]; then
        problems=$((problems + 1))
        reason=$(last_line "$out/logs/epochs.txt")
        skip train-alone "$reason"
        skip train-one "$reason"
        return 1
    fi
    echo "$epochs epochs of each network fit"
    train_one train-alone 1 vanilla "$epochs"
    train_one train-one 3 one "$epochs"
}

write_call
if devices; then
    if [ "$kind" = measure ] && software; then
        plan=$SOFTWARE kind_of=software
    fi
    write_call
    case "$kind${kind_of:-}" in
        measure) measure ;;
        measuresoftware) measure_software ;;
        train) train_networks ;;
    esac
else
    problems=$((problems + 1))
fi
finish
[ "$problems" -eq 0 ]

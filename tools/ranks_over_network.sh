#!/usr/bin/env bash
# Trains on two ranks joined by a network with an imposed bandwidth and delay:
#
#     tools/ranks_over_network.sh RATE MILLISECONDS OPTIONS_OF_train…
#     tools/ranks_over_network.sh 100mbit 1 --net resnet32 --device cpu --epochs 1 --limit-train 2560
#
# RATE is in tc's units, for each direction; the delay is one way. Makes two network namespaces and a link between
# them, starts a rank in each (Open MPI, TCP only), prints the link's measured rate and delay and the number of bytes
# of the ranks that went over it, and removes everything, also on failure. Needs Linux, root and a `train` that is
# built with MPI (tools/mpi.sh). The link is a veth pair, the bandwidth tbf's. The delay is netem's or, if the kernel
# has none, that of tools/network_link.py, whose TUN devices then are the link. With SLOW_START=0 TCP keeps its rate
# after a pause (tcp_slow_start_after_idle).
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "$*" >&2; exit 1; }
if [ $# -lt 2 ] || ! [[ "$1" =~ ^[0-9]+[kmg]bit$ && "$2" =~ ^[0-9]+(\.[0-9]+)?$ ]]; then
    echo "usage: tools/ranks_over_network.sh RATE MILLISECONDS [OPTIONS OF train], such as 100mbit 1 --net resnet20" >&2
    exit 2
fi
rate="$1" delay="$2"
shift 2
[ "$(id -u)" -eq 0 ] || fail "network namespaces need root: start this by sudo"
for program in ip tc mpirun python3; do
    command -v "$program" >/dev/null || fail "no $program here: install iproute2, Open MPI (tools/mpi.sh) and python3"
done
train="${CARGO_TARGET_DIR:-target}/debug/train"
[ -x "$train" ] || fail "no $train: build it by tools/mpi.sh"

spaces=("onfly-$$-0" "onfly-$$-1")
devices=("onfly${$}a" "onfly${$}b")
folder="$(mktemp -d)"
mkfifo "$folder/ready"
helpers=()
remove() {
    local space pids
    if [ ${#helpers[@]} -gt 0 ]; then
        kill "${helpers[@]}" 2>/dev/null || true
        wait "${helpers[@]}" 2>/dev/null || true
    fi
    for space in "${spaces[@]}"; do
        pids="$(ip netns pids "$space" 2>/dev/null || true)"
        [ -z "$pids" ] || kill -9 $pids 2>/dev/null || true
        ip netns delete "$space" 2>/dev/null || true
    done
    ip link delete "${devices[0]}" 2>/dev/null || true
    rm -rf "$folder"
}
trap remove EXIT
trap 'exit 130' HUP INT TERM

for space in "${spaces[@]}"; do
    ip netns add "$space"
done

# Tests whether the kernel has netem, by asking for it.
netem() { ip netns exec "${spaces[0]}" tc qdisc add dev lo root netem delay 1ms 2>/dev/null; }
later=()
if [[ "$delay" =~ ^0+(\.0+)?$ ]]; then
    kind="veth"
elif netem; then
    ip netns exec "${spaces[0]}" tc qdisc delete dev lo root
    kind="veth, netem" later=(netem delay "${delay}ms" limit 100000)
else
    kind="TUN devices, tools/network_link.py"
fi
if [ "${kind%%,*}" = veth ]; then
    ip link add "${devices[0]}" type veth peer name "${devices[1]}"
else
    python3 tools/network_link.py delay "${devices[@]}" "$delay" >"$folder/ready" &
    helpers+=($!)
    read -r _ <"$folder/ready" || fail "the link with a delay could not be made"
fi
for i in 0 1; do
    ip link set "${devices[i]}" netns "${spaces[i]}"
    inside=(ip netns exec "${spaces[i]}")
    "${inside[@]}" ip link set lo up
    "${inside[@]}" ip link set "${devices[i]}" name link txqueuelen 10000 up
    "${inside[@]}" ip address add "10.77.0.$((i + 1))/24" dev link
    "${inside[@]}" tc qdisc add dev link root handle 1: tbf rate "$rate" burst 32kb limit 16mb
    "${inside[@]}" sysctl -q -w "net.ipv4.tcp_slow_start_after_idle=${SLOW_START:-1}"
    [ ${#later[@]} -eq 0 ] || "${inside[@]}" tc qdisc add dev link parent 1: "${later[@]}"
done

ip netns exec "${spaces[0]}" python3 tools/network_link.py answer 10.77.0.1 >"$folder/ready" &
helpers+=($!)
read -r _ <"$folder/ready" || fail "nobody answers on the link"
measured="$(ip netns exec "${spaces[1]}" python3 tools/network_link.py measure 10.77.0.1)"

# Substitute for ssh, which Open MPI calls with the host's name and a command.
cat >"$folder/agent" <<AGENT
#!/bin/sh
shift
exec ip netns exec ${spaces[1]} sh -c "\$*"
AGENT
chmod +x "$folder/agent"

bytes() { ip netns exec "${spaces[$1]}" cat "/sys/class/net/link/statistics/$2_bytes"; }
before=("$(bytes 0 tx)" "$(bytes 1 tx)")
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
status=0
# Ranks of one host would use shared memory if allowed to. In the background, so that a signal need not wait for their
# end.
ip netns exec "${spaces[0]}" mpirun --host 10.77.0.1:1,10.77.0.2:1 --map-by node --bind-to none \
    --mca plm_rsh_agent "$folder/agent" --mca oob_tcp_if_include link --mca btl_tcp_if_include link \
    --mca pml ob1 --mca btl tcp,self --mca mpi_yield_when_idle 1 \
    "$train" "$@" &
wait $! || status=$?
sent=($(($(bytes 0 tx) - before[0])) $(($(bytes 1 tx) - before[1])))
printf 'network      %s, %s ms one way (%s): %s; %.2f MB from rank 0 to 1, %.2f MB back\n' "$rate" "$delay" "$kind" "$measured" \
    "$(awk "BEGIN { print ${sent[0]} / 1e6 }")" "$(awk "BEGIN { print ${sent[1]} / 1e6 }")"
exit "$status"

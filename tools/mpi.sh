#!/usr/bin/env bash
# Trains on several processes: `tools/mpi.sh -n 2 --net resnet20` installs Open MPI if this machine has no MPI, builds
# `train` with it, and starts two ranks with the arguments that follow. Without arguments it only installs and builds;
# with --install it only installs.
#
# For ranks on several hosts, or by another launcher (srun): build with this, then start target/debug/train with that.
set -euo pipefail
cd "$(dirname "$0")/.."

ranks=""
if [ "${1:-}" != --install ] && [ $# -gt 0 ]; then
    if [ "$1" != -n ] || ! [[ "${2:-}" =~ ^[1-9][0-9]*$ ]]; then
        echo "usage: tools/mpi.sh [-n RANKS [OPTIONS OF train]]" >&2
        exit 2
    fi
    ranks="$2"
    shift 2
fi

# Requirements of the build: MPI's compiler, its launcher, and libclang, with which bindgen reads MPI's header and
# which it finds in LLVM's folders, too.
libclang() {
    local found
    found="$({ ldconfig -p | grep 'libclang[-.0-9]*\.so'; ls -d /usr/lib/llvm*/lib/libclang*.so*; } 2>/dev/null || true)"
    [ -n "$found${LIBCLANG_PATH:-}" ]
}
ready() { command -v mpicc >/dev/null && command -v mpirun >/dev/null && { [ "$(uname)" != Linux ] || libclang; }; }

if ! ready; then
    if ! command -v apt-get >/dev/null; then
        echo "no MPI, or no libclang, and this system has no apt-get: install them (Fedora: openmpi-devel clang-devel, Arch:" \
            "openmpi clang, macOS: brew install open-mpi llvm), so that mpicc and mpirun are in the PATH" >&2
        exit 1
    fi
    as_root=""
    if [ "$(id -u)" -ne 0 ]; then
        as_root="sudo"
    fi
    echo "no MPI here: installing Open MPI and libclang (openmpi-bin, libopenmpi-dev, libclang-dev)" >&2
    $as_root apt-get update -q
    $as_root apt-get install -y -q openmpi-bin libopenmpi-dev libclang-dev
    if ! ready; then
        echo "Open MPI and libclang are installed, and mpicc, mpirun or libclang is still not found: see the PATH" >&2
        exit 1
    fi
fi

[ "${1:-}" != --install ] || exit 0
cargo build --locked -p train --features mpi
[ -n "$ranks" ] || exit 0

# For Open MPI; other launchers ignore them. In a container the user is often root, and a test may start more ranks
# than there are cores.
if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMPI_MCA_rmaps_base_oversubscribe="${OMPI_MCA_rmaps_base_oversubscribe:-1}"
# Ranks have several threads: none is bound to one core.
export OMPI_MCA_hwloc_base_binding_policy="${OMPI_MCA_hwloc_base_binding_policy:-none}"
# Over TCP, messages go both ways at once between two ranks; with Open MPI's own setting they alternate
# (docs/scaling.md).
export OMPI_MCA_btl_tcp_flags="${OMPI_MCA_btl_tcp_flags:-send,inplace,need-ack,need-csum,hetero-rdma}"
# Seconds that a rank gets after Ctrl-C to finish its step and save; mpirun's own setting is one.
export OMPI_MCA_odls_base_sigkill_timeout="${OMPI_MCA_odls_base_sigkill_timeout:-5}"
exec mpirun -n "$ranks" "${CARGO_TARGET_DIR:-target}/debug/train" "$@"

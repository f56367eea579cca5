#!/usr/bin/env bash
# Test command: makes sure that there is an adapter to test WGSL on, then runs all tests.
#
# On a machine without a Vulkan, Metal or DX12 adapter, it installs the software Vulkan driver of Debian and Ubuntu.
# ONFLY_TEST_DEVICES=cpu tests the CPU device alone, and installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

# Without a desktop session, Mesa's layer for choosing among GPUs prints an error for every enumeration of adapters.
[ -n "${XDG_RUNTIME_DIR:-}" ] || export NODEVICE_SELECT=1

cargo test --workspace --locked --no-run
if [ "${ONFLY_TEST_DEVICES:-}" != cpu ]; then
    tools/setup.sh
fi
cargo test --workspace --locked "$@"

#!/usr/bin/env bash
# Installs the software Vulkan driver (Mesa's lavapipe) if this machine has no adapter that wgpu can use.
set -euo pipefail
cd "$(dirname "$0")/.."

train="${CARGO_TARGET_DIR:-target}/debug/train"
[ -x "$train" ] || cargo build --locked -p train
adapters() { "$train" devices 2>/dev/null | grep -cE 'backend (Vulkan|Metal|Dx12)' || true; }

if [ "$(adapters)" -gt 0 ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "no GPU adapter here, and this system has no apt-get: install Mesa's software Vulkan driver (Fedora:" \
        "mesa-vulkan-drivers, Arch: vulkan-swrast), or set ONFLY_TEST_DEVICES=cpu" >&2
    exit 1
fi
as_root=""
if [ "$(id -u)" -ne 0 ]; then
    as_root="sudo"
fi
echo "no GPU adapter here: installing the software Vulkan driver (mesa-vulkan-drivers)" >&2
$as_root apt-get update -q
$as_root apt-get install -y -q mesa-vulkan-drivers
if [ "$(adapters)" -eq 0 ]; then
    echo "the driver is installed, and there is still no adapter; set ONFLY_TEST_DEVICES=cpu to test without one" >&2
    exit 1
fi

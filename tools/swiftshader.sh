#!/usr/bin/env bash
# Runs the tests that need an adapter on SwiftShader, a second software implementation of Vulkan with a compiler of its
# own: that of Debian's package `chromium`, or the one whose ICD file ONFLY_SWIFTSHADER names. Arguments go to
# `cargo test`; without any, the kernels' tests run.
#
#   tools/swiftshader.sh                              # every kernel, minutes
#   tools/swiftshader.sh --test fusion --test training  # whole steps
#
# Exit status 77: SwiftShader is not installed here.
set -euo pipefail
cd "$(dirname "$0")/.."

icd="${ONFLY_SWIFTSHADER:-/usr/lib/chromium/vk_swiftshader_icd.json}"
if [ ! -e "$icd" ]; then
    echo "SKIPPED: there is no SwiftShader at $icd (Debian: apt-get install chromium, or set ONFLY_SWIFTSHADER)" >&2
    exit 77
fi
[ $# -gt 0 ] || set -- --test kernels
export NODEVICE_SELECT=1
VK_DRIVER_FILES="$icd" cargo test --locked "$@"

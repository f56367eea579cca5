#!/usr/bin/env bash
# Compiles every shader, all candidates and passes of the networks and the test cases, by Tint, the WGSL compiler of
# Chromium, without warnings. Its module for Node.js comes from npm into target/tint; the adapter that it wants is
# llvmpipe of Mesa 25 (tools/kernel-stats/mesa.sh), which has all features, or SwiftShader of Debian's chromium, which
# has no 16-bit floats: shaders that need them are counted as skipped, and fail the check unless it is told to allow it.
#
#   tools/tint/check.sh [--allow-missing-features]
#
# Exit status 77: npm, the module or an adapter is not to be had here, and why is said.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() {
    echo "SKIPPED: $1" >&2
    exit 77
}

command -v npm >/dev/null || skip "npm is not installed (Debian and Ubuntu: apt-get install npm)"
modules="$PWD/target/tint/node_modules"
version=0.6.2
if ! grep -qs "\"version\": \"$version\"" "$modules/webgpu/package.json"; then
    mkdir -p target/tint
    echo '{ "private": true }' >target/tint/package.json
    npm install --prefix target/tint --no-audit --no-fund --ignore-scripts "webgpu@$version" >target/tint/npm.log 2>&1 ||
        skip "npm cannot install webgpu@$version: $(grep -m 1 '^npm err' target/tint/npm.log || true)"
fi

swiftshader=(/usr/lib/chromium/vk_swiftshader_icd.json)
if mesa="$(tools/kernel-stats/mesa.sh 2>/dev/null)" && lavapipe=("$mesa"/usr/share/vulkan/icd.d/lvp_icd*.json) &&
    [ -e "${lavapipe[0]}" ]; then
    export VK_DRIVER_FILES="${lavapipe[0]}"
    LD_LIBRARY_PATH="$(echo "$mesa"/usr/lib/*/ | tr ' ' ':')${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    export LD_LIBRARY_PATH
elif [ -e "${swiftshader[0]}" ]; then
    export VK_DRIVER_FILES="${swiftshader[0]}"
else
    skip "there is neither Mesa 25 (tools/kernel-stats/mesa.sh) nor SwiftShader (Debian's chromium)"
fi
export NODEVICE_SELECT=1

rm -rf target/tint/wgsl
cargo run --quiet --profile "${ONFLY_PROFILE:-test}" --locked -p kernel-stats -- --wgsl target/tint/wgsl
node tools/tint/check.mjs "$modules" target/tint/wgsl "$@"

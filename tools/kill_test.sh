#!/usr/bin/env bash
# Kills a training process at random moments and resumes it, 100 times over one run or as often as the argument says,
# and checks that the run ends with the same bits as one that was never killed. The ordinary tests do so a few times.
set -euo pipefail
cd "$(dirname "$0")/.."

export ONFLY_KILLS="${1:-100}"
cargo test --workspace --locked --test command_line -- killed_again --nocapture

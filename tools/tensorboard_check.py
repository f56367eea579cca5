#!/usr/bin/env python3
"""Opens the event files of runs with TensorBoard itself, and compares their scalars with metrics.jsonl.

    pip install tensorboard
    python3 tools/tensorboard_check.py RUN [RUN …]

The scalars, histograms and hyper-parameters of every run are read by TensorBoard's own reader, and requested from the
program that serves its pages. Exit status 1 if something is missing or differs.
"""

import json
import math
import sys
import tempfile
import urllib.request
from pathlib import Path

from tensorboard import default, program
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams

TOLERANCE = 1e-6  # Of single-precision numbers.


def expected(run):
    """(tag, step, value) of every compared number of the metrics."""
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            tag = f"{record['split']}/{name}"
            if isinstance(value, float):
                yield tag, record["step"], value
            elif isinstance(value, list) and value and isinstance(value[0], float):
                for i, number in enumerate(value):
                    yield f"{tag}/branch{i}", record["step"], number


def check_run(run):
    """Compares one run's events with its metrics; returns the differences."""
    reader = EventAccumulator(str(run), size_guidance={"scalars": 0, "histograms": 0, "tensors": 0})
    reader.Reload()
    found = {}
    for tag in reader.Tags()["tensors"]:
        for entry in reader.Tensors(tag):
            values = entry.tensor_proto.float_val
            if values:
                found[tag, entry.step] = values[0]
    for tag in reader.Tags()["scalars"]:
        found.update({(tag, entry.step): entry.value for entry in reader.Scalars(tag)})
    count = 0
    for tag, step, value in expected(run):
        other = found.get((tag, step))
        if other is None or not math.isclose(other, value, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            sys.exit(f"{run}: {tag} at step {step} is {other} in the events, and {value} in the metrics")
        count += 1
    steps = {step for _, step, _ in expected(run)}
    more = [key for key in found if key[1] not in steps]
    if more:
        sys.exit(f"{run}: the events have {more[0]}, and the metrics have not")
    parameters = {}
    for content in reader.PluginTagToContent(hparams.PLUGIN_NAME).values():
        try:
            parameters = dict(hparams.parse_session_start_info_plugin_data(content).hparams)
        except Exception:  # The end's data are not the start's.
            continue
    gate = sorted(tag for tag in [*reader.Tags()["histograms"], *reader.Tags()["tensors"]] if tag.startswith("gate/"))
    return count, len(gate), {name: value.WhichOneof("kind") for name, value in parameters.items()}


def ask(url, path, body=None):
    """The server's answer as JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data=data, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def main():
    runs = [Path(run) for run in sys.argv[1:]]
    for run in runs:
        scalars, histograms, parameters = check_run(run)
        if not parameters.get("lr") == "number_value" or not parameters.get("net") == "string_value":
            sys.exit(f"{run}: the hyper-parameters are {parameters}")
        print(f"{run}: {scalars} scalars as in the metrics, {histograms} histograms, {len(parameters)} hyper-parameters")
    with tempfile.TemporaryDirectory() as folder:
        for i, run in enumerate(runs):
            (Path(folder) / f"run{i}").symlink_to(run.resolve(), target_is_directory=True)
        board = program.TensorBoard(plugins=default.get_plugins())
        board.configure(argv=[None, "--logdir", folder, "--port", "0", "--load_fast", "false", "--reload_interval", "1"])
        url = board.launch()
        tags, sessions = {}, {}
        for _ in range(60):
            tags = ask(url, "data/plugin/scalars/tags")
            wanted = {"allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_RUNNING"], "sliceSize": 9}
            sessions = ask(url, "data/plugin/hparams/session_groups", wanted)
            if len(tags) == len(runs) and all(tags.values()):
                break
            urllib.request.urlopen(url + "data/runs", timeout=60).read()
    print(f"served: {sum(map(len, tags.values()))} tags of {len(tags)} runs")
    if len(tags) != len(runs) or not sessions.get("sessionGroups"):
        sys.exit(f"TensorBoard serves {tags} and {sessions}")


if __name__ == "__main__":
    main()

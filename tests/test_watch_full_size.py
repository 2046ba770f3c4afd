"""`watch` on ten thousand pictures that another process writes, and kill -9 in the middle.

LISAE_ARRIVALS lowers the count.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import watch_fixtures
from conftest import CHECKOUT, QUICK
from pyarrow import parquet
from watch_fixtures import rows

server = watch_fixtures.server

ARRIVALS = int(os.environ.get("LISAE_ARRIVALS", "10000"))
RATE, KILLS, SETTLE = 200, 3, 1.0
CHANGED = 0.6  # of all, after which the light is another
# Writes pictures at a rate: whole, renamed into place, slowly in five pieces, or cut short.
WRITER = """
import io, json, os, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
folder, log, count, rate, changed = Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:])
generator, slow, done = np.random.default_rng(5), [], open(log, "w")

def encoded(level):
    stream = io.BytesIO()
    pixels = (generator.random((12, 12)) * 50 + level).astype(np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()

def write(path, data, mode):
    with open(path, mode) as stream:
        stream.write(data)

def go_on(until):
    while slow and (slow[0][0] <= until):
        due, path, pieces = slow.pop(0)
        time.sleep(max(0, due - time.time()))
        write(path, pieces[0], "ab")
        if pieces[1:]:
            slow.append((due + 0.1, path, pieces[1:]))
            slow.sort(key=lambda each: each[0])
        else:
            told(path, "slow")

def told(path, kind):
    line = {"path": str(path), "kind": kind, "time": time.time(), "light": light}
    done.write(json.dumps(line) + "\\n")

began = time.time()
for number in range(int(count)):
    due, light = began + number / rate, number >= changed * count
    go_on(due)
    time.sleep(max(0, due - time.time()))
    data, path = encoded(66 if light else 60), folder / f"{number:05d}.png"
    if number % 20 == 7:
        write(path, data[: len(data) // 2], "wb")
        told(path, "damaged")
    elif number % 20 == 13:
        cut = len(data) // 5 + 1
        slow.append((due, path, [data[k : k + cut] for k in range(0, len(data), cut)]))
    elif number % 5 == 1:
        write(path.with_suffix(".png.part"), data, "wb")
        os.rename(path.with_suffix(".png.part"), path)
        told(path, "renamed")
    else:
        write(path, data, "wb")
        told(path, "whole")
go_on(float("inf"))
done.close()
"""


@pytest.fixture
def model(tmp_path, cli, picture_folder):
    """An ONNX file with 200 calibration scores of pictures like those that arrive first."""
    grey = [(12, 12, "L", ".png")]
    for name, count, level in (("normal", 500, 60), ("negative", 40, 150)):
        picture_folder(tmp_path / name, count, level=level, kinds=grey)
    with contextlib.chdir(tmp_path):
        sides = ("--normal-dir", "normal", "--negative-dir", "negative")
        assert cli("train", *sides, *QUICK, "--out", "run").exit_code == 0
        out = ("--out", "models", "--name", "watched", "--format", "onnx")
        assert cli("export", "--run", "run", *out).exit_code == 0
    return next((tmp_path / "models").rglob("model.onnx"))


@pytest.mark.slow("ten thousand pictures arrive")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_ten_thousand_arrivals_and_kills(tmp_path, model, server, cli, measured, request):
    folder, out, parts = tmp_path / "in", tmp_path / "scores.csv", tmp_path / "parts"
    kept, log = tmp_path / "anomalies", tmp_path / "written.jsonl"
    folder.mkdir()
    receiver = server(200, 503, 200, 200, 503, 200)
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    command = [
        sys.executable, CHECKOUT / "cli.py", "watch", folder, "--model", model, "--out", out,
        "--settle", SETTLE, "--parts", parts, "--part-size", 1000, "--anomalies", kept, "--link",
        "--post", receiver.url,
    ]  # fmt: skip
    command = [str(word) for word in command]

    def start():
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        request.addfinalizer(process.kill)
        assert process.stdout.readline().startswith("watching ")
        return process

    given = [str(value) for value in (folder, log, ARRIVALS, RATE, CHANGED)]
    writer = subprocess.Popen([sys.executable, "-c", WRITER, *given])
    request.addfinalizer(writer.kill)
    generator, watching, seconds = random.Random(0), start(), ARRIVALS / RATE
    for _ in range(KILLS):
        time.sleep(generator.uniform(0, 0.5) * seconds / KILLS)
        watching.kill()
        watching.communicate()
        watching = start()
    last_start = time.time()
    assert writer.wait(timeout=20 * seconds + 60) == 0
    damaged = {*range(7, ARRIVALS, 20)}
    while sum(1 for row in rows(out) if row["score"]) < ARRIVALS - len(damaged):
        assert watching.poll() is None
        time.sleep(0.5)
    watching.send_signal(signal.SIGTERM)
    output, _ = watching.communicate()
    assert watching.returncode == 0 and "messages wait" not in output, output

    # Each is scored once, none is lost, and no reader has seen more than that.
    found = rows(out)
    assert Counter(row["path"] for row in found if row["score"]) == {
        str(folder / f"{n:05d}.png"): 1 for n in range(ARRIVALS) if n not in damaged
    }
    unreadable = Counter(Path(row["path"]).stem for row in found if not row["score"])
    assert all(unreadable[f"{number:05d}"] == 1 for number in damaged)
    premature = unreadable.total() - len(damaged)  # of slow ones, had they looked finished
    # The scores are those of `score`.
    assert cli("score", folder, "--model", model, "--skip-bad", "--out", tmp_path / "all.csv")
    expected = {row["path"]: row for row in rows(tmp_path / "all.csv")}
    scored = [row for row in found if row["score"]]
    for row in scored:
        other = expected[row["path"]]
        assert float(row["score"]) == pytest.approx(float(other["score"]), rel=1e-5)
    # Parts and messages say the same.
    tables = [parquet.read_table(path).to_pylist() for path in sorted(parts.iterdir())]
    in_parts = [(row["path"], row["time"]) for table in tables for row in table]
    assert in_parts == [(row["path"], row["time"]) for row in found]
    anomalies = {row["path"] for row in found if row["is_anomaly"] == "true"}
    messages = {}
    for code, key, content in receiver.taken:
        if code == 200:
            messages.setdefault(key, content)
    told = [content["path"] for content in messages.values() if content["kind"] == "anomaly"]
    assert sorted(told) == sorted(anomalies)
    assert len(list(kept.glob("*-errors.png"))) == len(anomalies)
    assert len(list(kept.iterdir())) == 2 * len(anomalies)
    # Drift is told once, and not before the light has changed.
    drifts = [content for content in messages.values() if content["kind"] == "drift"]
    written = {line["path"]: line for line in map(json.loads, log.read_text().splitlines())}
    changed = [number for number, row in enumerate(found) if written[row["path"]]["light"]]
    (drift,) = drifts
    assert drift["drifted"] and drift["time"] >= found[changed[0]]["time"]
    after = sum(row["time"] <= drift["time"] for row in found) - changed[0]
    waits = [
        datetime.fromisoformat(row["time"]).timestamp() - line["time"] for row in scored
        if (line := written[row["path"]])["time"] > last_start
    ]  # fmt: skip
    measured(
        pictures=ARRIVALS, written_a_second=RATE, kills=KILLS, settle_seconds=SETTLE,
        damaged=len(damaged), premature=premature, anomalies=len(anomalies),
        messages_taken=sum(code == 200 for code, *_ in receiver.taken),
        messages_repeated=sum(code == 200 for code, *_ in receiver.taken) - len(messages),
        drift_after_pictures=after,
        after_the_last_start=len(waits),
        median_wait_seconds=round(float(np.median(waits)), 2) if waits else None,
        p95_wait_seconds=round(float(np.quantile(waits, 0.95)), 2) if waits else None,
    )  # fmt: skip

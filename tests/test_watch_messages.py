"""`watch`: who is told of anomalies and drift, again until they know it; and what is counted.

At full size ten thousand pictures arrive, fewer with LISAE_ARRIVALS, and the watcher is killed.
"""

import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from datetime import datetime
from http.server import HTTPServer
from pathlib import Path

import numpy as np
import pytest
import watch_fixtures
from conftest import CHECKOUT, QUICK
from pyarrow import parquet
from watch_fixtures import ALPHA, FAST, Taking, Toy, picture, rows, watch

from lisae_tf.core.errors import LisaeError
from lisae_tf.watching import outbox, watcher
from lisae_tf.watching.drift import Window
from lisae_tf.watching.watcher import Settings, Watcher

folder, out, server = watch_fixtures.folder, watch_fixtures.out, watch_fixtures.server

# Those who are told


def telling(*given, **more):
    return dataclasses.replace(FAST, receivers=given, **more)


def test_a_message_is_sent_until_it_is_received(folder, out, server, monkeypatch):
    monkeypatch.setattr("lisae_tf.watching.outbox._FIRST_PAUSE", 0.01)
    receiver, said = server(503, 302, 200), []
    settings = telling(outbox.Post(receiver.url))
    done = watch(folder, out, settings, say=said.append)
    assert done.messages_waiting == {}
    received = [(key, content) for code, key, content in receiver.taken if code == 200]
    assert {Path(content["path"]).name for _, content in received} == {"8.png", "9.png"}
    assert len({key for key, _ in received}) == 2
    assert all(key == content["id"] for key, content in received)
    assert {*received[0][1]} == {*outbox.FIELDS["anomaly"]}
    assert "--post did not take a message (it answers 503); it is sent again" in said
    watch(folder, out, settings)
    assert len(receiver.taken) == 4


def test_messages_outlive_the_watcher(folder, out, server):
    with HTTPServer(("127.0.0.1", 0), Taking) as nobody:
        port = nobody.server_port
    settings = telling(outbox.Post(f"http://127.0.0.1:{port}/x"), grace=0.05)
    assert watch(folder, out, settings).messages_waiting == {"--post": 2}
    said = []
    watch(folder, out, say=said.append)
    assert said == ["note: 2 messages wait for --post; give it again to send them"]
    receiver = server(200)
    done = watch(folder, out, telling(outbox.Post(receiver.url)))
    assert done.messages_waiting == {} and len(receiver.taken) == 2


def test_scoring_waits_when_the_queue_is_full(folder, out, server, monkeypatch):
    monkeypatch.setattr(watcher, "_BATCH", 1)
    for number in range(3):
        picture(folder / f"bright-{number}.png", 240)
    receiver, said = server(500), []
    settings = telling(outbox.Post(receiver.url), queue=2, grace=0.3)
    with pytest.raises(LisaeError, match="2 messages wait for --post, so the other pictures"):
        watch(folder, out, settings, say=said.append)
    assert "2 messages wait for --post: scoring waits for it too" in said
    left = len(rows(out))
    assert left < 14
    watch(folder, out)
    assert len(rows(out)) == 14


def test_a_slow_receiver_does_not_hold_scoring_up(folder, out, server, monkeypatch):
    entered, go = threading.Event(), threading.Event()

    class Slow(outbox.Receiver):
        name, kinds = "slow", ("anomaly",)

        def send(self, content):
            entered.set()
            assert go.wait(60)

    watching = Watcher(folder, Toy(), out, telling(Slow()))
    thread = threading.Thread(target=lambda: found.append(watching.run()), daemon=True)
    found = []
    thread.start()
    assert entered.wait(60)
    picture(folder / "late.png")
    while len(rows(out)) < 12:
        assert thread.is_alive()
        time.sleep(0.01)
    assert watching.counts().messages_waiting == {"slow": 2}
    go.set()
    watching.stop()
    thread.join()
    assert found[0].messages_waiting == {}


def command(kind, tmp_path, *fields, code=""):
    script = f"import sys; open({str(tmp_path / 'told')!r}, 'a').write(repr(sys.argv[1:]) + '\\n')"
    (tmp_path / "script.py").write_text(f"{script}\n{code}")
    return outbox.Command(kind, f"{sys.executable} {tmp_path / 'script.py'} {' '.join(fields)}")


def test_a_command_is_told_without_a_shell(folder, out, tmp_path):
    os.rename(folder / "sub" / "9.png", folder / "$(x) {score} 'n.png")
    given = command("anomaly", tmp_path, "'at {path}'", "{score}", "'$(y)'")
    watch(folder, out, telling(given))
    told = [eval(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert sorted(words[0] for words in told) == [
        f"at {folder}/$(x) {{score}} 'n.png", f"at {folder}/8.png",
    ]  # fmt: skip
    assert all(float(words[1]) > ALPHA and words[2] == "$(y)" for words in told)


def test_a_command_that_fails_is_started_again(folder, out, tmp_path, monkeypatch):
    monkeypatch.setattr("lisae_tf.watching.outbox._FIRST_PAUSE", 0.01)
    code = f"if open({str(tmp_path / 'told')!r}).read().count('\\n') < 3: sys.exit('no room')"
    said = []
    done = watch(
        folder, out, telling(command("anomaly", tmp_path, "{id}", code=code)), say=said.append
    )
    assert done.messages_waiting == {}
    ids = (tmp_path / "told").read_text().split()
    assert len(ids) == 4 and len({*ids}) == 2
    assert any("did not take a message (exit code 1: no room)" in line for line in said)


# Drift


def test_drift_is_raised_once_and_cleared(tmp_path):
    random = np.random.default_rng(0)
    record = Toy(calibration=random.normal(0.3, 0.05, 200)).record
    window = Window(record, 100)
    assert not any(window.add(random.normal(0.3, 0.05, 20).tolist()) for _ in range(50))
    said = [window.add(random.normal(0.4, 0.05, 20).tolist()) for _ in range(10)]
    (raised,) = filter(None, said)
    assert raised.drifted and window.drifted
    (ended,) = filter(None, (window.add(random.normal(0.3, 0.05, 20).tolist()) for _ in range(10)))
    assert not ended.drifted and not window.drifted


def test_the_test_needs_scipy_or_is_left_out(folder, out, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    model = Toy(calibration=np.linspace(0.2, 0.3, 100))
    with pytest.raises(LisaeError, match="needs the package 'scipy'; install it with"):
        watch(folder, out, dataclasses.replace(FAST, window=20), model)
    assert watch(folder, out, model=model).scored == 10


def test_drift_is_told_and_known_to_the_next_start(tmp_path, out, server):
    folder = tmp_path / "in"
    folder.mkdir()
    model = Toy(calibration=np.random.default_rng(0).uniform(0.2, 0.3, 100))
    receiver, said = server(200), []
    settings = telling(
        outbox.Post(receiver.url), command("drift", tmp_path, "{drifted}"), window=20
    )
    for start, (level, ended) in enumerate([(52, None), (100, True), (102, None), (52, False)]):
        for number in range(20):
            picture(folder / f"{start}-{number}.png", level + number)
        watch(folder, out, settings, model, said.append)
        told = [content["drifted"] for *_, content in receiver.taken]
        assert told == [True, False][: {0: 0, 3: 2}.get(start, 1)]
        assert ended in (None, told[-1] if told else None)
    assert (tmp_path / "told").read_text() == "['True']\n['False']\n"
    assert any(line.startswith("drift: the scores have drifted, they are higher") for line in said)
    assert said[-1] == "drift has ended"


def test_a_model_without_scores_of_its_own_is_watched_without_the_test(folder, out):
    said = []
    assert watch(folder, out, Settings(settle=0), say=said.append).drifted is None
    assert "note: drift is not looked for: the model keeps no calibration scores" in said[0]


# Metrics


def test_a_port_that_is_taken_is_named(folder, out):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LisaeError, match="choose another --metrics-port"):
            watch(folder, out, dataclasses.replace(FAST, metrics_port=port))
    assert watch(folder, out).scored == 10


def test_metrics_are_answered_on_this_machine(folder, out):
    model = Toy(calibration=np.linspace(0.2, 0.3, 100))
    settings = Settings(settle=0, poll=0.01, window=20, metrics_port=0)
    watching = Watcher(folder, model, out, settings)

    def page():
        with urllib.request.urlopen(f"http://127.0.0.1:{watching.metrics_port}/metrics") as answer:
            return answer.read().decode()

    pages = []

    def look():
        while 'lisae_watch_pictures_total{outcome="anomaly"} 2.0' not in (text := page()):
            time.sleep(0.01)
        pages.append(text)
        watching.stop()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    watching.run()
    thread.join()
    for line in ("lisae_watch_drifted 0.0", "lisae_watch_folder_available 1.0",
                 'lisae_watch_pictures_total{outcome="unreadable"} 1.0',
                 f"lisae_watch_threshold {ALPHA}"):  # fmt: skip
        assert line in pages[0]


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

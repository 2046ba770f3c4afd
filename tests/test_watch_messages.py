"""`watch`: who is told of anomalies and drift, again until they know it; and what is counted."""

import dataclasses
import os
import socket
import sys
import threading
import time
import urllib.request
from http.server import HTTPServer
from pathlib import Path

import numpy as np
import pytest
import watch_fixtures
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

"""`watch`: scores each picture of a folder as it arrives, once, whatever is killed."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import click

from lisae_tf.commands import options as shared
from lisae_tf.core.errors import LisaeError


@click.command("watch")
@click.argument("folder", type=shared.path)
@click.option(
    "--model", required=True, type=shared.path,
    help="An exported model: an .onnx or .tflite file, or the folder of a SavedModel.",
)  # fmt: skip
@click.option(
    "--out", required=True, type=shared.path,
    help="CSV that a line is added to for each picture; what is done stands in FILE.journal.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Score what is there and end.")
@click.option(
    "--settle", type=click.FloatRange(0, 3600), default=0.5, show_default=True,
    help="Seconds over which size and time of a file must stay the same; 0 where all files are "
    "renamed into the folder.",
)  # fmt: skip
@click.option(
    "--poll", type=click.FloatRange(0.05, 3600), default=0.5, show_default=True,
    help="Seconds between looks at the folder.",
)  # fmt: skip
@click.option("--parts", type=shared.path, help="Also write Parquet parts into this folder.")
@click.option(
    "--part-size", type=click.IntRange(1), default=10_000, show_default=True,
    help="Pictures in a part.",
)  # fmt: skip
@click.option(
    "--anomalies", type=shared.path,
    help="Also copy anomalies, each with its errors in red, into this folder.",
)  # fmt: skip
@click.option("--link", is_flag=True, help="With --anomalies: links in place of copies.")
@click.option(
    "--on-anomaly", metavar="COMMAND",
    help="Start this for each anomaly, without a shell; {path}, {score}, {threshold}, {time} and "
    "{id} are filled in.",
)  # fmt: skip
@click.option(
    "--on-drift", metavar="COMMAND",
    help="Start this when drift begins or ends; {drifted}, {statistic}, {p_value}, {advice}, "
    "{time} and {id} are filled in.",
)  # fmt: skip
@click.option("--post", metavar="URL", help="POST a JSON object for each anomaly and drift.")
@click.option(
    "--queue", type=click.IntRange(1), default=1000, show_default=True,
    help="Messages that may wait for a receiver; with more, scoring waits too.",
)  # fmt: skip
@click.option(
    "--window", type=click.IntRange(0), default=500, show_default=True,
    help="Newest scores that are tested for drift; 0 leaves the test out.",
)  # fmt: skip
@click.option(
    "--metrics-port", type=click.IntRange(0, 65535),
    help="Answer Prometheus at 127.0.0.1; 0 for any free port.",
)  # fmt: skip
@click.option(
    "--grace", type=click.FloatRange(0), default=10.0, show_default=True,
    help="Seconds to send what waits, in the end; the rest is sent by the next start.",
)  # fmt: skip
def command(
    folder: Path, model: Path, out: Path, once: bool, settle: float, poll: float,
    parts: Path | None, part_size: int, anomalies: Path | None, link: bool,
    on_anomaly: str | None, on_drift: str | None, post: str | None, queue: int, window: int,
    metrics_port: int | None, grace: float,
):  # fmt: skip
    """Score each picture in FOLDER as it arrives, once, until Ctrl+C or SIGTERM.

    An ONNX or TFLite file needs no TensorFlow. A start that was killed is gone on with by the
    same command.
    """
    from lisae_tf.exported.runtimes import open_model
    from lisae_tf.watching.outbox import ANOMALY, DRIFT, Command, Post
    from lisae_tf.watching.watcher import Settings, Watcher

    if link and anomalies is None:
        raise LisaeError("--link belongs to --anomalies DIR; add it, or leave --link out")
    receivers = [
        *([] if on_anomaly is None else [Command(ANOMALY, on_anomaly)]),
        *([] if on_drift is None else [Command(DRIFT, on_drift)]),
        *([] if post is None else [Post(post)]),
    ]
    settings = Settings(
        settle=settle, poll=poll, window=window, queue=queue, grace=grace, parts=parts,
        part_size=part_size, anomalies=anomalies, link=link, receivers=receivers,
        metrics_port=metrics_port,
    )  # fmt: skip
    opened = open_model(model)
    watcher = Watcher(folder, opened, out, settings, lambda line: click.echo(line, err=True))
    known = f", {watcher.known} pictures known" if watcher.known else ""
    metrics = (
        f", metrics at http://127.0.0.1:{watcher.metrics_port}" if watcher.metrics_port else ""
    )
    ending = "" if once else "; stop with Ctrl+C"
    click.echo(
        f"watching {folder}: threshold {opened.threshold:.4g}, scores to {out}"
        f"{known}{metrics}{ending}"
    )
    with _stopped_by_signals(watcher):
        done = watcher.run(once=once)
    line = f"scored {done.scored} pictures: {done.anomaly} anomalies; {done.unreadable} unreadable"
    if done.waiting:
        line += f"; {done.waiting} not yet whole or not read"
    if waiting := sum(done.messages_waiting.values()):
        line += f"; {waiting} messages wait for the next start"
    click.echo(line)


@contextlib.contextmanager
def _stopped_by_signals(watcher) -> Iterator[None]:
    """SIGTERM and Ctrl+C let it finish what it has begun; a second Ctrl+C ends at once."""

    def stop(number, frame):
        watcher.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {each: signal.signal(each, stop) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)

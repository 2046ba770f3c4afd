"""Who is told of anomalies and drift: a command, or a server over HTTP. Without TensorFlow."""

import http.client
import json
import re
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from typing import Any
from urllib.parse import urlsplit

from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import as_utf8

ANOMALY, DRIFT = "anomaly", "drift"
# What a message of each kind holds.
FIELDS = {
    ANOMALY: ("id", "kind", "time", "model_sha256", "path", "score", "threshold"),
    DRIFT: ("id", "kind", "time", "model_sha256", "drifted", "statistic", "p_value", "advice"),
}
_COMMAND_SECONDS, _POST_SECONDS = 60.0, 10.0
_PLACE = re.compile(r"\{(\w+)\}")


class Failed(Exception):
    """A message was not received, and why."""


class Receiver(ABC):
    """Takes messages, one at a time.

    Attributes:
        name: by which its messages wait; that of its option.
        kinds: of the messages that it is given.
    """

    name: str
    kinds: tuple[str, ...]

    @abstractmethod
    def send(self, content: dict[str, Any]) -> None:
        """Gives it a message.

        Raises:
            Failed: it did not take it.
        """


class Command(Receiver):
    """A command that is started for each message, without a shell.

    Args:
        kind: of the messages.
        line: words as a shell splits them; `{path}` and other fields in them are filled in.

    Raises:
        LisaeError: no command, or a field that there is not.
    """

    def __init__(self, kind: str, line: str):
        self.name, self.kinds = f"--on-{kind}", (kind,)
        try:
            self._words = shlex.split(line)
        except ValueError as error:
            raise LisaeError(f"{self.name} {line!r} cannot be split into words: {error}") from error
        if not self._words or shutil.which(self._words[0]) is None:
            what = self._words[0] if self._words else "an empty text"
            raise LisaeError(f"{self.name}: {what} is no command that can be run; check its path")
        unknown = {*_PLACE.findall(line)} - {*FIELDS[kind]}
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in FIELDS[kind])
            raise LisaeError(f"{self.name} knows no {{{min(unknown)}}}; it fills in {known}")

    def send(self, content):
        words = [_PLACE.sub(lambda found: str(content[found[1]]), word) for word in self._words]
        try:
            done = subprocess.run(  # noqa: S603 - the user's own command
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                timeout=_COMMAND_SECONDS, check=False,
                start_new_session=True,  # Ctrl+C is for the watcher, which lets it end
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Failed(f"not ended after {_COMMAND_SECONDS:.0f} seconds") from error
        except (OSError, ValueError) as error:
            raise Failed(str(error)) from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise Failed(f"exit code {done.returncode}" + (f": {said[-1][:200]}" if said else ""))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its message."""

    def redirect_request(self, *arguments):
        return None


class Post(Receiver):
    """A server that is sent JSON; any answer of 200 to 299 means that it has it.

    Args:
        url: http or https.

    Raises:
        LisaeError: another kind of address.
    """

    name, kinds = "--post", (ANOMALY, DRIFT)

    def __init__(self, url: str):
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good:
            raise LisaeError(f"--post {url}: give an address as http://host:port/path")
        self._url = url
        self._opener = urllib.request.build_opener(_NoRedirect)

    def send(self, content):
        if "path" in content:
            content = {**content, "path": as_utf8(content["path"])}
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self._url, json.dumps(content).encode(), method="POST",
            headers={"Content-Type": "application/json", "Idempotency-Key": content["id"]},
        )  # fmt: skip
        try:
            with self._opener.open(request, timeout=_POST_SECONDS) as answer:
                answer.read(2**16)
        except urllib.error.HTTPError as error:
            error.close()
            raise Failed(f"it answers {error.code}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise Failed(str(reason) or type(error).__name__) from error

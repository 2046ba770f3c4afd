"""Which versions of a model are served: found on disk, loaded, swapped, named by labels.

A version is served from the moment that it is loaded and warm; an old one leaves only after all
that should be served are there, and lives on until its last request is answered.
"""

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lisae_tf.core.errors import LisaeError
from lisae_tf.exported.saved_model import ServedModel
from lisae_tf.exported.signatures import RequestError
from lisae_tf.serving import model_config

LOADING, AVAILABLE, UNLOADING, END = 20, 30, 40, 50
_MAX_VERSION = 2**63 - 1
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """A version's state: its number in TensorFlow Serving's protocol, and what went wrong."""

    state: int
    error: str = ""


class Versions:
    """The versions of one model folder.

    Args:
        base: `<base>/<integer version>/`.
        name: the model's name.
        load: (folder, version) -> a model that is ready to answer; raises LisaeError for a folder
            that cannot be served.
    """

    def __init__(self, base: Path, name: str, load: Callable[[Path, int], ServedModel]):
        self.base = base
        self.name = name
        self.states: dict[int, State] = {}
        self._load = load
        self._config = model_config.ModelConfig()
        self._serving: dict[int, ServedModel] = {}  # replaced, never altered: readers take no lock
        self._failures: dict[int, list[tuple[str, int, int]]] = {}
        self._last_warning = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def serving(self) -> list[int]:
        """The versions that answer now, oldest first."""
        return sorted(self._serving)

    def pick(self, version: int | None = None, label: str | None = None) -> ServedModel:
        """The model that answers a request: by version, by label, or the newest.

        Raises:
            RequestError: NOT_FOUND for a version that is not served, INVALID_ARGUMENT for a label
                that is not known.
        """
        serving = self._serving
        if label is not None:
            version = self._config.labels.get(label)
            if version is None:
                raise RequestError(
                    "INVALID_ARGUMENT", f"Unrecognized servable version label: {label}"
                )
        if version is None and serving:
            version = max(serving)
        if version not in serving:
            wanted = "Latest" if version is None else f"Specific({self.name}, {version})"
            raise RequestError("NOT_FOUND", f"Servable not found for request: {wanted}")
        return serving[version]

    def poll(self) -> None:
        """Looks at the folder once and loads and drops what has changed.

        A version that cannot be loaded counts as absent until its files change.
        """
        self._read_config()
        found = self._scan()
        while True:
            wanted = self._config.choose(each for each in found if not self._failed(each, found))
            missing = wanted - self._serving.keys()
            if not missing:
                break
            self._take_up(max(missing), found[max(missing)])
        if wanted:
            self._drop(self._serving.keys() - wanted)
        elif self._serving:
            self._warn(f"no version to serve in {self.base}; still serving {self.serving}")

    def start(self, seconds: float) -> None:
        """Polls in a thread of its own."""

        def work() -> None:
            while not self._stop.wait(seconds):
                try:
                    self.poll()
                except Exception:  # keep serving what is loaded, whatever the disk does
                    _log.exception("polling %s failed", self.base)

        self._thread = threading.Thread(target=work, name="versions", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the polling; what is loaded stays."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _warn(self, message: str) -> None:
        """Logs what is found at every look only when it is news."""
        if message != self._last_warning:
            _log.warning(message)
        self._last_warning = message

    def _read_config(self) -> None:
        path = model_config.find(self.base)
        if path is None:
            return
        try:
            self._config = model_config.read(path, self.name)
        except LisaeError as error:
            self._warn(f"{error}; what it said before still holds")

    def _scan(self) -> dict[int, Path]:
        """Folders whose names are integers."""
        try:
            folders = [path for path in self.base.iterdir() if path.is_dir()]
        except OSError as error:
            self._warn(f"cannot read {self.base}: {error}")
            return {}
        named = ((path.name, path) for path in folders if path.name.isascii())
        found = {int(name): path for name, path in sorted(named) if name.isdigit()}
        return {version: path for version, path in found.items() if version <= _MAX_VERSION}

    def _failed(self, version: int, found: dict[int, Path]) -> bool:
        """Whether a version failed before and its files are still the same."""
        return version in self._failures and self._failures[version] == _stamp(found[version])

    def _take_up(self, version: int, folder: Path) -> None:
        """Loads a version and serves it, or remembers that it failed."""
        self.states[version] = State(LOADING)
        stamp = _stamp(folder)
        try:
            model = self._load(folder, version)
        except LisaeError as error:
            self._fail(version, stamp, str(error))
            return
        except Exception as error:  # one bad folder must not keep the others from being served
            _log.exception("loading %s failed", folder)
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self._fail(
                version, stamp, f"{folder} cannot be loaded ({reason}); export the model again"
            )
            return
        self._failures.pop(version, None)
        self._serving = self._serving | {version: model}
        self.states[version] = State(AVAILABLE)
        gc.freeze()  # else each large JSON body has the collector walk all of TensorFlow
        _log.info("serving %s version %s", self.name, version)

    def _fail(self, version: int, stamp: list, reason: str) -> None:
        self._failures[version] = stamp
        self.states[version] = State(END, reason)
        _log.warning("version %s is not served: %s", version, reason)

    def _drop(self, versions: set[int]) -> None:
        for version in sorted(versions):
            self.states[version] = State(UNLOADING)
            self._serving = {key: each for key, each in self._serving.items() if key != version}
            self.states[version] = State(END)
            _log.info("no longer serving %s version %s", self.name, version)
        if versions:
            gc.unfreeze()
            gc.collect()  # graphs are held in cycles
            gc.freeze()


def _stamp(folder: Path) -> list[tuple[str, int, int]]:
    """What changes when somebody mends a folder: its files, their bytes, who may read them."""
    found = []
    try:
        for path in (folder, *folder.rglob("*")):
            status = path.lstat()
            found.append((str(path), status.st_mtime_ns, status.st_ctime_ns))
    except OSError:  # it is going, or nobody may look
        pass
    return sorted(found)

"""A client of TensorFlow Serving's REST API without TensorFlow."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import numpy as np
import requests

from lisae_tf.exported.signatures import Refused, from_http
from lisae_tf.serving.json_format import decode_base64, encode_base64, is_base64
from lisae_tf.serving.scores import ScoringClient, VersionStatus

CONNECT_SECONDS = 3.0
UNNAMED = "output"
_TRY_AGAIN = (429, 503)
_LONGEST_WAIT = 5.0


class RestClient(ScoringClient):
    """Talks to `http://host:port/v1/models/<model>`; use as a context manager, or `close`.

    Args:
        model: the model's name.
        address: "host:port", or a URL with a path before /v1 if need be.
        form: "rows" or "columns", how `predict` sends its inputs.
        options: as for `ScoringClient`.
    """

    def __init__(
        self,
        model: str,
        address: str = "http://127.0.0.1:8501",
        *,
        form: Literal["rows", "columns"] = "rows",
        **options: Any,
    ):
        super().__init__(model, **options)
        self.address = (address if "://" in address else f"http://{address}").rstrip("/")
        self.form = form
        self._session = requests.Session()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def predict(
        self, inputs: Mapping[str, np.ndarray | Sequence[bytes]], signature: str = ""
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            inputs: arrays (N, …) by name; encoded pictures as a list of bytes.
            signature: its name; the default one by default.

        Returns:
            Outputs by name; a sole output comes without its name and is called "output".

        Raises:
            Refused: no answer, or the server's reason.
        """
        plain = {name: _plain(values) for name, values in inputs.items()}
        if self.form == "columns":
            document = {"inputs": plain}
        else:
            rows = zip(*plain.values(), strict=True)
            document = {"instances": [dict(zip(plain, row, strict=True)) for row in rows]}
        answer = self._post("predict", document, signature)
        found = answer.get("outputs" if self.form == "columns" else "predictions")
        if self.form == "rows" and isinstance(found, list) and found and _named(found[0]):
            found = {name: [row[name] for row in found] for name in found[0]}
        if _named(found):
            return {name: _array(values) for name, values in found.items()}
        if found is None:
            raise self._strange()
        return {UNNAMED: _array(found)}

    def classify(
        self, examples: Sequence[Mapping[str, Any]], signature: str = "classify"
    ) -> list[list[tuple[str, float]]]:
        """(label, score) pairs for each example, a mapping from feature to value or list."""
        document = {"examples": [_feature_values(example) for example in examples]}
        found = self._results("classify", document, signature)
        return [[(label, float(score)) for label, score in pairs] for pairs in found]

    def regress(
        self, examples: Sequence[Mapping[str, Any]], signature: str = "regress"
    ) -> np.ndarray:
        """One value, float32 (N,), for each example, a mapping from feature to value or list."""
        document = {"examples": [_feature_values(example) for example in examples]}
        return np.asarray(self._results("regress", document, signature), np.float32)

    def metadata(self) -> dict[str, Any]:
        """The SignatureDefs by name, as the server prints them."""
        answer = self._request("GET", self._path("/metadata"))
        try:
            return answer["metadata"]["signature_def"]["signature_def"]
        except (KeyError, TypeError) as error:
            raise self._strange() from error

    def status(self) -> list[VersionStatus]:
        """The states of the versions, or of the one that this client asks."""
        answer = self._request("GET", self._path(""))
        try:
            return [
                VersionStatus(
                    int(each["version"]),
                    each["state"],
                    each.get("status", {}).get("error_message", ""),
                )
                for each in answer["model_version_status"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise self._strange() from error

    def _path(self, end: str) -> str:
        path = f"/v1/models/{quote(self.model, safe='')}"
        if self.version is not None:
            path += f"/versions/{self.version}"
        if self.label is not None:
            path += f"/labels/{quote(self.label, safe='')}"
        return path + end

    def _post(self, method: str, document: dict[str, Any], signature: str) -> dict[str, Any]:
        if signature:
            document["signature_name"] = signature
        return self._request("POST", self._path(f":{method}"), json.dumps(document).encode())

    def _results(self, method: str, document: dict[str, Any], signature: str) -> list:
        answer = self._post(method, document, signature)
        found = answer.get("results", answer.get("result"))
        if not isinstance(found, list):
            raise self._strange()
        return found

    def _request(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        """Sends until it is answered; waits a little longer each time."""
        for attempt in range(self.retries + 1):
            last = attempt == self.retries
            pause = min(0.1 * 2**attempt, _LONGEST_WAIT)
            try:
                response = self._session.request(
                    method,
                    self.address + path,
                    data=body,
                    headers={"Content-Type": "application/json"},
                    timeout=(min(CONNECT_SECONDS, self.timeout), self.timeout),
                    allow_redirects=False,
                )
            except requests.ReadTimeout as error:
                raise Refused(
                    "DEADLINE_EXCEEDED",
                    f"{self.address} gave no answer in {self.timeout:g} s; send smaller batches or "
                    "give it a longer time-out",
                ) from error
            except requests.RequestException as error:
                if last or not isinstance(error, requests.ConnectionError):
                    raise Refused(
                        "UNAVAILABLE",
                        f"{self.address} cannot be reached; start a server with "
                        "'python cli.py serve --model DIR' or check the address",
                    ) from error
            else:
                if response.status_code not in _TRY_AGAIN or last:
                    return self._document(response)
            time.sleep(pause)
        raise Refused("UNAVAILABLE", f"{self.address} was not asked; let retries be 0 or more")

    def _document(self, response: requests.Response) -> dict[str, Any]:
        try:
            answer = json.loads(response.content)
        except (ValueError, RecursionError):
            answer = None
        if response.status_code != requests.codes.ok:
            reason = answer.get("error") if isinstance(answer, dict) else response.reason
            raise Refused(
                from_http(response.status_code),
                f"{self.address} refused the request ({response.status_code}): {reason}",
            )
        if not isinstance(answer, dict):
            raise self._strange()
        return answer

    def _strange(self) -> Refused:
        return Refused(
            "INTERNAL",
            f"{self.address} answers, but not as TensorFlow Serving does; check the address",
        )


def _named(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _plain(values: Any) -> Any:
    """An array as nested lists, byte strings as base64."""
    if isinstance(values, bytes):
        return encode_base64(values)
    if isinstance(values, np.ndarray | np.generic):
        values = values.tolist()
    return [_plain(each) for each in values] if _holds_bytes(values) else values


def _holds_bytes(values: Any) -> bool:
    while isinstance(values, list | tuple) and values:
        values = values[0]
    return isinstance(values, bytes)


def _feature_values(example: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(values) for name, values in example.items()}


def _array(values: Any) -> np.ndarray:
    """A JSON value as an array; base64 objects become bytes."""
    if isinstance(values, list) and values and is_base64(values[0]):
        values = [decode_base64(each) for each in values]
    return np.asarray(values)

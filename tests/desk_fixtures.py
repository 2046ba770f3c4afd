"""Desks, on a run's test pictures and on drawn ones, and a real browser that looks at them."""

import asyncio
import base64
import contextlib
import itertools
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from lisae_tf.commands.desk import _OfRun
from lisae_tf.core.thresholds import wilson
from lisae_tf.data.pictures import decode_all
from lisae_tf.desk.desk import Desk
from lisae_tf.desk.pictures import Cache, scored
from lisae_tf.desk.reported import pictures_of
from lisae_tf.desk.server import DeskServer
from lisae_tf.runs import files as run_files

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
READY = "document.querySelectorAll('#work:not([hidden]) .tile').length > 0"
# How many lines an element's text takes.
LINES = """((element) => {
  const range = document.createRange();
  range.selectNodeContents(element);
  return new Set([...range.getClientRects()].map(({ top }) => top)).size;
})"""
_BOX = """(selector) => {
  const found = document.querySelector(selector);
  const seen = () => {
    const { x, y, width, height } = found.getBoundingClientRect();
    return [x, y, width, height];
  };
  const [, y, , height] = seen();
  if (y < 0 || y + height > innerHeight) found.scrollIntoView({ block: "center" });
  return seen();
}"""
_CHOOSE = """(selector, value) => {
  const found = document.querySelector(selector);
  found.value = value;
  found.dispatchEvent(new Event("change"));
}"""
_AXE = """axe.run(document, {
  runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22a", "wcag22aa"],
  resultTypes: ["violations"],
}).then(({ violations }) => violations.flatMap(({ id, nodes }) => nodes.map(
  ({ html, failureSummary }) => `${id}: ${html.slice(0, 300)} ${failureSummary}`)))"""
_KEYS = {
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27,
    "Tab": 9, "Home": 36, "End": 35, "PageUp": 33, "PageDown": 34,
}  # fmt: skip


def desk_of(folder: Path, cache: Path) -> Desk:
    """The desk on a run's test pictures."""
    from lisae_tf.detectors import load_detector

    scorer = load_detector(folder)
    found = pictures_of(folder, scorer.config)
    marks = folder / run_files.MARKS
    return Desk(folder.name, found, scorer, _OfRun(folder), marks, Cache(cache))


class Scorer:
    """Stands in for a model of 24x24 grey pictures: their errors are what is bright."""

    shape, depth, has_maps, highest_share = (24, 24, 1), None, True, 1.0
    mask_size = None

    def error_maps(self, images: np.ndarray) -> np.ndarray:
        return (images[..., 0] / np.float32(255)) ** 2

    def score(self, images: np.ndarray) -> np.ndarray:
        return self.error_maps(images).mean(axis=(1, 2))


class Thresholds:
    """Stands in for those of a run: written values, the last one in force."""

    def __init__(self, alpha: float):
        self.written = [alpha]

    def now(self) -> float:
        return self.written[-1]

    def earlier(self) -> float | None:
        return self.written[-2] if len(self.written) > 1 else None

    def write(self, alpha: float, say) -> None:
        self.written.append(alpha)
        say(f"threshold {self.earlier():.5g} -> {alpha:.5g}: set by hand")

    def undo(self, say) -> None:
        self.write(self.written[-2], say)

    def options(self) -> str:
        return "--run runs/drawn"


def drawn_desk(base: Path, normal: int = 60, anomaly: int = 20) -> Desk:
    """A desk on drawn pictures: dark noise, and some of it with a bright spot."""
    generator, names = np.random.default_rng(0), []
    for kind, count in (("good", normal), ("hole", anomaly // 2), ("scratch", anomaly // 2)):
        (base / kind).mkdir(parents=True)
        for k in range(count):
            grey = generator.integers(0, 90, (48, 72)).astype(np.uint8)
            if kind != "good":
                y, x = generator.integers(0, (36, 60))
                grey[y : y + 12, x : x + 4 + k] += generator.integers(40, 160, dtype=np.uint8)
            names.append(base / kind / f"{k:03d}.png")
            Image.fromarray(grey).save(names[-1])
    scorer = Scorer()
    pixels = decode_all(names, (24, 24), 1).pixels
    found = scored([str(name) for name in names], scorer.score(pixels), [base])
    truth = np.array([kind != "good" for kind in found.kinds], np.int8)
    kinds = [kind.replace("good", "") for kind in found.kinds]
    found = replace(found, truth=truth, kinds=kinds)
    alpha = float(np.sort(found.scores[truth == 0])[-4])
    cache = Cache(base / ".cache")
    return Desk("drawn", found, scorer, Thresholds(alpha), base / "marks.jsonl", cache)


@contextlib.asynccontextmanager
async def served(desk: Desk):
    """The address of its page, while it is served from this process."""
    server = DeskServer(desk)
    runner = web.AppRunner(server.application(), handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{server.path}"
    finally:
        await runner.cleanup()


def visit(desk: Desk, talk, host: str = "127.0.0.1"):
    """Runs `talk(client, post)`, where `post` sends JSON as the page does."""

    async def visited():
        server = DeskServer(desk, host)
        async with TestClient(TestServer(server.application())) as client:
            origin = f"http://{client.host}:{client.port}"

            async def post(path: str, sent, **headers):
                headers = {"Origin": origin} | headers
                return await client.post(server.path + path, json=sent, headers=headers)

            client.base = server.path
            return await talk(client, post)

    return asyncio.run(visited())


class Page:
    """A page of Chromium, driven over its DevTools protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse):
        self._socket = socket
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future] = {}
        self.wrong: list[str] = []  # what went wrong in the page
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            found = message.json()
            asked = self._asked.pop(found.get("id"), None)
            if asked and not asked.done():
                asked.set_result(found)
            elif found.get("method") == "Runtime.exceptionThrown":
                self.wrong.append(str(found["params"]["exceptionDetails"]))
            elif found.get("method") == "Log.entryAdded":
                self.wrong.append(found["params"]["entry"]["text"])

    async def send(self, method: str, **params) -> dict[str, Any]:
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        answer = await asyncio.wait_for(self._asked[number], 60)
        assert "error" not in answer, answer
        return answer["result"]

    async def __call__(self, script: str):
        """The value of a script."""
        found = await self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = 30) -> None:
        """Waits for a script to be true."""
        async with asyncio.timeout(seconds):
            while not await self(script):
                await asyncio.sleep(0.02)

    async def open(self, address: str, width: int, height: int, **features: str) -> None:
        """Opens a page in a window of this size; features are of media, as prefers_…="dark"."""
        for domain in ("Page", "Runtime", "Log", "Performance"):
            await self.send(f"{domain}.enable")
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        named = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
        await self.send("Emulation.setEmulatedMedia", features=named)
        await self.send("Page.navigate", url=address)

    async def key(self, name: str) -> None:
        text = {"Enter": "\r"}.get(name, name if len(name) == 1 else "")
        code = _KEYS.get(name, ord(name[0].upper()))
        common = {"key": name, "windowsVirtualKeyCode": code}
        await self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    async def box(self, selector: str) -> tuple[float, float, float, float]:
        """x, y, width and height of an element in the window, scrolled to where that is needed."""
        return await self(f"({_BOX})({selector!r})")

    async def mouse(self, kind: str, x: float, y: float, buttons: int = 1) -> None:
        await self.send(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons,
            clickCount=1,
        )  # fmt: skip

    async def click(self, selector: str) -> None:
        x, y, width, height = await self.box(selector)
        for kind in ("mousePressed", "mouseReleased"):
            await self.mouse(kind, x + width / 2, y + height / 2)

    async def drag(self, selector: str, begin: float, end: float, steps: int = 10) -> None:
        """Drags from one share of an element's width to another."""
        x, y, width, height = await self.box(selector)
        await self.mouse("mousePressed", x + begin * width, y + height / 2)
        for step in range(1, steps + 1):
            share = begin + (end - begin) * step / steps
            await self.mouse("mouseMoved", x + share * width, y + height / 2)
        await self.mouse("mouseReleased", x + end * width, y + height / 2, 0)

    async def swipe(self, selector: str, begin: float, end: float) -> None:
        """The same with a finger."""
        x, y, width, height = await self.box(selector)
        for kind, share in (("touchStart", begin), ("touchMove", (begin + end) / 2),
                            ("touchMove", end), ("touchEnd", None)):  # fmt: skip
            at = [] if share is None else [{"x": x + share * width, "y": y + height / 2}]
            await self.send("Input.dispatchTouchEvent", type=kind, touchPoints=at)

    async def choose(self, selector: str, value: str) -> None:
        """Chooses of a list, as a user does."""
        await self(f"({_CHOOSE})({selector!r}, {value!r})")

    async def violations(self) -> list[str]:
        """What axe-core finds in the page against WCAG 2 A and AA, with the elements."""
        script = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
        await self(f"if (!globalThis.axe) {{ {script} }} null")
        return await self(_AXE)

    async def screenshot(self, path: Path) -> None:
        found = await self.send("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(found["data"]))

    async def close(self) -> None:
        await self._socket.close()
        await self._reader


@contextlib.asynccontextmanager
async def browser(profile: Path):
    """A page of a new Chromium; its process is `page.process`."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        "--disable-dev-shm-usage", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        told = profile / "DevToolsActivePort"
        async with asyncio.timeout(60):
            while not (told.is_file() and told.read_text().count("\n")):
                await asyncio.sleep(0.05)
        port = told.read_text().splitlines()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                found = await answer.json()
            at = next(each for each in found if each["type"] == "page")["webSocketDebuggerUrl"]
            page = Page(await session.ws_connect(at, max_msg_size=2**26))
            page.process = process
            yield page
            await page.close()
    finally:
        process.terminate()
        process.wait()


async def text(page, name: str) -> str:
    return await page(f"document.getElementById('{name}').textContent")


async def told(page, name: str) -> str:
    """What the page counts, and the interval."""
    return f"{await text(page, f'{name}-count')}; {await text(page, f'{name}-share')}"


def counted(side: np.ndarray, alpha: float, what: str) -> str:
    """What it should say."""
    count, total = int((side > np.float32(alpha)).sum()), len(side)

    def written(share):
        return f"{100 * share:.{1 if 0 < share < 0.1 else 0}f}"

    low, high = wilson(count, total)
    return f"{count} of {total} {what}; {written(count / total)} % ({written(low)}–{written(high)})"

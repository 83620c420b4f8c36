"""Drive a headless Chromium by its debugging protocol: open a page, run scripts, press keys, take pictures."""

import asyncio
import base64
import json
import shutil
from contextlib import asynccontextmanager
from itertools import count

import aiohttp

FOUND = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0")  # fmt: skip
WAIT_S = 60


class Tab:
    """A page in the browser, with the errors that it printed."""

    def __init__(self, socket):
        self.socket, self.numbers, self.errors, self.requests, self.answers = socket, count(1), [], [], {}
        self.reader = asyncio.create_task(self._read())

    async def _read(self):
        async for message in self.socket:
            event = json.loads(message.data)
            if "id" in event:
                self.answers.pop(event["id"]).set_result(event)
            elif event["method"] == "Runtime.exceptionThrown":
                self.errors.append(event["params"]["exceptionDetails"])
            elif event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning"):
                self.errors.append(event["params"]["args"])
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] in ("error", "warning"):
                self.errors.append(event["params"]["entry"])
            elif event["method"] == "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])

    async def send(self, method, **params):
        number = next(self.numbers)
        self.answers[number] = answer = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": number, "method": method, "params": params})
        event = await asyncio.wait_for(answer, WAIT_S)
        assert "error" not in event, event
        return event["result"]

    async def show(self, path, width, height=900, dark=False):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await self.send("Emulation.setEmulatedMedia", features=[scheme])
        await self.send("Page.navigate", url=path.resolve().as_uri())
        await self.until("document.readyState === 'complete'")

    async def run(self, script):
        result = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, script):
        async with asyncio.timeout(WAIT_S):
            while not await self.run(script):
                await asyncio.sleep(0.05)

    async def press(self, key):
        for kind in ("keyDown", "keyUp"):
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    async def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    async def picture(self, path, whole=True):
        shot = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def tab(folder):
    """Start the browser with its files in `folder`; end it afterwards."""
    browser = await asyncio.create_subprocess_exec(
        FOUND, *FLAGS, f"--user-data-dir={folder}", "about:blank",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(WAIT_S):
            while (
                not (folder / "DevToolsActivePort").exists() or not (folder / "DevToolsActivePort").read_text().strip()
            ):
                await asyncio.sleep(0.05)
        port = (folder / "DevToolsActivePort").read_text().split()[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as listed:
                pages = [page for page in await listed.json() if page["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Tab(socket)
    finally:
        browser.terminate()
        await asyncio.wait_for(browser.wait(), WAIT_S)

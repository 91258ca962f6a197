"""A page in a real, headless Chromium: its picture, what it wrote to the console, what it asked the network for."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


def find_chromium() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass(frozen=True)
class Visit:
    picture: Path
    console: list[str]
    requests: list[str]  # every URL that a page asked for and that is neither a file nor inside the page


def visit(page: Path, picture: Path, *, width: int, height: int, dark: bool) -> Visit:
    """Open ``page``; a window cannot be narrower than 500 pixels, a frame in it can."""
    chromium = find_chromium()
    assert chromium is not None
    with tempfile.TemporaryDirectory() as folder:
        target = page.resolve().as_uri()
        if width < 500:
            frame = Path(folder, "frame.html")
            frame.write_text(
                f"<style>body{{margin:0}}iframe{{border:0;width:{width}px;height:{height}px}}</style>"
                f"<iframe src='{target}'></iframe>"
            )
            target = frame.as_uri()
        log = Path(folder, "net.json")
        done = subprocess.run(
            [
                chromium,
                *FLAGS,
                f"--user-data-dir={folder}/profile",
                f"--log-net-log={log}",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                f"--window-size={max(width, 500)},{height}",
                f"--screenshot={picture}",
                target,
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert picture.is_file(), done.stderr
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return Visit(picture, console, _requests(log))


def _requests(log: Path) -> list[str]:
    text = log.read_text()
    try:
        events = json.loads(text)["events"]
    except ValueError:  # the browser stopped while it wrote: the list is not closed
        events = json.loads(text.rstrip().rstrip(",") + "]}")["events"]
    # What the browser asks for on its own behalf (its clock, its extensions' store) has no origin.
    asked = [e["params"] for e in events if e.get("params", {}).get("initiator", "not an origin") != "not an origin"]
    urls = {str(p.get("url", "")) for p in asked}
    return sorted(u for u in urls if not u.startswith(("file:", "data:", "about:")))

"""The page in a real browser."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ssd_edge.runtime.sinks.web.server import WebPreview
from tests.runtime.sinks.web.chromium import Chromium
from tests.runtime.sinks.web.previews import TOKEN, decoded, port_of, result, write
from tests.runtime.sinks.web.web_scenes import Codes, play


@pytest.fixture
def playing() -> Iterator[Callable[[WebPreview], None]]:
    """Feeds a preview with moving codes until the test ends."""
    done = threading.Event()
    threads: list[threading.Thread] = []

    def start(preview: WebPreview) -> None:
        settings: dict[str, Any] = {"fps": 10.0, "until": done.is_set}
        threads.append(threading.Thread(target=play, args=(preview, Codes("gate")), kwargs=settings))
        threads[-1].start()

    yield start
    done.set()
    for thread in threads:
        thread.join()


CARD = "document.querySelector('article:has(img:not([hidden]))')"  # of the source that has a picture


def picture_pixels(page: Chromium) -> NDArray[np.int_]:
    """What the screen shows of the picture."""
    x, y, width, height = page.evaluate(
        "(({x, y, width, height}) => [x, y, width, height].map(Math.round))"
        f"({CARD}.querySelector('img').getBoundingClientRect())"
    )
    return decoded(page.screenshot())[y : y + height, x : x + width].astype(int)


def test_the_page_in_a_browser(preview: WebPreview, playing: Callable[[WebPreview], None], tmp_path: Path) -> None:
    preview.status("camera 3", "reconnecting", "trying again in 16 s")
    with Chromium(tmp_path) as page:
        playing(preview)
        luma = {}
        for width, scheme in ((360, "light"), (1920, "dark")):
            page.open(preview.url, size_wh=(width, 1000), scheme=scheme)
            page.wait_for(CARD)
            dropped = f"{CARD}.querySelector('.dropped').textContent"
            first, before = picture_pixels(page), page.evaluate(dropped)
            page.wait_for(f"{dropped} != '{before}'")
            assert np.abs(picture_pixels(page) - first).mean() > 1
            assert first.std() > 10  # no plain ground
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            luma[scheme] = cv2.cvtColor(decoded(page.screenshot()), cv2.COLOR_BGR2GRAY)[-1, 4]
        text = page.evaluate("document.body.innerText")
        for shown in (
            "1 of 2 ok",
            "reconnecting",
            "trying again in 16 s",
            "entered loading bay",
            "loading bay: inside",
        ):
            assert shown in text
        assert "qr_code #1 0." in text
        assert page.evaluate("[...document.images].every((image) => image.hasAttribute('alt'))")
        assert page.evaluate(f"{CARD}.querySelector('img').alt") == "Live picture of gate"
        assert luma["light"] > 200 > 60 > luma["dark"]
        assert page.complaints == []

        preview.close()
        overall = "document.querySelector('#overall').textContent"
        page.wait_for(f"{overall} == 'no connection'")
        with WebPreview(port=port_of(preview)) as restarted:  # the page goes on by itself
            write(restarted, result())
            page.wait_for(f"{overall} == '1 of 1 ok'")
            page.wait_for(f"{CARD}.querySelector('img').naturalWidth == 64")


def test_a_browser_needs_the_token_once(
    closed_preview: WebPreview, playing: Callable[[WebPreview], None], tmp_path: Path
) -> None:
    playing(closed_preview)
    with Chromium(tmp_path) as page:
        page.open(closed_preview.url)
        page.wait_for("document.body?.innerText.startsWith('401')")
        assert page.evaluate("document.images.length") == 0
        page.open(f"{closed_preview.url}?token={TOKEN.value}")
        page.wait_for(CARD)
        assert page.evaluate("location.href") == closed_preview.url
        assert page.evaluate("document.cookie") == ""
        (cookie,) = page.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["session"]) == (True, "Lax", True)
        assert all("status of 401" in complaint for complaint in page.complaints)  # of the address without it

"""The live page in a real browser, over a real stream: what is seen changes with the line, and hands without a mouse get everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from agp_edge.engines.sidecar import sidecar_path
from agp_edge.files import write_json
from agp_edge.sinks.web import WebSink
from tests.agp_edge.sinks.live_line import Line, LiveCamera
from tests.agp_edge.sinks.streams import wait_for
from tests.servers.chromium import Browser, Tab

Part = Callable[..., NDArray[np.uint8]]
TOKEN = "a-token-of-the-line"
NAME = "rtsp://line:***@10.0.0.5/top"

STATE = "document.querySelector('.state strong')?.textContent"
FRAME = "Number(document.querySelector('.tile canvas')?.dataset.frame ?? -1)"
MIDDLE = """(() => { const c = document.querySelector('.tile canvas');
  const copy = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  copy.drawImage(c, c.width / 2, c.height / 2, 1, 1, 0, 0, 1, 1);
  return [...copy.getImageData(0, 0, 1, 1).data].slice(0, 3); })()"""
TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    with browser.tab() as tab:
        tab.show_as(1280, 800)
        yield tab


@pytest.fixture
def camera(part: Part) -> LiveCamera:
    return LiveCamera(NAME, part)


@pytest.fixture
def line(tiny_engine: Path, camera: LiveCamera) -> Iterator[tuple[Line, WebSink]]:
    """A camera at 30 frames a second, judged, and its page."""
    sink = WebSink("127.0.0.1:0", TOKEN)
    with Line(tiny_engine, [camera], sink) as running:
        yield running, sink


def said(tab: Tab, element: str) -> str:
    return str(tab.ask(f"document.getElementById('{element}').textContent"))


def test_the_picture_changes_and_a_reject_appears(
    line: tuple[Line, WebSink], camera: LiveCamera, part: Part, tab: Tab
) -> None:
    _running, sink = line
    tab.go(sink.url)
    tab.wait(f"{STATE} === 'OK'")
    first = tab.wait(f"{FRAME} > 0 && {FRAME}")
    tab.wait(f"{FRAME} > {first + 5}", "a later frame")
    assert tab.ask("document.querySelectorAll('.rejects li').length") == 0
    assert tab.ask("document.getElementById('no-rejects').hidden") is False
    grey = tab.ask(MIDDLE)
    camera.draw = lambda number: part(number, defect=True)
    tab.wait(f"{STATE} === 'NG'")
    tab.wait("document.querySelector('.rejects li img')?.naturalWidth > 0")
    tab.wait(f"{MIDDLE}[0] > 200", "the bright defect in the picture")
    assert max(grey) < 120
    assert tab.ask("document.querySelector('.tile').dataset.kind") == "NG"
    assert "score 0.98 > 0.4" in tab.text()
    camera.draw = part
    tab.wait(f"{STATE} === 'OK'")
    # It is also said, to those who hear the page, but not thirty times a second.
    tab.wait("document.getElementById('announce').textContent.includes(': OK')")
    tab.wait("document.querySelector('.chart').getAttribute('aria-label').includes('rejects')")
    assert tab.ask("document.querySelectorAll('.chart path')[2].getAttribute('d').length") > 0, (
        "a diamond for the reject"
    )
    counted = tab.ask(
        "[...document.querySelectorAll('.counts dd')].map(d => Number(d.textContent.replace(',', '')))"
    )
    assert counted[2] == counted[3] + counted[4] + counted[5], "captured = judged + dropped + failed"
    assert tab.complaints == []
    assert {urlsplit(url).netloc for url in tab.requests if not url.startswith("blob:")} == {
        urlsplit(sink.url).netloc
    }


def test_the_heat_map_can_be_taken_off(
    line: tuple[Line, WebSink], camera: LiveCamera, part: Part, tab: Tab
) -> None:
    _, sink = line
    camera.draw = lambda number: part(0, defect=True)
    tab.go(sink.url)
    tab.wait(f"{STATE} === 'NG'")
    coloured = f"Math.max(...{MIDDLE}) - Math.min(...{MIDDLE})"
    tab.wait(f"{coloured} > 20", "the colours of heat on a grey frame")
    tab.ask("document.getElementById('overlay').click()")
    tab.wait(f"{coloured} < 8", "the grey frame itself")
    assert tab.complaints == []


def test_a_wrong_token_is_refused_and_the_right_one_moves_the_threshold(
    line: tuple[Line, WebSink], camera: LiveCamera, tab: Tab
) -> None:
    running, sink = line
    grey = np.full((48, 64, 3), 89, np.uint8)  # Its score is 0.35: OK at 1 %, NG at 50 %.
    camera.draw = lambda number: grey
    tab.go(sink.url)
    tab.wait(f"{STATE} === 'OK'")
    tab.wait("!document.getElementById('threshold-form').hidden")
    assert "at most 1 % of good parts are rejected" in said(tab, "threshold-now")

    def ask_for(rate: str, token: str) -> None:
        tab.ask("document.getElementById('rate').value = ''; document.getElementById('rate').focus()")
        tab.type(rate)
        tab.ask("document.getElementById('rate-token').focus()")
        tab.type(token)
        tab.press("Enter")

    ask_for("50", "not-the-token-at-all")
    tab.wait(
        "document.getElementById('change-said').textContent.startsWith('Refused: this is not the token')"
    )
    assert running.threshold == pytest.approx(0.4)
    tab.ask("document.getElementById('rate-token').value = ''")
    ask_for("50", TOKEN)
    tab.wait("document.getElementById('change-said').textContent.startsWith('Set:')")
    wait_for(lambda: running.threshold < 0.31, "the stream's threshold")
    tab.wait(f"{STATE} === 'NG'", "the stream's verdicts, which follow")
    tab.wait("document.getElementById('events').textContent.includes('the threshold is 0.3')")
    # It knows the token now, and says what the engine cannot promise.
    assert tab.ask("document.getElementById('rate-token-part').hidden") is True
    tab.ask("document.getElementById('rate').value = ''; document.getElementById('rate').focus()")
    tab.type("0.001")
    tab.press("Enter")
    tab.wait("document.getElementById('change-said').textContent.includes('99 good frames cannot promise')")
    # The token is in no address, no text and no storage that outlives the window.
    assert not any(TOKEN in url for url in tab.requests)
    assert TOKEN not in tab.ask("document.documentElement.outerHTML")
    assert tab.ask("[localStorage.length, document.cookie]") == [0, ""]
    refused = [text for text in tab.complaints if "401" not in text and "400" not in text]
    assert refused == []


def test_others_see_nothing_without_the_token(tiny_engine: Path, camera: LiveCamera, tab: Tab) -> None:
    sink = WebSink("0.0.0.0:0", TOKEN)
    with Line(tiny_engine, [camera], sink):
        tab.go(sink.url)
        tab.wait("!document.getElementById('login').hidden")
        assert tab.ask("document.activeElement.id") == "login-token"
        assert tab.ask("document.querySelectorAll('.tile').length") == 0
        assert NAME not in tab.ask("document.documentElement.outerHTML")
        tab.type("not-the-token-at-all")
        tab.press("Enter")
        tab.wait(
            "document.getElementById('login-said').textContent.startsWith('Refused: this is not the token')"
        )
        tab.type(TOKEN)
        tab.press("Enter")
        tab.wait(f"{STATE} === 'OK'")
        tab.wait(f"{FRAME} > 0")
        # Another visit in the same window needs it no more.
        tab.go(sink.url)
        tab.wait(f"{FRAME} > 0")
        assert tab.ask("document.getElementById('login').hidden") is True


def test_all_of_it_with_the_keyboard_alone(
    line: tuple[Line, WebSink], camera: LiveCamera, part: Part, tab: Tab
) -> None:
    running, sink = line
    tab.go(sink.url)
    tab.wait(f"{STATE} === 'OK'")
    camera.draw = lambda number: part(number, defect=number % 30 == 0)
    tab.wait("document.querySelectorAll('.rejects li img').length >= 3")
    camera.draw = part
    tab.press("Tab")
    assert tab.ask("document.activeElement.className") == "skip"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    tab.tab_to("f.id === 'overlay'")
    assert tab.ask(outline) != "none"
    tab.press("Space")
    assert tab.ask("document.getElementById('overlay').checked") is False
    tab.tab_to("f.id === 'pause'")
    tab.press("Enter")
    still = tab.ask(FRAME)
    assert tab.ask("document.getElementById('pause').getAttribute('aria-pressed')") == "true"
    judged = running.stream.judged
    wait_for(lambda: running.stream.judged > judged + 20, "more verdicts")
    assert tab.ask(FRAME) <= still + 6, "a paused page stands still"
    tab.press("Enter")
    tab.wait(f"{FRAME} > {still + 6}")
    tab.tab_to("f.tagName === 'SUMMARY'")
    tab.press("Enter")
    tab.wait("document.querySelector('.stages').innerText.includes('compute')")
    tab.tab_to("f.dataset.reject")
    assert tab.ask(outline) != "none"
    chosen = tab.ask("document.activeElement.dataset.reject")
    tab.press("Enter")
    tab.wait(
        f"document.getElementById('large').open && document.getElementById('large-picture').dataset.reject === '{chosen}'"
    )
    assert "score 0.98 above 0.4" in said(tab, "large-said")
    tab.press("ArrowRight")
    tab.wait(f"document.getElementById('large-picture').dataset.reject === '{int(chosen) - 1}'")
    # The dialog keeps the keyboard to itself.
    for _ in range(8):
        tab.press("Tab")
        assert tab.ask(
            "document.activeElement === document.body || document.getElementById('large').contains(document.activeElement)"
        )
    tab.press("Escape")
    tab.wait("!document.getElementById('large').open")
    tab.wait(
        f"document.activeElement.dataset.reject === '{int(chosen) - 1}'", "the keyboard back at the list"
    )
    tab.tab_to("f.id === 'rate'")
    assert tab.complaints == []


@pytest.mark.parametrize("width", [360, 320])
def test_it_fits_a_phone(
    line: tuple[Line, WebSink], camera: LiveCamera, part: Part, tab: Tab, width: int
) -> None:
    _running, sink = line
    camera.draw = lambda number: part(number, defect=number % 15 == 0)
    tab.show_as(width, 740, phone=True, scale=2)
    tab.go(sink.url)
    tab.wait("document.querySelectorAll('.rejects li img').length >= 2")
    tab.ask("document.querySelector('summary').click()")
    assert tab.ask(TOO_WIDE) == 0
    small = tab.ask("""[...document.querySelectorAll('button, input:not([type=checkbox])')]
        .filter(e => e.offsetParent && e.getBoundingClientRect().height < 40).map(e => e.id)""")
    assert small == [], "a finger needs room"
    tab.ask("document.querySelector('.rejects button').click()")
    tab.wait("document.getElementById('large-picture').dataset.reject")
    assert tab.ask(f"document.getElementById('large').getBoundingClientRect().right <= {width}")
    assert tab.ask(TOO_WIDE) == 0


CONTRAST = """(() => {
  const light = (text) => { const c = text.match(/[\\d.]+/g).map(Number);
    const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return [.2126 * r + .7152 * g + .0722 * b, c[3] ?? 1]; };
  const found = [];
  for (const e of document.querySelectorAll('body *')) {
    if (!e.offsetParent || e.closest('.hidden, .skip, button:disabled, [aria-disabled=true]') ||
        ![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    let under = e; let back;
    while ((back = light(getComputedStyle(under).backgroundColor))[1] === 0 && under.parentElement) under = under.parentElement;
    const [a, b] = [light(getComputedStyle(e).color)[0], back[0]].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) found.push(`${e.tagName} ${e.className} ${e.textContent.slice(0, 20)} ${ratio.toFixed(2)}`);
  }
  return found;
})()"""


@pytest.mark.parametrize("dark", [False, True])
def test_it_can_be_read_in_light_and_dark(
    line: tuple[Line, WebSink], camera: LiveCamera, part: Part, tab: Tab, dark: bool
) -> None:
    _running, sink = line
    tab.show_as(1280, 800, dark=dark)
    camera.draw = lambda number: part(number, defect=True)
    tab.go(sink.url)
    tab.wait("document.querySelector('.rejects li img')?.naturalWidth > 0")
    camera.lost = True
    tab.wait("document.querySelector('.state strong').textContent.startsWith('Lost since')")
    tab.wait("document.querySelectorAll('.events li').length > 0")
    paper = tab.ask("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    # WCAG 2.2, 1.4.3: text at 4.5:1 or more.
    assert tab.ask(CONTRAST) == []
    camera.lost = False
    tab.wait(f"{STATE} === 'NG'")
    names = tab.ask("""[...document.querySelectorAll('input, button, canvas, svg[role=img]')]
        .filter(e => e.offsetParent || e.tagName === 'svg')
        .filter(e => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).map(e => e.outerHTML.slice(0, 80))""")
    assert names == [], "everything has a name for those who hear the page"


def test_a_stream_that_ends_is_said_and_one_that_begins_is_found(
    tiny_engine: Path, camera: LiveCamera, part: Part, tab: Tab
) -> None:
    sink = WebSink("127.0.0.1:0", TOKEN)
    with Line(tiny_engine, [camera], sink):
        tab.go(sink.url)
        tab.wait(f"{FRAME} > 30")
    tab.wait("document.getElementById('trouble').textContent.startsWith('The stream does not answer')")
    assert said(tab, "health") == "No connection"
    again = WebSink(urlsplit(sink.url).netloc, TOKEN)
    with Line(tiny_engine, [LiveCamera("another", part)], again):
        tab.wait("document.querySelector('.tile h3')?.textContent === 'another'")
        tab.wait("document.getElementById('trouble').hidden")
        assert tab.ask("document.querySelectorAll('.tile').length") == 1


HOSTILE = '<img src=x onerror=alert(1)>"&'


def test_a_name_stays_a_name(tiny_engine: Path, part: Part, tab: Tab) -> None:
    sink = WebSink("127.0.0.1:0", TOKEN)
    with Line(tiny_engine, [LiveCamera(HOSTILE, lambda number: part(number, defect=True))], sink):
        tab.go(sink.url)
        tab.wait("document.querySelector('.rejects li img')?.naturalWidth > 0")
        assert tab.ask("document.querySelector('.tile h3').textContent") == HOSTILE
        assert tab.ask("document.querySelectorAll('img[onerror]').length") == 0
        assert tab.complaints == []


def test_a_provisional_threshold_and_a_sick_stream_are_said(
    tiny_engine: Path, camera: LiveCamera, tab: Tab
) -> None:
    sidecar = sidecar_path(tiny_engine)
    write_json(sidecar, {**json.loads(sidecar.read_text()), "provisional": True})
    sink = WebSink("127.0.0.1:0", TOKEN)
    with Line(tiny_engine, [camera], sink, healthy_within_s=0.5):
        tab.go(sink.url)
        tab.wait("document.getElementById('health').textContent === 'Healthy'")
        tab.wait("document.getElementById('threshold-note').textContent.startsWith('Provisional')")
        assert tab.ask("document.getElementById('threshold-note').hidden") is False
        camera.lost = True
        tab.wait("document.getElementById('health').textContent.startsWith('Not healthy: no verdict for')")


def test_parts_can_be_triggered_where_the_stream_waits_for_them(
    tiny_engine: Path, camera: LiveCamera, tab: Tab
) -> None:
    sink = WebSink("127.0.0.1:0", TOKEN)
    with Line(tiny_engine, [camera], sink, trigger_wait_s=5.0):
        tab.go(sink.url)
        tab.wait("!document.getElementById('trigger-form').hidden")
        assert tab.ask(STATE) == "No verdict yet"
        tab.ask("document.getElementById('rate-token').focus()")
        tab.type(TOKEN)
        tab.ask("document.getElementById('part').focus()")
        tab.type("A-17")
        tab.press("Enter")
        tab.wait("document.getElementById('change-said').textContent.startsWith('Triggered')")
        tab.wait(f"{STATE} === 'OK'")
        assert "part A-17" in tab.ask("document.querySelector('.score').textContent")

"""The page in a real browser, without a window."""

from pathlib import Path

import numpy as np
import pytest
from served import CLASSES, SIZE, colour, encoded, logits, write_model
from serving import serving

from flatnext.deploy.manifest import Golden

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = Path("/usr/bin/chromium")
if not CHROMIUM.is_file():
    pytest.skip("there is no /usr/bin/chromium", allow_module_level=True)

MARKUP = "<b>red</b><img src=x onerror='window.injected = 1'>"
NAMES = (MARKUP, *CLASSES[1:], *(f"class {place}" for place in range(997)))
TOKEN = "s3cret"
RED, GREY = encoded(colour(255, 30, 30, (60, 40))), encoded(colour(128, 128, 128))

SEND = """([kind, content, type]) => {
  const data = new DataTransfer();
  if (content !== null) data.items.add(new File([Uint8Array.from(content)], "<i>x</i>.png", { type }));
  const options = { bubbles: true, cancelable: true };
  const event = kind === "paste"
    ? new ClipboardEvent("paste", { ...options, clipboardData: data })
    : new DragEvent("drop", { ...options, dataTransfer: data });
  document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Start a service with a token, a threshold, a thousand classes, and a class whose name is markup."""
    pixels = np.full((3, SIZE, SIZE), 10, np.uint8)
    pixels[1] = 220
    golden = Golden.of(pixels, np.concatenate([logits(pixels[None])[0], np.zeros(997)]))
    path = write_model(tmp_path_factory.mktemp("page") / "many.onnx", name="<u>many", classes=NAMES, golden=(golden,))
    with serving(path, "--threshold", "0.5", "--max-bytes", "50000", FLATNEXT_TOKEN=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, service):
    """Return a function that opens the page and gives it the token; nothing may go wrong on it or leave the machine."""
    contexts, wrong = [], []

    def open_page(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on(
            "request",
            lambda request: request.url.startswith((service.url, "blob:", "data:")) or wrong.append(request.url),
        )
        page.goto(service.url)
        page.wait_for_selector("#token:focus")
        page.keyboard.type(TOKEN)
        page.keyboard.press("Enter")
        page.wait_for_selector("#samples button")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not wrong


def choose(page, content, name="a.png"):
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})
    page.wait_for_selector("#result[aria-busy=false]")


def text(page, place):
    return page.inner_text(place)


def test_an_image_is_chosen(visit):
    page = visit()
    assert page.title() == "<u>many · FlatNeXt"
    choose(page, RED)
    page.wait_for_selector("#bars li")
    assert text(page, "#label") == MARKUP
    assert page.evaluate("window.injected") is None
    assert page.locator("#result b, #result img, #name u").count() == 0
    assert page.locator("#bars li").count() == 10
    assert page.locator("#set li").all_inner_texts() == [MARKUP]
    assert "95 %" in text(page, "#set-title")
    assert "990 classes" in text(page, "#rest")
    bar, track = (
        page.locator(f"#bars li:first-child {part}").bounding_box()["width"] for part in (".track div", ".track")
    )
    assert bar > 0.95 * track
    assert text(page, "#status").startswith(f"{MARKUP} with ")
    assert page.is_visible("#map")
    page.uncheck("#show-map")
    assert not page.is_visible("#map")


def test_none_of_these(visit):
    page = visit()
    choose(page, GREY)
    page.wait_for_selector("#bars li")
    assert text(page, "#label") == "None of these"
    assert "likeliest class is" in text(page, "#sentence")
    assert page.locator("#set li").count() == 3


def test_by_keyboard_alone(visit):
    page = visit()
    for _ in range(12):
        if page.evaluate("document.activeElement.closest('#samples') !== null"):
            break
        page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector("#bars li")
    assert text(page, "#label") == "green"
    page.focus("#show-map")
    page.keyboard.press("Space")
    assert not page.is_visible("#map")


@pytest.mark.parametrize("kind", ["paste", "drop"])
def test_pasted_and_dropped(visit, kind):
    page = visit()
    page.evaluate(SEND, [kind, list(RED), "image/png"])
    page.wait_for_selector("#bars li")
    assert text(page, "#label") == MARKUP
    page.evaluate(SEND, [kind, None, ""])
    assert "no image file" in text(page, "#error")


def test_errors_are_shown_plainly(visit):
    page = visit()
    choose(page, b"no image at all")
    page.wait_for_selector("#error:not([hidden])")
    assert text(page, "#error") == "The image cannot be read: no image, or of an unknown format."
    assert text(page, "#label") == "No answer"
    assert not page.is_visible("#bars")
    choose(page, b"x" * 50_001)
    assert "takes 0.1 MB" in text(page, "#error")
    choose(page, RED)
    page.wait_for_selector("#bars li")
    assert not page.is_visible("#error")
    page.context.set_offline(True)
    choose(page, RED)
    page.wait_for_selector("#error:not([hidden])")
    assert "does not answer" in text(page, "#error")


def test_on_a_phone_in_the_dark(visit):
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, color_scheme="dark")
    choose(page, RED)
    page.wait_for_selector("#bars li")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.is_visible("#photograph")
    assert page.get_attribute("#camera", "capture") == "environment"
    for place in ("#choose", "#photograph", "#toggle", "#samples button"):
        assert page.locator(place).first.bounding_box()["height"] >= 44
    assert page.locator("#label").bounding_box()["y"] < 740
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert max(map(int, background[4:-1].split(","))) < 60


def test_a_wrong_token(browser, service):
    context = browser.new_context()
    page = context.new_page()
    page.goto(service.url)
    page.fill("#token", "wrong")
    page.click("#token-form button")
    page.wait_for_selector("#error:not([hidden])")
    assert "needs the token" in text(page, "#error")
    assert page.is_visible("#token-form")
    context.close()

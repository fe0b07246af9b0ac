"""The demo in a real browser: one interaction in each tab, its result compared with what the tab answers.

Needs the extra `slow`, Chromium and its driver (Debian: `apt-get install chromium chromium-driver`).
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from eval.demo.tabs import open_tab
from eval.replies.index import ReplyIndex
from tests.eval.causal_models import tiny_bpe, tiny_generator
from tests.eval.dialogue_models import PAIRS, tiny_checkpoint, tiny_words
from tests.eval.video_models import tiny_video_checkpoint
from tests.faults.harness import started, wait_until

pytestmark = pytest.mark.slow
webdriver = pytest.importorskip("selenium.webdriver")
exceptions = pytest.importorskip("selenium.common.exceptions")
SECONDS = 60
_CELLS = """
const cells = [...document.querySelectorAll('[data-testid^=cell-]')].filter(cell => cell.offsetParent);
return cells.map(cell => cell.innerText.trim());
"""
_FIELD = "//label[.//span[normalize-space()={label!r}]]//*[self::textarea or self::input]"


class Page:
    """The page as a person sees it: what is not displayed is not there."""

    def __init__(self, driver: "webdriver.Chrome") -> None:
        self.driver = driver

    def shown(self, xpath: str) -> list:
        """Displayed elements."""
        return [one for one in self.driver.find_elements("xpath", xpath) if one.is_displayed()]

    def wait(self, xpath: str, holds: Callable[[list], bool] = bool) -> list:
        """Displayed elements, once they are as they should be."""
        limit = time.monotonic() + SECONDS
        while time.monotonic() < limit:
            try:
                found = self.shown(xpath)
                if holds(found):
                    return found
            except exceptions.StaleElementReferenceException:  # the page was drawn anew while it was looked at
                continue
            time.sleep(0.1)
        raise AssertionError(f"not there in {SECONDS} s: {xpath}; the page: {self.text()[:2000]}")

    def open(self, title: str) -> None:
        """Show a tab."""
        self.wait(f"//button[@role='tab'][normalize-space()={title!r}]")[0].click()

    def write(self, label: str, text: str) -> None:
        """Replace what stands in a field."""
        keys, field = webdriver.common.keys.Keys, self.wait(_FIELD.format(label=label))[0]
        field.send_keys(keys.CONTROL, "a")
        field.send_keys(keys.DELETE)
        field.send_keys(text)

    def press(self, name: str) -> None:
        """Press a button."""
        self.wait(f"//button[normalize-space()={name!r}]")[0].click()

    def value(self, label: str, holds: Callable[[str], bool] = bool) -> str:
        """What stands in a field, once it is as it should be."""
        xpath = _FIELD.format(label=label)
        kept: list[str] = []

        def is_there(found: list) -> bool:
            kept[:] = [one.get_property("value") for one in found[:1]]
            return bool(kept) and holds(kept[0])

        self.wait(xpath, is_there)
        return kept[0]

    def cells(self, count: int) -> list[str]:
        """The texts of a table's cells, once there are so many or more."""
        self.wait("//body", lambda _: len(self._cells()) >= count)
        return self._cells()

    def _cells(self) -> list[str]:
        return [text for text in self.driver.execute_script(_CELLS) if text]

    def text(self) -> str:
        """All of it."""
        return self.driver.find_element("tag name", "body").text


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, checkpoint) -> dict[str, str]:
    """A tiny checkpoint of each family, by its tab's title."""
    folder, bpe, words = tmp_path_factory.mktemp("demo"), tiny_bpe(), tiny_words()
    tiny_generator(bpe).save_pretrained(folder / "generator")
    bpe.save_pretrained(folder / "generator")
    tiny_checkpoint(folder / "dialogue", words)
    chat = open_tab(str(folder / "dialogue"))
    ReplyIndex.build(chat.model, words, [reply for _, reply in PAIRS]).save(folder / "dialogue")
    tiny_video_checkpoint(folder / "video")
    named = {"Generate": "generator", "Chat": "dialogue", "Predicted video": "video"}
    return {"Fill a blank": str(checkpoint), **{title: str(folder / name) for title, name in named.items()}}


@pytest.fixture(scope="module")
def address(checkpoints: dict[str, str], repository: Path, tmp_path_factory) -> Iterator[str]:
    """Where the command line serves the page."""
    port, output = 7871, tmp_path_factory.mktemp("served") / "output.txt"
    command = [sys.executable, "-m", "eval.demo", *checkpoints.values(), "--port", str(port)]
    with output.open("w") as file, started(command, cwd=repository, stdout=file, stderr=subprocess.STDOUT) as process:
        wait_until(lambda: "Running on local URL" in output.read_text(), psutil.Process(process.pid))
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1100"):
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver") or "")
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(3 * SECONDS)
    driver.get(address)
    yield Page(driver)
    driver.quit()


def test_blank_is_filled_and_the_answer_ranked(page: Page, checkpoints: dict[str, str]) -> None:
    expected = open_tab(checkpoints["Fill a blank"]).ask("we must work for _ and freedom", "peace", 5)
    page.open("Fill a blank")
    page.write("Phrase with one blank, written _", "we must work for _ and freedom")
    page.write("Answer to rank (may stay empty)", "peace")
    page.press("Fill")
    assert page.value("Note", lambda text: "rank" in text) == expected.note
    assert page.cells(20)[:20] == [cell for row in expected.rows for cell in row]


def test_bad_input_is_one_clear_line_on_the_page(page: Page) -> None:
    page.open("Fill a blank")
    page.write("Phrase with one blank, written _", "nothing is missing here")
    page.press("Fill")
    said = page.value("Note", lambda text: text.startswith("error: "))
    assert "must hold exactly one blank" in said


def test_prompt_is_continued_greedily_beside_top_k(page: Page, checkpoints: dict[str, str]) -> None:
    tab = open_tab(checkpoints["Generate"])
    expected = tab.ask("the people of the", tab.decoding)
    page.open("Generate")
    page.write("Prompt", "the people of the")
    page.press("Continue")
    assert "repeated" in page.value("Counted: top-k")
    assert page.value("Greedy", lambda text: True) == expected.greedy
    assert page.value("Top-k", lambda text: True) == expected.sampled


def test_conversation_of_two_turns_in_two_modes(page: Page, checkpoints: dict[str, str]) -> None:
    tab = open_tab(checkpoints["Chat"])
    first = tab.ask("how are you ?", [], "greedy", tab.decoding)
    second = tab.ask("do you like music ?", first.turns, "retrieve", tab.decoding)
    page.open("Chat")
    for mode, message, said in (("greedy", "how are you ?", first), ("retrieve", "do you like music ?", second)):
        page.wait(f"//label[normalize-space()={mode!r}]")[0].click()
        page.write("Message", message)
        page.press("Send")
        page.wait(f"//*[@data-testid='user'][contains(., {message!r})]")
        answer = said.turns[-1]
        page.wait(f"//*[@data-testid='bot'][contains(normalize-space(), {' '.join(answer.split())!r})]")
    assert page.value("Retrieved, with cosines") == second.candidates
    page.press("New conversation")
    page.wait("//*[@data-testid='user']", lambda found: not found)


def test_clip_is_predicted_and_drawn(page: Page, checkpoints: dict[str, str]) -> None:
    expected = open_tab(checkpoints["Predicted video"]).ask(2)
    page.open("Predicted video")
    page.write("Test clip, 0 to 9,999", "2")
    page.press("Predict")
    images = page.wait("//img[contains(@src, 'clip-2')]", lambda found: len(found) == 2)
    width = "return arguments[0].complete && arguments[0].naturalWidth"
    assert all(page.driver.execute_script(width, image) > 100 for image in images)
    assert ".gif" in images[0].get_attribute("src")
    assert page.cells(4)[:4] == list(expected.figures)

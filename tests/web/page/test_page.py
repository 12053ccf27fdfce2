"""What a new user does with the page, by mouse and keyboard in headless Chromium."""

import re
import threading

import pytest
from acting import OF_GRADIO, PICTURE, ask, drawn, task, wait_for_end
from PIL import Image

from ldm.images import save_image

pytestmark = OF_GRADIO
SHOWN = "#status img.sketch"                            # a preview
LABELS = """elements => elements.filter(e => e.type !== "hidden" && !(
    e.getAttribute("aria-label") || e.closest("label")?.innerText || e.labels?.[0]?.innerText || e.title || e.alt
    || e.tagName === "BUTTON" && e.innerText)).map(e => e.outerHTML.slice(0, 200))"""


def test_new_user_types_presses_and_sees_the_picture_arrive(visit, studio):
    page = visit()
    assert page.title() == "ldm"
    ask(page, steps=40)
    page.click("#draw")
    page.wait_for_selector(SHOWN)
    assert re.search(r"Step \d+ of 40", page.inner_text("#status"))
    page.wait_for_selector(PICTURE)
    wait_for_end(page)
    path, told = drawn(studio)
    assert told["prompt"] == "3d render of a fox" and told["steps"] == 40
    assert f"Seed: {told['seed']}" in page.input_value("#draw_parameters textarea")
    with Image.open(path) as saved:
        assert saved.size == (64, 64)


@pytest.mark.slow
def test_every_step_has_a_preview(visit, studio, page_queue, monkeypatch):
    """With steps slower than the page looks, each is seen, and so is saving, or the last gives way to the picture."""
    def slow(call):
        def later(*args):
            threading.Event().wait(0.5)
            return call(*args)

        return later

    monkeypatch.setattr(studio, "preview", slow(studio.preview))
    monkeypatch.setattr("ldm.web.studio.save_image", slow(save_image))
    page, seen = visit(), set()
    ask(page)
    page.click("#draw")
    for _ in range(1200):                               # the first of all loads the model
        found = page.query_selector(SHOWN)
        source = found and found.get_attribute("src")
        if source:
            seen.add(source)
        if "Done" in page.inner_text("#status"):
            break
        page.wait_for_timeout(25)
    assert len(seen) == 4


@pytest.mark.slow
def test_keyboard_draws(visit, studio):
    page = visit()
    ask(page, "")
    page.focus("#prompt textarea")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "draw"
    page.keyboard.press("Shift+Tab")
    page.keyboard.type("3d render of a bear")
    page.wait_for_timeout(1000)                         # the page's own script comes after its parts
    page.keyboard.press("Control+Enter")
    wait_for_end(page)
    assert drawn(studio)[1]["prompt"] == "3d render of a bear"


@pytest.mark.slow
def test_picture_beyond_the_bounds_is_not_read(visit, tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (4104, 4104)).save(path)
    page = visit()
    page.get_by_role("tab", name="PNG info").click()
    page.set_input_files("#drop input[type=file]", path)
    page.wait_for_function("document.querySelector('#info_parameters textarea').value.includes('is above 16,777,216')")
    page.click("#info_to_form")
    wait_for_end(page, "This did not work: a picture of 4104x4104 pixels is above")


@pytest.mark.slow
def test_model_is_switched(visit, studio):
    page = visit()
    page.click("#model input")
    page.get_by_role("option", name="other", exact=True).click()
    wait_for_end(page, "Model other: draws at 64x64")
    ask(page)
    page.click("#draw")
    page.wait_for_selector(PICTURE)
    assert drawn(studio)[1]["model"] == "other.safetensors"


@pytest.mark.slow
def test_new_files_are_found_and_plugins_go_into_the_prompt(visit, studio):
    page = visit()
    new = studio.models_dir / "loras" / "newcomer.safetensors"
    new.write_bytes((studio.models_dir / "loras" / "strong.safetensors").read_bytes())
    try:
        page.click("#refresh")
        wait_for_end(page, "2 LoRAs")
    finally:
        new.unlink()
    ask(page, "a fox")
    page.click("#plugins button")
    page.click("#lora input")
    page.get_by_role("option", name="strong", exact=True).click()
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'a fox <lora:strong:1>'")
    page.click("#embedding input")
    page.get_by_role("option", name="swirl", exact=True).click()
    page.wait_for_function("document.querySelector('#prompt textarea').value.endsWith(' swirl')")
    page.click("#draw")
    page.wait_for_selector(PICTURE)
    told = drawn(studio)[1]
    assert [lora["name"] for lora in told["loras"]] == ["strong"]
    assert [word["name"] for word in told["embeddings"]] == ["swirl"]


@pytest.mark.slow
def test_dropped_picture_gives_its_settings_back(visit, studio, pipe, tmp_path):
    from ldm.images import save_image

    [picture] = pipe("a (blue:1.2) pizza", steps=5, seed=2**60 + 1, sampler="euler", negative_prompt="red")
    page = visit()
    page.get_by_role("tab", name="PNG info").click()
    page.set_input_files("#drop input[type=file]", save_image(picture, tmp_path / "pizza.webp"))
    page.wait_for_function("document.querySelector('#info_parameters textarea').value.includes('Euler')")
    page.click("#info_to_form")
    wait_for_end(page, "The form has the settings of pizza.webp")
    assert page.input_value("#prompt textarea") == "a (blue:1.2) pizza"
    assert page.input_value("#negative_prompt textarea, #negative_prompt input") == "red"
    assert page.input_value("#seed input, #seed textarea") == str(2**60 + 1)
    assert page.input_value("#sampler input") == "euler"
    page.click("#draw")
    page.wait_for_selector(PICTURE)
    assert drawn(studio)[1]["seed"] == 2**60 + 1
    page.click("#dice")
    page.wait_for_function("document.querySelector('#seed input, #seed textarea').value === '-1'")
    page.click("#reuse")
    page.wait_for_function(f"document.querySelector('#seed input, #seed textarea').value === '{2**60 + 1}'")


@pytest.mark.slow
def test_interrupt_and_leaving_end_the_session_s_own_job(visit, page_queue):
    page = visit()
    ask(page, steps=999)
    page.click("#draw")
    page.wait_for_selector(SHOWN)
    job = page_queue.current
    page.click("#interrupt")
    wait_for_end(page, "Interrupted.")
    assert job.state == "cancelled"
    page.click("#draw")
    page.wait_for_selector(SHOWN)
    job = page_queue.current
    page.close()
    assert job.wait(30) and job.state == "cancelled"


@pytest.mark.slow
def test_full_queue_and_mistakes_are_said_in_words(visit, page_queue):
    page = visit()
    ask(page)
    page.fill("#width input, #width textarea", "500")
    page.click("#draw")
    wait_for_end(page, "This did not work: width 500 is not a multiple of 8; try 504")
    assert page.get_attribute("#status [role=alert]", "class") == "line alert"
    page.fill("#width input, #width textarea", "")
    hold = threading.Event()
    jobs = [page_queue.submit(lambda job: hold.wait(60), "other") for _ in range(3)]
    page.click("#draw")
    wait_for_end(page, "in the queue")
    other = visit()
    other.click("#draw")
    wait_for_end(other, "The queue is full: 3 jobs are waiting already")
    hold.set()
    wait_for_end(page)
    assert all(job.wait(10) for job in jobs)


@pytest.mark.slow
def test_history_has_every_picture_and_sends_one_back(visit, studio):
    page = visit()
    ask(page, "a history fox")
    page.click("#draw")
    page.wait_for_selector(PICTURE)
    later = visit()                                     # another user, or the same one tomorrow
    later.get_by_role("tab", name="History").click()
    later.locator("#history_gallery button.thumbnail-item").first.click()
    later.wait_for_function("document.querySelector('#history_parameters textarea').value.includes('a history fox')")
    later.click("#history_to_form")
    wait_for_end(later, "The form has the settings of")
    assert later.input_value("#prompt textarea") == "a history fox"
    later.get_by_role("tab", name="History").click()
    later.locator("#history_gallery button.thumbnail-item").first.click()
    later.click("#history_to_input")
    later.wait_for_selector("#image img")
    assert later.get_by_label("Image to image", exact=True).is_checked()
    later.click("#draw")
    wait_for_end(later)
    assert "image_sha256" in drawn(studio)[1]


@pytest.mark.slow
def test_how_it_works(visit, studio):
    page = visit()
    ask(page, "a (red:1.3) fox")
    page.get_by_role("tab", name="How it works").click()
    page.click("#explain")
    page.wait_for_selector("#maps img")
    assert "pictures: 1, painted at 64x64" in page.input_value("#plan textarea")
    token, _, weight = page.query_selector_all("#tokens tbody tr:nth-child(2) > *")
    assert (token.inner_text().strip(), weight.inner_text()) == ("red", "1.3")
    assert len(page.query_selector_all("#moments img")) == 8
    captions = [caption.inner_text() for caption in page.query_selector_all("#maps figcaption")]
    assert [caption.split(" (")[0] for caption in captions[:4]] == ["the picture", "a", "red", "fox"]
    page.wait_for_selector("#schedule canvas, #schedule svg")


@pytest.mark.slow
@pytest.mark.parametrize("locale, words", [("en-US", "Draws what the prompt says."), ("zh-CN", "按提示词作画。"),
                                           ("zh-TW", "按提示词作画。"), ("de-DE", "Draws what the prompt says.")])
@pytest.mark.parametrize("width", [1280, 390])
def test_both_languages_at_both_widths(visit, locale, words, width):
    page = visit(locale, width)
    assert words in page.inner_text("#about")
    tabs = page.get_by_role("tab")
    assert tabs.count() == 4                            # all within reach
    for i in range(tabs.count()):
        tabs.nth(i).click()
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        text = page.inner_text("body")
        assert "__i18n__" not in text and not re.search(r"\b(tab|label|help|button|state)\.\w+", text)
        if locale.startswith("zh"):
            assert not re.search(r"Draw|Prompt|Refresh|Picture", text.replace("PNG", ""))
    assert page.evaluate("document.documentElement.lang") == (locale if locale.startswith("zh") else locale[:2])


@pytest.mark.slow
def test_every_input_has_a_label(visit):
    page = visit()
    page.click("#plugins button")
    page.click("#more button")
    for name in ("Inpaint", "Outpaint", "Upscale", "Variations", "Grid"):
        task(page, name)
        page.wait_for_timeout(500)
        assert page.eval_on_selector_all("input, textarea, select, button, img", LABELS) == []


@pytest.mark.slow
def test_status_in_chinese(visit):
    page = visit("zh-CN", 390)
    page.click("#draw")
    wait_for_end(page, "完成，用时")

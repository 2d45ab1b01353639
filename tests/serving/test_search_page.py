"""The page, by its function and in a browser where there is one."""

import os
import shutil

import keras
import pytest

from keras_itr.data import load_shapes

if keras.backend.backend() != "tensorflow":
    pytest.skip("once is enough", allow_module_level=True)
gradio = pytest.importorskip("gradio", reason="the page needs the extra demo")

from keras_itr.search import index_gallery  # noqa: E402
from keras_itr.serving import launch_page, search_page  # noqa: E402

TABLE = load_shapes("test", num_scenes=8)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page over a gallery of photos and one of captions."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("galleries")
    (folder / "photos").mkdir()
    for scene, pixels in enumerate(TABLE.image_columns["images"]):
        (folder / "photos" / f"{scene}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (folder / "captions.txt").write_text("\n".join(dict.fromkeys(TABLE.captions)) + "\n<b>bold</b>\n")
    index_gallery("cusa_shapes", folder / "photos", folder / "gallery", verbose=False)
    index_gallery("cusa_shapes", folder / "captions.txt", folder / "sentences", verbose=False)
    return folder, search_page([folder / "gallery", folder / "sentences"], k=3)


def function_of(page):
    return next(function.fn for function in page.fns.values() if function.api_name == "search")


def test_captions_and_photos_find_photos_and_captions(page):
    folder, page = page
    search = function_of(page)
    photos, about_photos, captions, about_captions = search(TABLE.captions[0], None, 3, False)
    assert len(photos) == 3 and photos[0][0].shape == (64, 64, 3) and captions.count("<li>") == 3
    assert "3 best in" in about_photos and "by embeddings; encode" in about_captions
    # The photo finds itself among photos, and the caption itself among captions.
    assert f"<li>{TABLE.captions[0]}<" in captions
    photos, _, captions, _ = search("", str(folder / "photos" / "5.png"), 8, False)
    assert photos[0][1] == "1.000" and (photos[0][0] == TABLE.image_columns["images"][5]).all()
    assert "&lt;b&gt;bold&lt;/b&gt;" in search("bold", None, 100, False)[2]


def test_no_query_and_no_photo_are_said(page, tmp_path):
    search = function_of(page[1])
    with pytest.raises(gradio.Error, match="Write a caption, or drop a photo"):
        search("  ", None, 3, False)
    # A caption is a caption: no file of this machine is read by it.
    assert search(str(page[0] / "photos" / "5.png"), None, 3, False)[0][0][1] != "1.000"
    assert search("dog.jpg", None, 3, False)[2].count("<li>") == 3
    (tmp_path / "broken.png").write_bytes(b"none")
    with pytest.raises(gradio.Error, match=r"^.?broken\.png is no readable JPEG, PNG, BMP or GIF"):
        search("", str(tmp_path / "broken.png"), 3, False)
    with pytest.raises(ValueError, match="at least one gallery"):
        search_page([])


def test_in_a_browser(page, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="a browser is driven by playwright")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no chromium")
    address = launch_page(page[1], block=False)
    try:
        with playwright.sync_playwright() as driver:
            quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            opened = driver.chromium.launch(executable_path=browser, args=quiet)
            tab = opened.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(address, wait_until="domcontentloaded")
            tab.fill("#caption textarea", TABLE.captions[0])
            tab.click("#search")
            tab.wait_for_selector(".captions li")
            assert TABLE.captions[0] in tab.inner_text(".captions li")
            tab.wait_for_selector("#photos img")
            tab.set_input_files("input[type=file]", str(page[0] / "photos" / "5.png"))
            tab.wait_for_function("document.querySelector('#photos').innerText.includes('1.000')")
            tab.screenshot(path=os.environ.get("KERAS_ITR_SCREENSHOT", str(tmp_path / "page.png")))
            opened.close()
    finally:
        page[1].close()

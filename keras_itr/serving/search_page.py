"""A page in the browser that searches galleries by a caption or by a photo that is dropped on it."""

import html
import os
from pathlib import Path

from keras_itr.data.photos import decode_photos
from keras_itr.search import Gallery
from keras_itr.search.gallery_report import about

_SIDE = 360  # pixels of the shorter side of a picture on the page
_MOST = 100
_STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#title h1 { margin-bottom: 0; }
#photos .grid-wrap { max-height: none; }
.captions ol { padding-left: 1.8rem; }
.captions li { margin: .35rem 0; }
.captions .score { opacity: .6; font-variant-numeric: tabular-nums; margin-left: .6rem; }
"""


def search_page(directories, k=12):
    """A Gradio page over one or more galleries.

    A caption finds photos in a gallery of photos and sentences in one of captions; a photo finds captions, and photos
    that resemble it. A switch turns the second stage off where a method has one; scores and times are shown.

    Args:
        directories: sequence of folders that `keras_itr.search.index_gallery` wrote, such as one of photos and one of
            captions.
        k: int, default 12, items shown at first.

    Returns:
        `gradio.Blocks`; `launch_page` opens it.

    Raises:
        ImportError: if Gradio is not installed.
        ValueError, FileNotFoundError: as `keras_itr.search.Gallery` says, and if there is no gallery.

    Example:

    ```python
    from keras_itr.serving import launch_page, search_page

    launch_page(search_page(["gallery"]))
    ```

    Source: our choice.
    """
    gradio = _gradio()
    if not directories:
        raise ValueError("the page needs at least one gallery; make one with tools/index.py.")
    galleries = _opened(directories)
    staged = any(gallery.model.second_stage for gallery in galleries)
    with gradio.Blocks(title="keras_itr search", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gradio.Markdown("# Image-text search", elem_id="title")
        gradio.Markdown(" · ".join(_described(gallery) for gallery in galleries))
        with gradio.Row():
            with gradio.Column(scale=1, min_width=280):
                text = gradio.Textbox(label="Caption", placeholder="two dogs run on a beach", elem_id="caption")
                photo = gradio.Image(
                    label="or a photo", type="filepath", image_mode=None, sources=["upload", "clipboard"], height=220
                )
                count = gradio.Slider(1, _MOST, value=k, step=1, label="How many")
                rerank = gradio.Checkbox(staged, label="Second stage", interactive=staged)
                button = gradio.Button("Search", variant="primary", elem_id="search")
            with gradio.Column(scale=3):
                outputs = [_output(gradio, gallery) for gallery in galleries]
        search = _searcher(gradio, galleries)
        shown = [part for parts in outputs for part in parts]
        gradio.on([button.click, photo.upload], search, [text, photo, count, rerank], shown, api_name="search")
        # Whoever presses enter means the caption, also under a photo of before.
        text.submit(lambda *given: search(given[0], None, *given[1:]), [text, count, rerank], shown, api_name=False)
    return page


def launch_page(page, host="127.0.0.1", port=None, block=True):
    """Serve a page.

    Args:
        page: of `search_page`.
        host: string, default `"127.0.0.1"`: this machine alone. The page has no password: put what asks for one in
            front of it before others may reach it.
        port: int; None (default) takes the first free one from 7860 on.
        block: bool, default True: until the process is stopped.

    Returns:
        string, the address.

    Example: see `search_page`.
    """
    gradio = _gradio()
    # Fonts of the machine: the usual ones are fetched from the network.
    theme = gradio.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        share=False,
        prevent_thread_lock=not block,
        theme=theme,
        css=_STYLE,
        footer_links=[],
        quiet=not block,
    )
    return address


def _opened(directories):
    """Galleries, with one model for those of one preset, which has compiled what it needs."""
    galleries, models = [Gallery(directory) for directory in directories], {}
    for gallery in galleries:
        if gallery.preset in models:
            gallery.model = models[gallery.preset]
        models[gallery.preset] = gallery.model
        gallery.search("a first query", k=1, query_side="text")
    return galleries


def _searcher(gradio, galleries):
    def search(text, photo, count, rerank):
        # What is written is a caption, whatever it looks like: nobody reads files of this machine by it.
        side, query = ("image", Path(photo)) if photo else ("text", (text or "").strip())
        if not query:
            raise gradio.Error("Write a caption, or drop a photo.", print_exception=False)
        shown = []
        for gallery in galleries:
            try:
                shown += _shown(gallery.search(query, int(count), rerank, side))
            except (ValueError, OSError) as error:
                message = str(error).replace(str(query), Path(query).name) if photo else str(error)
                raise gradio.Error(message, print_exception=False) from error
        return shown

    return search


def _output(gradio, gallery):
    if gallery.side == "image":
        items = gradio.Gallery(label="Photos", columns=4, height="auto", object_fit="cover", elem_id="photos")
    else:
        gradio.Markdown("### Captions")
        items = gradio.HTML(elem_classes="captions")
    return items, gradio.Markdown()


def _shown(found):
    """What the two parts of a gallery on the page show."""
    if found.side == "text":
        rows = (
            f'<li>{html.escape(item)}<span class="score">{score:.3f}</span></li>'
            for item, score in zip(found.ids, found.scores, strict=True)
        )
        return f"<ol>{''.join(rows)}</ol>", about(found)
    photos = decode_photos([str(found.source / item) for item in found.ids], _SIDE)
    # Names of files say little, and are too long to stand on a picture.
    labelled = zip(photos, (f"{score:.3f}" for score in found.scores), strict=True)
    return [pair for pair in labelled if not isinstance(pair[0], str)], about(found)


def _described(gallery):
    what = "photos" if gallery.side == "image" else "captions"
    return f"{len(gallery.index):,} {what} of `{gallery.source}` by {type(gallery.model).__name__}"


def _gradio():
    # Nothing is sent to anybody.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise ImportError('the page needs Gradio: pip install "keras-itr[demo]"') from error
    return gradio

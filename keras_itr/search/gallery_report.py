"""What was found in a gallery, to read: as a table, as JSON, as a page with pictures."""

import base64
import html
import json
from pathlib import Path

from keras_itr.files import written_whole
from keras_itr.search.gallery import Gallery

_SIDE = 320  # pixels of the shorter side of a thumbnail
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #888; --accent: #3b6fd4; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, "Helvetica Neue", Arial, sans-serif; max-width: 1200px; margin: 0 auto;
  padding: 2.5rem 1.5rem; }
header { margin-bottom: 2rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
header img { display: block; max-height: 260px; max-width: 100%; border-radius: 8px; margin: 0 0 1rem; }
p.about { color: var(--soft); font-size: .9rem; margin: 0; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 1.25rem; }
ol.photos { grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); }
li { border: 1px solid var(--line); border-radius: 10px; overflow: hidden; display: flex; flex-direction: column; }
li img, .missing { width: 100%; aspect-ratio: 4 / 3; object-fit: cover; display: block; background: #8882; }
.missing { display: grid; place-items: center; color: var(--soft); font-size: .85rem; }
.text { padding: .6rem .8rem .7rem; display: grid; grid-template-columns: auto 1fr auto; gap: 0 .6rem;
  align-items: baseline; }
.rank { font-weight: 700; color: var(--accent); }
.name { overflow-wrap: anywhere; font-size: .9rem; }
.captions .name { font-size: 1rem; }
.photos .name { order: 1; grid-column: 1 / -1; font-size: .8rem; line-height: 1.35; }
.photos .score { grid-column: 3; }
.score { font-variant-numeric: tabular-nums; color: var(--soft); font-size: .85rem; }
"""


def search_gallery(
    directory,
    query,
    k=10,
    rerank=True,
    preset=None,
    json_path=None,
    html_path=None,
    verify=True,
    **settings,
):
    """Search a gallery by a caption or a photo, and print what was found as a table.

    Args:
        directory, preset, verify, **settings: of `Gallery`. For more than one query make a `Gallery` yourself: it
            loads the model once.
        query, k, rerank: of `Gallery.search`.
        json_path: file for the same as JSON; None (default) writes none, `"-"` prints it in place of the table.
        html_path: file for a page with pictures, which needs no other file; None (default) writes none.

    Returns:
        A `Found`.

    Raises:
        ValueError, FileNotFoundError: as `Gallery` and its `search` say.
        OSError: if a file cannot be written.

    Example:

    ```python
    from keras_itr.search import search_gallery

    search_gallery("gallery", "a dog on grass", k=5, html_path="dogs.html")
    ```

    Source: our choice.
    """
    gallery = Gallery(directory, preset, verify, **settings)
    found = gallery.search(query, k, rerank)
    if json_path == "-":
        print(found_json(found), end="")
        json_path = None
    else:
        print(found_table(found))
        if gallery.index.recall:
            print("{recall} % of the {k} nearest are found, measured by {queries} {of}.".format(**gallery.index.recall))
    for path, text in ((json_path, found_json), (html_path, found_page)):
        if path is not None:
            with written_whole(path) as aside:
                aside.write_text(text(found), encoding="utf-8")
            print(f"written: {path}")
    return found


def found_table(found):
    """A `Found` as lines of text: rank, score and item, and the times below."""
    width = max([len("score"), *(len(_score(score)) for score in found.scores)])
    rows = [f"rank  {'score':>{width}}  {'photo' if found.side == 'image' else 'caption'}"]
    rows += [
        f"{rank:4}  {_score(score):>{width}}  {' '.join(item.split())}"
        for rank, (item, score) in enumerate(zip(found.ids, found.scores, strict=True), 1)
    ]
    return "\n".join([*rows, about(found)])


def found_json(found):
    """A `Found` as JSON: the query, and rank, score and item of each, with the path of a photo."""
    items = [
        {"rank": rank, "score": float(score), "id": item}
        | ({"path": str(found.source / item)} if found.side == "image" else {})
        for rank, (item, score) in enumerate(zip(found.ids, found.scores, strict=True), 1)
    ]
    document = {
        "query": found.query,
        "query_side": found.query_side,
        "side": found.side,
        "source": str(found.source),
        "reranked": found.reranked,
        "seconds": {part: round(seconds, 4) for part, seconds in found.seconds.items()},
        "items": items,
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def found_page(found):
    """A `Found` as one page of HTML; thumbnails are within it, names and captions are escaped."""
    photos = found.side == "image"
    pictures = thumbnails([found.source / item for item in found.ids]) if photos else [""] * len(found.ids)
    cards = [
        f'<li>{picture}<div class="text"><span class="rank">{rank}</span>'
        f'<span class="name">{html.escape(item)}</span><span class="score">{_score(score)}</span></div></li>'
        for rank, (item, score, picture) in enumerate(zip(found.ids, found.scores, pictures, strict=True), 1)
    ]
    of_photo = found.query_side == "image"
    title = html.escape(Path(found.query).name if of_photo else found.query)
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<header>{thumbnails([Path(found.query)])[0] if of_photo else ''}<h1>{title}</h1>",
        f'<p class="about">{html.escape(about(found))}</p></header>',
        f'<ol class="{"photos" if photos else "captions"}">',
        *cards,
        "</ol></body></html>",
    ]
    return "\n".join(lines) + "\n"


def thumbnails(paths):
    """An `<img>` of each photo with the picture inside; a `<div>` that says so for one that is gone or damaged."""
    import tensorflow as tf

    from keras_itr.data.photos import decode_photos

    tags = []
    for path, photo in zip(paths, decode_photos([str(path) for path in paths], _SIDE), strict=True):
        if isinstance(photo, str):
            tags.append('<div class="missing">photo cannot be read</div>')
            continue
        picture = base64.b64encode(tf.io.encode_jpeg(photo, quality=85).numpy()).decode()
        tags.append(f'<img alt="{html.escape(path.name)}" src="data:image/jpeg;base64,{picture}">')
    return tags


def _score(score):
    return f"{score:.4f}"


def about(found):
    """One line: where was searched, by what, and how long it took."""
    how = "embeddings and second stage" if found.reranked else "embeddings"
    parts = ["encode", "search", "rerank"] if found.reranked else ["encode", "search"]
    times = ", ".join(f"{part} {found.seconds[part] * 1000:.0f} ms" for part in parts)
    return f"{len(found.ids)} best in {found.source} by {how}; {times} (loading {found.seconds['load']:.1f} s)"

"""The gates can fail: what a stock server could not run, or would answer differently, is no export."""

import dataclasses
import sys

import keras
import numpy as np
import pytest
from serving_support import METHODS, photo_model, photo_parts

from keras_itr.serving import ExportError, ServedFunctions, export
from keras_itr.serving.samples import make_samples

# The module, whose name in its package is that of the function.
MODULE = sys.modules["keras_itr.serving.export"]
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made under TensorFlow")


class Compiled(ServedFunctions):
    """Every signature compiled by XLA."""

    def _add(self, name, specs, function):
        import tensorflow as tf

        super()._add(name, specs, tf.function(function, jit_compile=True, autograph=False))


class WithTensorFlowText(ServedFunctions):
    """Captions folded by an operation of tensorflow-text."""

    def _text_side(self):
        import tensorflow_text

        specs, read = super()._text_side()
        return specs, lambda inputs: read({"text": tensorflow_text.case_fold_utf8(inputs["text"])})


class WithPython(ServedFunctions):
    """Captions that pass through Python."""

    def _text_side(self):
        import tensorflow as tf

        specs, read = super()._text_side()
        return specs, lambda inputs: read(
            {"text": tf.ensure_shape(tf.py_function(lambda x: x, [inputs["text"]], tf.string), [None])}
        )


class WithFiles(ServedFunctions):
    """Captions that are patterns of file names."""

    def _text_side(self):
        import tensorflow as tf

        specs, read = super()._text_side()
        return specs, lambda inputs: read({"text": tf.io.matching_files(inputs["text"]) + inputs["text"]})


class StoredTwice(ServedFunctions):
    """Weights and a copy of them."""

    def module(self):
        import tensorflow as tf

        module = super().module()
        module.copies = [tf.Variable(tf.zeros([100_000]))]
        return module


@pytest.mark.parametrize(
    "functions, fault",
    [
        (Compiled, "must be compiled by XLA"),
        (WithTensorFlowText, "operation CaseFoldUTF8 .* is none of stock TensorFlow's"),
        (WithPython, "operation EagerPyFunc .* is not among those that an export may hold"),
        (WithFiles, "operation MatchingFiles .* is not among those"),
        (StoredTwice, "they are not stored once"),
    ],
)
def test_what_a_stock_server_cannot_run_is_no_version(functions, fault, tmp_path, monkeypatch):
    monkeypatch.setattr(MODULE, "ServedFunctions", functions)
    with pytest.raises(ExportError, match=fault):
        export(photo_model("clip"), tmp_path / "clip", verbose=False)
    assert not list((tmp_path / "clip").glob("*"))


def test_other_answers_than_the_models_are_no_version(tmp_path, monkeypatch):
    model = photo_model("clip")
    samples = make_samples(model)
    moved = {
        **samples.outputs,
        "embed_text": {"text_embedding": samples.outputs["embed_text"]["text_embedding"] + 2e-5},
    }
    monkeypatch.setattr(MODULE, "make_samples", lambda _: dataclasses.replace(samples, outputs=moved))
    with pytest.raises(ExportError, match=r"embed_text: text_embedding differs from the Keras model by 2\.\de-05"):
        export(model, tmp_path / "clip", verbose=False)
    assert not list((tmp_path / "clip").glob("*"))


def test_half_precision_of_other_weights_is_no_version(tmp_path, monkeypatch):
    model = photo_model("clip")
    # Not made after a seed of its own.
    other = METHODS["clip"](*photo_parts())
    monkeypatch.setattr(MODULE, "in_precision", lambda model, policy: other)
    with pytest.raises(
        ExportError, match=r"vectors have a cosine of .* with those of the Keras model, 0\.99 is needed"
    ):
        export(model, tmp_path / "clip", precision="bfloat16", verbose=False)


def test_samples_are_what_breaks_exports():
    samples = make_samples(photo_model("clip"))
    kinds = {bytes(image[:4]) for image in samples.requests["embed_image"]["image_bytes"]}
    assert len(kinds) >= 2
    sizes = {(signature, len(next(iter(inputs.values())))) for signature, inputs, _ in samples.batches()}
    assert {size for _, size in sizes} == {1, 3, 8} and len(sizes) == 3 * len(samples.requests)
    assert np.isfinite(samples.outputs["score_pairs"]["score"]).all()

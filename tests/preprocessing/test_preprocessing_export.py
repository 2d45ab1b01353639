import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_itr.preprocessing import CLIPTokenizer, RetrievalImageConverter, WordPieceTokenizer, WordTokenizer

# Runs in a process of its own, where nothing but TensorFlow can be imported.
SERVER = """
import sys
sys.modules.update(dict.fromkeys(["keras", "keras_hub", "keras_itr", "tensorflow_text"]))
import numpy as np
import tensorflow as tf

module = tf.saved_model.load(sys.argv[1])
texts, images = np.load(sys.argv[2] + "/texts.npy"), sorted(tf.io.gfile.glob(sys.argv[2] + "/*.image"))
images = tf.constant([tf.io.read_file(path).numpy() for path in images])
results = {}
for size in (1, 3, len(texts)):
    results.update({f"{key}_{size}": value for key, value in module.tokenize(tf.constant(texts[:size])).items()})
    results[f"pixels_{size}"] = module.convert(images[:size])
np.savez(sys.argv[2] + "/results.npz", **results)
"""


class Preprocessing(tf.Module):
    def __init__(self, captions):
        super().__init__()
        self.word = WordTokenizer.from_captions(captions[:4], sequence_length=16)
        self.wordpiece = WordPieceTokenizer.from_captions(captions, max_size=150, sequence_length=32)
        self.clip = CLIPTokenizer(sequence_length=40)
        self.converter = RetrievalImageConverter((10, 12), scale=[0.1, 0.2, 0.3], offset=[-0.5, 0.0, 0.5])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def tokenize(self, texts):
        clip = self.clip(texts)
        return {
            "word": self.word(texts),
            "wordpiece": self.wordpiece(texts),
            "clip": clip,
            "clip_mask": self.clip.padding_mask(clip),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def convert(self, contents):
        return self.converter(contents)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export runs under the TensorFlow backend")
def test_a_saved_model_needs_tensorflow_alone(tmp_path, captions, encoded_images):
    captions = [*captions, "naïve unseen-word 👍", "", "x" * 300]
    contents = [contents for contents, _ in encoded_images.values()]
    np.save(tmp_path / "texts.npy", np.array(captions))
    for index, content in enumerate(contents):
        (tmp_path / f"{index:02}.image").write_bytes(content)
    module = Preprocessing(captions)
    # An eager call compiles a function of its own, which must not get in the way.
    module.clip("a")
    tf.saved_model.save(module, str(tmp_path / "model"))
    command = [sys.executable, "-c", SERVER, str(tmp_path / "model"), str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]
    served = np.load(tmp_path / "results.npz")
    for size in (1, 3, len(captions)):
        np.testing.assert_array_equal(served[f"word_{size}"], module.word(captions[:size]))
        np.testing.assert_array_equal(served[f"wordpiece_{size}"], module.wordpiece(captions[:size]))
        ids = module.clip(captions[:size])
        np.testing.assert_array_equal(served[f"clip_{size}"], ids)
        np.testing.assert_array_equal(served[f"clip_mask_{size}"], module.clip.padding_mask(ids))
        np.testing.assert_array_equal(served[f"pixels_{size}"], module.converter(contents[:size]))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="needs a backend other than TensorFlow; one is enough")
def test_the_module_is_imported_where_tensorflow_is_not():
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from keras_itr.preprocessing import RetrievalImageConverter, RetrievalPreprocessor, WordTokenizer\n"
        "tokenizer = WordTokenizer(['[PAD]', '[UNK]', '[START]', '[END]', 'a'])\n"
        "RetrievalPreprocessor(tokenizer, RetrievalImageConverter((4, 4)))({'regions': 1})\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-2000:]

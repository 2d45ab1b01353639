import keras
import keras_hub

from keras_itr.preprocessing.image_converter import RetrievalImageConverter


@keras.saving.register_keras_serializable(package="keras_itr")
class RetrievalPreprocessor(keras_hub.models.Preprocessor):
    """Raw captions and images to the inputs of a retriever.

    | key of the input | key of the output |
    |---|---|
    | `"text"`, string (...) | `"token_ids"` int32 (..., L) and `"padding_mask"` bool (..., L), True = valid |
    | `"images"`, whatever the converter takes | `"images"` float32 (B, height, width, 3) |
    | any other, and float32 `"images"` | the same, unchanged |

    What is processed already passes unchanged, so that a second call changes nothing. It works eagerly on lists and
    arrays, in `tf.data.Dataset.map` on batches or single examples, and inside a `tf.function`, always by the same
    TensorFlow operations. New values are tensors of the active backend in eager calls, TensorFlow tensors in a graph.

    Args:
        tokenizer: `WordTokenizer`, `WordPieceTokenizer` or `CLIPTokenizer`; `None` if there is no text to tokenize.
        image_converter: `RetrievalImageConverter`; `None` leaves `"images"` as they are.
        **kwargs: Of `keras.layers.Layer`, such as `name`.

    Call arguments:
        x: dict of the inputs above.
        y, sample_weight: Returned unchanged, if given, as `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        TypeError: `x` is no dict.
        ValueError: `"text"` without a tokenizer, or beside `"token_ids"`.

    Example:

    ```python
    import numpy as np
    from keras_itr.preprocessing import RetrievalImageConverter, RetrievalPreprocessor, WordTokenizer

    preprocessor = RetrievalPreprocessor(
        WordTokenizer.from_captions(["a red hat"], sequence_length=6), RetrievalImageConverter((32, 32))
    )
    x = preprocessor({"text": ["a hat"], "images": np.zeros((1, 48, 64, 3), "uint8"), "image_id": np.array([7])})
    x["token_ids"], x["images"].shape  # [[2, 4, 5, 3, 0, 0]], (1, 32, 32, 3)
    ```
    """

    tokenizer_cls = keras_hub.tokenizers.Tokenizer
    image_converter_cls = RetrievalImageConverter

    def __init__(self, tokenizer=None, image_converter=None, **kwargs):
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.image_converter = image_converter
        self.built = True

    def __call__(self, x, y=None, sample_weight=None):
        # `Layer.__call__` refuses a dict that mixes tensors with arrays or strings, as raw inputs do.
        return self.call(x, y, sample_weight)

    def call(self, x, y=None, sample_weight=None):
        if not isinstance(x, dict):
            raise TypeError(f'The input must be a dict such as {{"text": ..., "images": ...}}; got {type(x).__name__}.')
        x = dict(x)
        if "text" in x:
            self._check_text(x)
            x["token_ids"] = self.tokenizer(x.pop("text"))
            x["padding_mask"] = self.tokenizer.padding_mask(x["token_ids"])
        if "images" in x and self.image_converter is not None:
            x["images"] = self.image_converter(x["images"])
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    def _check_text(self, x):
        if self.tokenizer is None:
            raise ValueError(
                'The input has "text" but the preprocessor has no tokenizer. Give it one, as in '
                "RetrievalPreprocessor(tokenizer=WordTokenizer.from_captions(captions)), or leave "
                '"text" out and pass "token_ids" or "text_features".'
            )
        if "token_ids" in x:
            raise ValueError('The input has both "text" and "token_ids"; remove one of them.')

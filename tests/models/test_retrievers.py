import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from momentum_support import copy_weights, features_and_terms, make_aai, make_coder, tensors
from support import draw, region_backbone, region_data

from keras_itr.layers import FeatureQueue
from keras_itr.models import CLIP, CUSA, ImageTextRetriever, SoftLabelAlignment, VSEInfinity, from_preset
from keras_itr.numerics import unit_rows

METHODS = {
    "clip": lambda **kwargs: CLIP(region_backbone(), **kwargs),
    "clip_projected": lambda **kwargs: CLIP(region_backbone(), embedding_dim=6, **kwargs),
    "clip_plugin": lambda **kwargs: CLIP(region_backbone(), plugins=(SoftLabelAlignment(),), **kwargs),
    "cusa": lambda **kwargs: CUSA(region_backbone(), **kwargs),
    "cusa_itc": lambda **kwargs: CUSA(region_backbone(), csa_weight=0, usa_weight=0, **kwargs),
    "cusa_csa": lambda **kwargs: CUSA(region_backbone(), contrastive_weight=0, usa_weight=0, **kwargs),
    "cusa_usa": lambda **kwargs: CUSA(region_backbone(), contrastive_weight=0, csa_weight=0, **kwargs),
    "vse_infinity": lambda **kwargs: VSEInfinity(region_backbone(), **kwargs),
    "vse_infinity_plugin": lambda **kwargs: VSEInfinity(region_backbone(), plugins=(SoftLabelAlignment(),), **kwargs),
    "vse_infinity_projected": lambda **kwargs: VSEInfinity(region_backbone(), embedding_dim=6, **kwargs),
    "aai": lambda **kwargs: make_aai(region_backbone(), **kwargs),
    "aai_plugin": lambda **kwargs: make_aai(region_backbone(), plugins=(SoftLabelAlignment(),), **kwargs),
    "aai_embeddings": lambda **kwargs: make_aai(region_backbone(), itm_weight=0, queue_size=0, **kwargs),
    "coder": lambda **kwargs: make_coder(region_backbone(), **kwargs),
    "coder_plugin": lambda **kwargs: make_coder(region_backbone(), plugins=(SoftLabelAlignment(),), **kwargs),
    "coder_instances": lambda **kwargs: make_coder(region_backbone(), concept_weight=0, label_weight=0, **kwargs),
}


def images(data):
    return {"regions": data["regions"]}


def texts(data):
    return {"text_features": data["text_features"]}


@pytest.mark.parametrize("name", METHODS)
def test_trains_saves_and_loads_as_the_same_class(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = METHODS[name]()
    data = region_data(16)
    model.compile(optimizer=keras.optimizers.Adam(3e-3))
    history = model.fit(data, batch_size=8, epochs=6, verbose=0).history
    # The first epochs fill the dictionaries, whose negatives add to the loss.
    first = 2 if any(isinstance(layer, FeatureQueue) for layer in model.training_only_layers()) else 0
    assert history["loss"][-1] < history["loss"][first]
    reported = {metric.name for metric in model.term_metrics}
    assert set(model.term_weights) <= reported <= set(history)
    total = sum(weight * history[term][-1] for term, weight in model.term_weights.items())
    np.testing.assert_allclose(total, history["loss"][-1], rtol=1e-5)

    model.save_to_preset(tmp_path / "preset")
    loaded = from_preset(tmp_path / "preset")
    assert type(loaded) is type(model)
    assert len(loaded.weights) == len(model.weights)
    # Through JSON a tuple is a list.
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    np.testing.assert_allclose(loaded.embed_images(images(data)), model.embed_images(images(data)), atol=1e-6)
    np.testing.assert_allclose(loaded.embed_texts(texts(data)), model.embed_texts(texts(data)), atol=1e-6)
    assert not any("teacher" in variable.path for variable in loaded.variables)


@pytest.mark.parametrize("name", ["clip", "cusa", "vse_infinity", "aai", "coder"])
def test_embeddings_are_unit_and_score_is_their_product(name):
    model, data = METHODS[name](), region_data(10)
    image = model.embed_images(images(data), batch_size=4)
    text = model.embed_texts(texts(data), batch_size=3)
    width = 16 if name == "coder" else 8
    assert image.dtype == np.float32 and image.shape == text.shape == (10, width)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(model.score(data, data, batch_size=4), image @ text.T, atol=1e-6)
    # The last batch was filled up; its rows must be those of a whole pass.
    np.testing.assert_allclose(image, model.embed_images(images(data), batch_size=64), atol=1e-6)


def test_teachers_do_not_touch_the_embeddings():
    model, data = METHODS["cusa"](), region_data(4)
    np.testing.assert_array_equal(model.embed_images(images(data)), model.embed_images(data))


def test_cross_and_uni_modal_vectors_differ_and_need_a_head():
    data = region_data(4)
    for name in ("cusa", "clip_plugin", "vse_infinity_plugin", "aai_plugin", "coder_plugin"):
        model = METHODS[name]()
        uni = model.embed_texts(texts(data), cross_modal=False)
        np.testing.assert_allclose(np.linalg.norm(uni, axis=1), 1, atol=1e-6)
        cross = model.embed_texts(texts(data))
        assert uni.shape != cross.shape or np.abs(uni - cross).max() > 0.01
    with pytest.raises(ValueError, match="no uni-modal vectors"):
        METHODS["clip"]().embed_texts(texts(data), cross_modal=False)


def test_without_usa_the_uni_modal_vector_is_the_backbone_embedding():
    model, data = METHODS["cusa_itc"](), region_data(4)
    expected = unit_rows(model.backbone(images(data))["image_global"])
    expected = keras.ops.convert_to_numpy(keras.ops.stop_gradient(expected))
    np.testing.assert_allclose(model.embed_images(images(data), cross_modal=False), expected, atol=1e-6)


def test_official_scale_divides_by_the_batch_once_more():
    data = {key: keras.ops.convert_to_tensor(value) for key, value in region_data(8).items()}
    model = METHODS["cusa_itc"]()
    features = model(data)
    terms = {}
    for scale in ("official", "infonce"):
        model.contrastive_scale = scale
        itc = model.objectives(features["image"], features["text"], data)["itc"]
        terms[scale] = float(keras.ops.convert_to_numpy(keras.ops.stop_gradient(itc)))
    np.testing.assert_allclose(terms["infonce"] / 8, terms["official"], rtol=1e-5)


@pytest.mark.parametrize("width", [5, 37632])
def test_any_teacher_width_and_permutation(width):
    data = region_data(6)
    data["teacher_image"] = draw(6, width)
    model = METHODS["cusa"]()

    def loss(order):
        x = {key: keras.ops.convert_to_tensor(value[order]) for key, value in data.items()}
        return float(keras.ops.convert_to_numpy(keras.ops.stop_gradient(model.compute_loss(x=x, y_pred=model(x)))))

    np.testing.assert_allclose(loss(np.arange(6)), loss(np.array([3, 1, 5, 0, 4, 2])), rtol=1e-5)


def test_one_pair_and_zero_rows_are_finite():
    model, data = METHODS["cusa"](), region_data(2)
    one = {key: keras.ops.convert_to_tensor(value[:1]) for key, value in data.items()}
    value = model.compute_loss(x=one, y_pred=model(one))
    assert abs(float(keras.ops.convert_to_numpy(keras.ops.stop_gradient(value)))) < 1e-7
    data["teacher_text"][0] = 0
    data["text_features"][:] = 0
    model.compile(optimizer="sgd")
    assert np.isfinite(model.fit(data, batch_size=2, verbose=0).history["loss"][0])
    assert all(np.isfinite(keras.ops.convert_to_numpy(variable)).all() for variable in model.variables)


def test_temperatures_stay_in_range_at_any_learning_rate():
    data = region_data(8)
    model = METHODS["cusa"]()
    model.compile(optimizer=keras.optimizers.SGD(1e4))
    model.alignment.tau_csa.value.assign(0.99)
    model.fit(data, batch_size=8, epochs=3, verbose=0)
    for layer in (model.tau_itc, model.alignment.tau_csa, model.alignment.tau_usa_image, model.alignment.tau_usa_text):
        value = float(keras.ops.convert_to_numpy(layer.value))
        assert np.float32(layer.minimum) <= value <= np.float32(layer.maximum)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_keeps_losses_and_temperatures_in_float32(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = METHODS["cusa"]()
        model.compile(optimizer="adam")
        history = model.fit(region_data(8), batch_size=8, verbose=0).history
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(np.isfinite(values).all() for values in history.values())
    assert model.tau_itc.value.dtype == "float32"
    assert model.embed_images(images(region_data(4))).dtype == np.float32


def test_saving_leaves_the_optimizer_out_and_in_place(tmp_path):
    model = METHODS["cusa"]()
    model.compile(optimizer="adam")
    model.fit(region_data(8), batch_size=8, verbose=0)
    slots = [keras.ops.convert_to_numpy(variable) for variable in model.optimizer.variables]
    model.save_to_preset(tmp_path)
    for before, variable in zip(slots, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(before, keras.ops.convert_to_numpy(variable))
    import h5py

    names = []
    with h5py.File(tmp_path / "task.weights.h5") as file:
        file.visit(names.append)
    assert not [name for name in names if "optimizer" in name]


def test_the_errors_of_training_input():
    data = region_data(8)
    for missing, message in (("teacher_text", "teacher_text"), ("text_features", "training needs 'text_features'")):
        model = METHODS["cusa"]()
        model.compile(optimizer="sgd", run_eagerly=True)
        with pytest.raises(ValueError, match=message):
            model.fit({key: value for key, value in data.items() if key != missing}, batch_size=8, verbose=0)


def test_ids_beyond_int32_find_themselves_in_a_queue():
    models = [make_aai(region_backbone(), itm_weight=0) for _ in range(2)]
    copy_weights(*models)
    data = region_data(8)
    for _ in range(2):
        expected = features_and_terms(models[0], data, training=True)[1]
        large = {**data, "image_id": data["image_id"].astype("int64") + 7_000_000_000}
        found = features_and_terms(models[1], large, training=True)[1]
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("name", ["clip", "cusa", "vse_infinity", "aai", "coder"])
def test_ids_that_are_not_one_integer_per_pair_are_refused(name):
    model, data = METHODS[name](), region_data(8)
    ids = data["image_id"]
    cases = [
        (ids[:, None], r"'image_id' must be one integer per pair, shape \(B,\), received shape \(8, 1\) of .*int32"),
        (ids.astype("float32"), r"'image_id' must be one integer per pair.*of float32"),
        (ids.astype("str"), "'image_id' must be one integer per pair"),
        (ids - 1, "'image_id' must be 0 or more, received -1"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            model.fit({**data, "image_id": wrong}, verbose=0)
    inputs = tensors({**data, "image_id": cases[0][0]})
    features = model(inputs)
    with pytest.raises(ValueError, match=cases[0][1]):
        model.objectives(features["image"], features["text"], inputs)


def test_the_errors_of_construction_and_use():
    with pytest.raises(ValueError, match="official"):
        CUSA(region_backbone(), contrastive_scale="offical")
    with pytest.raises(ValueError, match="at least one"):
        CUSA(region_backbone(), contrastive_weight=0, csa_weight=0, usa_weight=0)
    with pytest.raises(ValueError, match="two objectives called"):
        CUSA(region_backbone(), plugins=(SoftLabelAlignment(),))
    model = METHODS["clip"]()
    with pytest.raises(ValueError, match="needs 'text_features'"):
        model.embed_texts(["a dog"])
    with pytest.raises(ValueError, match="needs 'regions'"):
        model.embed_images({"pixels": draw(2, 3)})
    with pytest.raises(NotImplementedError, match="no second stage"):
        model.rerank({}, {}, [])


def test_functional_models_of_keras_hub_in_the_process_change_nothing(tmp_path):
    """Keras rewires the base classes of hub models when a functional one is made: before and after ours."""
    import keras_hub

    def functional():
        backbone = keras_hub.models.BertBackbone(20, 1, 1, 4, 8, max_sequence_length=4)
        return keras_hub.models.BertTextClassifier(backbone, num_classes=2, preprocessor=None)

    functional()
    data, model = region_data(8), METHODS["cusa"]()
    functional()
    model.compile(optimizer="adam")
    assert np.isfinite(model.fit(data, batch_size=4, verbose=0).history["loss"]).all()
    model.save_to_preset(tmp_path)
    functional()
    loaded = from_preset(tmp_path)
    np.testing.assert_allclose(loaded.embed_texts(texts(data)), model.embed_texts(texts(data)), atol=1e-6)
    loaded.compile(optimizer="adam")
    loaded.evaluate(data, batch_size=4, verbose=0)


@keras.saving.register_keras_serializable(package="keras_itr_tests")
class BestRegion(ImageTextRetriever):
    """A method whose similarity is no dot product: the best region, with a momentum-like counter of steps."""

    dot_product = False

    def __init__(self, backbone, preprocessor=None, plugins=(), **kwargs):
        super().__init__(backbone, preprocessor=preprocessor, **kwargs)
        self.steps = self.add_weight(shape=(), dtype="int32", trainable=False, initializer="zeros", name="steps")
        self.declare_terms({"triplet": 1.0}, plugins=plugins)

    def encode_images(self, inputs, training=False):
        features = self.backbone.encode_images(inputs, training=training)
        return {"embedding": unit_rows(features["global"]), "tokens": unit_rows(features["tokens"])}

    def encode_texts(self, inputs, training=False):
        return {"embedding": unit_rows(self.backbone.encode_texts(inputs, training=training)["global"])}

    def similarity(self, image_features, text_features):
        products = keras.ops.einsum("ird,td->itr", image_features["tokens"], text_features["embedding"])
        return keras.ops.max(products, axis=-1)

    def objectives(self, image_features, text_features, inputs, training=False):
        if training:
            self.steps.assign_add(1)
        similarity = self.similarity(image_features, text_features)
        own = keras.ops.diagonal(similarity)
        return {"triplet": keras.ops.mean(keras.ops.relu(0.2 + similarity - own[:, None]))}


def test_a_method_with_another_similarity_and_state_fits_the_contract(tmp_path):
    model, data = BestRegion(region_backbone(), plugins=(SoftLabelAlignment(),)), region_data(8)
    model.compile(optimizer="adam")
    history = model.fit(data, batch_size=4, epochs=2, verbose=0).history
    assert {"triplet", "csa", "usa", "loss"} <= set(history)
    model.evaluate(data, batch_size=4, verbose=0)
    assert int(keras.ops.convert_to_numpy(model.steps)) == 4
    features = {key: keras.ops.convert_to_tensor(value) for key, value in data.items()}
    features = model(features)
    whole = keras.ops.convert_to_numpy(keras.ops.stop_gradient(model.similarity(features["image"], features["text"])))
    np.testing.assert_allclose(model.score(data, data, batch_size=3), whole, atol=1e-6)
    model.save_to_preset(tmp_path)
    loaded = from_preset(tmp_path)
    assert type(loaded) is BestRegion and int(keras.ops.convert_to_numpy(loaded.steps)) == 4


WITHOUT_TENSORFLOW = """
import sys

for name in ("tensorflow", "tensorflow_text", "grain"):
    sys.modules[name] = None  # importing it raises ImportError
import numpy as np
from momentum_support import make_aai, make_coder
from support import region_backbone, region_data
from keras_itr.models import CLIP, CUSA, VSEInfinity

for method in (CLIP, CUSA, VSEInfinity, make_aai, make_coder):
    model = method(region_backbone())
    model.compile(optimizer="adam")
    loss = model.fit(region_data(8), batch_size=4, epochs=2, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    model.evaluate(region_data(8), batch_size=4, verbose=0)
    assert model.score(region_data(8), region_data(8)).shape == (8, 8)
assert sys.modules["tensorflow"] is None
"""


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="the tensorflow backend needs tensorflow")
def test_arrays_train_where_tensorflow_is_not_installed():
    command = f"import sys; sys.path[:0] = {sys.path!r}\n{WITHOUT_TENSORFLOW}"
    subprocess.run([sys.executable, "-c", command], check=True, timeout=300)

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import yaml
from serving_support import METHODS, photo_model
from support import region_backbone

from keras_itr.models import CUSA, from_preset
from keras_itr.serving import export, load_openvino
from keras_itr.serving.samples import TEXTS, make_samples

on_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports are made under TensorFlow; one other case covers the rest"
)
SECOND_STAGE = {"encode_image", "encode_text", "rerank_tokens"}


def exported(model, directory, **arguments):
    return export(model, directory, verbose=False, **arguments)


@on_tensorflow
@pytest.mark.parametrize(
    "method", ["clip", "ascl", *(pytest.param(x, marks=pytest.mark.slow) for x in METHODS if x not in ("clip", "ascl"))]
)
def test_every_method_passes_the_gates(method, tmp_path):
    model = photo_model(method)
    card = exported(model, tmp_path / method)
    assert card["gates"]["largest_difference"] < 1e-5 and card["gates"]["c_api_difference"] < 1e-5
    assert card["gates"]["xla_disabled"] and card["gates"]["requests"][0] > 40
    expected = {"embed_image", "embed_text", "serving_default", "score_pairs"}
    expected |= SECOND_STAGE if model.second_stage else set()
    expected |= {"embed_image_uni_modal", "embed_text_uni_modal"} if model.uni_modal else set()
    assert set(card["signatures"]) == expected


def test_a_model_of_another_backend_or_of_features_is_exported_alike(tmp_path):
    # Under JAX and PyTorch the answers of those are what the export must give.
    model = CUSA(region_backbone())
    card = exported(model, tmp_path / "features")
    assert card["compared_with"] == keras.backend.backend()
    assert {"embed_regions", "embed_text_features", "score_pairs"} <= set(card["signatures"])
    readme = (tmp_path / "features/README.md").read_text()
    assert "client.py image" not in readme and "pixels" not in readme and "client.py check" in readme
    assert card["gates"]["largest_difference"] < 1e-5
    assert [note.split(":")[0] for note in card["notes"]] == [
        "the model reads features of image regions, not photos",
        "the model reads ready sentence vectors",
    ]


@on_tensorflow
def test_what_lies_beside_a_version_fits_it(tmp_path):
    from google.protobuf import text_format
    from tensorflow_serving.apis import prediction_log_pb2
    from tensorflow_serving.config import model_server_config_pb2

    directory = tmp_path / "My_Model"
    card = exported(photo_model("clip"), directory, max_pixels=20_000, source="nowhere")
    config = text_format.Parse((directory / "model.config").read_text(), model_server_config_pb2.ModelServerConfig())
    assert config.model_config_list.config[0].name == "My_Model"
    assert config.model_config_list.config[0].base_path == "/models/My_Model"
    known = {
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
        "allowed_batch_sizes",
    }
    lines = (directory / "batching.config").read_text().splitlines()
    assert {line.split()[0].rstrip(":") for line in lines} == known
    deployment, service = yaml.safe_load_all((directory / "kubernetes.yaml").read_text())
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/My_Model"
    assert service["metadata"]["name"] == "my-model"
    assert subprocess.run(["sh", "-n", directory / "serve.sh"]).returncode == 0
    assert "/models/My_Model:ro" in (directory / "serve.sh").read_text()
    readme, client = (directory / "README.md").read_text(), (directory / "client.py").read_text()
    assert "\nMAX_PIXELS = 20000\n" in client and "\nMAX_BYTES = 33554432\n" in client
    assert "python client.py image photo.jpg" in readme and "python client.py text" in readme
    assert (
        "| `embed_text` | `text` string (?,) | `text_embedding` float32 (?, 8) |" in readme
        and "20,000 pixels" in readme
    )
    written = json.loads((directory / "1/assets.extra/model_card.json").read_text())
    assert written == json.loads(json.dumps(card))
    import tensorflow as tf

    records = tf.data.TFRecordDataset(str(directory / "1/assets.extra/tf_serving_warmup_requests")).as_numpy_iterator()
    requests = [prediction_log_pb2.PredictionLog.FromString(record).predict_log.request for record in records]
    assert {request.model_spec.signature_name for request in requests} == set(card["signatures"])
    sizes = [request.inputs["text"].tensor_shape.dim[0].size for request in requests if "text" in request.inputs]
    assert sorted(set(sizes)) == [1, 8] and len(requests) == 2 * len(card["signatures"])


@on_tensorflow
def test_broken_images_and_limits_are_invalid_arguments(tmp_path):
    import tensorflow as tf

    model = photo_model("clip")
    exported(model, tmp_path / "clip", max_pixels=20_000, max_bytes=40_000)
    served = tf.saved_model.load(str(tmp_path / "clip" / "1")).signatures["embed_image"]
    samples = make_samples(model).requests["embed_image"]["image_bytes"]
    for broken, message in (
        (b"no image", "no JPEG"),
        (samples[0][:200], None),
        (b"", "no JPEG"),
        (tf.io.encode_png(tf.zeros([150, 150, 3], tf.uint8)).numpy(), "may have at most"),
        (samples[1] + b"\0" * 50_000, "may have at most 40000 bytes"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            served(image_bytes=tf.constant([samples[0], broken]))
    np.testing.assert_allclose(
        served(image_bytes=tf.constant(samples[:1]))["image_embedding"], model.embed_images([samples[0]]), atol=1e-5
    )


def test_impossible_exports_are_refused_before_work(tmp_path):
    model = CUSA(region_backbone())
    with pytest.raises(ValueError, match="version must be an integer of at least 1, received 0"):
        exported(model, tmp_path / "a", version=0)
    with pytest.raises(ValueError, match="version must be an integer of at least 1, received 9223372036854775808"):
        exported(model, tmp_path / "a", version=1 << 63)
    for name in ("my model", 'it\'s "mine"', "-a", "mö"):
        with pytest.raises(ValueError, match="is the model's name in the server"):
            exported(model, tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file; name a folder"):
        exported(model, tmp_path / "file")
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, received 'int8'"):
        exported(model, tmp_path / "a", precision="int8")
    with pytest.raises(ValueError, match="max_pixels must be at least 16384, received 100"):
        exported(model, tmp_path / "a", max_pixels=100)
    with pytest.raises(ValueError, match="also must name 'openvino', received 'onnx'"):
        exported(model, tmp_path / "a", also=["onnx"])
    (tmp_path / "a" / "2").mkdir(parents=True)
    with pytest.raises(ValueError, match="2 is there already"):
        exported(model, tmp_path / "a", version=2)
    with pytest.warns(UserWarning, match="built without weights"):
        untrained = _without_weights(tmp_path)
    with pytest.raises(ValueError, match="export: preset"):
        exported(untrained, tmp_path / "a")


def _without_weights(tmp_path):
    CUSA(region_backbone()).save_to_preset(tmp_path / "preset")
    for file in (tmp_path / "preset").glob("*.weights.h5"):
        file.unlink()
    return from_preset(tmp_path / "preset")


def test_a_model_of_another_precision_is_refused(tmp_path):
    CUSA(region_backbone()).save_to_preset(tmp_path / "preset")
    model = from_preset(tmp_path / "preset", dtype="mixed_bfloat16")
    with pytest.raises(ValueError, match="the model computes in bfloat16; load it with dtype='float32'"):
        exported(model, tmp_path / "a")


@on_tensorflow
def test_openvino_encoders_are_the_models(tmp_path):
    pytest.importorskip("openvino", reason="the format needs the extra openvino")
    model = photo_model("clip")
    card = exported(model, tmp_path / "clip", also=["openvino"])
    assert all(cosines["float32"] > 0.999999 for cosines in card["openvino"].values())
    # A processor without bfloat16 computes in float32.
    assert all(cosines["bfloat16"] > 0.99 for cosines in card["openvino"].values())
    inputs = {key: np.asarray(x) for key, x in model.preprocessor({"text": list(TEXTS)}).items()}
    encode = load_openvino(tmp_path / "clip/openvino/1/text.xml", "float32", threads=1)
    np.testing.assert_allclose(encode(inputs), model.embed_texts(list(TEXTS)), atol=1e-5)


@on_tensorflow
def test_half_precision_reports_its_cosine(tmp_path):
    card = exported(photo_model("clip"), tmp_path / "clip", precision="bfloat16")
    assert card["gates"]["largest_difference"] > 1e-5 and 0.9 < card["gates"]["lowest_cosine"] < 0.99999
    assert card["signatures"]["embed_text"]["outputs"]["text_embedding"]["dtype"] == "float32"


def test_the_client_needs_python_alone():
    from keras_itr.serving import deployment

    code = "import sys; sys.modules.update(dict.fromkeys(['tensorflow', 'grpc', 'numpy', 'PIL'])); import client"
    folder = deployment.__file__.rsplit("/", 1)[0]
    assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == 0

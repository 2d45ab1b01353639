"""The client against stand-ins for a server: the real protos and stubs, and TensorFlow's loader behind them.

No TensorFlow Serving binary runs here. What is proved: requests are well formed, their strings and bytes arrive, and
the answers are read by their names.
"""

import concurrent.futures
import http.server
import json
import re
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest
from serving_support import CAPTIONS, photo_model

from keras_itr.serving import export
from keras_itr.serving.client import Client, read_image
from keras_itr.serving.samples import encoded_images

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are made under TensorFlow")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The model, the folder of its export, and addresses of a REST and a gRPC stand-in."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    model = photo_model("clip")
    directory = tmp_path_factory.mktemp("served") / "retriever"
    export(model, directory, verbose=False)
    signatures = tf.saved_model.load(str(directory / "1")).signatures

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            inputs = {key: tf.constant(tf.make_ndarray(value)) for key, value in request.inputs.items()}
            try:
                outputs = signatures[request.model_spec.signature_name](**inputs)
            except tf.errors.InvalidArgumentError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
            answer = predict_pb2.PredictResponse()
            for key, value in outputs.items():
                answer.outputs[key].CopyFrom(tf.make_tensor_proto(value))
            return answer

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/models/retriever:predict"
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            inputs = {key: tf.constant([_decoded(item) for item in column]) for key, column in body["inputs"].items()}
            try:
                outputs = {
                    key: value.numpy().tolist() for key, value in signatures[body["signature_name"]](**inputs).items()
                }
                # The server names outputs only where there are several.
                status, answer = 200, {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
            except tf.errors.InvalidArgumentError as error:
                status, answer = 400, {"error": error.message}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    rpc = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), rpc)
    port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    rest = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=rest.serve_forever, daemon=True).start()
    yield model, directory, {"rest": f"http://127.0.0.1:{rest.server_port}", "grpc": f"127.0.0.1:{port}"}
    rest.shutdown()
    rpc.stop(None)


def _decoded(item):
    import base64

    return base64.b64decode(item["b64"]) if isinstance(item, dict) else item


@pytest.mark.parametrize("way", ["rest", "grpc"])
def test_captions_and_photos_get_the_models_answers(way, served, tmp_path):
    model, _, servers = served
    client = Client("retriever", servers[way])
    np.testing.assert_allclose(client.embed_texts(CAPTIONS), model.embed_texts(list(CAPTIONS)), atol=1e-5)
    paths = []
    for number, contents in enumerate(encoded_images()[:4]):
        paths.append(tmp_path / f"{number}.image")
        paths[-1].write_bytes(contents)
    np.testing.assert_allclose(client.embed_images(paths), model.embed_images(encoded_images()[:4]), atol=1e-5)
    expected = np.diag(model.score(encoded_images()[:4], list(CAPTIONS)))
    np.testing.assert_allclose(client.score(paths, CAPTIONS), expected, atol=1e-5)


@pytest.mark.parametrize("way, message", [("rest", "no JPEG"), ("grpc", "INVALID_ARGUMENT")])
def test_a_broken_image_is_refused_by_the_client_and_by_the_server(way, message, served, tmp_path):
    _, _, servers = served
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=re.escape(f"{broken} cannot be decoded")):
        read_image(broken)
    client = Client("retriever", servers[way])
    with pytest.raises(ValueError, match=f"the server refused the request.*{message}"):
        client.predict("embed_image", {"image_bytes": [broken.read_bytes()]})
    assert len(client.embed_texts(CAPTIONS)) == len(CAPTIONS)


def test_images_that_are_too_large_are_not_sent(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(encoded_images()[1])
    monkeypatch.setattr("keras_itr.serving.client.MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="PNG of 80 x 60"):
        read_image(path)
    monkeypatch.setattr("keras_itr.serving.client.MAX_BYTES", 10)
    with pytest.raises(ValueError, match="1 to 10 can be sent"):
        read_image(path)


def test_the_command_checks_a_server_against_the_card(served):
    _, directory, servers = served
    for flags in (["--server", servers["rest"]], ["--grpc", "--server", servers["grpc"]]):
        result = subprocess.run(
            [sys.executable, directory / "client.py", "check", *flags], capture_output=True, text=True, timeout=120
        )
        assert result.returncode == 0 and "largest difference to the model card: " in result.stdout, result.stderr
    result = subprocess.run(
        [sys.executable, directory / "client.py", "score", "a.jpg", "--server", servers["rest"]],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1 and "one photo file and one caption" in result.stderr

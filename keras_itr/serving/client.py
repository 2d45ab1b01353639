"""Ask a TensorFlow Serving server of a retriever: for captions and photos it gives vectors and scores.

REST needs Python alone, gRPC (`--grpc`) `pip install tensorflow-serving-api`; with `pip install pillow` photos are
looked at before they are sent. This file comes with an export and needs nothing else of it but the model's name.

examples:
  python client.py text "two dogs on a beach" "a red car"
  python client.py image photo.jpg --server http://localhost:8501
  python client.py score photo.jpg "two dogs on a beach" --grpc --server localhost:8500
  python client.py check
"""

import argparse
import base64
import http.client
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

MAX_BYTES = 1 << 25
MAX_PIXELS = 100_000_000


class Client:
    """A client of one model on one server.

    Args:
        model: string, the model's name on the server.
        server: `"http://host:8501"` for REST, `"host:8500"` for gRPC.
        timeout: float, seconds.

    Example:

    ```python
    client = Client("cusa_shapes")
    vectors = client.predict("embed_text", {"text": ["two dogs on a beach"]})["text_embedding"]
    ```
    """

    def __init__(self, model, server="http://localhost:8501", timeout=30.0):
        self.model = model
        self.server = server
        self.timeout = timeout

    def embed_texts(self, texts):
        """A list of vectors, one per caption."""
        return self.predict("embed_text", {"text": list(texts)})["text_embedding"]

    def embed_images(self, paths):
        """A list of vectors, one per photo file. A file that is no image is an error here, before anything is sent."""
        return self.predict("embed_image", {"image_bytes": [read_image(path) for path in paths]})["image_embedding"]

    def score(self, paths, texts):
        """A list of scores of photo files with captions, pair by pair."""
        inputs = {"image_bytes": [read_image(path) for path in paths], "text": list(texts)}
        return self.predict("score_pairs", inputs)["score"]

    def predict(self, signature, inputs):
        """Outputs of a signature as lists; `inputs` is a dict of lists, strings as `str` or `bytes`."""
        if self.server.startswith("http"):
            return self._rest(signature, inputs)
        return self._grpc(signature, inputs)

    def _rest(self, signature, inputs):
        body = json.dumps({"signature_name": signature, "inputs": {key: _encode(x) for key, x in inputs.items()}})
        url = f"{self.server}/v1/models/{self.model}:predict"
        request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                outputs = json.load(answer)["outputs"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"the server refused the request: {error.read().decode(errors='replace')}") from error
        except (http.client.HTTPException, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{url} did not answer as TensorFlow Serving does: {error!r}") from error
        if isinstance(outputs, dict):
            return outputs
        # Of a signature with one output the server leaves the name out.
        side = "image" if "image" in signature or "regions" in signature else "text"
        return {f"{side}_uni_modal" if "uni_modal" in signature else f"{side}_embedding": outputs}

    def _grpc(self, signature, inputs):
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self.model, signature
        for key, value in inputs.items():
            request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(self.server, unlimited) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            try:
                answer = stub.Predict(request, timeout=self.timeout)
            except grpc.RpcError as error:
                raise ValueError(f"the server refused the request: {error.code().name}: {error.details()}") from error
        return {key: tf.make_ndarray(value).tolist() for key, value in answer.outputs.items()}


def read_image(path):
    """The bytes of a photo file, after a look at its size, and at its header where Pillow is there."""
    contents = Path(path).read_bytes()
    if not 0 < len(contents) <= MAX_BYTES:
        raise ValueError(f"{path} has {len(contents)} bytes; 1 to {MAX_BYTES} can be sent.")
    try:
        from PIL import Image
    except ImportError:
        return contents
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_PIXELS or image.format not in ("JPEG", "MPO", "PNG", "GIF", "BMP"):
                raise ValueError(
                    f"{path} is {image.format} of {width} x {height}; JPEG, PNG, GIF and BMP of up to {MAX_PIXELS} "
                    "pixels can be sent."
                )
            image.load()
    except ValueError:
        raise
    except Exception as error:
        # Pillow has an exception of its own for each way in which a file can be broken.
        raise ValueError(f"{path} cannot be decoded: {error}.") from error
    return contents


def check(client, card):
    """Ask what the model card holds the answers of; the largest difference."""
    largest = 0.0
    for signature, example in card["self_check"].items():
        inputs = {key: [_decode(item) for item in column] for key, column in example["inputs"].items()}
        answer = client.predict(signature, inputs)
        for key, rows in example["outputs"].items():
            pairs = zip(rows, answer[key], strict=True)
            largest = max([largest, *(abs(a - b) for row, other in pairs for a, b in zip(row, other, strict=True))])
    return largest


def _encode(column):
    return [{"b64": base64.b64encode(item).decode()} if isinstance(item, bytes) else item for item in column]


def _decode(item):
    return base64.b64decode(item["b64"]) if isinstance(item, dict) and "b64" in item else item


def main():
    here = Path(__file__).resolve().parent
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("what", choices=["text", "image", "score", "check"])
    flags.add_argument("items", nargs="*", help="captions, photo files, or one photo and one caption")
    flags.add_argument("--model", default=here.name, help=f"the model's name on the server (default: {here.name})")
    flags.add_argument("--server", help="address (default: http://localhost:8501, with --grpc localhost:8500)")
    flags.add_argument("--grpc", action="store_true", help="gRPC in place of REST")
    flags.add_argument("--timeout", type=float, default=30.0, help="seconds (default: 30)")
    arguments = flags.parse_args()
    server = arguments.server or ("localhost:8500" if arguments.grpc else "http://localhost:8501")
    client = Client(arguments.model, server, arguments.timeout)
    try:
        if arguments.what == "check":
            cards = sorted(here.glob("*/assets.extra/model_card.json"), key=lambda path: int(path.parent.parent.name))
            card = json.loads(cards[-1].read_text())
            difference = check(client, card)
            print(f"largest difference to the model card: {difference:.1e}")
            alike = difference <= card["tolerance"]
            return 0 if alike else "error: the server does not answer as the model card says."
        if not arguments.items:
            raise ValueError(f"{arguments.what} needs at least one caption or photo file.")
        asked = {"text": client.embed_texts, "image": client.embed_images}
        if arguments.what == "score":
            if len(arguments.items) != 2:
                raise ValueError("score takes one photo file and one caption.")
            result = client.score(arguments.items[:1], arguments.items[1:])
        else:
            result = asked[arguments.what](arguments.items)
        print(json.dumps(result))
    except (ValueError, OSError, ImportError) as error:
        return f"error: {error}"


if __name__ == "__main__":
    sys.exit(main())

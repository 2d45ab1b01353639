"""The files around the versions of an export: what starts a server, and what asks it."""

import re
from pathlib import Path

from keras_itr.files import written_whole
from keras_itr.serving.model_card import signature_table

# The newest release of the server; exports are checked to hold operations that it knows.
IMAGE = "tensorflow/serving:2.20.0"

MODEL_CONFIG = """model_config_list {{
  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
  }}
}}
"""

# Batching holds for every signature of a model. One image that cannot be decoded fails the whole batch it is in, also
# for the other clients whose requests were put there: that is why serve.sh does not turn it on by itself.
BATCHING_CONFIG = """max_batch_size { value: 32 }
batch_timeout_micros { value: 2000 }
max_enqueued_batches { value: 128 }
num_batch_threads { value: 4 }
allowed_batch_sizes: 1
allowed_batch_sizes: 8
allowed_batch_sizes: 32
"""

SERVE = """#!/bin/sh
# TensorFlow Serving in Docker: gRPC on port 8500, REST on port 8501.
# BATCHING=1 joins requests of several clients into one batch. A batch fails as a whole if one image in it cannot be
# decoded, and no client's look at a file sees all that a decoder refuses: turn it on for captions, or among clients
# that can do with a failed request now and then.
here=$(cd "$(dirname "$0")" && pwd)
exec docker run --rm -p 8500:8500 -p 8501:8501 -v "$here:/models/{name}:ro" {image} \\
  --model_config_file=/models/{name}/model.config \\
  ${{BATCHING:+--enable_batching --batching_parameters_file=/models/{name}/batching.config}}
"""

KUBERNETES = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: {label}
spec:
  replicas: 1
  selector:
    matchLabels: {{app: {label}}}
  template:
    metadata:
      labels: {{app: {label}}}
    spec:
      containers:
        - name: serving
          image: {image}
          args: ["--model_config_file=/models/{name}/model.config"]
          ports:
            - {{name: grpc, containerPort: 8500}}
            - {{name: rest, containerPort: 8501}}
          # The ports open when the model is loaded and the warm-up requests have run.
          readinessProbe:
            httpGet: {{path: "/v1/models/{name}", port: rest}}
            periodSeconds: 5
          resources:
            requests: {{cpu: "2", memory: {memory}Mi}}
          volumeMounts:
            - {{name: models, mountPath: "/models/{name}", readOnly: true}}
      volumes:
        # A claim that holds this folder.
        - name: models
          persistentVolumeClaim: {{claimName: {label}}}
---
apiVersion: v1
kind: Service
metadata:
  name: {label}
spec:
  selector: {{app: {label}}}
  ports:
    - {{name: grpc, port: 8500}}
    - {{name: rest, port: 8501}}
"""

README = """# {name}

A {method} retriever ({parameters:,} parameters, {precision}), exported by keras_itr {keras_itr} for TensorFlow Serving.
Its score is: {score}.

{table}

{notes}- Start a server: `sh serve.sh` (Docker) or `kubectl apply -f kubernetes.yaml`.
- Ask it: {examples}.
{limits}- Every version holds its model card, `{version}/assets.extra/model_card.json`: sources, preprocessing,
  operations, what the gates measured, and requests with their answers.

This export was loaded and run by TensorFlow's own loader, with XLA disabled as the server does, and through its C API.
It was not run in a TensorFlow Serving binary by the command that made it.
"""


LIMITS = """- Limits: encoded images of up to {max_bytes:,} bytes and {max_pixels:,} pixels, known before they are
  decoded; JPEG, PNG, GIF and BMP. What cannot be decoded is answered with INVALID_ARGUMENT, for the whole request it
  is in.
- Batches of strangers: one broken image fails the batch it is in. `serve.sh` joins no requests unless `BATCHING=1` is
  set; `client.py` refuses most broken images before they are sent, not all.
"""


def write_deployment(card, directory):
    """Write server configurations, manifests, client and README beside the versions of an export.

    Args:
        card: dict, the model card, see `describe`.
        directory: folder of the versions.
    """
    directory, name = Path(directory), card["name"]
    # Names of Kubernetes are lower case and have no underscores.
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    label = label if label[:1].isalpha() else f"model-{label}"
    # The weights, as much again for activations, and the server.
    memory = 512 + 2 * card["gates"]["weight_bytes"] // (1 << 20)
    fields = {"name": name, "label": label, "image": IMAGE, "memory": memory}
    told = {
        "table": signature_table(card),
        "notes": "".join(f"- Note: {note}\n" for note in card["notes"]),
        "examples": _examples(card),
        "limits": LIMITS.format(**card) if "embed_image" in card["signatures"] else "",
    }
    contents = {
        "model.config": MODEL_CONFIG.format(**fields),
        "batching.config": BATCHING_CONFIG,
        "serve.sh": SERVE.format(**fields),
        "kubernetes.yaml": KUBERNETES.format(**fields),
        "client.py": _client(card),
        "README.md": README.format(**{**card, **told}),
    }
    for file, content in contents.items():
        with written_whole(directory / file) as aside:
            aside.write_text(content, encoding="utf-8")


def _client(card):
    """The client with the limits of the export."""
    code = (Path(__file__).parent / "client.py").read_text(encoding="utf-8")
    for name in ("max_bytes", "max_pixels"):
        code = re.sub(rf"^{name.upper()} = .*$", f"{name.upper()} = {card[name]}", code, flags=re.MULTILINE)
    return code


def _examples(card):
    asked = {
        "embed_text": '`python client.py text "two dogs on a beach"`',
        "embed_image": "`python client.py image photo.jpg`",
    }
    return ", ".join([*(asked[name] for name in asked if name in card["signatures"]), "`python client.py check`"])

"""Smoke runs of recipes in one process: python smoke.py FOLDER RECIPE..."""

import contextlib
import io
import sys
import time
from pathlib import Path

import keras

from keras_itr.training import train


def smoke(recipe, folder):
    run_dir = Path(folder) / Path(recipe).stem
    started, output = time.monotonic(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            train(recipe, smoke=True, run_dir=run_dir)
    except BaseException:
        print(output.getvalue()[-4000:])
        raise
    assert (run_dir / "metrics.json").exists(), recipe
    print(f"{Path(recipe).stem}: {time.monotonic() - started:.0f} s", flush=True)
    keras.utils.clear_session()


if __name__ == "__main__":
    for path in sys.argv[2:]:
        smoke(path, sys.argv[1])

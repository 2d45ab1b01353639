"""`python -m keras_itr.serving.export_process FOLDER`: what `export` runs with TensorFlow under another backend."""

import sys

from keras_itr.messages import one_line
from keras_itr.serving.export import export_saved

if __name__ == "__main__":
    try:
        export_saved(sys.argv[1])
    except Exception as error:
        sys.exit(f"error: {one_line(error, 1000)}")

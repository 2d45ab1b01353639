"""Load and run an export through TensorFlow's C API, with nothing of TensorFlow's Python.

`python c_api.py SETTINGS`, a JSON file of `library`, `directory`, `inputs` (a list of tensor name, dtype, shape and
values; strings as base64) and `output`, a tensor name. Prints the float32 values of the output and its shape as JSON.
"""

import base64
import ctypes
import json
import math
import sys
from pathlib import Path

# TF_DataType and the size of an element; a string is a TF_TString.
TYPES = {"float32": (1, 4), "int32": (3, 4), "string": (7, 24), "bool": (10, 1)}
CTYPES = {"float32": ctypes.c_float, "int32": ctypes.c_int32, "bool": ctypes.c_bool}
POINTERS = (
    "TF_NewStatus TF_NewGraph TF_NewSessionOptions TF_LoadSessionFromSavedModel TF_GraphOperationByName "
    "TF_AllocateTensor TF_TensorData TF_Message"
)


class Output(ctypes.Structure):
    """`TF_Output`: an operation, and which of its outputs."""

    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class CAPI:
    """The few functions of the C API that load a SavedModel and run it once."""

    def __init__(self, library):
        self.library = ctypes.CDLL(library)
        for name in POINTERS.split():
            getattr(self.library, name).restype = ctypes.c_void_p
        self.library.TF_Message.restype = ctypes.c_char_p
        self.library.TF_Dim.restype = ctypes.c_int64
        self.status = ctypes.c_void_p(self.library.TF_NewStatus())
        self.graph = ctypes.c_void_p(self.library.TF_NewGraph())

    def check(self):
        """Raise if the last call failed."""
        if self.library.TF_GetCode(self.status):
            raise SystemExit(f"gate: C API: {self.library.TF_Message(self.status).decode()[:600]}")

    def load(self, directory):
        """The session of a SavedModel."""
        options = ctypes.c_void_p(self.library.TF_NewSessionOptions())
        tags = (ctypes.c_char_p * 1)(b"serve")
        path = ctypes.c_char_p(str(directory).encode())
        session = self.library.TF_LoadSessionFromSavedModel(options, None, path, tags, 1, self.graph, None, self.status)
        self.check()
        return ctypes.c_void_p(session)

    def place(self, name):
        """`TF_Output` of a tensor's name, such as `"serving_default_text:0"`."""
        operation, _, index = name.partition(":")
        found = self.library.TF_GraphOperationByName(self.graph, operation.encode())
        if not found:
            raise SystemExit(f"gate: C API: the graph has no operation {operation}.")
        return Output(found, int(index or 0))

    def tensor(self, dtype, shape, values):
        """A `TF_Tensor` of a flat list of values."""
        code, size = TYPES[dtype]
        dims = (ctypes.c_int64 * len(shape))(*shape)
        count = math.prod(shape)
        tensor = ctypes.c_void_p(self.library.TF_AllocateTensor(code, dims, len(shape), ctypes.c_size_t(count * size)))
        data = self.library.TF_TensorData(tensor)
        if dtype == "string":
            for number, value in enumerate(values):
                text, place = base64.b64decode(value), ctypes.c_void_p(data + number * size)
                self.library.TF_StringInit(place)
                self.library.TF_StringCopy(place, text, ctypes.c_size_t(len(text)))
        else:
            array = (CTYPES[dtype] * count)(*values)
            ctypes.memmove(data, array, count * size)
        return tensor

    def run(self, session, inputs, output):
        """The float32 output of one run and its shape."""
        places = (Output * len(inputs))(*[self.place(item["name"]) for item in inputs])
        tensors = [self.tensor(item["dtype"], item["shape"], item["values"]) for item in inputs]
        given = (ctypes.c_void_p * len(inputs))(*[tensor.value for tensor in tensors])
        wanted, results = (Output * 1)(self.place(output)), (ctypes.c_void_p * 1)()
        self.library.TF_SessionRun(
            session, None, places, given, len(inputs), wanted, results, 1, None, 0, None, self.status
        )
        self.check()
        result = ctypes.c_void_p(results[0])
        shape = [self.library.TF_Dim(result, axis) for axis in range(self.library.TF_NumDims(result))]
        data = ctypes.cast(self.library.TF_TensorData(result), ctypes.POINTER(ctypes.c_float))
        return list(data[: math.prod(shape)]), shape


def main(settings):
    api = CAPI(settings["library"])
    session = api.load(settings["directory"])
    values, shape = api.run(session, settings["inputs"], settings["output"])
    print(json.dumps({"values": values, "shape": shape}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))

"""Load and run an export as a server does: in a process that knows TensorFlow alone, with XLA disabled.

`python clean_process.py SETTINGS`, a JSON file of `directory`, `requests` (files of `PredictionLog`s) and `output`: the
answers of the first requests file go there as `.npz`, `<number of the request>/<output>`. A fault is one line on the
error stream that begins with `gate:`, and the exit code 1.
"""

import ctypes
import json
import sys
import time
from pathlib import Path

BLOCKED = ("keras", "keras_hub", "keras_itr", "tensorflow_text", "jax", "torch")
# What an export may hold: mathematics, arrays, strings, tables and pictures, all of them old operations of stock
# TensorFlow. None of them calls Python, reads or writes files, or grows from request to request.
ALLOWED = """
Abs Add AddN AddV2 All Any ArgMax ArgMin Assert AssignVariableOp AvgPool AvgPool3D BatchMatMul BatchMatMulV2
BatchMatMulV3 BatchToSpaceND BiasAdd Bitcast BroadcastArgs BroadcastTo Case Cast Ceil ClipByValue ConcatV2 Const
Conv2D Conv2DBackpropInput Conv3D Cos CropAndResize Cumsum DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodePng
DecodeRaw DenseBincount DepthToSpace DepthwiseConv2dNative DisableCopyOnRead DivNoNan DynamicPartition
DynamicStitch Einsum Elu Empty EnsureShape Equal Erf Erfc Exp ExpandDims Expm1 ExtractImagePatches
ExtractJpegShape Fill Floor FloorDiv FloorMod FusedBatchNormV3 GatherNd GatherV2 Greater GreaterEqual HashTableV2
Identity IdentityN If InTopKV2 InvertPermutation IsFinite IsInf IsNan L2Loss LRN LeakyRelu Less LessEqual LinSpace
Log Log1p LogSoftmax LogicalAnd LogicalNot LogicalOr LookupTableFindV2 LookupTableImportV2 LookupTableSizeV2
LowerBound MatMul MatrixBandPart MatrixDiagPartV3 Max MaxPool MaxPoolV2 Maximum Mean Merge Minimum MirrorPad Mod
Mul MulNoNan Neg NoOp NotEqual OneHot OnesLike Pack Pad PadV2 ParallelConcat PartitionedCall Placeholder
PlaceholderWithDefault Pow Prod RaggedGather RaggedRange RaggedTensorFromVariant RaggedTensorToTensor
RaggedTensorToVariant Range Rank ReadVariableOp RealDiv Reciprocal ReduceJoin RegexFullMatch RegexReplace Relu
Relu6 Reshape ResizeArea ResizeBicubic ResizeBilinear ResizeNearestNeighbor ReverseV2 Rint Roll Round Rsqrt
ScaleAndTranslate ScatterNd SegmentMax SegmentMaxV2 SegmentMean SegmentMin SegmentSum SegmentSumV2 Select SelectV2
Selu Shape ShapeN Sigmoid Sign Sin Size Slice Softmax Softplus Softsign SpaceToBatchND SpaceToDepth SparseToDense
Split SplitV Sqrt Square SquaredDifference Squeeze StatefulPartitionedCall StatelessCase StatelessIf
StatelessRandomUniformV2 StatelessWhile StaticRegexFullMatch StaticRegexReplace StopGradient StridedSlice
StringFormat StringJoin StringLength StringLower StringSplit StringSplitV2 StringStrip StringToHashBucketFast
StringToNumber StringUpper Sub Substr Sum Switch Tanh TensorListConcatV2 TensorListElementShape
TensorListFromTensor TensorListGetItem TensorListLength TensorListPushBack TensorListReserve TensorListResize
TensorListSetItem TensorListStack TensorScatterAdd TensorScatterUpdate Tile TopKV2 Transpose TruncateDiv
UnicodeDecodeWithOffsets UnicodeTranscode Unique UniqueV2 UniqueWithCounts Unpack UnsortedSegmentMax
UnsortedSegmentSum UpperBound VarHandleOp Where While Xlogy ZerosLike
"""
# Those that load the weights, which belong to that alone.
LOADING = ("MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename")


def check_operations(directory):
    """The sorted names of all operations; raises unless a stock server runs them without XLA."""
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow.python.framework import op_def_registry

    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString((Path(directory) / "saved_model.pb").read_bytes())
    names, allowed = set(), set(ALLOWED.split())
    for graph in saved.meta_graphs:
        library = graph.graph_def.library.function
        called = {function.signature.name for function in library}
        for function in library:
            if function.attr["_XlaMustCompile"].b:
                raise SystemExit(f"gate: function {function.signature.name} must be compiled by XLA; build it without.")
        places = [(node, "main graph") for node in graph.graph_def.node]
        places += [(node, function.signature.name) for function in library for node in function.node_def]
        for node, place in places:
            if node.op in called:
                continue
            if node.attr["_XlaMustCompile"].b:
                raise SystemExit(f"gate: {node.name} must be compiled by XLA; build it without.")
            if op_def_registry.get(node.op) is None:
                raise SystemExit(f"gate: operation {node.op} ({node.name}) is none of stock TensorFlow's.")
            loads = node.op in LOADING and any(
                name in place for name in ("traced_save", "traced_restore", "main graph")
            )
            if node.op not in allowed and not loads:
                raise SystemExit(f"gate: operation {node.op} ({node.name}) is not among those that an export may hold.")
            names.add(node.op)
    return sorted(names)


def disable_xla(tensorflow):
    """What TensorFlow Serving does when it starts."""
    for name in ("libtensorflow_cc.so.2", "libtensorflow_cc.2.dylib"):
        path = Path(tensorflow.__file__).parent / name
        if path.exists():
            ctypes.CDLL(str(path))._ZN10tensorflow21DisableXlaCompilationEv()
            return True
    return False


def replay(module, path, tensorflow):
    """Run all requests of a file; yields the dict of outputs of each, as NumPy arrays."""
    from tensorflow_serving.apis import prediction_log_pb2

    for record in tensorflow.data.TFRecordDataset(str(path)).as_numpy_iterator():
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {key: tensorflow.constant(tensorflow.make_ndarray(value)) for key, value in request.inputs.items()}
        outputs = module.signatures[request.model_spec.signature_name](**inputs)
        yield {key: value.numpy() for key, value in outputs.items()}


def main(settings):
    sys.modules.update(dict.fromkeys(BLOCKED))
    import numpy as np
    import tensorflow as tf

    operations = check_operations(settings["directory"])
    xla_disabled = disable_xla(tf)
    try:
        started = time.perf_counter()
        module = tf.saved_model.load(settings["directory"])
        seconds, answers, counts = time.perf_counter() - started, {}, []
        for path in settings["requests"]:
            results = list(replay(module, path, tf))
            counts.append(len(results))
            if path == settings["requests"][0]:
                answers = {f"{number}/{key}": x for number, row in enumerate(results) for key, x in row.items()}
    except Exception as error:
        raise SystemExit(f"gate: {type(error).__name__}: {' '.join(str(error).split())[:600]}") from error
    np.savez(settings["output"], **answers)
    report = {"operations": operations, "xla_disabled": xla_disabled, "load_seconds": seconds, "requests": counts}
    print(json.dumps({**report, "tensorflow": tf.__version__}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))

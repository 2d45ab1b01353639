import re

from keras_itr.conversion.layouts import (
    AS_IS,
    ATTENTION_IN,
    ATTENTION_OUT,
    FLAT,
    GRU_BIAS,
    GRU_KERNEL,
    LINEAR,
)

_NAMED = 6


class Plan:
    """Which tensor of a checkpoint goes into which variable: made whole and checked before anything is assigned.

    Every variable must get a value and every tensor must be used, or be left out by name with a reason.

    Args:
        checkpoint: a `Checkpoint`.

    Attributes:
        used: set of the names that go into the model.
        left_out: dict of the names that do not to the reason.

    Example:

    ```python
    import keras
    import numpy as np
    from safetensors.numpy import save_file
    from keras_itr.conversion import Checkpoint, Plan

    save_file({"fc.weight": np.ones((4, 3), "float32"), "fc.bias": np.zeros(4, "float32")}, "fc.safetensors")
    layer = keras.layers.Dense(4)
    layer.build((None, 3))
    plan = Plan(Checkpoint("fc.safetensors"))
    plan.dense(layer, "fc")
    plan.check(layer.weights)
    plan.run()
    ```
    """

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint
        self.used = set()
        self.left_out = {}
        self._rules = []

    # What goes where.

    def take(self, variable, names, layout=AS_IS, part=None):
        """`variable` from the tensor called `names`, or from several; `part` `(i, n)` is the i-th of n equal parts."""
        names = (names,) if isinstance(names, str) else names
        self._rules.append((variable, names, layout, part))
        self.used.update(names)

    def dense(self, layer, name, layout=LINEAR, bias=AS_IS):
        """A dense layer from `<name>.weight` and, where it has one, `<name>.bias`."""
        self.take(layer.kernel, f"{name}.weight", layout)
        if layer.bias is not None:
            self.take(layer.bias, f"{name}.bias", bias)

    def normalization(self, layer, name, scale="weight", shift="bias"):
        """A layer normalisation, or the affine part of a batch normalisation."""
        self.take(layer.gamma, f"{name}.{scale}")
        self.take(layer.beta, f"{name}.{shift}")

    def attention(self, layer, query, key, value, output):
        """A `keras.layers.MultiHeadAttention` from four linear maps."""
        for dense, name in ((layer.query_dense, query), (layer.key_dense, key), (layer.value_dense, value)):
            self.dense(dense, name, ATTENTION_IN, FLAT)
        self.dense(layer.output_dense, output, ATTENTION_OUT)

    def fused_attention(self, layer, name):
        """A `keras.layers.MultiHeadAttention` from `torch.nn.MultiheadAttention`, whose three maps are one."""
        for index, dense in enumerate((layer.query_dense, layer.key_dense, layer.value_dense)):
            self.take(dense.kernel, f"{name}.in_proj_weight", ATTENTION_IN, (index, 3))
            self.take(dense.bias, f"{name}.in_proj_bias", FLAT, (index, 3))
        self.dense(layer.output_dense, f"{name}.out_proj", ATTENTION_OUT)

    def recurrence(self, layer, name):
        """A `Bidirectional` of two GRUs from `torch.nn.GRU(bidirectional=True)` of one layer."""
        for direction, suffix in ((layer.forward_layer, "l0"), (layer.backward_layer, "l0_reverse")):
            cell = direction.cell
            self.take(cell.kernel, f"{name}.weight_ih_{suffix}", GRU_KERNEL)
            self.take(cell.recurrent_kernel, f"{name}.weight_hh_{suffix}", GRU_KERNEL)
            self.take(cell.bias, (f"{name}.bias_ih_{suffix}", f"{name}.bias_hh_{suffix}"), GRU_BIAS)

    def number(self, name, default=None):
        """The tensor of one number called `name` as a float, `default` if it is not there."""
        if name not in self.checkpoint.shapes and default is not None:
            return default
        self.require([name])
        self.used.add(name)
        return float(self.checkpoint.tensor(name).reshape(()))

    def leave_out(self, pattern, reason):
        """Name the tensors that a regular expression matches whole as not used, and why."""
        for name in self.checkpoint.shapes:
            if name not in self.used and re.fullmatch(pattern, name):
                self.left_out[name] = reason

    # What can be known beforehand.

    def require(self, names):
        """Raises ValueError, with those that are missing, unless all `names` are there."""
        missing = [name for name in names if name not in self.checkpoint.shapes]
        if missing:
            raise ValueError(f"{self.checkpoint.source}: missing {_some(missing)}.")

    def shape(self, name):
        """The shape of the tensor called `name`."""
        self.require([name])
        return self.checkpoint.shapes[name]

    def count(self, pattern):
        """How many numbers, from 0 on, stand for `{}` in names that begin with `pattern`, such as `"layers.{}."`."""
        begin = re.compile(re.escape(pattern).replace(r"\{\}", r"(\d+)"))
        found = {int(match[1]) for match in map(begin.match, self.checkpoint.shapes) if match}
        return max(found, default=-1) + 1

    def check(self, variables):
        """Raises ValueError, with all there is to say, unless the plan is whole.

        Args:
            variables: the variables of the model that must get a value; counters are passed over.
        """
        shapes = self.checkpoint.shapes
        planned = {id(variable) for variable, *_ in self._rules}
        without = [v.path for v in variables if id(v) not in planned and "int" not in str(v.dtype)]
        missing = sorted(name for name in self.used if name not in shapes)
        unused = sorted(name for name in shapes if name not in self.used and name not in self.left_out)
        misshapen = [self._fault(*rule) for rule in self._rules if all(name in shapes for name in rule[1])]
        misshapen = list(dict.fromkeys(filter(None, misshapen)))
        lists = (
            ("missing", missing),
            ("not used", unused),
            ("of another shape", misshapen),
            ("without source", without),
        )
        faults = "; ".join(f"{len(names)} {what}: {_some(names)}" for what, names in lists if names)
        if faults:
            raise ValueError(f"{self.checkpoint.source}: its tensors do not fit the model. {faults}.")

    def run(self):
        """Assign all that was planned."""
        for variable, names, layout, part in self._rules:
            arrays = [_part(self.checkpoint.tensor(name), part) for name in names]
            variable.assign(layout.value(arrays, tuple(variable.shape)))

    def _fault(self, variable, names, layout, part):
        """What is wrong with the shapes of a rule, or None."""
        shape, parts = tuple(variable.shape), 1 if part is None else part[1]
        received = [self.checkpoint.shapes[name] for name in names]
        whole = [(rows[0] // parts, *rows[1:]) if part and rows and not rows[0] % parts else rows for rows in received]
        if layout.fits(whole, shape):
            return None
        expected = [(rows[0] * parts, *rows[1:]) if part else rows for rows in layout.shapes(shape)]
        return ", ".join(
            f"{name} {was}, must be {must}"
            for name, was, must in zip(names, received, expected, strict=True)
            if was != must
        )


def _part(array, part):
    return array if part is None else array.reshape(part[1], -1, *array.shape[1:])[part[0]]


def _some(names):
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more

import keras


class ObjectiveWarmup(keras.callbacks.Callback):
    """Holds the warm-up switch of a method during the first epochs.

    VSE-infinity takes all negatives instead of the hardest while it is on,
    CODER its term inside the batch alone. The switch is a variable inside the
    graph: nothing is traced anew. It counts epochs, so that a resumed run finds
    it where it was; place the callback behind one that restores weights.

    Args:
        epochs: int, number of the first epochs, default 1.

    Raises:
        ValueError: when training starts, if the method has no warm-up.

    Example: see `keras_itr.models.VSEInfinity`; `HardestNegativeWarmup` is
    another name of it.

    Reference: the warm-up epoch of the official code of Chen et al.,
    VSE-infinity, CVPR 2021; that of CODER is our choice.
    """

    def __init__(self, epochs=1):
        super().__init__()
        self.epochs = epochs
        self.epoch = 0

    def on_train_begin(self, logs=None):
        if not hasattr(self.model, "warmup"):
            raise ValueError(f"{type(self.model).__name__} has no warm-up: leave run.objective_warmup_epochs out.")

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        # Not at the epoch's begin: a state that is restored after it would bring the switch of another epoch.
        if batch == 0:
            self.model.warmup.assign(float(self.epoch < self.epochs))

    def on_train_end(self, logs=None):
        self.model.warmup.reset()


HardestNegativeWarmup = ObjectiveWarmup

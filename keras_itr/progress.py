import time

import keras


class SlowBar:
    """A progress bar that appears when the work has taken two seconds."""

    def __init__(self, total, verbose=True):
        self.total, self.verbose, self.bar = total, verbose, None
        self.started = time.monotonic()

    def update(self, done):
        """Say that `done` of the items are finished."""
        if not self.verbose or time.monotonic() - self.started < 2:
            return
        self.bar = self.bar or keras.utils.Progbar(self.total, unit_name="item")
        self.bar.update(done)

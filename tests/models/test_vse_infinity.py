import keras
import numpy as np
import pytest
from momentum_support import array, tensors
from support import region_backbone, region_data

from keras_itr.losses import hard_negative_triplet, same_image_pairs
from keras_itr.models import CLIP, VSEInfinity, from_preset
from keras_itr.training import HardestNegativeWarmup


def losses(model, data):
    """The triplet loss over all negatives and over the hardest, of one batch in training mode."""
    features = model(tensors(data), training=True)
    positives = same_image_pairs(data["image_id"]) if model.mask_same_image else None
    similarity = model.similarity(features["image"], features["text"])
    return [
        float(array(hard_negative_triplet(similarity, model.margin, hardest, model.reduction, positives)))
        for hardest in (False, True)
    ]


def still(**arguments):
    """A model that a step does not change: its loss tells the switch."""
    model = VSEInfinity(region_backbone(), **arguments)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    return model


def history(model, data, epochs, callbacks, first=0):
    found = model.fit(data, batch_size=8, epochs=epochs, initial_epoch=first, callbacks=callbacks, verbose=0).history
    assert found["loss"] == found["triplet"]
    return found["triplet"]


@pytest.mark.parametrize("mask_same_image", [True, False])
def test_all_negatives_in_the_warm_up_and_the_hardest_after_it(mask_same_image):
    data, model = region_data(8), still(mask_same_image=mask_same_image)
    every, hardest = losses(model, data)
    assert every > 1.5 * hardest > 0
    found = history(model, data, 4, [HardestNegativeWarmup(2)])
    np.testing.assert_allclose(found, [every, every, hardest, hardest], rtol=1e-5)
    # Without the callback, and after a training with it, the hardest.
    np.testing.assert_allclose(history(model, data, 1, []), [hardest], rtol=1e-5)
    assert float(array(model.warmup())) == 0


def test_the_mask_leaves_out_other_captions_of_the_image():
    data, model = region_data(8), still()
    masked = losses(model, data)
    model.mask_same_image = False
    unmasked = losses(model, data)
    # The same image twice in the batch: its two rows are near-perfect negatives of each other.
    assert unmasked[0] > masked[0] + 0.1 and unmasked[1] > masked[1]
    del data["image_id"]
    np.testing.assert_allclose(history(model, data, 1, []), unmasked[1:], rtol=1e-5)
    model = still()
    # Without ids nothing is known to be the same.
    found = history(model, data, 1, [])
    model.mask_same_image = False
    np.testing.assert_allclose(found, losses(model, data)[1:], rtol=1e-5)


def test_hardest_false_stays_with_all_negatives_and_mean_divides_by_the_batch():
    data, model = region_data(8), still(hardest=False)
    np.testing.assert_allclose(history(model, data, 2, [HardestNegativeWarmup(1)]), losses(model, data)[:1] * 2, 1e-5)
    total = losses(model, data)
    model.reduction = "mean"
    np.testing.assert_allclose(losses(model, data), np.divide(total, 8), rtol=1e-5)


def test_a_resumed_training_finds_the_switch_of_its_epoch():
    data, model = region_data(8), still()
    every, hardest = losses(model, data)
    # A state saved in the middle of the warm-up brings the switch of then.
    model.warmup.assign(1.0)
    np.testing.assert_allclose(history(model, data, 2, [HardestNegativeWarmup(1)], 1), [hardest], rtol=1e-5)
    found = history(model, data, 3, [HardestNegativeWarmup(2)], 1)
    np.testing.assert_allclose(found, [every, hardest], rtol=1e-5)


def test_an_interrupted_training_leaves_no_warm_up_behind():
    def stop(batch, logs):
        raise KeyboardInterrupt

    data, model = region_data(8), still()
    with pytest.raises(KeyboardInterrupt):
        history(model, data, 2, [HardestNegativeWarmup(1), keras.callbacks.LambdaCallback(on_train_batch_end=stop)])
    assert float(array(model.warmup())) == 0


class CountsTraces(VSEInfinity):
    """Counts how often Python runs its objectives."""

    traces = 0

    def objectives(self, *args, **kwargs):
        CountsTraces.traces += 1
        return super().objectives(*args, **kwargs)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs eagerly, there is no trace")
def test_the_switch_is_inside_the_graph():
    counts = []
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: counts.append(CountsTraces.traces))
    model = CountsTraces(region_backbone())
    model.compile(optimizer="sgd")
    model.fit(region_data(16), batch_size=4, epochs=3, callbacks=[HardestNegativeWarmup(1), note], verbose=0)
    # Counted in the first of three epochs, which has four batches, and never again.
    assert 0 < counts[0] == counts[1] == counts[2]


def test_the_switch_is_not_in_a_preset(tmp_path):
    import h5py

    model = VSEInfinity(region_backbone(), embedding_dim=6)
    model.warmup.assign(1.0)
    model.save_to_preset(tmp_path)
    names = []
    with h5py.File(tmp_path / "task.weights.h5") as file:
        file.visit(names.append)
    assert [name for name in names if "projection" in name] and not [name for name in names if "warmup" in name]
    assert float(array(from_preset(tmp_path).warmup())) == 0


def test_errors():
    with pytest.raises(ValueError, match="reduction must be 'sum' or 'mean', received 'none'"):
        VSEInfinity(region_backbone(), reduction="none")
    with pytest.raises(ValueError, match=r"margin must be 0 or more.*received -0.2"):
        VSEInfinity(region_backbone(), margin=-0.2)
    model = CLIP(region_backbone())
    model.compile(optimizer="sgd")
    with pytest.raises(ValueError, match="CLIP has no warm-up"):
        model.fit(region_data(8), batch_size=8, callbacks=[HardestNegativeWarmup()], verbose=0)

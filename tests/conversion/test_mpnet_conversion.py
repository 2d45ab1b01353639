import json

import conversion_support as sources
import keras
import numpy as np
import pytest

from keras_itr.conversion import convert
from keras_itr.models import from_preset

# As in MPNet's own vocabulary: its special tokens, BERT's pieces, a mask.
PIECES = ["<s>", "<pad>", "</s>", "<unk>", *sources.PIECES, "<mask>"]
CAPTIONS = [*sources.CAPTIONS, "two dogs run a red cat " * 6]


def numpy(x):
    return keras.ops.convert_to_numpy(keras.ops.stop_gradient(x))


def mpnet(folder):
    config = sources.transformers().MPNetConfig(
        vocab_size=len(PIECES),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=52,
        layer_norm_eps=1e-5,
    )
    model = sources.vary(sources.transformers().MPNetModel(config))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
    return model


def reference(model, captions):
    """Unit means of the hidden states by the source library, with its own ids."""
    torch, vectors = sources.torch(), []
    for caption in captions:
        words = caption.replace("dogs", "dog ##s").split()
        ids = torch.tensor([[0, *(PIECES.index(word) for word in words), 2]])
        mean = model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1)
        vectors.append(torch.nn.functional.normalize(mean, dim=1)[0].detach().numpy())
    return np.stack(vectors)


def test_sentence_vectors_are_those_of_the_source_library(tmp_path):
    source = mpnet(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    model = from_preset(tmp_path / "preset")
    assert model.backbone.text_tower.sequence_length == 50
    np.testing.assert_allclose(model.embed_texts(CAPTIONS), reference(source, CAPTIONS), atol=1e-5)


def test_its_ids_begin_with_the_special_tokens_of_the_tokenizer(tmp_path):
    mpnet(tmp_path / "source")
    model = convert(tmp_path / "source", tmp_path / "preset", sequence_length=8, verbose=False)
    tokenizer = model.preprocessor.tokenizer
    # The source's own [PAD], [CLS] and [SEP] are out of use.
    assert tokenizer.vocabulary_size() == len(PIECES) - 3
    assert tokenizer.get_vocabulary()[:6] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "<unk>", "two"]
    np.testing.assert_array_equal(numpy(tokenizer("two zebras")), [2, 5, 1, 3, 0, 0, 0, 0])


def test_a_vocabulary_must_fit(tmp_path):
    mpnet(tmp_path / "source")
    (tmp_path / "source/vocab.txt").write_text("\n".join(PIECES[1:]) + "\n")
    with pytest.raises(ValueError, match=r"must have the 16 pieces of .*; it has 15, without <s>"):
        convert(tmp_path / "source", tmp_path / "preset", verbose=False)


def test_distances_are_counted_as_the_source_library_does():
    transformers, torch = sources.transformers(), sources.torch()
    from keras_itr.layers.mpnet_text_tower import distance_buckets

    ahead = torch.arange(300)[None, :] - torch.arange(300)[:, None]
    expected = transformers.models.mpnet.modeling_mpnet.MPNetEncoder.relative_position_bucket(ahead)
    np.testing.assert_array_equal(distance_buckets(300), expected.numpy())


def test_the_pieces_may_be_in_tokenizer_json(tmp_path):
    source = mpnet(tmp_path / "source")
    (tmp_path / "source/vocab.txt").unlink()
    # The mask is added after the others.
    pieces = {piece: number for number, piece in enumerate(PIECES[:-1])}
    added = [{"id": len(pieces), "content": PIECES[-1]}, {"id": 0, "content": PIECES[0]}]
    whole = {"model": {"type": "WordPiece", "vocab": pieces}, "added_tokens": added, "normalizer": {"lowercase": False}}
    (tmp_path / "source/tokenizer.json").write_text(json.dumps(whole))
    model = convert(tmp_path / "source", tmp_path / "preset", verbose=False)
    assert not model.preprocessor.tokenizer.lowercase
    np.testing.assert_allclose(model.embed_texts(CAPTIONS), reference(source, CAPTIONS), atol=1e-5)

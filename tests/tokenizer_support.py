"""The reference tokenizers, those of the `tokenizers` library, and captions that are hard for them."""

import numpy as np
import tokenizers
from tokenizers import normalizers, pre_tokenizers

from keras_itr.preprocessing.byte_pairs import parse_merges

ACCENTS = {
    **{"a": "àáâãäåā", "e": "èéêëēę", "i": "ìíîï", "o": "òóôõöøō", "u": "ùúûüū"},
    **{"c": "çćč", "l": "ł", "n": "ñń", "s": "śš", "y": "ýÿ", "z": "žźż"},
}
NUMBERS = ["3", "12", "101", "2nd", "10:30", "$20", "50%", "3.5", "#7", "1,000", "1990s", "4x4", "24/7", "No. 5"]
CONTRACTIONS = [
    *("isn't", "don't", "they're", "we've", "I'll", "he'd", "I'm", "can't", "it's", "y'all", "o'clock", "dogs'"),
    *("who've", "she'd've", "rock 'n' roll", "won\u2019t", "that\u2019s", "\u2018quoted\u2019"),
]


def clip_reference(merges, length=77):
    """CLIP's tokenizer of the `tokenizers` library, as transformers and keras-hub set it up."""
    symbols, _ = parse_merges(merges)
    ids = {symbol: index for index, symbol in enumerate(symbols)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    reference = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=ids, merges=pairs, end_of_word_suffix="</w>"))
    replacements = [
        # The two steps of OpenAI's code that the library does not have.
        (r"[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]", ""),
        ("[\u02bc\u2018-\u201b]", "'"),
        ("[\u201c-\u201f]", '"'),
        (r"\s+", " "),
    ]
    reference.normalizer = normalizers.Sequence(
        [normalizers.NFC()]
        + [normalizers.Replace(tokenizers.Regex(pattern), content) for pattern, content in replacements]
        + [normalizers.Lowercase()]
    )
    words = tokenizers.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )

    def tokenize(texts):
        rows = np.zeros((len(texts), length), "int32")
        for row, encoding in zip(rows, reference.encode_batch(texts), strict=True):
            packed = [len(ids), *encoding.ids[: length - 2], len(ids) + 1]
            row[: len(packed)] = packed
        return rows

    return tokenize


def wordpiece_reference(vocabulary, length, **kwargs):
    """BERT's tokenizer of the `tokenizers` library."""
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    reference = tokenizers.BertWordPieceTokenizer(ids, **kwargs)
    reference.enable_truncation(length)
    reference.enable_padding(length=length)
    return lambda texts: np.array([encoding.ids for encoding in reference.encode_batch(texts)])


def hard_captions(captions, count=2000, seed=0):
    """Captions with digits, capitals, accents and contractions, one to four of these in each, made of given ones."""
    random = np.random.default_rng(seed)
    return [_harder(captions[random.integers(len(captions))].split(" "), random, row) for row in range(count)]


def _harder(words, random, row):
    kinds = [kind for kind in range(4) if random.random() < 0.6] or [row % 4]
    if 3 in kinds:
        for _ in range(random.integers(1, 3)):
            words.insert(random.integers(len(words) + 1), CONTRACTIONS[random.integers(len(CONTRACTIONS))])
        words[random.integers(len(words))] += "'s"
    if 0 in kinds:
        for _ in range(random.integers(1, 4)):
            number = str(random.integers(10 ** random.integers(1, 7)))
            number = NUMBERS[random.integers(len(NUMBERS))] if random.random() < 0.7 else number
            place = random.integers(len(words))
            words.insert(place, number)
            words[place - 1] += number if random.random() < 0.3 else ""
    if 2 in kinds:
        words = ["".join(_accented(letter, random) for letter in word) for word in words]
    if 1 in kinds:
        change = (str.upper, str.capitalize, str.swapcase)[random.integers(3)]
        words = [change(word) if random.random() < 0.6 else word for word in words]
    return " ".join(words)


def _accented(letter, random):
    choices = ACCENTS.get(letter, letter)
    return choices[random.integers(len(choices))] if random.random() < 0.2 else letter

"""Small random models of the source libraries, and the folders they are saved to."""

import json

import numpy as np
import pytest

MERGES = ["d o", "do g</w>", "c a", "ca t</w>"]
# 256 bytes, 256 at the end of a word, the merges, start and end.
CLIP_IDS = 512 + len(MERGES) + 2
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "two", "dog", "##s", "a", "cat", "run", "red"]
CAPTIONS = ["two dogs run", "a red cat", "cat"]


def transformers():
    """The source library, or a skip."""
    pytest.importorskip("safetensors", reason="safetensors (extra convert) reads the weights")
    return pytest.importorskip("transformers", reason="transformers (extra convert-test) has the reference models")


def torch():
    return pytest.importorskip("torch", reason="PyTorch has the reference models")


def vary(model, seed=0):
    """Every weight at random and of a size that shows: libraries start biases at 0 and scales at 1."""
    generator = torch().Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("logit_scale"):
            continue
        noise = torch().randn(parameter.shape, generator=generator)
        scale = 0.5 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
        parameter.data += scale * noise
    return model.eval()


def hugging_face_clip(folder, activation="quick_gelu", seed=0, **save):
    """A CLIP of two layers a side with a tokenizer of 518 ids, saved to `folder`."""
    config = transformers().CLIPConfig(
        text_config={
            "vocab_size": CLIP_IDS,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 12,
            "hidden_act": activation,
            "bos_token_id": CLIP_IDS - 2,
            "eos_token_id": CLIP_IDS - 1,
        },
        vision_config={
            "hidden_size": 64,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 16,
            "hidden_act": activation,
        },
        projection_dim=24,
    )
    torch().manual_seed(seed)
    model = vary(transformers().CLIPModel(config), seed)
    model.save_pretrained(folder, **save)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    return model


def openai_names(state, fused=("q_proj", "k_proj", "v_proj")):
    """The tensors of a Hugging Face CLIP as OpenAI's own code names them."""
    whole = {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "logit_scale": "logit_scale",
    }
    parts = {
        "vision_model.pre_layrnorm": "visual.ln_pre",
        "vision_model.post_layernorm": "visual.ln_post",
        "vision_model.encoder.layers": "visual.transformer.resblocks",
        "text_model.encoder.layers": "transformer.resblocks",
        "text_model.final_layer_norm": "ln_final",
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    named = {"visual.proj": state["visual_projection.weight"].T, "text_projection": state["text_projection.weight"].T}
    for name, tensor in state.items():
        if name in whole:
            named[whole[name]] = tensor
        elif "self_attn" in name and "out_proj" not in name:
            kind = name.rsplit(".", 1)[1]
            stem = name.split("self_attn")[0]
            joined = torch().cat([state[f"{stem}self_attn.{part}.{kind}"] for part in fused])
            name = f"{stem}attn.in_proj_{kind}"
            for old, new in parts.items():
                name = name.replace(old, new)
            named[name] = joined
        elif not name.endswith("projection.weight"):
            for old, new in parts.items():
                name = name.replace(old, new)
            named[name] = tensor
    return {name: tensor.detach().clone().contiguous() for name, tensor in named.items()}


def bert(folder, seed=0, pooling="mean", **config):
    """A BERT of two layers with 11 word pieces, saved to `folder` as a sentence encoder."""
    config = transformers().BertConfig(
        **{
            "vocab_size": len(PIECES),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 24,
            "max_position_embeddings": 20,
            **config,
        }
    )
    model = vary(transformers().BertModel(config), seed)
    if folder is not None:
        model.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(PIECES) + "\n")
        (folder / "1_Pooling").mkdir()
        modes = {
            f"pooling_mode_{name}": name.startswith(pooling) for name in ("cls_token", "mean_tokens", "max_tokens")
        }
        (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 16, **modes}))
    return model


def pixels(count, size, seed=0):
    """Random images `(B, H, W, 3)` as a converter gives them."""
    return np.random.default_rng(seed).normal(size=(count, size, size, 3)).astype("float32")


def channels_first(images):
    return torch().from_numpy(images.transpose(0, 3, 1, 2).copy())


def vectors(output):
    """The embeddings of an output of `get_image_features`, whose form depends on the version."""
    output = getattr(output, "pooler_output", output)
    return output.detach().numpy()

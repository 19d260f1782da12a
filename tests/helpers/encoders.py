"""Tiny random text encoders in the formats of pretrained ones."""

from __future__ import annotations

import io
import json
from pathlib import Path

import sentencepiece
import torch
import transformers

_CAPTIONS = ("a red circle moves to the right", "a large blue square moves up", "the cat jumps over a triangle")


def tiny_t5(folder: Path, width: int = 32, seed: int = 0, dtype: torch.dtype = torch.float32) -> str:
    """A folder like google/t5-v1_1-base: encoder, decoder and a SentencePiece model. Returns its path."""
    folder.mkdir(parents=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_CAPTIONS * 9),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 0}))
    sizes = {"vocab_size": 64, "d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu")
    torch.manual_seed(seed)
    transformers.T5ForConditionalGeneration(config).to(dtype).save_pretrained(folder)
    return str(folder)


def tiny_clip(folder: Path, width: int = 32, projection: int = 32) -> str:
    """A folder like openai/clip-vit-large-patch14: text and image towers, with a vocabulary of letters."""
    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    ends = {"bos_token_id": words.index("<|startoftext|>"), "eos_token_id": words.index("<|endoftext|>")}
    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | ends | {"vocab_size": len(words), "max_position_embeddings": 77}
    picture = sizes | {"image_size": 8, "patch_size": 4}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=picture, projection_dim=projection)
    transformers.CLIPModel(config).save_pretrained(folder)
    return str(folder)

"""A trained model says which words it has read, whatever its training went through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from phenaki.pipeline import load_model
from phenaki.tokenizers import CViViT
from phenaki.training.generator import train_generator
from phenaki.training.recipes import masked_debug


def test_words_of_all_steps_are_kept_with_the_model(tmp_path: Path, tokenizer: CViViT) -> None:
    recipe = masked_debug()
    decoding = replace(recipe.sampling, decoding=replace(recipe.sampling.decoding, steps=1))

    def train(steps: int, seed: int, **options: bool) -> set[str]:
        run = replace(recipe.run, steps=steps, eval_every=100, checkpoint_every=100)
        data = replace(recipe.data, seed=seed, batch=2)
        changed = replace(recipe, run=run, data=data, sampling=decoding)
        domain = load_model(train_generator(changed, tmp_path / "run", tokenizer, **options))[2]
        assert len(domain.prompts) <= 4 and not domain.unknown_words(domain.prompts)
        assert domain.words == tuple(sorted(domain.words))
        return set(domain.words)

    first = train(2, seed=0)
    resumed = train(4, seed=0)
    assert {"a"} < first < resumed
    other = train(2, seed=9, overwrite=True)
    assert not resumed <= other

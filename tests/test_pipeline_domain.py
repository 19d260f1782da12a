"""Words that a model has never read are named, with an example; what it was trained with is kept with it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.sampling import sampling_config
from phenaki.conditioning import WordEncoder
from phenaki.core.errors import PhenakiError, PhenakiWarning
from phenaki.generators import Components, MaskedTransformer
from phenaki.pipeline import Domain, Phenaki, load_model
from phenaki.tokenizers import CViViT

DOMAIN = Domain("moving shapes", ("a red circle moves",), ("a", "circle", "moves", "now", "red", "it"), "MIT")


@pytest.fixture
def model(tokenizer: CViViT, generator: MaskedTransformer, text_encoder: WordEncoder) -> Phenaki:
    return Phenaki(Components(generator, tokenizer, text_encoder), sampling_config(steps=1), DOMAIN, "tiny")


WAYS = {
    "generate": lambda model, prompt: model.generate(["a red circle", prompt], frames=3),
    "stream": lambda model, prompt: next(model.stream(prompt, frames=1)),
    "scene": lambda model, prompt: model.scene(prompt),
    "interpolate": lambda model, prompt: model.interpolate(*_ends(model), prompt),
    "extend": lambda model, prompt: model.extend(_ends(model)[0], prompt, frames=3),
}


def _ends(model: Phenaki):
    video = model.generate("a red circle", frames=1).video
    return video, video


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_unknown_words_are_named_once_with_an_example(model: Phenaki, way: Callable) -> None:
    with pytest.warns(PhenakiWarning) as found:
        way(model, "now it moves: A cat, the Cat!")
    (warning,) = found
    assert str(warning.message) == "tiny knows moving shapes only; unknown: cat, the; try: 'a red circle moves'"
    model.strict = True
    with pytest.raises(PhenakiError, match="unknown: ein, roter, kreis"):
        way(model, "ein roter Kreis")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        way(model, "Now it moves")


def test_a_model_that_reads_any_word_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Domain("anything").check(["a cat"], "m", strict=True)
    with pytest.warns(PhenakiWarning, match="^this model knows the words of its training captions only; unknown: cat$"):
        Domain(words=("a",)).check(["a cat"], "", strict=False)


def test_the_domain_is_saved_with_the_model(model: Phenaki, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "m")
    assert Phenaki.from_pretrained(tmp_path / "m").domain == DOMAIN
    assert Phenaki.from_pretrained(tmp_path / "m").name == str(tmp_path / "m")
    file = tmp_path / "m" / "model.json"
    old = {key: value for key, value in json.loads(file.read_text()).items() if key != "domain"}
    file.write_text(json.dumps(old))  # of a version without domains
    assert load_model(tmp_path / "m")[2] == Domain()


def test_the_released_model_knows_all_captions_of_its_world() -> None:
    from phenaki.core import hub
    from phenaki.pipeline import read_model_file
    from phenaki.worlds.shapes.captions import parse_caption
    from phenaki.worlds.shapes.world import ShapesWorld

    domain = read_model_file(hub.ZOO / "shapes-64").domain
    world = ShapesWorld(seed=5, split="test", continued=0.3)
    assert not domain.unknown_words(world.caption(index) for index in range(300))
    assert not domain.unknown_words(domain.prompts) and all(map(parse_caption, domain.prompts))
    assert domain.unknown_words(["a cat on a navy background", "Katze"]) == ["cat", "katze"]
    assert domain.subject == "moving shapes" and domain.license == "Apache-2.0"

"""Actions follow the frames in time: rows are cut, resampled and gathered for latent frames; bad tables are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from phenaki.core.actions import ActionSpec, to_latent
from phenaki.core.config import from_dict, to_dict
from phenaki.core.errors import BadSample, PhenakiError
from phenaki.core.grid import latent_index

SPEC = ActionSpec(("jump", "mouse", "throttle"), ("button", "relative", "level"))


def table(rows: int = 9, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = np.stack([rng.integers(0, 2, rows), rng.normal(size=rows), rng.random(rows)], axis=1).astype(np.float32)
    values[0] = 0
    return values


def test_resampling_joins_what_lies_between_two_frames() -> None:
    rows = np.array([[0, 0, 0], [0, 1, 0.2], [1, 2, 0.4], [0, 4, 0.6], [0, 8, 1.0], [0, 16, 0.0]], np.float32)
    expected = [[0, 0, 0], [1, 6, 0.5], [0, 8, 1.0]]
    assert SPEC.resample(rows, np.array([1, 3, 4])) == pytest.approx(np.array(expected))


def test_a_cut_keeps_the_rows_but_its_first_is_zero() -> None:
    rows = SPEC.resample(table(), np.arange(3, 8))
    assert rows.dtype == np.float32
    assert not rows[0].any()
    assert np.array_equal(rows[1:], table()[4:8])


def test_a_repeated_frame_holds_levels_and_nothing_else() -> None:
    rows = SPEC.resample(table(), np.array([2, 2, 3]))
    assert rows[1].tolist() == [0, 0, table()[2, 2]]
    assert np.array_equal(rows[2], table()[3])


@pytest.mark.parametrize("split", [1, 3, 5])
def test_resampling_loses_no_movement(split: int) -> None:
    frames = np.unique([0, split, 8])
    assert SPEC.resample(table(), frames)[:, 1].sum() == pytest.approx(table()[:, 1].sum())


@pytest.mark.parametrize("period", [1, 2, 4])
def test_a_latent_frame_takes_the_rows_of_its_frames(period: int) -> None:
    actions = torch.from_numpy(np.stack([table(seed=0), table(seed=1)]))
    latent = to_latent(actions, period)
    assert latent.shape == (2, 1 + 8 // period, 3 * period)
    assert not latent[:, 0].any()
    for frame in range(1, 9):
        column = (frame - 1) % period * 3
        assert torch.equal(latent[:, latent_index(frame, period), column : column + 3], actions[:, frame])


def test_an_image_is_one_latent_frame_of_zeros() -> None:
    assert torch.equal(to_latent(torch.zeros(1, 1, 3), 2), torch.zeros(1, 1, 6))


def test_rows_that_fit_no_latent_frames_are_refused() -> None:
    with pytest.raises(PhenakiError, match=r"8 frames .* nearest are 7 and 9"):
        to_latent(torch.zeros(1, 8, 3), 2)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float32, np.float64])
def test_a_valid_table_is_float32(dtype: type) -> None:
    buttons = ActionSpec(("a", "b"), ("button", "button"))
    rows = buttons.check(np.array([[0, 0], [1, 0]], dtype), 2)
    assert rows.dtype == np.float32 and rows.tolist() == [[0, 0], [1, 0]]


def changed(row: int, column: int, value: float) -> np.ndarray:
    rows = table()
    rows[row, column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (table()[:7], "has 7 rows; one per frame is needed, 9"),
        (table()[:, :2], "has 2 columns; there are 3 actions: jump, mouse, throttle"),
        (table()[:, 0], r"shape \(9,\) and type float32"),
        (table().astype(str), "type <U"),
        (changed(4, 1, np.nan), "has nan as 'mouse' in row 4"),
        (changed(2, 2, np.inf), "has inf as 'throttle' in row 2"),
        (changed(0, 1, 3), "row 0 of its action table is not zero"),
        (changed(5, 0, 0.5), "a button in its action table is 0.5, not 0 or 1"),
    ],
)
def test_bad_tables_are_refused(rows: np.ndarray, sentence: str) -> None:
    with pytest.raises(BadSample, match=sentence):
        SPEC.check(rows, 9)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"names": ()}, "different and none empty"),
        ({"names": ("a", "a", "b")}, "different and none empty"),
        ({"names": ("a", "", "b")}, "different and none empty"),
        ({"kinds": ("button",)}, "3 names of actions and 1 kinds"),
        ({"kinds": ("button", "wheel", "level")}, "'mouse' must be one of button, relative, level, not 'wheel'"),
    ],
)
def test_bad_specs_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PhenakiError, match=sentence):
        ActionSpec(**{"names": SPEC.names, "kinds": SPEC.kinds} | changes)


def test_a_spec_is_plain_data_and_knows_its_names() -> None:
    assert from_dict(ActionSpec, to_dict(SPEC)) == SPEC
    assert (len(SPEC), SPEC.index("mouse")) == (3, 1)
    with pytest.raises(PhenakiError, match="no action 'mose'. Did you mean 'mouse'"):
        SPEC.index("mose")

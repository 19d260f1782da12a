"""High dynamic range as the standard one: the reference white of BT.2408, 203 cd/m2, becomes white of 1.0."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from av.video.reformatter import ColorTrc
from numpy.typing import NDArray

from phenaki.media.convert import Frames

Transfer = Callable[[NDArray[np.float64]], NDArray[np.float64]]

_WHITE = 203.0  # cd/m2
_KNEE = 0.8  # of white; brighter light is compressed into what is left
_BRIGHTEST = 1000.0 / _WHITE  # becomes 1.0
# linear BT.2020 to linear BT.709 (ITU-R BT.2087)
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])


def _pq(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light relative to white (SMPTE ST 2084)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    return 10_000 / _WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _hlg(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scene light, which a display of 1000 cd/m2 shows with the power 1.2, relative to white (ITU-R BT.2100)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return 1000 / _WHITE * scene**1.2


HDR: dict[int, Transfer] = {ColorTrc.SMPTE2084: _pq, ColorTrc.ARIB_STD_B67: _hlg}
"""From transfer characteristics to the light that a signal in [0, 1] stands for."""


def to_sdr(pixels: NDArray[np.uint16], transfer: Transfer) -> Frames:
    """BT.2020 uint16 (H, W, 3) to sRGB uint8 (H, W, 3)."""
    light = np.maximum(_light(transfer)[pixels] @ _TO_BT709.T, 0)
    brightest = np.maximum(light.max(-1, keepdims=True), 1e-9)
    light = np.clip(light * (_compress(brightest) / brightest), 0, 1)  # by one factor, so that hues stay
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return (255 * srgb).round().astype(np.uint8)


@cache
def _light(transfer: Transfer) -> NDArray[np.float64]:
    return transfer(np.arange(2**16) / (2**16 - 1))


def _compress(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """The identity up to the knee, then logarithmic up to 1."""
    above = np.log1p(np.maximum(light - _KNEE, 0)) / np.log1p(_BRIGHTEST - _KNEE)
    return np.where(light <= _KNEE, light, _KNEE + (1 - _KNEE) * above)

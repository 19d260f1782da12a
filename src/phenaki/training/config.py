"""How a run is run: length, hardware, checkpoints, records."""

from __future__ import annotations

from phenaki.core.config import bounded, configclass
from phenaki.core.precision import Precision
from phenaki.training.sharding import Strategy
from phenaki.training.track import TrackerName


@configclass
class RunConfig:
    """Settings of a run that every stage shares."""

    steps: int = bounded(1000, at_least=1)
    seed: int = 0
    precision: Precision = "auto"
    """Of the networks in training. Frozen tokenizers encode, and previews are made, in the precision of inference."""
    device: str = "auto"
    """`auto` takes CUDA if there is any."""
    log_every: int = bounded(10, at_least=1)
    eval_every: int = bounded(500, at_least=1)
    """Evaluate, make previews and write the model with averaged weights."""
    previews: bool = True
    """False: only write the model there, without the metrics and pictures of held-out samples."""
    checkpoint_every: int = bounded(250, at_least=1)
    trackers: tuple[TrackerName, ...] = ("tensorboard",)
    """Where metrics and pictures go besides the run's folder; TensorBoard is skipped if it is not installed."""
    prompts: str = ""
    """File with one prompt per line, from which a generator makes previews; "" for none."""
    keep: int = bounded(2, at_least=1)
    """The newest checkpoints to keep."""
    keep_every: int = bounded(0, at_least=0)
    """Keep the checkpoints at multiples of this many steps for good; 0 keeps none."""
    bad_steps: int = bounded(10, at_least=1)
    """The run ends after this many steps in a row whose loss or gradients are not finite; such steps are skipped."""
    timeout: float = bounded(60.0, at_least=1)
    """Seconds without a sign of life of a process after which the others end; a slow one is waited for."""
    checkpointing: bool = False
    """Activation checkpointing: blocks keep only their input and run again in the backward pass."""
    compile: bool | None = False
    """Run blocks through torch.compile; null: on CUDA, where it can."""
    strategy: Strategy = "ddp"
    """`ddp` replicates the weights and averages gradients; `fsdp` shards the weights of the blocks (FSDP2)."""

"""A whole model: text in, video out."""

from phenaki.conditioning import Text
from phenaki.pipeline.domain import Domain
from phenaki.pipeline.loading import (
    ModelFile,
    load_model,
    load_part,
    load_text_encoder,
    read_model_file,
    save_model,
)
from phenaki.pipeline.model import Phenaki
from phenaki.pipeline.opening import load
from phenaki.pipeline.outline import Outline, read_outline
from phenaki.pipeline.progress import OnProgress, sampling_progress
from phenaki.pipeline.provenance import provenance
from phenaki.pipeline.results import Generation, sample_grid
from phenaki.pipeline.world import Event, LiveWorld, SceneWorld, World, check_adjustable, step_together
from phenaki.tokenizers import Tokenizer

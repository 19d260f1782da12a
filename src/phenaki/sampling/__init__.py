"""Sampling: parallel decoding over a callable, guidance, rollout to any length, editing."""

from phenaki.sampling.causal import CausalRollout
from phenaki.sampling.config import DecodingConfig, GuidanceConfig, RolloutConfig, SamplingConfig, SamplingOptions
from phenaki.sampling.decoding import decode
from phenaki.sampling.editing import inpaint, interpolate
from phenaki.sampling.guidance import OnStep, cfg_conditions, cfg_logits_fns, critic_scores_fn, sample_ids
from phenaki.sampling.rollout import AnyRollout, Rollout, make_rollout, rollout
from phenaki.sampling.scenes import Scene, count_steps, longest_clip, plan_windows

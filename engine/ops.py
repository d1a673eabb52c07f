"""The operators that the model is written in; the only module that imports `kernels`."""

import torch

import kernels
from engine.errors import BackendUnavailable, ConfigError

# PyPI has an unrelated package of this name; a foreign one would fail far from its cause.
if getattr(kernels, "OWNER", None) != "stars-engine":
    raise BackendUnavailable(
        f"kernels: expected this project's package, got {kernels.__file__}: "
        "uninstall the foreign package or put this project first on the path"
    )

from kernels import backend, layers
from kernels.attention import attention
from kernels.candidate_softmax import CandidateLoss, candidate_softmax
from kernels.layers import Layer, three
from kernels.plugin import PTX_VERSIONS, ContractError
from kernels.score_topk import score_topk
from kernels.score_topk.launch import MAX_K
from kernels.token_assembly import Tags, pack_tags, tag_sums, token_assembly, unfolded_rows
from kernels.token_gate import token_gate

__all__ = [
    "MAX_K",
    "PTX_VERSIONS",
    "CandidateLoss",
    "ContractError",
    "Layer",
    "Tags",
    "attention",
    "candidate_softmax",
    "layers",
    "pack_tags",
    "score_topk",
    "tag_sums",
    "three",
    "token_assembly",
    "token_gate",
    "unfolded_rows",
]

try:
    # What the environment asks of every operator fails here, not in the middle of a training.
    backend.choose("kernels", "auto", torch.device("cuda" if torch.cuda.is_available() else "cpu"))
except backend.BackendUnavailable as error:
    raise BackendUnavailable(str(error)) from None
except ValueError as error:
    raise ConfigError(str(error)) from None

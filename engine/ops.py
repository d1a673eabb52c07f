"""The operators that the model is written in; the only module that imports `kernels`."""

import kernels
from engine.errors import BackendUnavailable

# PyPI has an unrelated package of this name; a foreign one would fail far from its cause.
if getattr(kernels, "OWNER", None) != "stars-engine":
    raise BackendUnavailable(
        f"kernels: expected this project's package, got {kernels.__file__}: "
        "uninstall the foreign package or put this project first on the path"
    )

from kernels.attention import attention
from kernels.candidate_softmax import CandidateLoss, candidate_softmax
from kernels.token_assembly import Tags, pack_tags, tag_sums, token_assembly, unfolded_rows

__all__ = [
    "CandidateLoss",
    "Tags",
    "attention",
    "candidate_softmax",
    "pack_tags",
    "tag_sums",
    "token_assembly",
    "unfolded_rows",
]

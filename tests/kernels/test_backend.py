import pytest
import torch

from kernels.backend import BackendUnavailable, Choice, choose

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delenv("STARS_KERNELS", raising=False)


def test_auto_takes_the_reference_on_a_cpu_and_the_kernel_on_a_gpu() -> None:
    assert choose("op", "auto", CPU).backend == "reference"
    assert "Triton kernels need a CUDA device" in choose("op", "auto", CPU).reason
    assert choose("op", "auto", CUDA) == Choice("triton", "the tensors are on cuda")


def test_auto_says_why_a_kernel_cannot_take_the_arguments() -> None:
    assert choose("op", "auto", CUDA, "k is 7") == Choice("reference", "k is 7")


def test_auto_never_interprets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose("op", "auto", CPU).backend == "reference"
    assert choose("op", "triton", CPU).backend == "triton"


def test_an_impossible_explicit_choice_raises() -> None:
    with pytest.raises(BackendUnavailable) as raised:
        choose("op", "triton", CPU)
    assert str(raised.value) == (
        "op: backend 'triton' cannot run: the tensors are on cpu, Triton kernels need a CUDA device"
    )
    with pytest.raises(BackendUnavailable, match="op: backend 'triton' cannot run: k is 7"):
        choose("op", "triton", CUDA, "k is 7")


def test_the_environment_says_what_auto_means(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARS_KERNELS", "reference")
    assert choose("op", "auto", CUDA) == Choice("reference", "STARS_KERNELS asks for it")
    assert choose("op", "triton", CUDA) == Choice("triton", "the caller asked for it")
    monkeypatch.setenv("STARS_KERNELS", "triton")
    with pytest.raises(BackendUnavailable):
        choose("op", "auto", CPU)
    monkeypatch.setenv("STARS_KERNELS", "cuda")
    with pytest.raises(ValueError, match=r"STARS_KERNELS: expected one of .*, got 'cuda'"):
        choose("op", "auto", CPU)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match=r"op: backend: expected one of .*, got 'cuda'"):
        choose("op", "cuda", CPU)  # type: ignore[arg-type]

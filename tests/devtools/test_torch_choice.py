"""Which torch an environment gets, from what is at hand and what pip offers."""

from pathlib import Path

import pytest
from lora_pack.devtools.download_size import UNKNOWN, download_size
from lora_pack.devtools.failures import CommandFailed
from lora_pack.devtools.torch_choice import TorchAtHand, choose

CPU = ["torch", "sympy", "filelock"]
CUDA = [*CPU, "nvidia-cublas", "nvidia-nccl-cu13", "cuda-toolkit", "triton"]
FOLDER = Path("site-packages")


@pytest.mark.parametrize("version", ["2.11.0+cu130", "2.7.1", "3.0.0"])
def test_a_torch_at_hand_that_is_new_enough_is_used_as_it_is(version: str) -> None:
    choice = choose(TorchAtHand(version, FOLDER), "2.13.0", None, "", refuse_cuda=True)
    assert choice.reused is not None and version in choice.told and version in choice.mark


@pytest.mark.parametrize("at_hand", [None, TorchAtHand("2.3.1", FOLDER)])
def test_a_build_without_cuda_is_installed_where_pip_offers_one(at_hand: TorchAtHand | None) -> None:
    choice = choose(at_hand, "2.13.0", CPU, "0.2 GB", refuse_cuda=True)
    assert choice.reused is None and "without CUDA" in choice.told
    assert (at_hand is None) == ("too old" not in choice.told)


def test_a_cuda_build_is_taken_with_its_size_said_where_there_is_no_other() -> None:
    choice = choose(None, "2.13.0", CUDA, "3.1 GB", refuse_cuda=False)
    assert choice.reused is None and "3.1 GB to download, 4 CUDA packages" in choice.told


def test_a_cuda_build_is_refused_in_one_line_when_asked_for() -> None:
    with pytest.raises(CommandFailed, match=r"3\.1 GB.*refused.*PIP_EXTRA_INDEX_URL") as refused:
        choose(None, "2.13.0", CUDA, "3.1 GB", refuse_cuda=True)
    assert "\n" not in refused.value.reason


def test_torchvision_is_the_one_built_for_the_torch_at_hand() -> None:
    assert TorchAtHand("2.11.0+cu130", FOLDER).torchvision == "torchvision==0.26.*"


def test_a_download_is_as_large_as_its_files_or_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"x" * 1000)
    there = (tmp_path / "a.whl").as_uri()
    assert download_size([there, there]) == "0.0 GB"
    assert download_size([there, (tmp_path / "b.whl").as_uri()]) == download_size([]) == UNKNOWN

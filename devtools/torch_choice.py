"""Which torch the environment gets: the one that is at hand, a CPU build, or else the build that pip offers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .failures import CommandFailed

OLDEST = (2, 7)  # the current ComfyUI's own lower bound is near it; what is older lacks dtypes that the tests use
CUDA_PACKAGES = ("nvidia-", "cuda-", "triton")
REFUSE_CUDA = "LORA_LOOM_REFUSE_CUDA"  # environment: as --refuse-cuda
TORCHVISION_AHEAD = 15  # torchvision 0.28 belongs to torch 2.13, and so on


@dataclass(frozen=True)
class TorchAtHand:
    """A torch that the Python which runs dev.py can import."""

    version: str  # such as "2.11.0+cu130"
    folder: Path  # site-packages that it lies in

    @property
    def release(self) -> tuple[int, ...]:
        """(2, 11)."""
        return tuple(int(part) for part in self.version.split("+")[0].split(".")[:2])

    @property
    def torchvision(self) -> str:
        """The torchvision that was built for it."""
        return f"torchvision==0.{self.release[1] + TORCHVISION_AHEAD}.*"


@dataclass(frozen=True)
class TorchChoice:
    """What is done, and what a person is told of it."""

    reused: TorchAtHand | None
    told: str

    @property
    def mark(self) -> str:
        """Equal for equal environments."""
        return f"{self.reused.version} in {self.reused.folder}" if self.reused else "installed"


def choose(
    at_hand: TorchAtHand | None, pinned: str, offered: Sequence[str] | None, size: str, *, refuse_cuda: bool
) -> TorchChoice:
    """Decide.

    Args:
        at_hand: what the Python that runs this can import; None for none.
        pinned: the version that is installed where none is at hand.
        offered: names of all packages that pip would bring with it; None where it was not asked.
        size: of their download, for a person, such as "3.1 GB".
        refuse_cuda: whether a CUDA build is refused where pip offers no other.

    Raises CommandFailed for a refused one.
    """
    if at_hand is not None and at_hand.release >= OLDEST:
        return TorchChoice(at_hand, f"torch {at_hand.version} of this Python is used as it is")
    old = f" (torch {at_hand.version} of this Python is too old)" if at_hand else ""
    cuda = [name for name in offered or () if name.startswith(CUDA_PACKAGES)]
    if not cuda:
        return TorchChoice(None, f"torch {pinned} is installed, a build without CUDA{old}")
    what = f"pip offers a CUDA build of torch alone{old}: {size} to download, {len(cuda)} CUDA packages"
    if refuse_cuda:
        raise CommandFailed(
            f"{what}; refused, since --refuse-cuda or {REFUSE_CUDA} says so. Name a source of CPU builds to pip "
            "(PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS), or run dev.py with a Python that has torch"
        )
    return TorchChoice(None, what)

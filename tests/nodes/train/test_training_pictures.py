"""Training pictures on the real host: the demo's pictures, VAE and text encoder, and the folders a person names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_pack.demo.custom_nodes.lora_loom_demo.demo_model import load_demo_model
from lora_pack.demo.pictures import draw, random_pictures, write_training_set
from lora_pack.lora_core.errors import BadPictures, BadSetting, FileMissing, NoPictures
from lora_pack.lora_core.training.dataset import TrainingSet
from lora_pack.nodes.apply.apply_lora import ApplyLora
from lora_pack.nodes.train.dataset_sockets import CACHE
from lora_pack.nodes.train.pictures_of_folder import DatasetFolder
from lora_pack.nodes.train.training_pictures import Dataset
from PIL import Image

ROOT = Path(__file__).parents[3]
SMALL = {"resolution": 128, "step": 8}


@pytest.fixture(scope="module")
def demo(host: Any) -> tuple[Any, Any]:
    """The demo's VAE and CLIP."""
    _, clip, vae = load_demo_model(ROOT / "demo")
    return vae, clip


@pytest.fixture
def input_dir(host: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's input folder, with ten of the demo's pictures in input/shapes; its output folder is beside it."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    write_training_set(tmp_path / "input" / "shapes", 10, None, "solid", 128)
    return tmp_path / "input"


@pytest.fixture(autouse=True)
def forget_encoded(host: Any) -> Iterator[None]:
    """Nothing encoded is kept from another test."""
    CACHE.clear()
    yield
    CACHE.clear()


def _run(demo: tuple[Any, Any], folder: str = "shapes", **settings: Any) -> tuple[TrainingSet, str, torch.Tensor]:
    vae, clip = demo
    with torch.inference_mode():  # as the host runs nodes
        return DatasetFolder.execute(folder, vae, clip, **SMALL | settings).args


def test_a_folder_becomes_latents_and_conditioning_of_the_hosts_own_encoders(
    demo: tuple[Any, Any], input_dir: Path
) -> None:
    vae, clip = demo
    training_set, report, preview = _run(demo)
    assert report.startswith("10 pictures, 10 per epoch.") and "128 x 128 (10)" in report
    assert preview.shape[0] == 1 and preview.shape[-1] == 3
    for number, sample in enumerate(training_set.samples):
        picture = Image.open(input_dir / "shapes" / f"{number:02}.png").convert("RGB")
        pixels = torch.tensor(list(picture.tobytes())).reshape(128, 128, 3) / 255
        assert sample.caption == (input_dir / "shapes" / f"{number:02}.txt").read_text().strip()
        assert torch.allclose(sample.latent, vae.encode(pixels[None])[0], atol=1e-6)
        own = clip.encode_from_tokens_scheduled(clip.tokenize(sample.caption))
        assert torch.equal(sample.conditioning[0][0], own[0][0])
        assert sample.conditioning[0][1].keys() == own[0][1].keys()
        shown = training_set.decode(sample.latent[None])[0]
        assert float((shown - pixels).abs().mean()) < 0.02


def test_what_a_training_set_holds_can_be_used_by_autograd(demo: tuple[Any, Any], input_dir: Path) -> None:
    training_set, _, _ = _run(demo)
    sample = training_set.samples[0]
    again = training_set.encode_text("red circle on white")
    scale = torch.ones(1, requires_grad=True)
    for tensor in (sample.latent, sample.conditioning[0][0], again[0][0], training_set.decode(sample.latent[None])):
        assert tensor.device.type == "cpu" and not tensor.is_inference()
        (tensor * scale).sum().backward()


def test_the_second_run_encodes_nothing_and_a_changed_caption_only_itself(
    demo: tuple[Any, Any], input_dir: Path
) -> None:
    clip = demo[1]
    vae = _WithWeights(demo[0])
    first, report, _ = _run((vae, clip))
    captions = len({sample.caption for sample in first.samples})
    assert f"Encoded now: {10 + captions}; found from before: {10 - captions}." in report
    second, report, _ = _run((vae, clip))
    assert "Encoded now: 0;" in report
    assert all(torch.equal(a.latent, b.latent) for a, b in zip(first.samples, second.samples, strict=True))
    (input_dir / "shapes" / "03.txt").write_text("neon heart on cyan")
    _, report, _ = _run((vae, clip))
    assert "Encoded now: 1; found from before: 19." in report


def test_the_cache_on_disk_lies_in_the_output_folder_and_serves_the_next_start(
    demo: tuple[Any, Any], input_dir: Path
) -> None:
    vae = _WithWeights(demo[0])
    first, _, _ = _run((vae, demo[1]), cache="disk")
    files = list((input_dir.parent / "output" / "lora_loom_cache").iterdir())
    assert len(files) == 10 + len({sample.caption for sample in first.samples})
    CACHE.clear()
    second, report, _ = _run((vae, demo[1]), cache="disk")
    assert "Encoded now: 0;" in report
    for a, b in zip(first.samples, second.samples, strict=True):
        assert torch.equal(a.latent, b.latent) and torch.equal(a.conditioning[0][0], b.conditioning[0][0])


def test_other_weights_are_never_served_from_the_cache(demo: tuple[Any, Any], input_dir: Path) -> None:
    vae = _WithWeights(demo[0])
    _run((vae, demo[1]))
    vae.first_stage_model.weight.data += 1
    _, report, _ = _run((vae, demo[1]))
    captions = len({(input_dir / "shapes" / f"{n:02}.txt").read_text() for n in range(10)})
    assert "Encoded now: 10; found from before: 10." in report
    _, clip, _ = load_demo_model(ROOT / "demo")
    clip.clip_layer(-2)
    _, report, _ = _run((vae, clip))
    assert f"Encoded now: {captions};" in report


@pytest.mark.parametrize("mode", ["branch", "merge"])
def test_a_clip_that_a_lora_changes_is_asked_every_time_and_told(
    demo: tuple[Any, Any], input_dir: Path, loras_dir: Path, mode: str
) -> None:
    model, clip, vae = load_demo_model(ROOT / "demo")
    plain = _run((vae, clip))[0].samples[0]
    (loras_dir / "star.safetensors").write_bytes((ROOT / "demo/loras/demo_shape_star.safetensors").read_bytes())
    _, changed, _ = ApplyLora.execute(
        model=model, lora_name="star.safetensors", strength_model=1.0, strength_clip=1.0, on_unmatched="error",
        clip=clip, mode=mode,
    ).args  # fmt: skip
    for _ in range(2):
        training_set, report, _ = _run((vae, changed))
        assert "the CLIP is changed by other nodes" in report
        assert not torch.equal(training_set.samples[0].conditioning[0][0], plain.conditioning[0][0])
    after, report, _ = _run((vae, clip))
    assert "found from before: 10." in report  # the plain CLIP is known again, whatever was merged in between
    assert torch.equal(after.samples[0].conditioning[0][0], plain.conditioning[0][0])


def test_a_bad_picture_stops_the_run_or_is_left_out_when_asked(demo: tuple[Any, Any], input_dir: Path) -> None:
    (input_dir / "shapes" / "04.png").write_bytes(b"broken")
    with pytest.raises(BadPictures, match=r"shapes: 1 of 10 pictures can't be used: 04\.png"):
        _run(demo)
    training_set, report, _ = _run(demo, on_bad_picture="skip")
    assert len(training_set.samples) == 9 and "04.png" in report


@pytest.mark.parametrize("name", ["../shapes", "/etc", "C:/pictures", "a/../../b", "..\\x", "", "sha\0pes"])
def test_a_folder_outside_of_the_input_folder_is_refused(demo: tuple[Any, Any], input_dir: Path, name: str) -> None:
    (input_dir.parent / "shapes").mkdir()
    with pytest.raises(FileMissing, match="only folders in ComfyUI's input folder"):
        _run(demo, name)
    assert "only folders in ComfyUI's input folder" in str(DatasetFolder.validate_inputs(folder=name))


def test_a_missing_or_empty_folder_is_refused_before_the_run(demo: tuple[Any, Any], input_dir: Path) -> None:
    (input_dir / "empty").mkdir()
    assert "no such folder" in str(DatasetFolder.validate_inputs(folder="gone"))
    assert "holds no picture" in str(DatasetFolder.validate_inputs(folder="empty"))
    assert DatasetFolder.validate_inputs(folder="shapes") is True
    assert DatasetFolder.validate_inputs(folder=None) is True
    with pytest.raises(NoPictures):
        _run(demo, "empty")


def test_folders_that_hold_pictures_are_offered(input_dir: Path) -> None:
    (input_dir / "empty" / "deep").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(input_dir / "empty" / "deep" / "a.png")
    Image.new("RGB", (64, 64)).save(input_dir / "loose.png")
    folder = next(entry for entry in DatasetFolder.define_schema().inputs if entry.id == "folder")
    assert folder.options == ["empty/deep", "shapes"]


def test_the_node_runs_again_when_a_file_changed(input_dir: Path) -> None:
    before = DatasetFolder.fingerprint_inputs(folder="shapes", vae=None, clip=None)
    assert DatasetFolder.fingerprint_inputs(folder="shapes", vae=None, clip=None) == before
    (input_dir / "shapes" / "03.txt").write_text("a new caption, longer than before")
    assert DatasetFolder.fingerprint_inputs(folder="shapes", vae=None, clip=None) != before


def test_an_encoder_that_is_missing_is_told(demo: tuple[Any, Any], input_dir: Path) -> None:
    with pytest.raises(BadSetting, match="nothing came in at clip"):
        _run((demo[0], None))


def test_an_interrupt_ends_the_run_at_the_next_picture(demo: tuple[Any, Any], input_dir: Path) -> None:
    import comfy.model_management

    vae = _WithWeights(demo[0], after=3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        _run((vae, demo[1]))
    assert vae.encoded == 3
    _, report, _ = _run((vae, demo[1]))
    assert vae.encoded == 10  # those done before are kept
    assert report.startswith("10 pictures")


def test_pictures_and_captions_out_of_the_graph_become_a_training_set(demo: tuple[Any, Any]) -> None:
    vae, clip = demo
    pictures = random_pictures(3, torch.Generator().manual_seed(5))
    batch = draw(pictures, 128).movedim(1, -1)
    alone = torch.rand(1, 64, 128, 3)
    with torch.inference_mode():
        training_set, report, _ = Dataset.execute(
            [batch, alone], ["\n".join(picture.caption for picture in pictures) + "\nred star on blue"], [vae], [clip],
            ["striped"], [128], [8], [2], ["error"], ["memory"],
        ).args  # fmt: skip
    assert report.startswith("4 pictures, 8 per epoch.")
    assert training_set.samples[0].caption == f"striped, {pictures[0].caption}"
    assert training_set.samples[3].caption == "striped, red star on blue"
    assert [sample.size for sample in training_set.samples] == [(128, 128)] * 3 + [(64, 128)]
    for picture, sample in zip(batch, training_set.samples[:3], strict=True):
        assert torch.allclose(sample.latent, vae.encode(picture[None])[0], atol=1e-6)


def test_one_bad_picture_of_a_batch_is_named_by_its_number(demo: tuple[Any, Any]) -> None:
    batch = torch.rand(3, 64, 64, 3)
    batch[1] = float("nan")
    arguments = ([batch], ["a"], [demo[0]], [demo[1]], [""], [64], [8], [1])
    with pytest.raises(BadPictures, match=r"picture 2 \(it holds NaN"):
        Dataset.execute(*arguments, ["error"], ["memory"])
    training_set, _, _ = Dataset.execute(*arguments, ["skip"], ["memory"]).args
    assert [sample.name for sample in training_set.samples] == ["picture 1", "picture 3"]


@pytest.mark.parametrize("frames", [False, True], ids=["pictures", "video"])
def test_the_hosts_own_vaes_are_known_by_their_weights_and_give_latents_of_any_shape(
    demo: tuple[Any, Any], input_dir: Path, frames: bool
) -> None:
    vae = _small_vae(seed=1, frames=frames)
    training_set, report, _ = _run((vae, demo[1]))
    latent = training_set.samples[0].latent
    with torch.no_grad():
        assert latent.shape == vae.encode(torch.zeros(1, 128, 128, 3))[0].shape
    assert latent.ndim == (4 if frames else 3) and latent.shape[-2:] == (16, 16)
    assert training_set.decode(latent[None]).shape[-3:] == (128, 128, 3)
    assert training_set.decode(latent[None]).ndim == 4
    assert "encoded anew" not in report
    assert "Encoded now: 0;" in _run((_small_vae(seed=1, frames=frames), demo[1]))[1]
    assert "Encoded now: 10;" in _run((_small_vae(seed=2, frames=frames), demo[1]))[1]


def _small_vae(seed: int, frames: bool) -> Any:
    """A VAE of the host with random weights: TAESD for pictures, TAEHV for video."""
    import comfy.sd
    from comfy.taesd.taehv import TAEHV
    from comfy.taesd.taesd import TAESD

    module = TAEHV(latent_channels=16) if frames else TAESD()
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(weight.shape, generator=generator) * 0.02 for name, weight in module.state_dict().items()
    }
    return comfy.sd.VAE(sd=weights)


class _WithWeights:
    """The demo's VAE with a weight that tells it from others, and the host interrupted `after` that many pictures."""

    def __init__(self, vae: Any, after: int | None = None) -> None:
        from comfy.model_patcher import ModelPatcher

        cpu = torch.device("cpu")
        self._vae, self._after, self.encoded = vae, after, 0
        self.first_stage_model = torch.nn.Linear(2, 2)
        self.patcher = ModelPatcher(self.first_stage_model, load_device=cpu, offload_device=cpu)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        import comfy.model_management

        self.encoded += 1
        if self.encoded == self._after:
            comfy.model_management.interrupt_current_processing()
        return self._vae.encode(pixels)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return self._vae.decode(latents)

    def spacial_compression_encode(self) -> int:
        return self._vae.spacial_compression_encode()

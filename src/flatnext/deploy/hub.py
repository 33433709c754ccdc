"""A trained model on the Hugging Face Hub, by huggingface_hub's own mixin: `HubModel.from_pretrained("user/name")`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch

from flatnext import models
from flatnext.config import Config
from flatnext.data import Normalization
from flatnext.deploy.hub_network import TrainedNetwork
from flatnext.errors import InputError
from flatnext.models.weights import Origin, assign_weights, digest_weights, read_weights
from flatnext.versions import import_extra

if TYPE_CHECKING:
    from huggingface_hub import PyTorchModelHubMixin
else:
    PyTorchModelHubMixin = import_extra("huggingface_hub", "hub").PyTorchModelHubMixin

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
"""The files of a model on the Hub."""


class HubModel(
    TrainedNetwork,
    PyTorchModelHubMixin,
    library_name="flatnext",
    pipeline_tag="image-classification",
    tags=["image-classification", "pytorch"],
):
    """A trained network with the normalisation of its images: uint8 images in, logits out.

    `from_pretrained(FOLDER or "user/name")`, `save_pretrained(FOLDER)` and `push_to_hub("user/name")` are those of
    `huggingface_hub.PyTorchModelHubMixin`. The weights file is one of this package too: `flatnext predict` and the
    others take it.

    Args:
        run_config: the config of the run, as `Config.to_json` gives it. Its model is built, with new weights. (A name
            of `config` alone has a meaning of its own to the mixin.)
        classes: `classes[i]` is the name of logit i.
        mean: by which images are normalised, of pixels in [0, 1], a value a channel.
        std: the same.
        image_size: pixels a side of the images.
        conformal: is not used: the calibration lies with the weights. Models of before have it here as well.

    Example::

        model = HubModel.from_pretrained("user/name")
        logits = model(images)  # uint8, N x C x image_size x image_size
        print(model.classes[logits[0].argmax()])
    """

    def __init__(
        self,
        *,
        run_config: Mapping[str, Any],
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        conformal: Mapping[str, Any] | None = None,
    ) -> None:
        network = models.build(Config.from_json(dict(run_config)).model, len(classes), len(mean))
        super().__init__(network, Normalization(tuple(mean), tuple(std)), tuple(classes), image_size)
        self._loaded: tuple[str, dict[str, str]] | None = None  # the digest of its weights, and what was said of them
        self._card: str | None = None  # that it was loaded with

    def _save_pretrained(self, save_directory: Path) -> None:
        settings = self._hub_mixin_config
        assert isinstance(settings, dict)
        settings.pop("conformal", None)
        tensors = {name: value.contiguous() for name, value in self.network.state_dict().items()}
        if self._loaded and self._loaded[0] == digest_weights(tensors, {}):
            metadata = self._loaded[1]
            if self._card and not (save_directory / CARD).exists():  # else the mixin writes a general one
                (save_directory / CARD).write_text(self._card, encoding="utf-8")
        else:  # other weights: what was measured on those that were loaded is not of these
            metadata = {key: json.dumps(value) for key, value in settings.items()}
            metadata["config"] = metadata.pop("run_config")
        safetensors.torch.save_file(tensors, save_directory / WEIGHTS, metadata)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Any:
        model = super()._from_pretrained(model_id=model_id, **options)
        model._card = _card(model_id, options)
        return model

    @classmethod
    def _load_as_safetensor(cls, model: Any, model_file: str, map_location: str, strict: bool) -> Any:
        """Load weights under the network's own names; they always have to fit."""
        state, metadata = read_weights(model_file)
        assign_weights(model.network, state, model_file)
        model._loaded = digest_weights(model.network.state_dict(), {}), metadata
        return model.to(map_location).eval()


def _card(model_id: str, options: Mapping[str, Any]) -> str | None:
    """Return the card of a model in a folder or on the Hub; None where it has none, or that is not reached."""
    file = Path(model_id) / CARD
    if not Path(model_id).is_dir():
        names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        given = {name: options[name] for name in names if name in options}
        try:
            file = Path(import_extra("huggingface_hub", "hub").hf_hub_download(model_id, CARD, **given))
        except Exception:  # those of its HTTP library among them
            return None
    return file.read_text(encoding="utf-8") if file.is_file() else None


def settings_of(origin: Origin, image_size: int) -> dict[str, Any]:
    """Return the arguments of `HubModel` for a trained model: the content of its `config.json`."""
    return {
        "run_config": origin.config.to_json(),
        "classes": list(origin.classes),
        "mean": list(origin.normalization.mean),
        "std": list(origin.normalization.std),
        "image_size": image_size,
    }


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a folder that `flatnext export --to hub` has written to the Hub, and return its address.

    The token is that of `hf auth login` or of the variable HF_TOKEN. `InputError`: the Hub refuses it, or is not
    reached.
    """
    hub = import_extra("huggingface_hub", "hub")
    interface = hub.HfApi()
    try:
        address = interface.create_repo(repository, private=private, exist_ok=True)
        interface.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[CONFIG, WEIGHTS, CARD],
            commit_message=f"Upload of {folder.name} by flatnext",
        )
    except Exception as error:  # those of its HTTP library among them
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{repository} cannot be pushed ({reason}): the files are in {folder}; log in with hf auth login, or set "
            "HF_TOKEN"
        ) from error
    return str(address)

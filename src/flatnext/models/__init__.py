"""The networks, their tables of layers, their weights files, and their copies for inference."""

from flatnext.models.catalog import find_weights, format_shipped, shipped
from flatnext.models.factory import BLOCKS, build, create_model, list_models, parameter_count, restore
from flatnext.models.imagenet import table1
from flatnext.models.inference import for_inference, inference_copy
from flatnext.models.metadata import add_metadata
from flatnext.models.network import Network
from flatnext.models.resnext import ResNeXt, resnext29
from flatnext.models.summary import format_summary, summarize
from flatnext.models.weights import (
    Origin,
    digest_weights,
    input_channels,
    load_weights,
    origin_of,
    read_origin,
    read_weights,
    require_origin,
)

__all__ = [
    "BLOCKS",
    "Network",
    "Origin",
    "ResNeXt",
    "add_metadata",
    "build",
    "create_model",
    "digest_weights",
    "find_weights",
    "for_inference",
    "format_shipped",
    "format_summary",
    "inference_copy",
    "input_channels",
    "list_models",
    "load_weights",
    "origin_of",
    "parameter_count",
    "read_origin",
    "read_weights",
    "require_origin",
    "resnext29",
    "restore",
    "shipped",
    "summarize",
    "table1",
]

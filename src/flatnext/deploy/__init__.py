"""From a run to a model that others use: weights by name, and (in `pack`) making them from a run, with a model card."""

from flatnext.deploy.pretrained import PretrainedInfo, from_pretrained, pretrained_info

__all__ = ["PretrainedInfo", "from_pretrained", "pretrained_info"]

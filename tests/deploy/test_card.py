"""The model card of packed weights."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from calibration_oracle import oracle
from packed import NAME, example, figures

import flatnext
from flatnext import models
from flatnext.deploy import card as card_module
from flatnext.deploy import pack as pack_module
from flatnext.evaluation import load_predictor
from flatnext.runs.records import StartingWeights


def test_the_cards_figures_are_those_of_an_evaluation(packed, folder):
    card = (folder / f"{NAME}.md").read_text()
    found, scores = figures(card), flatnext.evaluate("resnext11-digits")
    digits, info = flatnext.load_data("digits"), flatnext.pretrained_info(NAME)
    logits = load_predictor(NAME, device="cpu", overrides={"precision": "fp32"})(digits.test.images)
    nll, brier, ece = oracle(logits.numpy(), digits.test.labels.numpy(), 15)
    assert found["accuracy"] == scores["accuracy"] == info.accuracy
    assert found == pytest.approx({"accuracy": scores["accuracy"], "nll": nll, "brier_score": brier, "ece": ece})
    assert scores["count"] == info.count == 360
    entry = models.shipped()["resnext11-digits"][0]
    assert entry == packed.entry
    assert (entry.first_count, entry.first_correct) == (360, round(entry.accuracy * 360))
    assert entry.bytes == (folder / entry.file).stat().st_size
    assert f"{scores['accuracy']:.2%}".rstrip("%") + " % of 360 test images" in card


def test_the_card_says_where_the_weights_come_from(run, folder):
    card = (folder / f"{NAME}.md").read_text()
    head = card.split("---\n")[1]
    assert card.startswith("---\n")
    for line in ('license: "cc0-1.0"', "pipeline_tag: image-classification", "model-index:", f'- name: "{NAME}"'):
        assert line in head.splitlines()
    assert json.loads(re.search(r"```json\n(.*?)```", card, re.DOTALL)[1]) == json.loads(
        (run / "config.json").read_text()
    )
    for fact in (
        "100 trained on, 40 held out",
        "seed 0",
        r"`flatnext train \| tee log`",
        "CC BY 4.0",
        "It is not for:",
    ):
        assert fact in card
    architecture = re.search(r"\*\*Architecture\*\*: (.*)", card)[1].split("; ")
    assert {"3,698 parameters", "blocks 1, 1", "cardinality 2", "bottleneck_width 4", "stem 8"} <= {*architecture}
    assert "after epoch 8, an average" in card
    assert "{{" not in card
    assert "\n\n\n" not in card
    exec(example(card), {})


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "digits", "folder"])
def test_a_card_can_be_written_for_each_data_set(dataset, packed, run):
    record = pack_module._finished(run)
    object.__setattr__(record.config.data, "dataset", dataset)
    origin = models.read_origin(models.read_weights(packed.files[0])[1], packed.files[0])
    card = card_module.model_card(record, "last", origin, packed.entry, packed.measured, NAME)
    assert card_module.NOTES[dataset].limits[0] in card
    assert "]()" not in card


NAMES = ("<script>alert(1)</script>", "a|b", "*bold* [link](javascript:0)", "`tick` ``two``", "# \x1b[2J\n---", "ä é")


def test_texts_of_users_are_shown_as_they_are(packed, run):
    record = pack_module._finished(run)
    session = dataclasses.replace(record.environment.sessions[0], command="train `x` | tee", device_name="<b>|")
    start = StartingWeights(weights="my|`w`", sha256="ab" * 32, taken="stem <b>")
    environment = dataclasses.replace(record.environment, sessions=(session,), started_from=start)
    record = dataclasses.replace(record, environment=environment)
    origin = models.read_origin(models.read_weights(packed.files[0])[1], packed.files[0])
    conformal = dataclasses.replace(origin.conformal, source="images of <img src=x>")
    origin = dataclasses.replace(origin, classes=(*NAMES, *origin.classes[len(NAMES) :]), conformal=conformal)
    card = card_module.model_card(record, "last", origin, packed.entry, packed.measured, 'we"ird\\path')
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in card
    assert r"a\|b" in card
    assert r"\*bold\* \[link\](javascript:0)" in card
    assert "<script>" not in card
    assert "<b>" not in card
    assert "<img" not in card
    assert "\x1b" not in card
    assert "ä é" in card
    assert r"`` train `x` \| tee ``" in card
    assert r"- **Started from**: `` my\|`w` `` (SHA-256 " + "ab" * 32 + "); stem &lt;b&gt;" in card
    classes = card.split("| class | accuracy | images |")[1].strip().splitlines()[1:]
    assert len(classes) == len(origin.classes)
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 4 for row in classes)
    assert r'from_pretrained("we\"ird\\path")' in card

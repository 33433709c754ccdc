"""Exports prove themselves, or are not left on disk."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from packed import one_line
from PIL import Image

import flatnext
from flatnext.cli import main
from flatnext.data import Split
from flatnext.deploy import export_forms
from flatnext.deploy.export import export
from flatnext.deploy.export_forms import MANIFEST
from flatnext.deploy.export_int8 import quantized
from flatnext.deploy.export_proof import Proof, golden_images, prove, require_accurate, require_faithful
from flatnext.deploy.manifest import read_manifest
from flatnext.deploy.onnx_model import OnnxModel
from flatnext.errors import InputError
from flatnext.evaluation.conformal import first_half
from flatnext.models import add_metadata


@pytest.fixture(scope="module")
def digits():
    return flatnext.load_data("digits").test


@pytest.fixture(scope="module")
def trained_logits(run, digits):
    return flatnext.load_predictor(run)(digits.images).numpy()


@pytest.fixture(scope="module")
def onnx_file(run, tmp_path_factory):
    return export(run, "onnx", tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_the_file_answers_as_the_run_does(run, onnx_file, digits, trained_logits):
    model = OnnxModel(onnx_file.path)
    np.testing.assert_allclose(model.predict(digits.images.numpy()).logits, trained_logits, atol=1e-5)
    assert model.check_golden() == 0
    manifest = model.manifest
    assert manifest == onnx_file.manifest
    assert (manifest.name, manifest.image_size, manifest.channels, manifest.quantized) == ("tiny", 8, 3, False)
    origin = flatnext.pretrained_info(run)
    assert (manifest.classes, manifest.conformal) == (origin.classes, origin.conformal)
    assert manifest.temperature == origin.conformal.temperature != 1
    labels = {image.logits for image in manifest.golden}
    assert len(labels) == len(manifest.golden) == 3
    proof = onnx_file.proof
    assert proof.images == proof.agreement == len(digits)
    assert proof.before == proof.after == pytest.approx(flatnext.evaluate(run)["accuracy"])
    assert "# tiny" in manifest.card
    assert "largest difference" in manifest.card


def test_a_classifier_answers_from_the_file(run, onnx_file, digits):
    pixels = digits.images[:5].permute(0, 2, 3, 1).numpy()
    wanted, answers = flatnext.load(run).predict(pixels), flatnext.load(onnx_file.path).predict(pixels)
    assert [answer.label for answer in answers] == [answer.label for answer in wanted]
    probabilities = [[answer.probability for answer in each] for each in (answers, wanted)]
    np.testing.assert_allclose(*probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "file"), [("../../escaped", "escaped.onnx"), ("/etc/x y", "etc-x-y.onnx"), ("..", "model.onnx")]
)
def test_a_name_in_the_weights_leads_to_no_other_folder(run, tmp_path, monkeypatch, name, file):
    add_metadata(run / "last.safetensors", {"name": name}, tmp_path / "of-others.safetensors")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    made = export(tmp_path / "of-others.safetensors", "onnx")
    assert made.path.resolve() == tmp_path / "here" / file
    assert made.manifest.name == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "of-others.safetensors"]


@pytest.mark.parametrize("count", [1, 5])
def test_eight_bits_need_images_to_calibrate_by(run, tmp_path, digits, count):
    images = digits.images[:count].permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "few.npz", images=images, labels=digits.labels[:count].numpy())
    with pytest.raises(InputError, match=r"few.npz has \d images?: give at least 6, as half of them calibrate"):
        export(run, "onnx-int8", tmp_path / "m.onnx", test_set=tmp_path / "few.npz")


def broken(source, calibration):
    """Return an export with one weight changed."""
    form = export_forms.Onnx(source, calibration)
    network = source.network()
    with torch.no_grad():
        network.net.linear.bias[0] += 0.01
    form.logits = lambda images: network(torch.from_numpy(images))[0].detach().numpy()
    return form


def test_a_wrong_export_is_refused_and_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setitem(export_forms.FORMS, "onnx", broken)
    target = tmp_path / "new" / "model.onnx"
    with pytest.raises(
        InputError, match=r"is refused: on 360 test images of digits a logit differs by 0\.01"
    ) as caught:
        export(run, "onnx", target)
    assert one_line(caught)
    assert not list(tmp_path.iterdir())


def test_what_exists_is_kept(run, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    path.write_text("mine")
    with pytest.raises(InputError, match="--overwrite"):
        export(run, "onnx", path)
    assert path.read_text() == "mine"
    assert main(["export", str(run), "--to", "onnx", "--output", str(path), "--overwrite"]) == 0
    assert "the same class for 360 of 360" in capsys.readouterr().out
    assert OnnxModel(path).check_golden() == 0


def test_a_run_is_no_place_for_a_folder_of_the_hub(run):
    before = (run / "config.json").read_bytes()
    with pytest.raises(InputError, match=r"is a run, whose config\.json would be replaced: give another --output"):
        export(run, "hub", run, overwrite=True)
    assert (run / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"to": "coreml"}, "choose one of onnx"),
        ({"to": "onnx", "output": "model.bin"}, "ends in .onnx"),
        ({"to": "onnx", "max_loss": 1.0}, "for onnx-int8 alone"),
        ({"to": "onnx", "images": 0}, "give at least 1"),
        ({"to": "onnx", "images": 2}, "give at least 3"),
        ({"to": "hub", "output": "file.txt"}, "no folder"),
        ({"to": "onnx", "test_set": "nowhere"}, "does not exist"),
    ],
)
def test_bad_input_is_one_line(run, settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(InputError, match=message) as caught:
        export(run, **settings)
    assert one_line(caught)
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_weights_that_say_nothing_are_refused(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "plain.pt")
    with pytest.raises(InputError, match="does not say its classes"):
        export(tmp_path / "plain.pt", "onnx")


def test_other_images_prove_it_and_calibrate_it(run, digits, tmp_path):
    for index in range(40):
        folder = tmp_path / "set" / str(int(digits.labels[index]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[index].permute(1, 2, 0).numpy()).save(folder / f"{index}.png")
    proof = export(run, "onnx", tmp_path / "a.onnx", test_set=tmp_path / "set").proof
    assert (proof.images, proof.agreement, proof.source) == (40, 40, "images of set")
    proof = export(run, "onnx-int8", tmp_path / "b.onnx", test_set=tmp_path / "set", max_loss=100.0).proof
    assert proof.images == 20
    assert OnnxModel(tmp_path / "b.onnx").check_golden() == 0


def test_eight_bits_answer_about_the_same(run, digits, trained_logits, tmp_path):
    exported = export(run, "onnx-int8", tmp_path / "model.onnx", max_loss=5.0)
    model = OnnxModel(exported.path)
    assert model.manifest.quantized
    logits = model.predict(digits.images.numpy()).logits
    error, spread = np.abs(logits - trained_logits).mean(), trained_logits.std()
    assert 0 < error < 0.1 * spread
    powers = np.exp(logits.astype(np.float64) / model.manifest.temperature)
    answered = (powers[np.arange(len(logits)), digits.labels] / powers.sum(axis=1))[~first_half(digits).numpy()]
    conformal = model.manifest.conformal  # of the half that can have fitted no temperature
    words = f"{len(answered)} of the {len(digits)} test images of digits, answered in eight bits"
    assert (conformal.images, conformal.source) == (len(answered), words)
    np.testing.assert_allclose(conformal.scores, np.sort(1 - answered), atol=2e-3)
    kinds = [node.op_type for node in exported_graph(exported.path).graph.node]
    assert kinds.count("QuantizeLinear") > 4
    with pytest.raises(InputError, match=r"points less: export it in float32 .*--max-loss, now -100\)"):
        export(run, "onnx-int8", tmp_path / "other.onnx", max_loss=-100.0)
    assert not (tmp_path / "other.onnx").exists()


def exported_graph(path):
    import onnx

    return onnx.load(path)


def test_quantized_weights_are_the_weights_to_half_a_step(onnx_file, digits):
    from onnx import numpy_helper

    graph = exported_graph(onnx_file.path)
    eight = quantized(graph, digits.images[:20].numpy())
    plain, whole = (
        {each.name: numpy_helper.to_array(each) for each in model.graph.initializer} for model in (graph, eight)
    )
    names = [name.removesuffix(".weight.q") for name in whole if name.endswith(".weight.q")]
    assert len(names) == 8  # three and a shortcut in each of two blocks
    for name in names:
        scale = whole[f"{name}.weight.scale"]
        error = np.abs(whole[f"{name}.weight.q"] * scale[:, None, None, None] - plain[f"{name}.weight"])
        assert (error <= 0.5001 * scale[:, None, None, None]).all()
        assert whole[f"{name}.weight.q"].dtype == np.int8
        assert whole[f"{name}.bias.q"].dtype == np.int32


def test_a_channel_with_weights_near_zero_keeps_its_bias_in_eight_bits(onnx_file, digits):
    from onnx import numpy_helper

    graph = exported_graph(onnx_file.path)
    constants = {each.name: each for each in graph.graph.initializer}
    _, node, *_ = (node for node in graph.graph.node if node.op_type == "Conv")  # the first stays as it is
    name, other = node.input[1:]
    weight, bias = (numpy_helper.to_array(constants[each]).copy() for each in (name, other))
    weight[0], bias[0] = 1e-9 * weight[0], 2.0
    constants[name].CopyFrom(numpy_helper.from_array(weight, name))
    constants[other].CopyFrom(numpy_helper.from_array(bias, other))
    whole = {
        each.name: numpy_helper.to_array(each)
        for each in quantized(graph, digits.images[:20].numpy()).graph.initializer
    }
    kept = whole[f"{other}.q"].astype(np.float64) * whole[f"{other}.scale"]
    assert abs(kept[0] - 2.0) < 1e-3


def test_the_file_of_torch_export(run, digits, trained_logits, tmp_path):
    exported = export(run, "torch-export", tmp_path / "model.pt2", images=30)
    files = {MANIFEST: ""}
    module = torch.export.load(exported.path, extra_files=files).module()
    assert read_manifest(files[MANIFEST], "file") == exported.manifest
    for count in (1, 2, 9):
        logits, probabilities, activation = module(digits.images[:count])
        np.testing.assert_allclose(logits.detach().numpy(), trained_logits[:count], atol=1e-5)
        assert probabilities.sum().item() == pytest.approx(count)
        assert activation.shape == (count, 4, 4)


# The proof itself


def logits_of(change):
    rng = np.random.default_rng(0)
    trained = rng.normal(size=(50, 4)).astype(np.float32)
    changed = trained.copy()
    change(changed)
    return prove(trained, changed, trained.argmax(1), "made images")


def test_a_proof_counts_what_changed():
    def swap(logits):
        logits[3] = logits[3][::-1]

    proof = logits_of(swap)
    assert (proof.images, proof.agreement, proof.changed) == (50, 49, 1)
    assert proof.loss == pytest.approx(2)
    with pytest.raises(InputError, match="1 get another class"):
        require_faithful(proof, "it")
    with pytest.raises(InputError, match="instead of"):
        require_accurate(proof, 1.9, "it")
    require_accurate(proof, 2.1, "it")
    require_faithful(logits_of(lambda logits: None), "it")


@pytest.mark.parametrize(
    ("images", "wrong", "words"),
    [
        (45, 1, r"2.22 points less: with so few, one image is 2.2 points: prove it on 334 or more .*--max-loss 2.23"),
        (45, 2, r"4.44 points less: with so few, one image is 2.2 points: prove it on 334 or more .*--max-loss 4.45"),
        (1000, 4, r"0.40 points less: export it in float32 \(--to onnx\), or allow more \(--max-loss, now 0.3\)"),
    ],
)
def test_few_images_refuse_eight_bits_with_a_way_out(images, wrong, words):
    settings = {"source": "test images of folder", "images": images, "difference": 0.1, "agreement": 0, "changed": 0}
    proof = Proof(**settings, before=0.9, after=0.9 - wrong / images)
    with pytest.raises(InputError, match=words) as caught:
        require_accurate(proof, 0.3, "it")
    if found := re.search(r"--max-loss (\S+)\)", str(caught.value)):
        require_accurate(proof, float(found[1]), "it")  # what is advised does it


@pytest.mark.parametrize(("images", "lost", "limit"), [(2000, 6, 0.3), (1000, 3, 0.3), (1000, 7, 0.7)])
def test_exactly_the_loss_that_is_allowed_is_allowed(images, lost, limit):
    for right in range(lost, images + 1, images // 50):
        proof = Proof(
            **{"source": "images", "images": images, "difference": 0.1, "agreement": images, "changed": 0},
            before=right / images,
            after=(right - lost) / images,
        )
        require_accurate(proof, limit, "model.onnx")
        with pytest.raises(InputError, match=r"is refused"):
            require_accurate(replace(proof, after=(right - lost - 1) / images), limit, "model.onnx")


def test_the_card_of_a_proof_on_other_images_is_not_that_of_the_data_set(run, digits, tmp_path):
    np.savez(tmp_path / "mine.npz", images=digits.images[:40].permute(0, 2, 3, 1).numpy(), labels=digits.labels[:40])
    card = export(run, "onnx", tmp_path / "a.onnx", test_set=tmp_path / "mine.npz").manifest.card
    assert "model-index" not in card
    assert "model-index" in export(run, "onnx", tmp_path / "b.onnx", images=20).manifest.card


def test_outputs_that_are_not_finite_are_refused():
    def spoil(logits):
        logits[7, 1] = np.nan

    proof = logits_of(spoil)
    for require in (lambda: require_faithful(proof, "it"), lambda: require_accurate(proof, 100, "it")):
        with pytest.raises(InputError, match="is refused"):
            require()


def test_a_tie_may_be_won_by_either():
    trained = np.array([[1.0, 1.00005, 0]] * 3, np.float32)
    images = Split(torch.zeros(3, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2]))
    proof = prove(trained, trained[:, [1, 0, 2]], np.arange(3), "ties")
    assert (proof.agreement, proof.changed) == (0, 0)
    golden = golden_images(lambda pixels: trained[: len(pixels)], images)
    assert json.dumps([image.logits for image in golden]) == json.dumps(trained.astype(float).tolist())

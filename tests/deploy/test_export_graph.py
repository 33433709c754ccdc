"""The graph of an export, beside the trained network, torch's resizing and Grad-CAM."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from exported import SMALL, exported, manifest_of, normalization, trained, written

from flatnext.config import MODELS
from flatnext.deploy.export_int8 import quantized
from flatnext.deploy.onnx_model import session
from flatnext.evaluation import Predictor
from flatnext.evaluation.saliency import grad_cam


def images_of(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("name", SMALL)
def test_every_kind_of_block_answers_as_the_trained_network(name, tmp_path):
    model, manifest = trained(SMALL[name]), manifest_of(temperature=1.7)
    network, graph = exported(model, manifest)
    onnx_file = written(graph, manifest, tmp_path / "model.onnx")
    images = images_of(5, 3, 8, 8)
    with torch.no_grad():
        wanted = model(normalization()(images))
        own = network(images)
    for logits, probabilities, activation in (onnx_file.predict(images.numpy()), [value.numpy() for value in own]):
        np.testing.assert_allclose(logits, wanted.numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(probabilities, (wanted / 1.7).softmax(1).numpy(), rtol=1e-5, atol=1e-6)
        assert activation.shape == (5, 4, 4)
        assert activation.min() >= 0
        largest = activation.max(axis=(1, 2))
        np.testing.assert_allclose(largest[largest > 0], 1, rtol=1e-5)  # a map may be zero everywhere
        assert largest.any()
    single = [onnx_file.predict(images[index : index + 1].numpy()).logits for index in range(5)]
    np.testing.assert_allclose(np.concatenate(single), wanted.numpy(), rtol=1e-5, atol=1e-5)
    assert [values.shape for values in onnx_file.predict(images[:0].numpy())] == [(0, 4), (0, 4), (0, 4, 4)]


@pytest.mark.parametrize("name", SMALL)
def test_every_kind_of_block_answers_about_the_same_in_eight_bits(name, tmp_path):
    model, manifest = trained(SMALL[name]), manifest_of()
    images = images_of(64, 3, 8, 8)
    graph = quantized(exported(model, manifest)[1], images.numpy())
    assert [node.op_type for node in graph.graph.node].count("QuantizeLinear") >= 4
    with torch.no_grad():
        wanted = model(normalization()(images)).numpy()
    logits = written(graph, manifest, tmp_path / "model.onnx").predict(images.numpy()).logits
    assert 0 < np.abs(logits - wanted).mean() < 0.1 * wanted.std()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_named_model_answers_as_the_trained_network(name, tmp_path):
    model, manifest = trained(MODELS[name]), manifest_of(size=32)
    network, graph = exported(model, manifest)
    onnx_file = written(graph, manifest, tmp_path / "model.onnx")
    images = images_of(8, 3, 32, 32)
    with torch.no_grad():
        wanted, own = model(normalization()(images)).numpy(), network(images)[0].numpy()
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(own, wanted, atol=1e-5 * scale)
    np.testing.assert_allclose(onnx_file.predict(images.numpy()).logits, wanted, atol=1e-5 * scale)
    program = torch.export.export(network, (images[:2],), dynamic_shapes={"images": {0: torch.export.Dim("N", min=1)}})
    np.testing.assert_allclose(program.module()(images)[0].detach().numpy(), wanted, atol=1e-5 * scale)


def pixels_of(graph):
    """Return the function that a graph applies to images before it normalises them."""
    graph = onnx.ModelProto.FromString(graph.SerializeToString())
    (clip,) = [node for node in graph.graph.node if node.op_type == "Clip"]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(clip.output[0], onnx.TensorProto.FLOAT, None))
    running = session(graph.SerializeToString(), "the graph")
    return lambda images: running.run([clip.output[0]], {"images": images.numpy()})[0]


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_an_image_of_the_right_size_keeps_every_bit(resize):
    manifest = manifest_of(size=16, channels=1, resize=resize)
    _, graph = exported(trained(SMALL["basic"], channels=1), manifest)
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(3, 1, 1, 1)
    np.testing.assert_array_equal(pixels_of(graph)(images), images.numpy().astype(np.float32))


@pytest.mark.parametrize("shape", [(20, 13), (13, 20), (8, 30), (5, 6), (16, 16), (1, 1), (64, 48)])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_other_sizes_are_resized_as_torch_does_it(resize, shape):
    manifest = manifest_of(resize=resize)
    network, graph = exported(trained(SMALL["dense"]), manifest)
    images = images_of(2, 3, *shape)
    square = images.float()
    height, width = shape
    if resize == "crop":
        side, top, left = min(shape), (height - min(shape)) // 2, (width - min(shape)) // 2
        square = square[:, :, top : top + side, left : left + side]
    elif resize == "pad":
        side = max(shape)
        square = torch.zeros(2, 3, side, side)
        top, left = (side - height) // 2, (side - width) // 2
        square[:, :, top : top + height, left : left + width] = images
    wanted = F.interpolate(square, size=(8, 8), mode="bilinear", antialias=True).numpy()
    for pixels in (pixels_of(graph)(images), network.resized(images.float()).numpy()):
        assert np.abs(pixels - wanted).max() <= 0.5 + 1e-3  # rounded to whole numbers
        np.testing.assert_array_equal(pixels, np.round(pixels))


@pytest.mark.parametrize("name", ["resnext", "basic", "sk", "pyramid"])
def test_the_activation_map_is_grad_cam(name, tmp_path):
    model, manifest = trained(SMALL[name]), manifest_of()
    onnx_file = written(exported(model, manifest)[1], manifest, tmp_path / "model.onnx")
    images = images_of(4, 3, 8, 8, seed=1)
    answer = onnx_file.predict(images.numpy())
    predictor = Predictor(
        model=model, classes=manifest.classes, normalization=normalization(), device=torch.device("cpu")
    )
    wanted = grad_cam(predictor, images, torch.from_numpy(answer.logits.argmax(1)))
    heat = F.interpolate(torch.from_numpy(answer.activation)[:, None], size=(8, 8), mode="bilinear")[:, 0]
    largest = heat.amax((1, 2), keepdim=True)
    np.testing.assert_allclose((heat / largest.clamp(min=1e-30)).numpy(), wanted.numpy(), atol=1e-4)


def test_grey_images(tmp_path):
    model, manifest = trained(SMALL["resnext"], channels=1), manifest_of(channels=1)
    onnx_file = written(exported(model, manifest)[1], manifest, tmp_path / "model.onnx")
    images = images_of(3, 1, 8, 8)
    with torch.no_grad():
        wanted = model(normalization(1)(images)).numpy()
    np.testing.assert_allclose(onnx_file.predict(images.numpy()).logits, wanted, rtol=1e-5, atol=1e-5)


def test_one_file_of_a_stated_opset_without_batch_norm():
    _, graph = exported(trained(SMALL["resnext"]), manifest_of())
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 18)]
    assert not {node.op_type for node in graph.graph.node} & {"BatchNormalization"}
    assert all(constant.data_location == onnx.TensorProto.DEFAULT for constant in graph.graph.initializer)

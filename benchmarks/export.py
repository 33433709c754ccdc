"""Agreement and speed of inference by torch, ONNX Runtime and (where installed) OpenVINO, on CIFAR-10's test images.

python benchmarks/export.py --data-dir .data > export.md
"""

import argparse
import importlib.util
import sys
import time
from functools import partial

import numpy as np
import torch

from flatnext import data, models
from flatnext.deploy import export_graph
from flatnext.deploy.export_int8 import quantized
from flatnext.deploy.export_proof import evenly, in_batches
from flatnext.deploy.export_source import read_source
from flatnext.deploy.onnx_model import INPUT, session
from flatnext.errors import InputError

BATCH = 50


def main():
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", default="resnext29-cifar10-cpu")
    parser.add_argument("--data-dir", default=".data")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--calibration", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = read_source(options.weights)
    dataset = data.load("cifar10", options.data_dir, download=False)
    run = contenders(source, evenly(dataset.train, options.calibration).images.contiguous().numpy())
    test = dataset.test.images[: options.images]
    seconds = timed(run, test.contiguous().numpy(), options.rounds)
    print("| form | images per CPU second | times ONNX | accuracy | same class | largest difference |")
    print("|---|---|---|---|---|---|")
    labels, trained = dataset.test.labels[: options.images].numpy(), in_batches(source.logits, test)
    for name, logits in run.items():
        answers = in_batches(logits, test)
        same = (answers.argmax(1) == trained.argmax(1)).sum()
        speed, ratio = BATCH / np.median(seconds[name]), np.median(seconds["onnx"] / seconds[name])
        print(
            f"| {name} | {speed:.1f} | {ratio:.2f} | {(answers.argmax(1) == labels).mean():.2%} | {same} | "
            f"{np.abs(answers - trained).max():.2g} |",
            flush=True,
        )


def contenders(source, calibration):
    """Return, by name, functions from uint8 images to logits."""
    network, manifest = source.network(), source.manifest()
    wide = export_graph.onnx_model(network, manifest)
    export_graph.GROUP_WIDTH, before = 1, export_graph.GROUP_WIDTH
    narrow = export_graph.onnx_model(network, manifest)
    export_graph.GROUP_WIDTH = before
    graphs = {
        "onnx": wide,
        "onnx-int8": quantized(wide, calibration),
        "onnx, groups as they are": narrow,
        "onnx-int8, groups as they are": quantized(narrow, calibration),
    }
    sessions = {name: session(graph.SerializeToString(), name, threads=1) for name, graph in graphs.items()}
    run = {"torch": source.logits}
    for precision in ("fp32", "bf16"):
        run[f"torch, for_inference {precision}"] = partial(
            answered, models.for_inference(source.model, precision), source
        )
    images = source.origin.normalization(torch.from_numpy(calibration))
    try:
        run["torch, for_inference int8"] = partial(
            answered, models.for_inference(source.model, "int8", calibration=images), source
        )
    except InputError as error:  # a CPU without int8 dot products
        print(f"left out: {error}", file=sys.stderr)
    for name, s in sessions.items():
        run[name] = lambda images, s=s: s.run(["logits"], {INPUT: images})[0]
    if importlib.util.find_spec("openvino"):
        for name in ("onnx", "onnx-int8"):
            run[f"openvino, {name}"] = openvino_model(graphs[name])
    return run


def answered(network, source, images):
    """Return the logits of a network for inference."""
    with torch.inference_mode():
        return network(source.origin.normalization(torch.from_numpy(images))).numpy()


def openvino_model(graph):
    """Return the function of a graph in OpenVINO, with one thread."""
    import openvino

    core = openvino.Core()
    model = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", {"INFERENCE_NUM_THREADS": 1})
    return lambda images: model({INPUT: images})["logits"]


def timed(run, images, rounds):
    """Return the CPU seconds of each contender in each round, in turns on the same batches."""
    seconds = {name: [] for name in run}
    for number in range(rounds + 1):
        start = number * BATCH % (len(images) - BATCH + 1)
        for name, logits in run.items():
            begin = time.process_time()
            logits(images[start : start + BATCH])
            if number:  # the first warms up
                seconds[name].append(time.process_time() - begin)
    return {name: np.array(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()

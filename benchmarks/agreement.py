"""Do all forms of a model answer alike? The trained network, its exports, the service and its page, on the same files.

    python benchmarks/agreement.py resnext29-cifar10-cpu model.onnx model-int8.onnx --images 1000

The model's test images are written as PNG files, which each form reads as its users' pictures. For each form it prints
how many files get the class that `flatnext.load` gives, the largest difference of a probability, and the accuracy. The
page runs in a headless Chromium; the first `--page N` files go through it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import flatnext
from flatnext.evaluation import load_trained_model

CHROMIUM = "/usr/bin/chromium"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("weights")
    parser.add_argument("onnx", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--page", type=int, default=1000)
    parser.add_argument("--data-dir", type=Path, default=Path(".data"))
    options = parser.parse_args()
    trained = load_trained_model(options.weights, data_dir=options.data_dir, overrides={"precision": "fp32"})
    test = trained.split("test")
    chosen = np.linspace(0, len(test) - 1, options.images).round().astype(int)
    labels = [trained.predictor.classes[test.labels[index]] for index in chosen]
    with tempfile.TemporaryDirectory() as name:
        files = []
        for index in chosen:
            files.append(Path(name) / f"{index}.png")
            Image.fromarray(test.images[int(index)].permute(1, 2, 0).numpy()).save(files[-1])
        reference = in_python(options.weights, files)
        forms = {
            "torch, `flatnext.load`": reference,
            "torch, `flatnext predict`": predict(options.weights, files),
            "ONNX, `flatnext predict`": predict(str(options.onnx), files),
            "ONNX int8, `flatnext predict`": predict(str(options.int8), files),
            "the service (ONNX)": service(options.onnx, files),
            "its page in Chromium (ONNX)": page(options.onnx, files[: options.page]),
        }
    print("| form | images | same class | largest difference of a probability | accuracy |\n|---|---|---|---|---|")
    for form, answers in forms.items():
        same = sum(label == other for (label, _), (other, _) in zip(answers, reference, strict=False))
        largest = max(abs(p - q) for (_, p), (_, q) in zip(answers, reference, strict=False))
        right = sum(label == truth for (label, _), truth in zip(answers, labels, strict=False))
        n = len(answers)
        print(f"| {form} | {n:,} | {same:,} of {n:,} | {largest:.1g} | {right / n:.1%} |")


Answers = list[tuple[str, float]]


def in_python(model: str, files: list[Path]) -> Answers:
    """Answer by `flatnext.load`."""
    return [(answer.label, answer.probability) for answer in flatnext.load(model).predict(files)]


def predict(model: str, files: list[Path]) -> Answers:
    """Answer by the command `flatnext predict`."""
    command = [sys.executable, "-m", "flatnext", "predict", model, "-", "--format", "jsonl"]
    output = subprocess.run(
        command, input="\n".join(map(str, files)), capture_output=True, text=True, check=True
    ).stdout
    return [(answer["label"], answer["probability"]) for answer in map(json.loads, output.splitlines())]


class Service:
    """`flatnext serve` in a process of its own."""

    def __init__(self, model: Path) -> None:
        command = [sys.executable, "-m", "flatnext", "serve", str(model), "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> str:
        assert self.process.stdout is not None
        return re.search(r"http://\S+", self.process.stdout.readline()).group()

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.communicate()


def service(model: Path, files: list[Path]) -> Answers:
    """Answer by requests of 50 files to the service."""
    import httpx

    answers = []
    with Service(model) as url:
        for start in range(0, len(files), 50):
            form = [("image", (file.name, file.read_bytes(), "image/png")) for file in files[start : start + 50]]
            content = httpx.post(f"{url}/predict", files=form, timeout=60).raise_for_status().json()
            answers += [(image["label"], image["probability"]) for image in content["images"]]
    return answers


def page(model: Path, files: list[Path]) -> Answers:
    """Answer by the service's page, whose probabilities are rounded to 0.001."""
    from playwright.sync_api import sync_playwright

    answers = []
    with Service(model) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(url)
        for file in files:
            with tab.expect_response("**/predict*"):
                tab.set_input_files("#file", file)
            tab.wait_for_selector("#result[aria-busy=false]")
            probability = re.search(r"[\d.]+", tab.inner_text("#sentence"))
            answers.append((tab.inner_text("#label"), float(probability.group()) / 100 if probability else np.nan))
        browser.close()
    return answers


if __name__ == "__main__":
    main()

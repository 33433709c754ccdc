import asyncio
import base64
import json
import sys

import numpy as np
import pytest
from asking import ask
from served import CLASSES, SIZE, colour, conformal, encoded, logits, write_model

from flatnext import deploy
from flatnext.deploy.onnx_model import OnnxModel
from flatnext.errors import InputError
from flatnext.serve import app as application
from flatnext.serve.service import Service
from flatnext.serve.settings import ServeSettings

RED = encoded(colour(255, 30, 30))
GREEN = encoded(colour(0, 200, 0))
GREY = encoded(colour(128, 128, 128))


def raw(content, kind="image/png", **headers):
    return {"content": content, "headers": {"Content-Type": kind, **headers}}


def form(*contents):
    return {"files": [(f"field {i}", (f"{i}.png", content, "image/png")) for i, content in enumerate(contents)]}


def expected(image):
    scores = logits(np.asarray(image.convert("RGB")).transpose(2, 0, 1)[None])[0]
    return np.exp(scores) / np.exp(scores).sum()


def refusal(response):
    """Return the status and the line of a response that is an error."""
    (detail,) = response.json().values()
    assert "\n" not in detail
    return response.status_code, detail


# Answers


def test_a_raw_image(request_):
    response = request_("POST", "/predict", **raw(RED))
    assert response.status_code == 200
    answers = response.json()
    assert {key: answers[key] for key in ("model", "coverage", "threshold")} == {
        "model": "colours",
        "coverage": 0.95,
        "threshold": None,
    }
    (image,) = answers["images"]
    assert image["file"] is None
    assert image["error"] is None
    assert image["map"] is None
    assert (image["label"], image["set"], image["none"]) == ("red", ["red"], False)
    probabilities = expected(colour(255, 30, 30))
    assert [each["label"] for each in image["top"]] == ["red", "green", "blue"]
    np.testing.assert_allclose([each["probability"] for each in image["top"]], probabilities, atol=2e-6)
    assert image["probability"] == image["top"][0]["probability"]


def test_a_form_of_several_keeps_order_and_names(request_):
    images = request_("POST", "/predict", **form(GREEN, RED, GREEN)).json()["images"]
    assert [(image["file"], image["label"]) for image in images] == [
        ("0.png", "green"),
        ("1.png", "red"),
        ("2.png", "green"),
    ]


@pytest.mark.parametrize("kind", ["application/octet-stream", "image/jpeg", "IMAGE/PNG; x=y", None])
def test_the_content_decides_what_an_image_is(request_, kind):
    headers = {"Content-Type": kind} if kind else {}
    assert request_("POST", "/predict", content=GREEN, headers=headers).json()["images"][0]["label"] == "green"


def test_top_and_map(request_):
    left = colour(255, 0, 0)
    left.paste((0, 0, 0), (SIZE // 2, 0, SIZE, SIZE))
    (image,) = request_("POST", "/predict?top=1&map=true", **raw(encoded(left))).json()["images"]
    assert len(image["top"]) == 1
    np.testing.assert_allclose(image["map"], [[1] * (SIZE // 2) + [0] * (SIZE // 2)] * SIZE, atol=1e-3)


def test_the_image_is_read_as_everywhere(request_):
    turned = colour(0, 0, 255, (40, 20))
    turned.paste((255, 0, 0), (10, 0, 30, 20))  # the middle square
    (image,) = request_("POST", "/predict", **raw(encoded(turned))).json()["images"]
    assert image["label"] == "red"


def test_sets_and_none_of_these(request_):
    (image,) = request_("POST", "/predict", **raw(GREY)).json()["images"]
    assert image["set"] == ["red", "green", "blue"]
    (image,) = request_("POST", "/predict?coverage=0.5", **raw(GREY)).json()["images"]
    assert (image["set"], image["none"]) == ([], True)
    (image,) = request_("POST", "/predict?threshold=0.5", **raw(GREY)).json()["images"]
    assert image["none"] is True


def test_coverage_and_threshold_of_the_service(started):
    answers = started(coverage=0.5, threshold=0.4)("POST", "/predict", **raw(GREY)).json()
    assert (answers["coverage"], answers["threshold"], answers["images"][0]["none"]) == (0.5, 0.4, True)


def test_a_model_without_calibration(started, tmp_path):
    path = write_model(tmp_path / "plain.onnx", conformal=None)
    request = started(path)
    answers = request("POST", "/predict", **raw(RED)).json()
    assert answers["coverage"] is None
    assert answers["images"][0]["set"] is None
    status, detail = refusal(request("POST", "/predict?coverage=0.9", **raw(RED)))
    assert status == 422
    assert "without a calibration" in detail
    with pytest.raises(InputError, match="without a calibration"):
        started(path, coverage=0.9)


def test_too_little_calibration_for_the_coverage(started, tmp_path):
    path = write_model(tmp_path / "few.onnx", conformal=conformal(10))
    request = started(path)
    assert request("POST", "/predict", **raw(RED)).json()["coverage"] is None
    assert "calibration images" in refusal(request("POST", "/predict?coverage=0.99", **raw(RED)))[1]
    assert request("POST", "/predict?coverage=0.8", **raw(RED)).json()["coverage"] == 0.8


def test_requests_that_come_together_are_one_batch(started):
    request = started()
    many = [("POST", "/predict", raw(encoded(colour(place, 255 - place, 0)))) for place in range(0, 250, 5)]
    responses = asyncio.run(ask(request.app, *many))
    labels = [response.json()["images"][0]["label"] for response in responses]
    assert labels == ["green" if place < 128 else "red" for place in range(0, 250, 5)]
    text = request("GET", "/metrics").text
    batches = float(text.split("flatnext_batch_images_count ")[1].split()[0])
    assert 1 <= batches < 50
    assert 'flatnext_images_total{outcome="answered"} 50.0' in text
    assert 'flatnext_requests_total{path="/predict",status="200"} 50.0' in text


# What is refused


@pytest.mark.parametrize(
    ("options", "status", "part"),
    [
        (raw(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), 422, "no image"),
        (raw(RED[:44]), 422, "damaged"),
        (raw(b""), 422, "empty"),
        (raw(RED, "text/html"), 415, "text/html"),
        (raw(RED, "application/x-www-form-urlencoded"), 415, "application/x-www-form-urlencoded"),
        (raw(RED, **{"Content-Encoding": "gzip"}), 415, "Content-Encoding"),
        (raw(b"x", "multipart/form-data"), 400, "boundary"),
        (raw(b"x", "multipart/form-data; boundary=a"), 400, "malformed"),
        (raw(b"--a\r\nContent-Dispo", "multipart/form-data; boundary=a"), 400, "ends early"),
        (raw(b"--a--\r\n", "multipart/form-data; boundary=a"), 422, "no file"),
        ({"data": {"top": "3"}, "files": {"a": RED}}, 422, "top"),
    ],
)
def test_bodies_that_are_refused(request_, options, status, part):
    answer = refusal(request_("POST", "/predict", **options))
    assert answer[0] == status
    assert part in answer[1]


@pytest.mark.parametrize("query", ["top=0", "top=x", "coverage=1", "threshold=2", "map=maybe"])
def test_parameters_that_are_refused(request_, query):
    status, detail = refusal(request_("POST", f"/predict?{query}", **raw(RED)))
    assert status == 422
    assert query.partition("=")[0] in detail


def test_limits(started):
    request = started(max_bytes=2000, max_pixels=100, max_images=2)
    large = encoded(colour(1, 2, 3, (20, 20)))
    assert refusal(request("POST", "/predict", **raw(b"x" * 2001)))[0] == 413
    assert refusal(request("POST", "/predict", **raw(large))) == (
        413,
        "the image cannot be read: more than 100 pixels",
    )
    assert "more than 2 images" in refusal(request("POST", "/predict", **form(RED, RED, RED)))[1]
    assert request("POST", "/predict", **form(RED, RED)).status_code == 200

    async def chunks():
        for _ in range(30):
            yield b"x" * 100

    status, detail = refusal(request("POST", "/predict", **raw(chunks())))  # without Content-Length
    assert status == 413
    assert "2,000 bytes" in detail


def test_an_image_that_cannot_be_read_among_others(started):
    request = started(max_pixels=100)
    large = encoded(colour(1, 2, 3, (20, 20)))
    response = request("POST", "/predict", **form(b"nonsense", RED, large))
    first, second, third = response.json()["images"]
    assert response.status_code == 200
    assert first["error"] == {"detail": "the image cannot be read: no image, or of an unknown format", "status": 422}
    assert (first["label"], first["top"]) == (None, [])
    assert (second["label"], second["error"]) == ("red", None)
    assert third["error"]["status"] == 413
    assert refusal(request("POST", "/predict", **form(large, b"nonsense")))[0] == 413


def test_a_slow_upload(started):
    async def chunks():
        yield RED[:10]
        await asyncio.sleep(5)

    assert refusal(started(timeout=0.1)("POST", "/predict", **raw(chunks())))[0] == 408


def test_a_slow_model(model_file):
    model = OnnxModel(model_file, threads=1)
    service = Service(model, ServeSettings(timeout=0.2))
    predict = service._batcher._predict
    service._batcher._predict = lambda images: [asyncio.run(asyncio.sleep(1)), predict(images)][1]
    (response,) = asyncio.run(ask(application.create_app(service), ("POST", "/predict", raw(RED))))
    assert refusal(response)[0] == 503
    assert response.headers["retry-after"] == "1"
    service.close()


def test_too_many_at_once(started, monkeypatch):
    monkeypatch.setattr(application, "WAITING", 3)
    request = started()
    responses = asyncio.run(ask(request.app, *[("POST", "/predict", raw(RED))] * 10))
    statuses = [response.status_code for response in responses]
    assert statuses.count(200) >= 3
    assert set(statuses) == {200, 503}
    assert request("POST", "/predict", **raw(RED)).status_code == 200


def test_too_many_bytes_at_once(started, monkeypatch):
    monkeypatch.setattr(application, "BODIES", 2)
    request = started(max_bytes=len(RED))
    responses = asyncio.run(ask(request.app, *[("POST", "/predict", raw(RED))] * 10))
    assert {response.status_code for response in responses} == {200, 503}
    assert [request("POST", "/predict", **raw(RED)).status_code for _ in range(3)] == [200] * 3


def test_a_failure_of_ours_is_a_500_in_one_form(started):
    request = started()
    request.service._batcher._predict = lambda images: 1 / 0
    response = request("POST", "/predict", **raw(RED))
    assert refusal(response) == (500, "the service failed; its log says more")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert 'status="500"} 1.0' in request("GET", "/metrics").text


def test_decoders_that_do_not_start_are_no_fault_of_the_image(started, monkeypatch):
    monkeypatch.setattr("flatnext.serve.decoder.python", lambda *_: [sys.executable, "-c", ""])
    request = started()
    assert refusal(request("POST", "/predict", **raw(RED))) == (500, "the service failed; its log says more")
    monkeypatch.undo()
    assert request("POST", "/predict", **raw(RED)).status_code == 200


# Who may ask


def test_the_token(started):
    request = started(token="s3cret")
    for path in ("/predict", "/model", "/samples/0", "/metrics"):
        method = "POST" if path == "/predict" else "GET"
        for value in (None, "Bearer wrong", "Basic s3cret", "Bearer s3cret2", "Bearer \xff"):
            headers = {"Authorization": value.encode("latin-1")} if value else {}
            response = request(method, path, headers=headers)
            assert refusal(response)[0] == 401
            assert response.headers["www-authenticate"].startswith("Bearer")
    assert request("POST", "/predict", **raw(RED, Authorization="Bearer s3cret")).status_code == 200
    assert [request("GET", path).status_code for path in ("/", "/page.js", "/health", "/openapi.json")] == [200] * 4
    assert not [path for path in application.OPEN if "colours" in request("GET", path).text]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::2]:8000"])
def test_names_of_others_for_the_loopback_address(request_, host):
    assert refusal(request_("GET", "/health", headers={"Host": host}))[0] == 421


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"])
def test_local_names(request_, host):
    assert request_("GET", "/health", headers={"Host": host}).json() == {"status": "ok"}


def test_any_name_elsewhere_or_with_a_token(started):
    for settings in ({"host": "0.0.0.0"}, {"token": "t"}):
        assert started(**settings)("GET", "/health", headers={"Host": "box.example"}).status_code == 200


def test_other_sites_in_a_browser(request_):
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9000", "http://[", ""):
        response = request_("POST", "/predict", **raw(RED, Origin=origin))
        assert response.status_code == 403
        assert not [name for name in response.headers if name.startswith("access-control")]
    assert request_("POST", "/predict", **raw(RED, Origin="http://127.0.0.1:8000")).status_code == 200


# Everything else


def test_information(request_):
    model = request_("GET", "/model").json()
    assert (model["name"], model["classes"], model["image_size"]) == ("colours", list(CLASSES), SIZE)
    assert (model["coverage"], model["calibration_images"], model["samples"]) == (0.95, 100, 3)
    golden = request_.service.manifest.golden[1]
    sample = request_("GET", "/samples/1")
    assert sample.content == base64.b64decode(golden.png)
    assert sample.headers["content-type"] == "image/png"
    for place in ("3", "-1", "99999999999999999999"):
        assert request_("GET", f"/samples/{place}").status_code == 404


def test_what_can_be_read_answers_head_without_a_body(request_):
    for path in ("/", "/health", "/model", "/metrics", "/samples/1"):
        response = request_("HEAD", path)
        assert (response.status_code, response.content) == (200, b"")
        assert response.headers["content-type"] == request_("GET", path).headers["content-type"]
    assert request_("HEAD", "/samples/7").status_code == 404
    assert all("head" not in described for described in request_("GET", "/openapi.json").json()["paths"].values())


def test_every_answer_has_the_headers_and_nothing_loads_from_elsewhere(request_):
    for path in ("/", "/page.css", "/page.js", "/health", "/nowhere", "/predict"):
        response = request_("GET", path)
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "http://" not in response.text.replace("http://127.0.0.1", "")
        assert "https://" not in response.text
    assert [request_("GET", path).status_code for path in ("/docs", "/redoc")] == [404, 404]


def test_openapi_describes_what_comes(request_):
    described = request_("GET", "/openapi.json").json()
    predict = described["paths"]["/predict"]["post"]
    assert {"multipart/form-data", "image/*"} <= set(predict["requestBody"]["content"])
    assert {"200", "400", "401", "408", "413", "415", "422", "503"} <= set(predict["responses"])
    assert {parameter["name"] for parameter in predict["parameters"]} == {"top", "coverage", "threshold", "map"}
    schema = described["components"]["schemas"]["ImageAnswer"]["properties"]
    (image,) = request_("POST", "/predict", **raw(RED)).json()["images"]
    assert set(schema) == set(image)
    for status, response in predict["responses"].items():
        name = "Answers" if status == "200" else "Problem"
        assert json.dumps(response["content"]).endswith(f'/{name}"}}}}}}')


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        ("topp=3", "the query has 'topp', which is unknown: did you mean top? known are top, coverage,"),
        (
            "top=x&tops=1",
            "the query has 'tops', which is unknown: did you mean top? known are top, coverage,",
        ),
        ("k=3", "the query has 'k', which is unknown: known are top, coverage, threshold, map"),
        ("%1b[2J=1", "the query has '\\x1b[2J', which is unknown: known are top, coverage, threshold, map"),
    ],
)
def test_a_name_in_the_query_that_is_unknown(request_, query, detail):
    response = request_("POST", f"/predict?{query}", **raw(RED))
    assert (response.status_code, list(response.json())) == (400, ["detail"])
    assert response.json()["detail"].startswith(detail)


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/predcit", 404, "there is no '/predcit' here: did you mean /predict?"),
        (
            "POST",
            "/nowhere",
            404,
            "there is no '/nowhere' here: choose one of /, /health, /metrics, /model, ",
        ),
        ("GET", "/samples/7", 404, "there is no sample 7: the model has 3"),
        ("GET", "/predict", 405, "'/predict' does not take 'GET': send POST"),
        ("POST", "/model", 405, "'/model' does not take 'POST': send GET or HEAD"),
        ("DELETE", "/", 405, "'/' does not take 'DELETE': send GET or HEAD"),
    ],
)
def test_wrong_paths_and_methods_are_answered_as_other_errors(request_, method, path, status, detail):
    response = request_(method, path)
    assert response.status_code == status
    assert list(response.json()) == ["detail"]
    assert response.json()["detail"].startswith(detail)
    assert ("allow" in response.headers) == (status == 405)


def test_unknown_paths_are_one_series_of_the_metrics(request_):
    for path in ("/a", "/b", "/samples/1"):
        request_("GET", path)
    text = request_("GET", "/metrics").text
    assert 'path="other",status="404"}' in text
    assert 'path="/a"' not in text


def test_answers_are_those_of_the_classifier(request_, model_file, tmp_path):
    turned = colour(200, 90, 30, (30, 20))
    turned.paste((0, 0, 255), (0, 0, 30, 9))
    kinds = {"a.png": {}, "b.jpg": {"quality": 70}, "c.webp": {}, "d.gif": {}}
    paths = [tmp_path / name for name in kinds]
    for path, options in zip(paths, kinds.values(), strict=True):
        turned.save(path, **options)
    expected = deploy.load(model_file).predict(paths, top=3, coverage=0.9)
    files = [("image", (path.name, path.read_bytes())) for path in paths]
    images = request_("POST", "/predict?coverage=0.9&top=3", files=files).json()["images"]
    for path, image, prediction in zip(paths, images, expected, strict=True):
        assert image["file"] == path.name
        assert [(each["label"], each["probability"]) for each in image["top"]] == [
            (label, pytest.approx(probability, abs=1e-6)) for label, probability in prediction.top
        ]
        assert (image["set"], image["none"]) == (list(prediction.set), prediction.none)


def test_each_header_by_its_value(request_):
    headers = request_("GET", "/health").headers
    policy = {"default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"}
    assert policy <= set(headers["content-security-policy"].split("; "))
    wanted = {
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
        "cross-origin-resource-policy": "same-origin",
    }
    assert {name: headers[name] for name in wanted} == wanted


def test_a_picture_has_no_more_time_than_its_request(started):
    assert {decoder.seconds for decoder in started(timeout=2.0).service._decoders} == {2.0}
    assert {decoder.seconds for decoder in started(timeout=60.0).service._decoders} == {10.0}


def test_images_that_are_refused_are_counted(started):
    request = started()
    request("POST", "/predict", **raw(b"nonsense"))
    assert 'flatnext_images_total{outcome="refused"} 1.0' in request("GET", "/metrics").text

"""`/infer`, `/upload`, `/run` and `/classify`, over a real Redis and a worker in this process."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from broker.errors import Overloaded
from broker.messages import Prediction, Result
from tests.support.pictures import form, png
from tests.support.service import Service
from web.dialects import tutorials
from web.jobs import JobClient
from web.routes import predict

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}

UNKNOWN = "Unknown model 'other'. Available: never, tiny."


def _shown(text: str) -> list[Image.Image]:
    """The pictures that a page shows."""
    inlined = re.findall(r'<img src="data:image/png;base64,([^"]+)"', text)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in inlined]


def test_infer_answers_in_json_within_json(running: Service) -> None:
    response = running.client.post("/infer", data=form(png(255), field="img"))
    assert response.status_code == 200
    assert response.get_json() == {
        "code": 0,
        "data": '{"result":2,"possibility":1.000000}',
        "message": "success",
    }


@pytest.mark.parametrize(
    ("found", "data"),
    [
        (Prediction("cat", "n1", 1 / 3), '{"result":7,"possibility":0.333333}'),
        (Prediction("cat", "n1", 4e-7), '{"result":7,"possibility":0.000000}'),
        (None, '{"result":-1,"possibility":0.000000}'),
    ],
)
def test_infer_has_the_index_and_six_digits(
    running: Service, monkeypatch: pytest.MonkeyPatch, found: Prediction | None, data: str
) -> None:
    result = Result(
        "id", "tiny", "v1", predictions=(found,) if found else (), best_index=7 if found else None
    )
    monkeypatch.setattr(predict, "outcomes", lambda *_, **__: [result])
    assert running.client.post("/infer", data=form(png(0), field="img")).get_json()["data"] == data


@pytest.mark.parametrize("environment", [{"MODELS": "never,tiny,digits"}])
def test_infer_asks_digits_unless_it_is_told_another(running: Service) -> None:
    refused = running.client.post("/infer", data=form(png(0), field="img"))
    assert (refused.status_code, refused.get_json()["code"]) == (503, -1)
    assert "announced digits" in refused.get_json()["message"]
    for address, fields in (("/infer?model=tiny", {}), ("/infer", {"model": "tiny"})):
        answer = running.client.post(address, data={**form(png(0), field="img"), **fields})
        assert json.loads(answer.get_json()["data"])["result"] == 0


@pytest.mark.parametrize(
    ("address", "data", "status", "words"),
    [
        ("/infer", form(b"no picture", field="img"), 400, "not a picture"),
        ("/infer", form(b"%PDF-1.4", field="img"), 415, "PNG"),
        ("/infer", {}, 400, "no picture"),
        ("/infer", b"x" * 1_200_000, 413, "1 MB"),
        ("/infer?model=other", form(png(0), field="img"), 404, UNKNOWN),
        ("/infer?model=never", form(png(0), field="img"), 503, "never"),
        ("/infer", form(png(0), png(0), field="img"), 400, "takes one picture, and 2 came"),
    ],
)
@pytest.mark.parametrize("environment", [{"MAX_UPLOAD_MB": "1"}])
def test_a_failure_of_infer_keeps_its_status(
    running: Service, address: str, data: object, status: int, words: str
) -> None:
    kind = "image/png" if isinstance(data, bytes) else None
    response = running.client.post(address, data=data, content_type=kind)
    assert response.status_code == status
    assert list(response.get_json()) == ["code", "message"]
    assert response.get_json()["code"] == -1
    assert words in response.get_json()["message"]
    assert response.headers["X-Request-ID"]
    assert ("Retry-After" in response.headers) is (status == 503)


def test_a_method_that_is_not_accepted_is_refused_in_the_shape_of_its_address(running: Service) -> None:
    for address, code in (("/infer", {"code": -1}), ("/upload", {"error": 1001})):
        response = running.client.delete(address)
        assert (response.status_code, dict([*response.get_json().items()][:1])) == (405, code)
        assert "POST" in response.headers["Allow"]


def test_a_bug_has_the_shape_of_its_address_too(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "outcomes", lambda *_, **__: 1 / 0)
    for address, code in (("/infer", {"code": -1}), ("/upload", {"error": 500})):
        response = running.client.post(address, data=form(png(0), field="img"))
        assert (response.status_code, dict([*response.get_json().items()][:1])) == (500, code)


def test_a_failed_job_is_a_failure_of_the_route(running: Service) -> None:
    running.engine.on_batch = lambda _: 1 / 0
    for address in ("/infer", "/run", "/classify", "/upload"):
        assert running.client.post(address, data=form(png(0))).status_code == 500


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_run_answers_a_line_of_text(running: Service, method: str) -> None:
    response = running.client.open("/run", method=method, data=form(png(255), field="file"))
    assert (response.status_code, response.mimetype) == (200, "text/plain")
    assert response.get_data(as_text=True) == "result : bright"


def test_run_says_that_nothing_was_found(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "outcomes", lambda *_, **__: [Result("id", "yolo", "v1")])
    response = running.client.post("/run", data=form(png(0), field="file"))
    assert response.get_data(as_text=True) == "result : nothing"


def test_run_without_a_picture_is_refused_and_a_browser_is_told_how_to_send_one(running: Service) -> None:
    refused = running.client.post("/run")
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (400, "bad_request")
    assert "curl -F file=@photo.jpg http://localhost/run" in running.client.get("/run").get_data(as_text=True)


def test_classify_answers_two_arrays(running: Service) -> None:
    response = running.client.post("/classify?top=3", data=form(png(255), field="file"))
    assert response.get_json() == [["bright", "dark", "grey"], [1.0, 0.0, 0.0]]
    refused = running.client.post("/classify?top=4", data=form(png(255), field="file"))
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (400, "bad_request")


def test_no_file_is_read_unless_a_setting_says_so(running: Service) -> None:
    response = running.client.get("/classify?file=poodle.png")
    assert (response.status_code, response.get_json()["error"]["code"]) == (404, "not_found")
    assert "FILES_DIR names no folder" in response.get_json()["error"]["message"]


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture in it, and one beside it."""
    folder = tmp_path_factory.mktemp("files") / "shared"
    (folder / "dogs").mkdir(parents=True)
    (folder / "dogs" / "poodle.png").write_bytes(png(255))
    (folder.parent / "secret.png").write_bytes(png(0))
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "large.png").write_bytes(png(0) + bytes(1_200_000))
    return folder


class TestFilesOfAFolder:
    @pytest.fixture
    def environment(self, shared: Path) -> dict[str, str]:
        return {"FILES_DIR": str(shared), "MAX_UPLOAD_MB": "1"}

    def test_a_file_is_classified(self, running: Service) -> None:
        response = running.client.get("/classify?file=dogs/poodle.png&top=1")
        assert (response.status_code, response.get_json()) == (200, [["bright"], [1.0]])

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("file=../secret.png", 404),
            ("file=%2e%2e%2fsecret.png", 404),
            ("file=link.png", 404),
            ("file=/etc/hostname", 404),
            ("file=dogs", 404),
            ("file=large.png", 413),
            ("file=", 400),
            ("", 400),
            ("file=dogs/poodle.png&top=0", 400),
            ("file=dogs/poodle.png&model=other", 404),
        ],
    )
    def test_nothing_leads_out_of_it(self, running: Service, query: str, status: int) -> None:
        response = running.client.get(f"/classify?{query}")
        assert (response.status_code, response.get_json()["success"]) == (status, False)
        assert running.engine.batches == []


def test_upload_has_a_form(service: Service) -> None:
    response = service.client.get("/upload", headers={"Accept-Language": "zh-CN"})
    text = response.get_data(as_text=True)
    assert (response.status_code, response.mimetype) == (200, "text/html")
    assert re.search(r'<form [^>]*method="post" enctype="multipart/form-data"', text)
    assert '<input id="file" type="file" name="file"' in text
    assert "上传图片" in text
    assert "<script" not in text


@pytest.mark.slow
def test_upload_answers_a_page_with_the_annotated_picture(running: Service) -> None:
    response = running.client.post("/upload", data=form(png(255), field="file"))
    text = response.get_data(as_text=True)
    assert (response.status_code, response.mimetype) == (200, "text/html")
    (picture,) = _shown(text)
    assert picture.size == (480, 360)
    plain = Image.open(io.BytesIO(png(255))).resize(picture.size)
    assert picture.convert("L").tobytes() != plain.tobytes()  # labels are on it
    assert '<span class="label">bright</span> <span class="share">100.0%</span>' in text
    assert "data:" in response.headers["Content-Security-Policy"]
    assert "unsafe" not in response.headers["Content-Security-Policy"]


def test_upload_answers_success_for_the_field_img(running: Service) -> None:
    response = running.client.post("/upload", data=form(png(255), field="img"), headers=BROWSER)
    assert (response.status_code, response.mimetype, response.data) == (200, "text/plain", b"success")
    refused = running.client.post("/upload", data=form(b"no picture", field="img"))
    assert refused.status_code == 400


@pytest.mark.parametrize(
    ("query", "picture", "status", "number"),
    [
        ("", b"text", 400, 1001),
        ("", b"%PDF-1.4", 415, 1001),
        ("", None, 400, 1001),
        ("?model=never", png(0), 503, 503),
    ],
)
def test_a_failure_of_upload_is_json_for_programs_and_a_page_for_browsers(
    running: Service, query: str, picture: bytes | None, status: int, number: int
) -> None:
    def sent() -> dict[str, object]:
        return {} if picture is None else form(picture, field="file")

    response = running.client.post(f"/upload{query}", data=sent())
    assert (response.status_code, list(response.get_json())) == (status, ["error", "msg"])
    assert response.get_json()["error"] == number
    assert "Accept" in response.vary
    page = running.client.post(f"/upload{query}", data=sent(), headers=BROWSER)
    assert (page.status_code, page.mimetype) == (status, "text/html")
    assert "Accept" in page.vary
    assert '<div class="problem" role="alert">' in page.get_data(as_text=True)
    assert ("Retry-After" in page.headers) is (status == 503) is ("Retry-After" in response.headers)


@pytest.mark.slow
def test_several_pictures_are_shown_each_failing_alone(running: Service) -> None:
    many = form(b"no picture", *[png(255)] * (tutorials.DRAWN_MOST + 1))
    response = running.client.post("/upload", data=many, headers=BROWSER)
    text = response.get_data(as_text=True)
    assert response.status_code == 200
    assert text.count('<li class="card">') == tutorials.DRAWN_MOST + 2
    assert len(_shown(text)) == tutorials.DRAWN_MOST
    assert text.count('<p class="problem">') == 1


def test_what_was_found_is_shown_though_nothing_can_be_drawn(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overloaded(*_: object, **__: object) -> bytes:
        raise Overloaded("Too many large pictures are being decoded; come back in 1 s.")

    monkeypatch.setattr(JobClient, "draw", overloaded)
    response = running.client.post("/upload", data=form(png(255), field="file"), headers=BROWSER)
    text = response.get_data(as_text=True)
    assert (response.status_code, _shown(text)) == (200, [])
    assert '<span class="label">bright</span>' in text


def test_the_form_of_the_page_leads_there(running: Service) -> None:
    text = running.client.get("/").get_data(as_text=True)
    assert '<form id="form" action="/upload" method="post" enctype="multipart/form-data">' in text
    response = running.client.post("/upload", data={**form(png(0)), "model": "tiny"}, headers=BROWSER)
    assert len(_shown(response.get_data(as_text=True))) == 1
    # The next picture goes to the same model.
    assert '<input type="hidden" name="model" value="tiny">' in response.get_data(as_text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a" * 400_000, "Tiny", '"><script>'])
def test_what_can_t_be_a_model_is_not_put_into_the_page(running: Service, name: str) -> None:
    page = running.client.post("/upload", data={**form(png(0)), "model": name}, headers=BROWSER)
    assert page.status_code == 404
    assert '<input type="hidden"' not in page.get_data(as_text=True)
    assert len(page.data) < 10_000
    for known, hidden in (("tiny", True), (name[:2000], False)):
        form_text = running.client.get("/upload", query_string={"model": known}).get_data(as_text=True)
        assert ('<input type="hidden"' in form_text) is hidden


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html", "text/html"),
        ("TEXT/HTML;q=0.1, */*", "text/html"),
        ("text/html;q=0, */*", "application/json"),
        ("application/json", "application/json"),
        ("*/*", "application/json"),
    ],
)
def test_a_browser_is_known_by_what_it_accepts(running: Service, accept: str, kind: str) -> None:
    response = running.client.post("/upload", data=form(b"text"), headers={"Accept": accept})
    assert (response.status_code, response.mimetype) == (400, kind)
    assert "Accept" in response.vary


def test_the_page_of_an_answer_varies_by_accept(running: Service) -> None:
    for headers in ({}, BROWSER):
        response = running.client.post("/upload", data=form(png(255), field="file"), headers=headers)
        assert (response.status_code, response.mimetype) == (200, "text/html")
        assert {"Accept", "Accept-Language"} <= {*response.vary}


def test_the_address_of_the_command_is_cut(service: Service) -> None:
    text = service.client.get("/run", headers={"Host": "x." * 3000}).get_data(as_text=True)
    assert 50 < text.count("x.") <= 100


def test_a_file_has_its_class_beside_its_predictions(running: Service) -> None:
    answer = running.client.post("/predict", data=form(png(255), field="file")).get_json()
    assert (answer["class_id"], answer["class_name"]) == ("2", "bright")
    assert answer["predictions"][0]["label"] == "bright"
    for data in (form(png(255)), form(png(255), field="img")):
        assert "class_id" not in running.client.post("/predict", data=data).get_json()
    several = running.client.post("/predict", data=form(png(255), png(0), field="file")).get_json()
    assert all("class_id" not in each for each in several["results"])


@pytest.mark.parametrize("environment", [{"INFER_CORS_ORIGINS": "*", "CORS_ORIGINS": "https://a.example"}])
def test_a_setting_opens_infer_alone_to_every_page(running: Service) -> None:
    def allowed(path: str, origin: str) -> str | None:
        response = running.client.post(path, data=form(png(0)), headers={"Origin": origin})
        return response.headers.get("Access-Control-Allow-Origin")

    assert allowed("/infer", "https://b.example") == "*"
    assert allowed("/predict", "https://b.example") is None
    assert allowed("/predict", "https://a.example") == "https://a.example"
    preflight = running.client.options(
        "/infer", headers={"Origin": "https://b.example", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.headers["Access-Control-Allow-Origin"] == "*"


def test_without_a_setting_no_other_page_may_use_infer(running: Service) -> None:
    response = running.client.post("/infer", data=form(png(0)), headers={"Origin": "https://b.example"})
    assert "Access-Control-Allow-Origin" not in response.headers

"""What a file is taken for, and what is said where model.toml says another kind."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest

from model_server.catalogue import file_kinds
from model_server.catalogue.model_toml import (
    KerasFile,
    Onnx,
    Paddle,
    SavedModel,
    Source,
    TFLite,
    TorchExport,
    TorchNetwork,
    TorchScript,
)


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("net.bin", b"\x1c\0\0\0TFL3....", "tflite"),
        ("net.onnx", b"\x1c\0\0\0TFL3....", "tflite"),  # its bytes count more than its name
        ("net.onnx", b"\x08\x08", "onnx"),
        ("net.H5", b"", "keras_file"),
        ("net.weights", b"\x89HDF\r\n\x1a\n", "keras_file"),
        ("graph.pb", b"\x0a", "frozen_graph"),
        ("saved_model.pb", b"\x08\x01", "saved_model"),
        ("inference.pdmodel", b"\x0a", "paddle"),
        ("yolov3.cfg", b"[net]", "darknet"),
        ("notes.md", b"# Notes", ""),
    ],
)
def test_a_file_is_known_by_its_bytes_or_its_name(
    tmp_path: Path, name: str, content: bytes, kind: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert file_kinds.kind_of(path) == kind


def test_the_zip_that_keras_writes_is_known_from_others(tmp_path: Path) -> None:
    for name, members in (
        ("one", ("config.json", "metadata.json", "model.weights.h5")),
        ("other", ("a.txt",)),
    ):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in members:
                archive.writestr(member, "{}")
    assert [file_kinds.kind_of(tmp_path / name) for name in ("one", "other")] == ["keras_file", ""]


@pytest.mark.parametrize(
    ("spoilt", "by"),
    [
        (b"PK\x01\x02", b"XXXX"),  # BadZipFile
        (b"PK\x01\x02\x14\x03\x14", b"PK\x01\x02\x14\x03\xff"),  # NotImplementedError
    ],
)
def test_of_a_damaged_zip_the_name_counts(tmp_path: Path, spoilt: bytes, by: bytes) -> None:
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", "{}")
    sound = path.read_bytes()
    at = sound.find(spoilt)
    path.write_bytes(sound[:at] + by + sound[at + len(by) :])
    assert path.read_bytes() != sound
    assert zipfile.is_zipfile(path)
    with pytest.raises((zipfile.BadZipFile, NotImplementedError)):
        zipfile.ZipFile(path).close()
    assert file_kinds.hint(path, KerasFile("net.keras"), within=tmp_path) == ""
    assert 'kind = "keras_file", not "onnx"' in file_kinds.hint(path, Onnx("net.keras"), within=tmp_path)


def test_folders_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    for name, member in (("a", "saved_model.pb"), ("b", "inference.pdmodel"), ("c", "__model__"), ("d", "x")):
        (tmp_path / name).mkdir()
        (tmp_path / name / member).write_bytes(b"")
    kinds = [file_kinds.kind_of(tmp_path / name) for name in "abcd"]
    assert kinds == ["saved_model", "paddle", "paddle", ""]


def test_of_paddlepaddle_s_weights_the_file_of_the_layers_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lenet" / "net.pdiparams"
    path.parent.mkdir()
    path.write_bytes(b"\0" * 8)
    kinds = (Paddle("lenet/net.pdiparams"), Onnx("lenet/net.pdiparams"))
    assert all("net.pdmodel is missing" in file_kinds.hint(path, kind, within=tmp_path) for kind in kinds)
    path.with_suffix(".pdmodel").write_bytes(b"\x0a")
    for kind in kinds:
        assert 'file = "lenet/net.pdmodel"' in file_kinds.hint(path, kind, within=tmp_path)
    assert file_kinds.hint(path.with_suffix(".pdmodel"), kinds[0], within=tmp_path) == ""


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.onnx")  # opening it would wait for a writer
    assert [file_kinds.kind_of(tmp_path / name) for name in ("net.onnx", "gone.onnx")] == ["", ""]


def test_the_hint_names_the_kind_to_write(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(b"\x1c\0\0\0TFL3")
    assert file_kinds.hint(path, TFLite("net.tflite"), within=tmp_path) == ""
    assert file_kinds.hint(path, Onnx("net.tflite"), within=tmp_path) == (
        ' It looks like a TensorFlow Lite network: write kind = "tflite", not "onnx", in [source] of '
        "model.toml. docs/models.md has an example of each kind."
    )


@pytest.mark.parametrize("folder", ["saved", "a/b", ".", "../beside"])
def test_of_a_saved_model_the_folder_is_told_as_model_toml_names_it(tmp_path: Path, folder: str) -> None:
    model = tmp_path / "net"
    saved = model / folder
    saved.mkdir(parents=True, exist_ok=True)
    (saved / "saved_model.pb").write_bytes(b"")
    for path in (saved, saved / "saved_model.pb"):
        told = file_kinds.hint(path, KerasFile("net.keras"), within=model)
        assert (
            f'kind = "saved_model", not "keras_file", in [source] of model.toml, and folder = "{folder}".'
            in told
        )
    assert file_kinds.hint(saved, SavedModel(folder), within=model) == ""


def test_what_no_kind_takes_is_to_be_exported(tmp_path: Path) -> None:
    (tmp_path / "net.pt").write_bytes(b"PK")
    assert "a PyTorch file: export it to ONNX." in file_kinds.hint(
        tmp_path / "net.pt", Paddle("net.pt"), within=tmp_path
    )
    # Which of its kinds can't be known; what PyTorch says of it is better.
    assert file_kinds.hint(tmp_path / "net.pt", TorchScript("net.pt"), within=tmp_path) == ""


class Layer:
    """A class of its author's, as torch.save(network) pickles it by name."""


TENSORS = pickle.dumps(OrderedDict(weight=1.0), protocol=2)


@pytest.mark.parametrize(
    ("members", "kind"),
    [
        ({"net/constants.pkl": b"", "net/data.pkl": b"", "net/code/__torch__.py": b""}, "torchscript"),
        ({"net/archive_format": b"pt2", "net/models/model.json": b"{}"}, "torch_export"),
        ({"version": b"1", "serialized_exported_program.json": b"{}"}, "torch_export"),
        ({"net/data.pkl": TENSORS, "net/version": b"3"}, "torch_network"),
        ({"net/data.pkl": pickle.dumps({"net": Layer()}, protocol=2), "net/version": b"3"}, "pickle"),
        ({"net/data.pkl": pickle.dumps({"net": Layer()}, protocol=4), "net/version": b"3"}, "pickle"),
        ({"net/data.pkl": b"ctorch.nn.modules.conv\nConv2d\n.", "net/version": b"3"}, "pickle"),
        ({"net/data.pkl": b"\x80"}, ""),
    ],
)
def test_what_pytorch_writes_is_known_by_what_is_in_it(
    tmp_path: Path, members: dict[str, bytes], kind: str
) -> None:
    with zipfile.ZipFile(tmp_path / "net", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert file_kinds.kind_of(tmp_path / "net") == kind


@pytest.mark.parametrize(("last", "kind"), [(TENSORS, "torch_network"), (pickle.dumps(Layer()), "pickle")])
def test_what_pytorch_wrote_before_it_used_zips_is_known_as_well(
    tmp_path: Path, last: bytes, kind: str
) -> None:
    magic, protocol, system = (
        pickle.dumps(each, protocol=2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    )
    (tmp_path / "net.pth").write_bytes(magic + protocol + system + last + b"the tensors")
    assert file_kinds.kind_of(tmp_path / "net.pth") == kind


@pytest.mark.parametrize(
    ("members", "source", "cure"),
    [
        (
            {"net/constants.pkl": b""},
            TorchExport("net.pt"),
            'a TorchScript network: write kind = "torchscript", not "torch_export", in [source] of',
        ),
        (
            {"net/constants.pkl": b""},
            TorchNetwork("timm", "resnet18", "net.pt"),
            'not "torch_network", in [source] of model.toml, and file = "net.pt" in place of its other',
        ),
        (
            {"net/archive_format": b"pt2"},
            TorchScript("net.pt"),
            'a network that torch.export.save wrote: write kind = "torch_export", not "torchscript"',
        ),
        (
            {"net/data.pkl": TENSORS},
            TorchScript("net.pt"),
            'weights without a network: write kind = "torch_network", not "torchscript", in [source] of '
            "model.toml, with library and name of the network that they are for, and weights = "
            '"net.pt".',
        ),
        (
            {"net/data.pkl": pickle.dumps(Layer(), protocol=2)},
            TorchScript("net.pt"),
            'Save the network with torch.jit.script(network.eval()).save("net.pt") and write kind = '
            '"torchscript", or its weights with torch.save(network.state_dict(), "net.pth")',
        ),
    ],
)
def test_of_another_file_of_pytorch_the_cure_is_named(
    tmp_path: Path, members: dict[str, bytes], source: Source, cure: str
) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert cure in file_kinds.hint(tmp_path / "net.pt", source, within=tmp_path)

"""The syntax of a cfg, and what its sections mean: sizes, and refusals that name the place."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_server.darknet.cfg import MOST_BYTES, DarknetError, parse, read
from model_server.darknet.layers import Convolution, MaxPool, Network, Yolo
from model_server.darknet.network import plan
from model_server.darknet.weights import count_of
from tests.model_server.darknet import published

NET = "[net]\nwidth=64\nheight=48\nchannels=3\n"
CONVOLUTION = "[convolutional]\nfilters=8\nsize=3\npad=1\nactivation=leaky\n"
HEAD = "[convolutional]\nfilters=21\nsize=1\nactivation=linear\n"
YOLO = "[yolo]\nmask=0,1,2\nanchors=1,2, 3,4, 5,6\nclasses=2\nnum=3\n"


def _numbers(network: Network) -> int:
    return sum(count_of(each, each.kind) for each in network.layers if isinstance(each.kind, Convolution))


def test_spaces_comments_and_empty_lines_mean_nothing() -> None:
    net, layer = parse("# a\n; b\n\n[net]\r\n  width = 4 16\n[Convolutional] # c\nfilters=8;d\n\n")
    assert (net.name, net.options) == ("net", {"width": "416"})
    assert (layer.name, layer.number, layer.line, layer.options) == ("convolutional", 0, 6, {"filters": "8"})
    assert layer.lines == {"filters": 7}


def test_the_published_networks_have_the_layers_and_the_weights_that_they_are_known_for() -> None:
    # The files' sizes on pjreddie.com: 248,007,048 and 35,434,956 bytes, 20 of them the header.
    for text, layers, size in (
        (published.yolov3(), 107, 248_007_048),
        (published.yolov3_tiny(), 24, 35_434_956),
    ):
        network = plan(parse(text))
        assert len(network.layers) == layers
        assert 4 * _numbers(network) + 20 == size


def test_a_size_that_is_asked_for_replaces_the_cfg_s() -> None:
    network = plan(parse(published.yolov3(608)), (416, 320))
    assert network.input == (416, 320, 3)
    assert [layer.gives for layer in network.detectors] == [(13, 10, 255), (26, 20, 255), (52, 40, 255)]


def test_yolo_takes_the_anchors_of_its_mask() -> None:
    kinds = [layer.kind for layer in plan(parse(published.yolov3_tiny())).detectors]
    assert isinstance(kinds[0], Yolo)
    assert kinds[0].anchors == ((81, 82), (135, 169), (344, 319))


def test_max_pooling_without_a_stride_keeps_the_size() -> None:
    pooled = plan(parse(NET + "[maxpool]\nsize=2\nstride=1\n[maxpool]\nsize=2\nstride=2\n"), (13, 13))
    assert [layer.gives[:2] for layer in pooled.layers] == [(13, 13), (7, 7)]
    assert isinstance(pooled.layers[0].kind, MaxPool)
    assert pooled.layers[0].kind.before == 0


REFUSED = {
    "": "the first section must be \\[net\\]",
    "[convolutional]\n": "the first section must be \\[net\\]",
    "filters=3\n": "line 1: there is an option before the first section",
    "[net\n": "line 1: '\\[net' is not the name of a section",
    NET: "there are no layers after \\[net\\]",
    NET + "what\n": "line 5: 'what' is neither a section nor option=value",
    NET + "width=65\n": "line 5: width was 64 on line 2",
    "[net]\nheight=4\nchannels=3\n" + CONVOLUTION: "\\[net\\] on line 1: width is missing",
    NET + "[lstm]\n": "layer 0 \\[lstm\\] on line 5: this kind of layer is not supported. Supported: conv",
    NET
    + CONVOLUTION
    + "wheels=4\n": "layer 0 \\[convolutional\\] on line 5, wheels on line 10: .*not supported",
    NET + CONVOLUTION + "jitter=1\n": "jitter on line 10: the option 'jitter' is not supported here",
    NET + CONVOLUTION + "xnor=1\n": "xnor on line 10: xnor=1 is not a whole number from 0 to 0",
    NET
    + CONVOLUTION.replace(
        "leaky", "gelu"
    ): "activation on line 9: activation=gelu is not one of linear, leaky",
    NET + CONVOLUTION.replace("=8", "=-8"): "filters on line 6: filters=-8 is not a whole number from 1",
    NET + CONVOLUTION.replace("=8", "=1e99"): "filters=1e99 is not a whole number",
    NET + CONVOLUTION.replace("=8", "=99999999999"): "filters=99999999999 is not a whole number",
    NET + CONVOLUTION + "groups=2\n": "2 groups do not divide 3 channels into 8 filters",
    NET + CONVOLUTION + "dilation=2\n": "dilation on line 10",
    NET + "[convolutional]\nfilters=1\nsize=63\nactivation=linear\n": "an input of 64 x 48 leaves no output",
    NET + "[upsample]\nstride=64\n" * 4: "is too large",
    NET
    + CONVOLUTION
    + "[shortcut]\nfrom=-3\n": "layer 1 \\[shortcut\\] on line 10, from on line 11: there is no layer -2",
    NET + CONVOLUTION + "[shortcut]\nfrom=1\n": "there is no layer 1 before it",
    NET + CONVOLUTION + "[shortcut]\n": "from is not a list of numbers",
    NET
    + CONVOLUTION
    + CONVOLUTION
    + "stride=2\n[shortcut]\nfrom=0\n": "layer 0 gives \\(48, 64, 8\\), but the layer before",
    NET + CONVOLUTION + "[route]\nlayers=-1,0.5\n": "layers is not a list of whole numbers",
    NET
    + CONVOLUTION
    + CONVOLUTION
    + "stride=2\n[route]\nlayers=0,1\n": "the layers differ in height and width",
    NET + CONVOLUTION + "[route]\nlayers=-1\ngroups=3\n": "3 groups do not divide the channels",
    NET
    + CONVOLUTION
    + "[route]\nlayers=-1\ngroups=2\ngroup_id=2\n": "group_id=2 is not a whole number from 0 to 1",
    NET + CONVOLUTION + YOLO: "gives 8 channels, not 3 x \\(5 \\+ 2 classes\\)",
    NET + HEAD + YOLO.replace("num=3", "num=4"): "anchors must be 4 pairs of sides above 0",
    NET + HEAD + YOLO.replace("1,2,", "0,2,"): "anchors must be 3 pairs of sides above 0",
    NET + HEAD + YOLO.replace("mask=0", "mask=3"): "mask may only name anchors from 0 to 2",
    NET + HEAD + YOLO + CONVOLUTION: "layer 2 \\[convolutional\\] on line 14: layer 1 is a \\[yolo\\]",
    NET + HEAD + YOLO.replace("anchors=1", "anchors=nan"): "anchors is not a list of numbers",
    NET + "[softmax]\ntemperature=2\n": "only a temperature of 1",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_taken_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(DarknetError) as refused:
        plan(parse(text))
    assert re.search(REFUSED[text], str(refused.value)), str(refused.value)


def test_scales_with_different_classes_are_refused() -> None:
    other = HEAD.replace("21", "24") + YOLO.replace("classes=2", "classes=3")
    with pytest.raises(DarknetError, match="different numbers of classes"):
        plan(parse(NET + HEAD + YOLO + "[route]\nlayers=0\n" + other))


def test_a_file_that_is_no_text_or_far_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.cfg"
    path.write_bytes(b"\xff\xfe[net]")
    with pytest.raises(DarknetError, match="is not a text file"):
        read(path)
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(DarknetError, match="is not a cfg"):
        read(path)


WORDS = sorted(set(re.findall(r"[\w.]+|[\[\]=,#-]|\n", published.yolov3_tiny())))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_cfg_does_more_than_be_refused(data: st.DataObject) -> None:
    """Whatever is changed in a sound cfg, it is a network or a DarknetError, at once."""
    tokens = re.findall(r"[\w.]+|[\[\]=,#-]|\n", published.yolov3_tiny())
    odd = st.sampled_from(
        [*WORDS, "999999999", "-1", "0", "", "nan", "1e999", "\x00", "é", "[route]", "[yolo]"]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(tokens) - 1))
        tokens[at : at + data.draw(st.integers(0, 3))] = [data.draw(odd)]
    with contextlib.suppress(DarknetError):
        assert plan(parse("".join(tokens))).layers

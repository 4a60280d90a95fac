"""Values with fractions, as two bytes each."""

import numpy as np

from broker import codec
from broker.messages import KERNELS, Fit, InputSpec, Job, Library, Resample
from pictures import fixed_point

CHANCE = np.random.default_rng(4)


def test_values_come_back_to_a_256th() -> None:
    pixels = CHANCE.uniform(-72, 327, (5, 6, 3)).astype(np.float32)
    planes = fixed_point.split(pixels)
    assert (planes.dtype.name, planes.shape, planes.flags.c_contiguous) == ("uint8", (5, 6, 6), True)
    assert np.abs(fixed_point.joined(planes) - pixels).max() < 1 / 255


def test_whole_pixels_are_exact() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    planes = fixed_point.split(pixels)
    assert np.array_equal(fixed_point.joined(planes), pixels)
    assert np.array_equal(fixed_point.rounded(planes), pixels)


def test_what_is_beyond_its_range_is_clipped() -> None:
    found = fixed_point.joined(fixed_point.split(np.array([[[-500.0, 500.0]]])))
    assert found.reshape(-1).tolist() == [-128, 384 - 1 / 128]


def test_rounding_is_to_the_nearest_pixel() -> None:
    planes = fixed_point.split(np.array([-60.0, 0.4, 0.6, 254.9, 300.0])[:, None])
    assert fixed_point.rounded(planes).reshape(-1).tolist() == [0, 0, 1, 255, 255]


def test_only_pictures_with_fractions_cost_two_bytes_a_value() -> None:
    for library in Library:
        for kernel in KERNELS[library]:
            for fit in Fit:
                spec = InputSpec(20, 10, 3, fit, resample=kernel, library=library)
                keeps = (
                    library is Library.TENSORFLOW and kernel is not Resample.NEAREST and fit is not Fit.INK
                )
                assert spec.shape == (10, 20, 6 if keeps else 3)
                assert spec.network_shape == (10, 20, 3)
                assert spec.tag.endswith("-fractions") == keeps


def test_a_job_is_as_large_as_it_is_said_to_be() -> None:
    sizes = []
    for library in (Library.TENSORFLOW, Library.OPENCV):
        spec = InputSpec(224, 224, 3, Fit.STRETCH, library=library)
        job = Job(
            id="0" * 36,
            image=np.zeros(spec.shape, np.uint8),
            accepted_at=1.0,
            deadline=2.0,
            reply_to=None,
            original_size=(1, 1),
            top=1,
            traceparent=None,
        )
        payload = codec.encode_job(job)
        assert codec.decode_job(payload).image.shape == spec.shape
        sizes.append(len(payload))
        assert sizes[-1] <= codec.job_size(spec) < sizes[-1] + 700
    assert sizes[0] - sizes[1] == 224 * 224 * 4

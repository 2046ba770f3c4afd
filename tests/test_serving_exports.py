"""`serve` on what `export` wrote, not on a toy."""

import contextlib

import feature_fixtures
import numpy as np
import pytest
import serving_fixtures as toy

from lisae_tf.detectors import load_detector

SLOW = [pytest.param(side, marks=pytest.mark.slow) for side in (320, 512)]


@pytest.fixture(scope="module", params=[64, *SLOW])
def served(request, tmp_path_factory, cli):
    """A detector on features of colour pictures, and a server of its export."""
    base = feature_fixtures.write_folders(tmp_path_factory.mktemp("served"))
    side = request.param
    result, run = feature_fixtures.train(cli, base, "--set", f"data.size=[{side},{side}]")
    assert result.exit_code == 0, result.stderr
    with contextlib.chdir(base):
        result = cli("export", "--run", run, "--format", "savedmodel", "--name", "m")
    assert result.exit_code == 0, result.output
    server = toy.Embedded(base / "models" / "savedmodel" / "m")
    yield load_detector(run), server
    assert server.end() == 0


def test_scores_and_maps_over_both_fronts(served):
    from lisae_tf.serving.grpc_client import GrpcClient
    from lisae_tf.serving.rest_client import RestClient

    detector, server = served
    times = detector.shape[0] // feature_fixtures.SIDE
    small = feature_fixtures.parts(3, flaw=True, seed=6)
    pictures = small.repeat(times, axis=1).repeat(times, axis=2)
    scores, maps = detector.score(pictures), detector.error_maps(pictures)
    with (
        GrpcClient("m", server.grpc, timeout=120) as grpc_client,
        RestClient("m", server.rest, timeout=120) as rest,
    ):
        for client in (grpc_client, rest):
            assert [each.state for each in client.status()] == ["AVAILABLE"]
            np.testing.assert_allclose(client.score(pictures).score, scores, rtol=1e-3)
            found = client.error_maps(pictures)
            assert np.abs(found - maps).max() <= 1e-3 * np.abs(maps).max()
            encoded = [toy.png(picture) for picture in pictures]
            np.testing.assert_allclose(client.score_encoded(encoded).score, scores, rtol=1e-3)

import os
import re
import shutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lisae_tf.config import settings as configuration
from lisae_tf.config.settings import (
    Config,
    assignments,
    config_folder,
    dataset_settings,
    merge,
    parse_yaml,
    read_settings,
    resolve,
)
from lisae_tf.config.variants import ROWS, VARIANTS
from lisae_tf.experiments.settling import settle

CONFIGS = sorted(path.stem for path in config_folder().glob("*.yaml"))


def folder_of(name):
    """What must come to the settings of own folders: a folder."""
    return {"normal_dir": "good"} if name.startswith("folder") else {}


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_each_dataset_configuration_is_valid_and_survives_a_round_trip(name, tmp_path):
    loaded = resolve(dataset_settings(name) | folder_of(name))
    assert name.startswith(loaded.dataset)  # mnist_2class is another task of mnist
    assert resolve(read_settings(write(tmp_path / "a.yaml", loaded.to_yaml()))) == loaded


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_of_a_run_is_itself_a_config_file(name, tmp_path):
    named = config_folder() / f"{name}.yaml"
    first, _ = settle({"seed": 7, **folder_of(name)}, named, ["latent_shaping.gamma=1e-3"])
    again, notes = settle({}, write(tmp_path / "config.yaml", first.to_yaml()), [])
    assert again == first
    assert again.digest() == first.digest()
    assert notes == []


@given(
    text=st.text(min_size=1) | st.from_regex(r"[-+]?[0-9]+(\.[0-9]*)?e[-+]?[0-9]+", fullmatch=True),
    number=st.integers(0, 99),
    gamma=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
)
def test_any_text_and_number_survive_a_round_trip(text, number, gamma):
    """Among them names such as 1e5, which are no numbers."""
    first = resolve(
        {"negatives": text, "normal_class": [text, number], "latent_shaping": {"gamma": gamma}}
    )
    assert resolve(parse_yaml(first.to_yaml(), "text")) == first


def test_the_names_in_the_settings_are_those_of_the_registries():
    from lisae_tf.data import protocols
    from lisae_tf.detectors import DETECTORS

    assert tuple(DETECTORS) == VARIANTS
    for name, registry in (("variant", DETECTORS), ("protocol", protocols.PROTOCOLS)):
        assert typing.get_args(Config.model_fields[name].annotation) == tuple(registry)


def test_the_table_of_variants_in_the_docs_names_every_variant():
    text = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
    table = text.split("| variants |")[1].split("\n\n")[0]
    assert set(VARIANTS) <= set(re.findall(r"`([^`]+)`", table))


def test_people_are_shown_the_sections_that_the_variant_reads():
    pooled = {"scoring": {"highest_share": 0.5}}  # shown where it is set alone
    shown = {
        variant: parse_yaml(resolve(pooled | {"variant": variant}).to_yaml(read=True), "text")
        for variant in VARIANTS
    }
    assert {"data", "network", "feature_extraction", "latent_shaping"} < shown["lis"].keys()
    assert not {"kde", "anogan", "fusion", "hypersphere"} & shown["lis"].keys()
    assert "kde" in shown["kde"]
    assert "network" not in shown["kde"]
    # No section is for nobody, and what is shown is what a run would get.
    recorded = [resolve(pooled | {"variant": variant}).model_dump() for variant in VARIANTS]
    assert set().union(*shown.values()) == set().union(*recorded)
    assert resolve(shown["anogan"]) == resolve(pooled | {"variant": "anogan"})


@pytest.mark.parametrize(
    "text, value",
    [("1e-3", 1e-3), ("-2E+4", -2e4), ("1.5e3", 1500.0), ("1.e2", 100.0), ("0.1", 0.1),
     ("'1e-3'", "1e-3"), ("1e", "1e"), ("e-3", "e-3"), ("3", 3), ("[1e-3, a]", [1e-3, "a"])],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text, value):
    parsed = parse_yaml(text, "it")
    assert parsed == value
    assert type(parsed) is type(value)


def test_assignments_meet_in_their_sections():
    items = ["network.latent=8", "network.filters=[4, 8]", "network.latent=9", "seed=3"]
    assert assignments(items) == {"network": {"latent": 9, "filters": [4, 8]}, "seed": 3}


KEYS = st.sampled_from("abc")
SETTINGS = st.recursive(
    st.dictionaries(KEYS, st.integers(), max_size=3),
    lambda inner: st.dictionaries(KEYS, st.integers() | inner, max_size=3),
)


def leaves(settings, path=()):
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        elif not isinstance(value, dict):
            yield (*path, key), value


@given(base=SETTINGS, over=SETTINGS)
def test_merging_takes_everything_from_above_and_the_rest_from_below(base, over):
    merged, above = dict(leaves(merge(base, over))), dict(leaves(over))
    assert above.items() <= merged.items()
    assert merged.items() - above.items() <= dict(leaves(base)).items()
    assert merge(base, {}) == base
    assert merge({}, over) == over


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """`configs/toy.yaml` in a folder of its own."""
    monkeypatch.setattr(configuration, "config_folder", lambda: tmp_path)
    return write(
        tmp_path / "toy.yaml",
        "dataset: toy\nprotocol: one-class\nnegatives: omniglot\nseed: 1\n"
        "latent_shaping:\n  gamma: 0.3\n  epochs: 4\n",
    )


@pytest.mark.parametrize("highest", range(5))
def test_each_layer_wins_over_those_below(highest, toy, tmp_path):
    """Defaults, then configs/<dataset>.yaml, then --config, then options, then --set."""
    mine = write(tmp_path / "mine.yaml", "seed: 2\n" if highest >= 2 else "network: {latent: 5}\n")
    options = {"dataset": "toy" if highest >= 1 else "other", "normal_dir": None}
    options["seed"] = 3 if highest >= 3 else None
    settled, _ = settle(options, mine, ["seed=4"] if highest == 4 else [])
    assert settled.seed == highest


def test_sections_are_merged_key_by_key(toy, tmp_path):
    mine = write(tmp_path / "mine.yaml", "latent_shaping: {gamma: 0.4}\n")
    shaping = settle({"dataset": "toy"}, mine, ["latent_shaping.beta=2"])[0].latent_shaping
    assert (shaping.epochs, shaping.gamma, shaping.beta, shaping.batch_size) == (4, 0.4, 2, 32)


@pytest.mark.parametrize("where", ["file", "option", "set"])
def test_the_dataset_may_be_named_in_any_layer(where, toy, tmp_path):
    mine = write(tmp_path / "mine.yaml", "dataset: toy\n") if where == "file" else None
    options = {"dataset": "toy"} if where == "option" else {}
    settled, notes = settle(options, mine, ["dataset=toy"] if where == "set" else [])
    assert (settled.dataset, settled.seed, notes) == ("toy", 1, [])


def test_a_dataset_without_a_file_says_what_it_takes(toy):
    settled, notes = settle({"dataset": "other"}, None, [])
    assert (settled.protocol, settled.negatives) == ("halves", "other-half")
    assert settled.normal_class is None
    assert len(notes) == 1
    assert "no configs/other.yaml: the first class is normal, the other half" in notes[0]


@pytest.mark.parametrize(
    "dataset, options, negatives",
    [
        ("toy", {"protocol": "halves"}, "other-half"),
        ("toy", {"protocol": "next-class"}, "next-class"),
        ("toy", {"protocol": "two-class"}, "omniglot"),
        ("other", {"protocol": "one-class"}, "strokes"),
        ("other", {"protocol": "one-class", "negatives": "mnist"}, "mnist"),
        ("toy", {"seed": 5}, "omniglot"),
    ],
)
def test_negatives_follow_a_chosen_protocol_unless_they_are_named(
    dataset, options, negatives, toy, tmp_path
):
    assert settle({"dataset": dataset, **options}, None, [])[0].negatives == negatives
    lines = "".join(f"{key}: {value}\n" for key, value in options.items())
    mine = write(tmp_path / "mine.yaml", lines)
    assert settle({"dataset": dataset}, mine, [])[0].negatives == negatives


def test_negatives_named_in_a_file_stay_when_an_option_changes_the_protocol(toy, tmp_path):
    mine = write(tmp_path / "mine.yaml", "negatives: kmnist\n")
    settled, _ = settle({"dataset": "toy", "protocol": "halves"}, mine, [])
    assert (settled.protocol, settled.negatives) == ("halves", "kmnist")


@pytest.mark.parametrize("in_file", [True, False])
def test_folders_need_no_dataset_and_no_remark(in_file, tmp_path):
    folders = {"normal_dir": "good", "negative_dir": "other"}
    lines = "".join(f"{name}: {folder}\n" for name, folder in folders.items())
    mine = write(tmp_path / "mine.yaml", lines) if in_file else None
    settled, notes = settle({} if in_file else folders, mine, [])
    assert (settled.dataset, settled.normal_dir, notes) == ("folder", "good", [])


OWN = {"normal_dir": "good", "negative_dir": "other"}


@pytest.mark.parametrize(
    "items, gamma_times",
    [
        ([], 10.0),
        (["latent_shaping.beta=2"], 10.0),
        (["latent_shaping.gamma_times=3"], 3.0),
        (["latent_shaping.gamma=0.02"], None),
    ],
)
@pytest.mark.parametrize("features", [None, "none"])
def test_own_folders_have_a_relative_gamma_unless_one_is_set(
    items, gamma_times, features, tmp_path
):
    settled, _ = settle(OWN | {"features": features}, None, items)
    assert settled.latent_shaping.gamma_times == gamma_times
    assert settled.feature_extraction.decoder_steps == (300 if features == "none" else 0)
    # The record of a run is settings again, and a setting that lies over it wins.
    record = write(tmp_path / "config.yaml", settled.to_yaml())
    assert settle({}, record, [])[0] == settled
    over = settle({}, record, ["latent_shaping.gamma=0.5"])[0].latent_shaping
    assert (over.gamma, over.gamma_times) == (0.5, None)
    read = settled.settings_read()
    if features == "none":
        assert ("gamma" in read["latent_shaping"]) == (gamma_times is None)
    else:  # neither `lis-knn` nor section 4.1 has γ
        assert "latent_shaping" not in read
        linear, _ = settle(OWN | {"variant": "linear-lis"}, None, items)
        assert linear.settings_read()["latent_shaping"] == {"closed_form": True}


def test_settings_that_own_folders_alone_have_are_in_no_other_record():
    settled, _ = settle({"dataset": "surfaces"}, None, [])
    assert "gamma_times" not in settled.to_yaml()
    assert "decoder_steps" not in settled.to_yaml()
    assert Config().digest() == "3f22930c3d69dde5"


def test_the_digest_is_that_of_the_settings():
    one, other = Config(seed=1), Config(seed=2)
    assert len(one.digest()) == 16
    assert one.digest() == Config(seed=1).digest() != other.digest()


def test_a_setting_that_came_later_is_recorded_where_it_is_set_alone():
    """The digest is the one without any `scoring`."""
    plain, pooled = resolve({}), resolve({"scoring": {"highest_share": 0.05}})
    assert "scoring" not in plain.model_dump()
    assert plain.digest() == resolve({"scoring": {"highest_share": 1.0}}).digest()
    assert plain.digest() == "3f22930c3d69dde5"
    assert pooled.digest() != plain.digest()
    assert resolve(pooled.model_dump()) == pooled
    assert "scoring" in pooled.settings_read()
    whole = resolve({"variant": "bce", "scoring": {"highest_share": 0.05}})
    assert "scoring" not in whole.settings_read()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_record_holds_all_that_its_variant_reads(variant):
    """Later defaults must not change what was trained."""
    config = resolve({"variant": variant})
    record = config.model_dump()
    assert set(ROWS[variant].sections) - {"scoring"} <= set(record)
    assert resolve(record) == config
    assert variant.endswith("knn") == ("knn" in record)


def test_a_record_with_settings_that_nothing_reads_any_more_is_read():
    removed = {"cache_features": False, "bank_copies": 3, "memory_budget_mb": 9}
    found = resolve({"latent_shaping": removed | {"gamma": 0.2}})
    assert found == resolve({"latent_shaping": {"gamma": 0.2}})
    assert found.unread({"latent_shaping": removed}) == [f"latent_shaping.{k}" for k in removed]


def test_what_is_solved_reads_none_of_the_settings_of_training():
    given = {"network": {"latent": 8, "filters": [1, 2]}, "latent_shaping": {"closed_form": True}}
    solved = resolve(given | {"variant": "linear-lis"}).settings_read()
    assert solved["network"] == {"latent": 8}
    assert solved["latent_shaping"] == {"closed_form": True}
    by_gradient = resolve({"variant": "linear-lis"}).settings_read()
    assert "gamma" in by_gradient["latent_shaping"]
    assert resolve(given | {"variant": "ae"}).settings_read()["network"]["filters"] == [1, 2]


@pytest.mark.parametrize(
    "variant, item, said",
    [
        ("kde", "latent_shaping.gamma=0.5", True),
        ("lis", "latent_shaping.gamma=0.5", False),
        ("linear-lis", "network.filters=[8,8]", True),
        ("linear-lis", "network.latent=8", False),
        ("lis", "kde.bandwidths=5", True),
        ("lis", "data.size=[32,32]", False),
    ],
)
def test_a_setting_that_the_variant_never_reads_is_said(variant, item, said):
    _, notes = settle(OWN | {"variant": variant, "features": "none"}, None, [item])
    path = item.partition("=")[0]
    assert (f"{path} is set, but {variant} does not read it" in notes) == said


def test_configurations_are_the_packages_own_wherever_it_lies(tmp_path):
    """As installed into a folder where another package has a folder `configs`."""
    shutil.copytree(
        Path(configuration.__file__).parents[1], tmp_path / "lisae_tf",
        ignore=shutil.ignore_patterns("__pycache__"),
    )  # fmt: skip
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mnist.yaml").write_text("seed: 7\n")
    code = (
        "from lisae_tf.config import settings as config; "
        "print(config.__file__, config.dataset_settings('mnist'))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert found.startswith(str(tmp_path))
    assert str(configuration.dataset_settings("mnist")) in found and "'seed': 7" not in found

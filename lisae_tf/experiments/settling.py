"""How options of the command line become the settings of a run."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lisae_tf.config import settings as config
from lisae_tf.config.variants import ONE_CLASS, PICTURES_ONLY
from lisae_tf.core.errors import LisaeError
from lisae_tf.core.files import sha256
from lisae_tf.data import pictures
from lisae_tf.data.layout import mvtec_settings
from lisae_tf.data.protocols import DEFAULT_FLAWS, DEFAULT_SYNTHETIC, base_name


def _mvtec_settings(folder: str, given: dict[str, Any]) -> dict[str, str]:
    """The folders that --mvtec stands for.

    Raises:
        LisaeError: another layout, or one of these folders is given as well.
    """
    for name in ("normal_dir", "anomaly_dir", "test_dir", "mask_dir"):
        if name in given:
            option = f"--{name.replace('_', '-')}"
            raise LisaeError(f"--mvtec and {option} exclude each other; leave one of them out")
    return mvtec_settings(Path(os.path.expanduser(folder)))


def _own_folders(chosen: dict[str, Any]) -> dict[str, Any]:
    """The settings of folders of pictures, on features unless pixels are asked for.

    Args:
        chosen: what the user says.
    """
    on_pixels = "features" in chosen and chosen["features"] is None
    on_pixels |= "features" not in chosen and chosen.get("variant") in PICTURES_ONLY
    base = config.dataset_settings("folder_pixels" if on_pixels else config.FOLDER) or {}
    if not _shaping(chosen).keys().isdisjoint({"gamma", "gamma_times"}):
        _shaping(base).pop("gamma_times", None)
    return base


def _free(chosen: dict[str, Any]) -> list[str]:
    """The settings that known flaws may choose: those that the user leaves open."""
    given = {path for path, _ in config.leaves(chosen)}
    if "features.negatives" in given:  # a variant without negatives would pass over it
        given.add("variant")
    return [path for path in config.CHOSEN if path not in given]


def _shaping(settings: dict[str, Any]) -> dict[str, Any]:
    """The section on phase 2, where it is one."""
    section = settings.get("latent_shaping")
    return section if isinstance(section, dict) else {}


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """Options as settings: --mvtec, --features and folders as what they stand for."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    named_by = "--normal-dir"
    if "mvtec" in given:
        named_by = "--mvtec"
        given |= _mvtec_settings(given.pop("mvtec"), given)
    if "features" in given:
        name = given.pop("features")
        given["features"] = None if name == "none" else {"backbone": name}
    if "group_by" in given:
        given["data"] = (given.get("data") or {}) | {"group_by": given.pop("group_by")}
    if isinstance(given.get("normal_dir"), tuple):
        folders = list(given["normal_dir"])
        given["normal_dir"] = folders[0] if len(folders) == 1 else folders
    if given.get("normal_dir"):
        if given.get("dataset", config.FOLDER) != config.FOLDER:
            raise LisaeError(f"--dataset and {named_by} exclude each other; give one of them")
        given["dataset"] = config.FOLDER
    return given


def _of_mask(path: str | None) -> dict[str, Any]:
    """What the settings keep of a mask; nothing where it cannot be read, which is said later."""
    place = Path(os.path.expanduser(path or ""))
    digest, size = None, None
    if place.is_file():
        digest = sha256(place)
        with contextlib.suppress(pictures.BadPicture):
            size = [*pictures.decode(place, channels=1).shape[:2]]
    return {"ignore_mask_sha256": digest, "ignore_mask_size": size}


def settle(
    options: dict[str, Any], config_file: Path | None, assigned: Sequence[str]
) -> tuple[Any, list[str]]:
    """The resolved settings and remarks on where they come from.

    Defaults, then `configs/<dataset>.yaml` or what suits own folders, then `config_file`, then
    options, then `--set`. A γ that is given replaces a relative one below it.

    Raises:
        LisaeError: unknown keys, wrong types, broken YAML.
    """
    notes = []
    given = _given(options)
    from_file = config.read_settings(config_file) if config_file else {}
    over = config.assignments(assigned)
    if over.get("features") and given.get("features", over) is None:
        raise LisaeError("--features none and --set features... exclude each other; give one")
    if "gamma" in _shaping(over):
        _shaping(over).setdefault("gamma_times", None)
    chosen = config.merge(config.merge(from_file, given), over)
    if chosen.get("normal_dir"):
        chosen.setdefault("dataset", config.FOLDER)
    named = chosen.get("dataset") or "surfaces"
    if config.is_record(from_file):
        base = {}
    elif named == config.FOLDER:
        base = _own_folders(chosen)
    else:
        base = config.dataset_settings(base_name(str(named)))
    if base is None:
        base = {}
        notes.append(
            f"there is no configs/{named}.yaml: the first class is normal, the other half of "
            "the classes negative, everything else at its default"
        )
    if named == config.FOLDER and not chosen.get("negatives"):
        made = DEFAULT_FLAWS if config.merge(base, chosen).get("features") else DEFAULT_SYNTHETIC
        if chosen.get("variant", base.get("variant", "lis")) in ONE_CLASS:
            base["negatives"] = "none"
        elif not chosen.get("negative_dir"):
            base["negatives"] = made
            notes.append(
                f"no negatives are given; --negatives {made} makes them of the normal pictures"
            )
        elif made == DEFAULT_FLAWS:  # beside the real ones, which may not help
            base["negatives"] = made
    # Unless they are named, negatives follow the protocol.
    if "protocol" in chosen and named != config.FOLDER:
        natural = {"halves": "other-half", "next-class": "next-class"}
        if str(chosen["protocol"]) in natural:
            base["negatives"] = natural[chosen["protocol"]]
        elif base.get("negatives", "other-half").partition("+")[0] in natural.values():
            base["negatives"] = "strokes"
    if chosen.get("known_dir") and "choose" not in chosen:
        free = [] if config.is_record(from_file) else _free(chosen)
        base["choose"] = free
        if not free:
            notes.append(
                "every setting is given, so the known flaws choose nothing; half of them stay out "
                "of the test all the same"
            )
    origin = str(config_file) if config_file else "settings"
    resolved = config.resolve(config.merge(base, chosen), origin)
    if given.get("ignore_mask") or "ignore_mask" in over or not resolved.ignore_mask_sha256:
        resolved = resolved.model_copy(update=_of_mask(resolved.ignore_mask))
    if "variant" not in resolved.choose:
        notes += [f"{path} is set, but {resolved.variant} does not read it" for path in
                  resolved.unread(over)]  # fmt: skip
    return resolved, notes

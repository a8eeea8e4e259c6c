"""What is installed and where it keeps its files: all that `cogworks doctor` looks at before it tries something.

Uses no network.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from cogworks.config.places import cache_folder, settings_file
from cogworks.doctor.findings import Finding, Report, Severity, in_bytes
from cogworks.doctor.hardware import check_devices
from cogworks.doctor.self_test import run_self_test
from cogworks.errors import RequestError
from cogworks.pipelines.prompt_cache import SIZE_VARIABLE, prompts_bytes, prompts_folder
from cogworks.pipelines.provenance import versions
from cogworks.weights.hub import hub_cache, size_on_disk

ENCODERS = {"libx264": ".mp4", "libvpx-vp9": ".webm"}
_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(?:\[.*?\])?\s*(?P<bounds>[^;]*)(?:;.*extra\s*==\s*['\"](?P<extra>\w+)['\"])?"
)
_BOUND = re.compile(r"(>=|<)\s*([\d.]+)")
_FOR_DEVELOPERS = "test"  # an extra that users have no use for


def check_system(*, self_test: bool = True) -> Report:
    """Look at this installation.

    Args:
        self_test: also generate and read back a video with the bundled model, which takes some seconds.
    """
    findings = [_versions(), *check_libraries(), *check_devices(), *check_places(), *check_encoders()]
    return Report("this installation", (*findings, *(run_self_test() if self_test else ())))


def _versions() -> Finding:
    found = versions()
    text = f"{', '.join(f'{name} {version}' for name, version in found.items())} on {platform.platform(terse=True)}."
    return Finding("ok", "versions", text, values={**found, "platform": platform.platform()})


def check_libraries() -> list[Finding]:
    """The libraries that Cogworks is declared to need, and those of its extras."""
    wrong: list[Finding] = []
    here: dict[str, str] = {}
    extras: dict[str, dict[str, str | None]] = {}
    for name, bounds, extra in _requirements():
        version = _version(name)
        if extra:
            extras.setdefault(extra, {})[name] = version
        elif version is None:
            advice = "Install Cogworks again (pip install --force-reinstall cogworks)."
            wrong.append(Finding("problem", "libraries", f"{name} is missing, which Cogworks needs.", advice))
        else:
            here[name] = version
        if version is not None and not _fits(version, bounds):
            advice = f"Run pip install '{name}{bounds}'."
            text = f"{name} is {version}, and Cogworks needs {bounds}."
            wrong.append(Finding("warning", "libraries", text, advice))
    text = ", ".join(f"{name} {version}" for name, version in here.items())
    return [Finding("ok", "libraries", f"{text}.", values=here), *wrong, *map(_extra, extras.items())]


def _extra(item: tuple[str, dict[str, str | None]]) -> Finding:
    extra, libraries = item
    missing = [name for name, version in libraries.items() if version is None]
    part, advice = f"extra {extra}", f"If you want it, run pip install 'cogworks[{extra}]'."
    if missing:
        text = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed."
        return Finding("note", part, text, advice, libraries)
    text = ", ".join(f"{name} {version}" for name, version in libraries.items())
    return Finding("ok", part, f"{text}.", values=libraries)


def _requirements() -> Iterator[tuple[str, str, str | None]]:
    """Name, bounds and extra of everything the installed package declares."""
    for line in metadata.requires("cogworks") or ():
        found = _REQUIREMENT.match(line)
        if found is not None and found["extra"] != _FOR_DEVELOPERS and found["name"] != "cogworks":
            yield found["name"], found["bounds"].strip(), found["extra"]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _fits(version: str, bounds: str) -> bool:
    numbers = _numbers(version)
    return all(
        numbers >= _numbers(bound) if sign == ">=" else numbers < _numbers(bound)
        for sign, bound in _BOUND.findall(bounds)
    )


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, without zeros at its end: 2.0 is 2."""
    release = re.match(r"[\d.]*", version)
    numbers = [int(part) for part in (release[0] if release else "").split(".") if part]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def check_places() -> list[Finding]:
    """Where models, remembered results and settings are kept, how much there is, and whether more can be added."""
    findings = [
        _place("hub cache", hub_cache(), "HF_HOME"),
        _place("own cache", cache_folder(), "COGWORKS_CACHE"),
        _prompts(),
    ]
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        text = "HF_HUB_OFFLINE is set: models that are not on this machine cannot be fetched."
        findings.append(Finding("note", "hub cache", text))
    settings = settings_file()
    state = "holds your settings" if settings.is_file() else "is where settings would be"
    return [*findings, Finding("ok", "settings", f"{settings} {state}.", values={"path": str(settings)})]


def _place(part: str, folder: Path, variable: str) -> Finding:
    exists = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    size, free = size_on_disk(folder), shutil.disk_usage(exists).free
    values: dict[str, object] = {"path": str(folder), "size": size, "disk_free": free}
    if not exists.is_dir() or not os.access(exists, os.W_OK | os.X_OK):
        text, advice = f"{folder} cannot be written to.", f"Change its permissions, or choose another with {variable}."
        return Finding("warning", part, text, advice, values)
    text = f"{folder} holds {in_bytes(size)}; {in_bytes(free)} of the disk are free."
    return Finding("ok", part, text, values=values)


def _prompts() -> Finding:
    folder = prompts_folder()
    size = size_on_disk(folder)
    values: dict[str, object] = {"path": str(folder), "size": size}
    try:
        room = prompts_bytes()
    except RequestError as error:
        return Finding("problem", "prompts", f"{error}.", f"Unset {SIZE_VARIABLE}, or give it an amount.", values)
    values["room"] = room
    if not room:
        text = f"{SIZE_VARIABLE} is 0: every process reads each prompt with the text encoder."
        return Finding("note", "prompts", text, values=values)
    text = f"{folder} holds {in_bytes(size)} of {in_bytes(room)} for prompts that were read before."
    return Finding("ok", "prompts", text, values=values)


def check_encoders() -> list[Finding]:
    """Whether PyAV's FFmpeg can write the video formats."""
    import av
    from av.codec.codec import UnknownCodecError

    findings = []
    for encoder, ending in ENCODERS.items():
        values: dict[str, object] = {"encoder": encoder, "ending": ending}
        try:
            av.codec.Codec(encoder, "w")
        except UnknownCodecError:
            severity: Severity = "problem" if encoder == "libx264" else "warning"
            text = f"PyAV has no {encoder}, so {ending} cannot be written."
            advice = "Install PyAV from its wheels: pip install --force-reinstall --only-binary av av"
            findings.append(Finding(severity, "video", text, advice, {**values, "found": False}))
        else:
            text = f"PyAV writes {ending} with {encoder}."
            findings.append(Finding("ok", "video", text, values={**values, "found": True}))
    return findings

"""docs/api.md, made from the docstrings: `python docs/api.py` writes it, `--check` says whether it is up to date.

The source is read and not imported, so that this needs neither torch nor a second. A name that is gone is an error.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "cogworks"
PAGE = DOCS / "api.md"
LINE = 100  # characters of a signature before it is broken
HEADINGS = ("Args", "Returns", "Yields", "Raises", "Attributes", "Source")

# Heading, what it says, and `module: names`. A class comes with its public methods.
SECTIONS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Load and generate",
        "`cogworks.load` and `cogworks.Pipeline` are also names of the package itself.",
        (("pipelines.load", "load"), ("pipelines.generate", "Pipeline"), ("pipelines.progress", "Progress")),
    ),
    (
        "Memory",
        "What a run does to need less, and what that costs: [hardware.md](hardware.md).",
        (
            ("config.measures", "Measures"),
            ("pipelines.planning.shape", "RunShape"),
            ("pipelines.planning.plan", "plan_run"),
            ("pipelines.planning.plan", "Plan"),
        ),
    ),
    (
        "Requests and recipes",
        "One request is what a line of a list of jobs says; one recipe is what a file carries.",
        (
            ("config.request", "GenerationRequest"),
            ("config.request", "parse_request"),
            ("config.jobs", "read_jobs"),
            ("config.video_recipe", "VideoRecipe"),
            ("pipelines.resume", "RunCheckpoint"),
        ),
    ),
    (
        "Video files and frames",
        "All of `cogworks.video`; `cogworks.Video` is the same class. It imports no torch.",
        (
            ("video.video", "Video"),
            ("video.read", "read_video"),
            ("video.read", "read_image"),
            ("video.read", "read_metadata"),
            ("video.write", "write_video"),
            ("video.write", "check_output"),
            ("video.write", "StreamingWriter"),
            ("video.frames", "resize_frames"),
            ("video.frames", "upscale_frames"),
            ("video.frames", "contact_sheet"),
            ("video.frames", "hash_frames"),
            ("video.frames", "to_pixels"),
            ("video.frames", "to_frames"),
        ),
    ),
    (
        "Extensions",
        "Behaviour that joins a network from outside: [the seams](../ARCHITECTURE.md#seams-and-extensions).",
        (
            ("extensions.attach", "attach"),
            ("extensions.attach", "Attachment"),
            ("extensions.attach", "Extension"),
            ("extensions.attach", "Wrapper"),
            ("extensions.attach", "Place"),
            ("extensions.kernels", "AttentionKernel"),
            ("extensions.lora", "LoRA"),
            ("extensions.lora", "StoredLoRA"),
            ("extensions.int8", "Int8Weights"),
            ("extensions.int8_products", "Int8Products"),
            ("extensions.checkpointing", "ActivationCheckpointing"),
        ),
    ),
    (
        "Files of models",
        "",
        (
            ("weights.source", "resolve"),
            ("weights.source", "download"),
            ("weights.convert", "convert_folder"),
            ("weights.fingerprint", "weights_hash"),
            ("weights.lora", "read_lora"),
        ),
    ),
    (
        "Training",
        "Recipes and what runs them: [training.md](training.md); their keys: [recipes.md](recipes.md).",
        (
            ("config.recipe", "load_recipe"),
            ("training.run", "train"),
            ("training.run", "prepare_run"),
            ("training.run", "export_checkpoint"),
            ("training.transformer.module", "TransformerModule"),
            ("training.vae.module", "VAEModule"),
            ("training.clips.prepare", "prepare"),
            ("training.watching.predict", "prompt_loader"),
            ("training.planning.plan", "plan_training"),
            ("data.clips", "find_clips"),
            ("diffusion.loss", "diffusion_loss"),
            ("diffusion.timesteps", "draw_positions"),
        ),
    ),
    (
        "Errors",
        "All of them are `ValueError`s. `RunError` and its subclasses end a command with exit status 1, the others "
        "with 2.",
        (("errors", "*"),),
    ),
)

Defined = ast.FunctionDef | ast.ClassDef


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` compare it. Returns the exit status."""
    text = make_page()
    if "--check" in arguments:
        return int(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


def make_page() -> str:
    """The whole page."""
    parts = [
        "# API",
        _wrapped(
            "The public names, from their docstrings (`python docs/api.py` writes this page; a test compares it). "
            "Letters and layouts: pixels and latents are `B C T H W`, tokens `B N D`; frames in memory are `T H W 3`, "
            "uint8."
        ),
    ]
    for heading, words, names in SECTIONS:
        parts += [f"## {heading}", *([_wrapped(words)] if words else [])]
        for module, name in names:
            for each in _names(module) if name == "*" else [name]:
                parts += _entry(module, each)
    return "\n\n".join(parts) + "\n"


@cache
def _module(module: str) -> dict[str, Defined]:
    tree = ast.parse((SOURCE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, Defined)}


def _names(module: str) -> list[str]:
    return [name for name in _module(module) if not name.startswith("_")]


def _entry(module: str, name: str) -> Iterator[str]:
    node = _module(module)[name]
    yield f"### {name}"
    if isinstance(node, ast.FunctionDef):
        yield _code(f"cogworks.{module}", _signature(node))
        yield from _docstring(node)
        return
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    made = next((method for method in node.body if _is_constructor(method)), None)
    call = [] if made is None else ["", _signature(made).replace("def __init__", name).removesuffix(" -> None")]
    yield _code(f"cogworks.{module}", f"class {name}({bases})" if bases else f"class {name}", _fields(node), call)
    yield from _docstring(node)
    methods = [each for each in node.body if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")]
    properties = [method for method in methods if "property" in _marks(method)]
    if properties:
        yield "*Properties*"
        yield "\n".join(map(_property, properties))
    for method in methods:
        if method not in properties:
            yield f"#### {name}.{method.name}"
            marks = [f"@{mark}" for mark in _marks(method) if mark in ("classmethod", "staticmethod")]
            yield _code(*marks, _signature(method))
            yield from _docstring(method)


def _marks(method: ast.FunctionDef) -> list[str]:
    return [ast.unparse(mark) for mark in method.decorator_list]


def _property(method: ast.FunctionDef) -> str:
    words = " ".join((ast.get_docstring(method) or "").split())
    kind = "" if method.returns is None else f": {ast.unparse(method.returns)}"
    return _wrapped(f"- `{method.name}{kind}`" + (f": {words}" if words else ""), indent="  ")


def _is_constructor(method: ast.stmt) -> TypeGuard[ast.FunctionDef]:
    """Whether it is an `__init__` that takes something."""
    return isinstance(method, ast.FunctionDef) and method.name == "__init__" and ast.unparse(method.args) != "self"


def _fields(node: ast.ClassDef) -> list[str]:
    """What is annotated in the body: the fields of a dataclass or of a pydantic model."""
    annotated = [field for field in node.body if isinstance(field, ast.AnnAssign)]
    fields = [field for field in annotated if not ast.unparse(field.target).startswith("_")]
    shown = []
    for field in fields:
        default = "" if field.value is None else f" = {_default(field.value)}"
        shown.append(f"    {ast.unparse(field.target)}: {ast.unparse(field.annotation)}{default}")
    return shown


def _default(value: ast.expr) -> str:
    """A default as it reads; of pydantic's and dataclasses' `Field(...)` only what stands for the value."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("Field", "field", "_also"):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
        return given.get("default", "None" if ast.unparse(value.func) == "_also" else "...")
    return ast.unparse(value)


def _signature(node: ast.FunctionDef) -> str:
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    arguments = list(_arguments(node.args))
    line = f"def {node.name}({', '.join(arguments)}){returns}"
    if len(line) <= LINE:
        return line
    return f"def {node.name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + f"){returns}"


def _arguments(given: ast.arguments) -> Iterator[str]:
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults)) + list(given.defaults)
    for index, (argument, default) in enumerate(zip(positional, defaults, strict=True)):
        if argument.arg not in ("self", "cls"):
            yield _argument(argument, default)
        if index + 1 == len(given.posonlyargs):
            yield "/"
    if given.vararg is not None:
        yield f"*{_argument(given.vararg, None)}"
    elif given.kwonlyargs:
        yield "*"
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _argument(argument, default)
    if given.kwarg is not None:
        yield f"**{_argument(given.kwarg, None)}"


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    annotation = "" if argument.annotation is None else f": {ast.unparse(argument.annotation)}"
    equals = " = " if annotation else "="
    return argument.arg + annotation + ("" if default is None else f"{equals}{ast.unparse(default)}")


def _code(*lines: str | list[str]) -> str:
    """A fenced block; the first line of an entry is its module, as a comment."""
    flat = [each for line in lines for each in (line if isinstance(line, list) else [line])]
    if flat[0].startswith("cogworks."):
        flat[0] = f"# {flat[0]}"
    return "\n".join(["```text", *flat, "```"])


def _docstring(node: Defined) -> Iterator[str]:
    """Paragraphs as they are, what is indented under a heading as a list."""
    text = ast.get_docstring(node)
    for paragraph in re.split(r"\n\s*\n", text) if text else ():
        first, _, rest = paragraph.partition("\n")
        heading, _, beside = first.partition(":")
        if heading in HEADINGS and (rest or beside.strip()):
            yield f"*{heading}*" if not beside.strip() else f"*{heading}*: {_joined(beside + ' ' + rest)}"
            if not beside.strip():
                yield _items(textwrap.dedent(rest), named=heading != "Returns")
        elif paragraph.startswith(" "):
            yield _code(textwrap.dedent(paragraph).splitlines())
        else:
            yield _joined(paragraph)


def _items(text: str, *, named: bool) -> str:
    """`name: words`, each on a line of its own and continued by indented ones, as a list."""
    if not named:
        return _joined(text)
    items = re.split(r"\n(?=\S)", text.strip())
    lines = []
    for item in items:
        name, colon, words = item.partition(":")
        text = f"- `{name.strip()}`: {' '.join(words.split())}" if colon else f"- {' '.join(item.split())}"
        lines.append(_wrapped(text, indent="  "))
    return "\n".join(lines)


def _joined(text: str) -> str:
    return _wrapped(" ".join(text.split()))


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

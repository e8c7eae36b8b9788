"""Tasks whose scorer runs or evaluates answers, found by reading their files before any of them is imported.

lm-eval marks some of its tasks as unsafe, but not all: a scorer that gives an answer to `sympy` evaluates it as Python.
So the modules that a task names, and those that they import from beside them, are searched for whatever can execute
text. Answers that are scored by `code_eval` run in the sandbox (`code_scoring`); all others on this machine.
"""

from __future__ import annotations

import ast
import importlib.util
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from lm_eval.tasks._index import Entry

# Where the answers of a task are executed.
Place = Literal["nowhere", "sandbox", "host"]

BUILTINS = frozenset({"exec", "eval", "compile", "__import__"})
# Modules that execute text, or objects made from it; sympy's parsers do so by eval.
MODULES = frozenset(
    [
        "subprocess",
        "pty",
        "runpy",
        "code",
        "codeop",
        "pickle",
        "dill",
        "cloudpickle",
        "marshal",
        "shelve",
        "ctypes",
        "cffi",
        "sympy",
        "math_verify",
        "latex2sympy2",
        "latex2sympy2_extended",
        "numexpr",
        "asteval",
        "simpleeval",
        "js2py",
        "execjs",
        "RestrictedPython",
        "IPython",
        "unitxt",
    ]
)
# Functions of modules that are otherwise harmless, by the names under which modules are usually imported.
FUNCTIONS = {
    "os": "system popen fork forkpty posix_spawn posix_spawnp startfile "
    "execl execle execlp execlpe execv execve execvp execvpe "
    "spawnl spawnle spawnlp spawnlpe spawnv spawnve spawnvp spawnvpe",
    "asyncio": "create_subprocess_exec create_subprocess_shell",
    "importlib": "import_module util.spec_from_file_location util.module_from_spec",
    "yaml": "load load_all unsafe_load unsafe_load_all",
    "torch": "load",
    "joblib": "load",
    "pandas": "eval read_pickle",
    "pd": "eval read_pickle",
}
DOTTED = frozenset(f"{module}.{name}" for module, names in FUNCTIONS.items() for name in names.split())
SANDBOX = "pipeline.tasks.sandbox"
METRIC = "code_eval"


@dataclass(frozen=True)
class Finding:
    """Line of a module that can execute text."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        """Return it for a message."""
        return f"{self.what} in {self.file}, line {self.line}"


@dataclass(frozen=True)
class Source:
    """Content of a module, as far as it matters here.

    Attributes:
        findings: what can execute text.
        uses_sandbox: whether it scores by the sandbox.
        near: modules that it imports from beside it.
    """

    findings: tuple[Finding, ...]
    uses_sandbox: bool
    near: tuple[Path, ...]


@dataclass(frozen=True)
class Scorer:
    """Execution of a task's answers.

    Attributes:
        place: where they are executed.
        reasons: what executes them on this machine, by task.
    """

    place: Place
    reasons: dict[str, str]


def scorer_of(index: Mapping[str, Entry], name: str) -> Scorer:
    """Return where the answers of a task, a group or a tag are executed, by its files.

    Args:
        index: lm-eval's index, with functions unresolved.
        name: of the task, group or tag.
    """
    places: set[Place] = set()
    reasons: dict[str, str] = {}
    for task, content in _tasks(index, name, frozenset()):
        place, reason = _examine(content)
        places.add(place)
        if place == "host":
            reasons[task] = reason
    return Scorer("host" if reasons else "sandbox" if "sandbox" in places else "nowhere", reasons)


def checked(setting: str, name: str, index: Mapping[str, Entry], *, unsafe: bool) -> Place:
    """Return where the answers of a task, a group or a tag are executed, if that is allowed.

    Args:
        setting: of the task, for the message.
        name: of the task, group or tag.
        index: lm-eval's index, with functions unresolved.
        unsafe: allow this machine.

    Raises:
        ConfigError: if it is this machine, and that is not allowed; naming the first such task and the line.
    """
    scorer = scorer_of(index, name)
    if scorer.place == "host" and not unsafe:
        task, reason = next(iter(scorer.reasons.items()))
        raise ConfigError(
            f"{setting}.task={name}: what the model writes would be executed on this machine, outside the sandbox "
            f"({task}: {reason}).",
            "Choose another task; or accept the risk with eval.unsafe_code=true.",
        )
    return scorer.place


def _tasks(index: Mapping[str, Entry], name: str, seen: frozenset[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every task of a task, group or tag, with its content."""
    entry = index.get(name)
    if entry is None or name in seen:
        return
    seen |= {name}
    content = entry.cfg or {}
    if isinstance(content.get("task"), list):
        yield from _members(index, name, content, seen)
    elif content:
        yield name, content
    else:
        for member in sorted(entry.tags):
            yield from _tasks(index, member, seen)


def _members(
    index: Mapping[str, Entry], name: str, content: Mapping[str, Any], seen: frozenset[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the tasks of a group: named, or written into it, perhaps as changes of a named one."""
    yield name, {key: value for key, value in content.items() if key != "task"}
    for member in content["task"]:
        if isinstance(member, str):
            yield from _tasks(index, member, seen)
        elif isinstance(member.get("task"), list):
            yield from _members(index, str(member.get("group", name)), member, seen)
        else:
            base = str(member.get("task", name))
            found = dict(_tasks(index, base, seen))
            yield base, {**found.get(base, {}), **member}
            yield from found.items()


def _examine(content: Mapping[str, Any]) -> tuple[Place, str]:
    """Return where a task's answers are executed, and the reason if that is this machine."""
    sources = [_read(path) for path in _with_near(_modules(content))]
    findings = [finding for source in sources for finding in source.findings]
    if findings:
        return "host", str(findings[0])
    if any(source.uses_sandbox for source in sources):
        return "sandbox", ""
    is_marked = content.get("unsafe_code", False) is not False
    return (
        ("host", "lm-eval marks it as unsafe, and its scorer does not use the sandbox")
        if is_marked
        else ("nowhere", "")
    )


def _modules(value: object) -> Iterator[Path]:
    """Yield the files of the functions that a task names, anywhere in its content.

    lm-eval's index has them as the folder of the task's file and a dotted name.
    """
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _modules(each)
    elif isinstance(value, list):
        for each in value:
            yield from _modules(each)
    elif isinstance(value, str) and value.startswith("/") and "\n" not in value:
        folder, _, dotted = value.rpartition("/")
        module = dotted.rpartition(".")[0]
        beside = Path(folder, f"{module.replace('.', '/')}.py")
        if module and len(value) < 4096:
            yield from [beside] if beside.is_file() else _importable(module)


def _importable(module: str) -> Iterator[Path]:
    """Yield the file of a module that is not beside the task."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return
    if spec is not None and spec.origin is not None and spec.has_location:
        yield Path(spec.origin)


def _with_near(paths: Iterator[Path]) -> list[Path]:
    """Return modules and all that they import from beside them."""
    found: dict[Path, None] = {}
    waiting = list(paths)
    while waiting:
        path = waiting.pop(0).resolve()
        if path not in found:
            found[path] = None
            waiting += _read(path).near
    return list(found)


@cache
def _read(path: Path) -> Source:
    """Read a module; one that cannot be read counts as executing answers."""
    name = "/".join(path.parts[-2:])
    try:
        with warnings.catch_warnings():
            # About escape sequences in code that is not ours.
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return Source((Finding(name, 1, "code that cannot be read"),), False, ())
    findings, near, uses_sandbox = [], [], False
    for node in ast.walk(tree):
        imported = [] if not isinstance(node, ast.Import | ast.ImportFrom) else list(_imports(node))
        near += [file for level, module in imported for file in _beside(path, level, module)]
        names = [
            each for level, each in imported if not level and (each.partition(".")[0] in MODULES or each in DOTTED)
        ]
        if isinstance(node, ast.Call | ast.Attribute | ast.Name):
            names += _executing(node)
            uses_sandbox |= isinstance(node, ast.Call) and any(
                isinstance(each, ast.Constant) and each.value == METRIC for each in node.args
            )
        uses_sandbox |= any(module.startswith(SANDBOX) for _, module in imported)
        findings += [Finding(name, node.lineno, each) for each in names if isinstance(node, ast.stmt | ast.expr)]
    return Source(tuple(sorted(findings, key=lambda each: each.line)), uses_sandbox, tuple(near))


def _executing(node: ast.AST) -> list[str]:
    """Return the name of a function that executes text, if the node is one."""
    if isinstance(node, ast.Name) and node.id in BUILTINS:
        return [node.id]
    if isinstance(node, ast.Attribute) and (name := ast.unparse(node)) in DOTTED:
        return [name]
    return []


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[int, str]]:
    """Yield the level (0: absolute) and name of each module, or what may be one, that a statement imports."""
    if isinstance(node, ast.Import):
        yield from ((0, alias.name) for alias in node.names)
        return
    module = node.module or ""
    yield node.level, module
    yield from ((node.level, f"{module}.{alias.name}".strip(".")) for alias in node.names)


def _beside(path: Path, level: int, module: str) -> Iterator[Path]:
    """Yield the file of an import, if it is beside the importing module or in another folder of lm-eval's tasks."""
    parts = module.split(".") if module else []
    if parts[:2] == ["lm_eval", "tasks"] and not level:
        # Not lm-eval's own loader, which sees no answers.
        library = next((each for each in path.parents if each.name == "tasks" and each.parent.name == "lm_eval"), None)
        folder, parts = library, parts[2:] if len(parts) > 3 else []
    else:
        folder = path.parents[max(level - 1, 0)]
    if folder is not None and parts:
        for file in (folder.joinpath(*parts).with_suffix(".py"), folder.joinpath(*parts, "__init__.py")):
            if file.is_file():
                yield file

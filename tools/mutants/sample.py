"""Sample of mutants: places of the modules, drawn by a seed, each with one change by Cosmic Ray's operators."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """One changed place: the operator's occurrence in the module, and the first line that differs, before and after."""

    path: str
    operator: str
    occurrence: int
    line: int
    before: str
    after: str

    @property
    def place(self) -> tuple[str, str, int]:
        """Identity within one version of the module."""
        return self.path, self.operator, self.occurrence

    @property
    def change(self) -> tuple[str, str, str, str]:
        """Identity in any version of the module."""
        return self.path, self.operator, self.before, self.after


def modules(areas: Iterable[str]) -> list[Path]:
    """Return the modules of folders and files, relative to the root."""
    found = set()
    for area in areas:
        path = ROOT / area
        found |= {path} if path.is_file() else set(path.rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in found)


def sample(paths: Sequence[Path], size: int, seed: int) -> list[Mutant]:
    """Draw places uniformly, and one mutant of each; the choice in one module does not depend on other modules."""
    chosen: list[Mutant] = []
    # A place is the occurrences of one kind of operator at one position.
    places = [(path, place) for path in paths for place in _places(path)]
    places.sort(key=lambda each: digest(seed, each[0], *each[1][0]))
    for path, (name, occurrences) in places:
        if len(chosen) == size:
            break
        operator, occurrence = min(occurrences, key=lambda each: digest(seed, path, *name, *each))
        if (mutant := _mutant(path, operator, occurrence)) is not None:
            chosen.append(mutant)
    return chosen


Place = tuple[tuple[str, str, int], list[tuple[str, int]]]


def _places(path: Path) -> list[Place]:
    """Return each place by line, kind of operator and number among equals, with its operators and occurrences."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator, operator_names

    source = (ROOT / path).read_text(encoding="utf-8")
    lines, nodes = source.splitlines(), list(ast_nodes(get_ast(source)))
    found: dict[tuple[str, tuple[int, int]], list[tuple[str, int]]] = defaultdict(list)
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        positions = (start for node in nodes for start, _ in operator().mutation_positions(node))
        for occurrence, start in enumerate(positions):
            found[name.partition("/")[2].partition("_")[0], start].append((name, occurrence))
    seen: Counter[tuple[str, str]] = Counter()
    places: list[Place] = []
    for (kind, (line, _)), occurrences in sorted(found.items(), key=lambda item: item[0][1]):
        text = lines[line - 1].strip()
        if "TYPE_CHECKING" not in text:
            places.append(((text, kind, seen[text, kind]), occurrences))
            seen[text, kind] += 1
    return places


def mutated(source: str, operator: str, occurrence: int) -> str:
    """Return a module's source with one occurrence of an operator applied."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    code = mutate_code(source, get_operator(operator)(), occurrence)
    assert code is not None, (operator, occurrence)
    return str(code)


def _mutant(path: Path, operator: str, occurrence: int) -> Mutant | None:
    """Return a mutant; None if only annotations differ, or nothing that Python can parse was made."""
    source = (ROOT / path).read_text(encoding="utf-8")
    code = mutated(source, operator, occurrence)
    try:
        if _bare(source) == _bare(code):
            return None
    except SyntaxError:
        return None
    # A removed decorator leaves one line less.
    lines = zip([*source.splitlines(), ""], [*code.splitlines(), ""], strict=False)
    line, before, after = next((n, one, other) for n, (one, other) in enumerate(lines, 1) if one != other)
    return Mutant(str(path), operator, occurrence, line, before.strip(), after.strip())


class _Annotations(ast.NodeTransformer):
    """Removal of annotations, which no test can see."""

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)


def _bare(source: str) -> str:
    return ast.dump(_Annotations().visit(ast.parse(source)))


def digest(*parts: object) -> str:
    """Return a hash of the parts' texts."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()

"""The YAML of recipes: each key once, numbers as YAML 1.2 reads them (1e3, and 010 is ten), and no depth.

PyYAML reads YAML 1.1, in which the last of two equal keys wins, 010 is eight, 1e3 is a text and "no" is false.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

_DEEPEST = 30
_LONGEST = 64  # characters of a whole number
_MOST = 100_000  # values; a short text can ask for any number of them by references to references
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # can be written down by escapes, but no file can be called so
_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


def parse_yaml(text: str) -> Any:
    """Raises ValueError, which says where and why."""
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


class _Loader(yaml.SafeLoader):
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: yaml.SafeLoader.yaml_constructors[tag]
        for tag in (*(_TAG + name for name in ("null", "str", "seq", "map")), None)
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def get_single_node(self) -> Node | None:
        node = super().get_single_node()
        if node is not None and self._count(node, {}) > _MOST:
            raise self._error("references make it too large", node.start_mark)
        return node

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._error("nested too deep", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if isinstance(node, ScalarNode) and _NO_TEXT.search(node.value):
            raise self._error("a zero byte or half a character", node.start_mark)
        self._depth -= 1
        return node

    def _count(self, node: Node, known: dict[int, int]) -> int:
        """Values in `node`, each as often as it is referred to. known: of the nodes met; 0 of those that it lies in."""
        if id(node) not in known:
            known[id(node)] = 0
            inner = node.value if isinstance(node, yaml.SequenceNode | MappingNode) else []
            children = [child for pair in inner for child in (pair if isinstance(pair, tuple) else (pair,))]
            known[id(node)] = 1 + sum(self._count(child, known) for child in children)
        elif not known[id(node)]:
            raise self._error("a reference to what it stands in", node.start_mark)
        return known[id(node)]

    def construct_mapping(self, node: Node, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        if not isinstance(node, MappingNode):
            raise self._error("expected a mapping", node.start_mark)
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                raise self._error("a key must be a text", key_node.start_mark)
            if key_node.value in found:
                raise self._error(f"the key {key_node.value!r} stands here twice", key_node.start_mark)
            found[key_node.value] = self.construct_object(value_node, deep=True)
        return found

    def truth(self, node: ScalarNode) -> bool:
        if node.value.lower() not in ("true", "false"):
            raise self._error("neither true nor false", node.start_mark)
        return bool(node.value.lower() == "true")

    def whole(self, node: ScalarNode) -> int:
        text = node.value
        try:
            if len(text) > _LONGEST:
                raise ValueError
            return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
        except ValueError:
            raise self._error("no such number", node.start_mark) from None

    def real(self, node: ScalarNode) -> float:
        try:
            return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError:
            raise self._error("no such number", node.start_mark) from None

    @staticmethod
    def _error(problem: str, mark: Any) -> yaml.YAMLError:
        return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), None)
_Loader.add_constructor(_TAG + "bool", _Loader.truth)
_Loader.add_constructor(_TAG + "int", _Loader.whole)
_Loader.add_constructor(_TAG + "float", _Loader.real)

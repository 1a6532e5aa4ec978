"""Read the strings below the fields of a class, which document them, from its source."""

from __future__ import annotations

import ast
import textwrap


def attribute_docs(source: str, name: str) -> dict[str, str]:
    """Return the strings below the fields of a class, by field, each without its indentation.

    Args:
        source: Text of the module that defines the class.
        name: The class.
    """
    (found,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    docs = dict[str, str]()
    for field, below in zip(found.body, found.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=field_name)), ast.Expr(value=ast.Constant(value=str(text))):
                first, *rest = text.strip().splitlines()
                docs[field_name] = "\n".join([first, *textwrap.dedent("\n".join(rest)).splitlines()])
    return docs

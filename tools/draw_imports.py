"""Draw the rooms of the package in order, and the rooms that each room imports, read from the syntax tree.

    python tools/draw_imports.py

A room is a folder or a file of the package. Every arrow must point to a room above. Otherwise the script ends with
status 1 and names the lines of the other arrows. `tests/test_package.py` asserts that there are no such arrows.
"""

import ast
import pathlib
import sys

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "keras_logit_adjust"
# From the first room up. Rooms in one line do not import each other.
FLOORS = (
    ("_arrays",),
    ("_checks", "_interrupts", "_keras", "_printing"),
    ("_batch_norm", "_labels", "_precision", "_process", "_replicas", "_scores"),
    ("_top_ids",),
    ("priors",),
    ("losses",),
    ("layers",),
    ("metrics", "plots"),
    ("models", "data"),
    ("posthoc",),
    ("held_out",),
    ("callbacks",),
    ("serving", "tf_distribute"),
    ("compare",),
    ("studies",),
    ("cli",),
)
ENTRANCES = ("__init__", "__main__")  # they import all public names


def room_of(path, package=PACKAGE):
    """The room of a file of the package."""
    relative = path.relative_to(package)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_modules(path, package=PACKAGE):
    """`(line, module)` of all imports from the package in a file, at its top and inside functions, names split."""
    name = package.name
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, path, package)
            targets = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            targets = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        else:
            continue
        for target in targets:
            if target == name or target.startswith(name + "."):
                yield node.lineno, target


def _absolute(node, path, package):
    """The module that `from … import` names, with relative imports resolved."""
    if not node.level:
        return node.module or ""
    parents = path.relative_to(package.parent).with_suffix("").parts
    return ".".join([*parents[: -node.level], *filter(None, [node.module])])


def arrows(package=PACKAGE):
    """`(from room, to room, "file:line")` of every import between rooms."""
    for path in sorted(package.rglob("*.py")):
        own = room_of(path, package)
        for line, module in imported_modules(path, package):
            room, *_ = [*module.split(".")[1:], "__init__"]
            # Other names, such as __version__, belong to the package itself: `circles` checks them.
            is_room = (package / room).is_dir() or (package / f"{room}.py").is_file()
            if is_room and room not in (own, "__init__"):
                yield own, room, f"{path.relative_to(package.parent)}:{line}"


def faults(package=PACKAGE):
    """The arrows that do not point to a floor below: imports upwards or sideways."""
    floor = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
    return [
        f"{where}: {own} imports {room}"
        for own, room, where in arrows(package)
        if own not in ENTRANCES and floor.get(room, len(FLOORS)) >= floor.get(own, -1)
    ]


def circles(package=PACKAGE):
    """Rings of modules that import each other at their top, inside a room or across rooms."""
    paths = {_module_name(path, package): path for path in package.rglob("*.py")}
    imported = {name: sorted({_defined_in(m, paths) for m in _at_top(path, package)}) for name, path in paths.items()}
    done, rings = set(), []

    def visit(name, trail):
        if name in trail:
            rings.append(" → ".join([*trail[trail.index(name) :], name]))
        elif name not in done:
            for other in imported[name]:
                visit(other, [*trail, name])
            done.add(name)

    for name in sorted(imported):
        visit(name, [])
    return rings


def _module_name(path, package):
    return ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")


def _defined_in(name, modules):
    """The module called `name`, or the module that defines it."""
    while name not in modules:
        name = name.rpartition(".")[0]
    return name


def _at_top(path, package):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    for line, module in imported_modules(path, package):
        if not any(function.lineno <= line <= function.end_lineno for function in functions):
            yield module


def drawing(package=PACKAGE):
    """The floors with their arrows, as text."""
    targets = {}
    for own, room, _ in arrows(package):
        targets.setdefault(own, set()).add(room)
    rooms = [room for floor in FLOORS for room in floor]
    below = {room: ", ".join(other for other in rooms if other in targets.get(room, ())) for room in rooms}
    return "\n".join(f"{room:<15}{'→ ' * bool(below[room])}{below[room]}".rstrip() for room in rooms)


def main():
    """Print the drawing, then the faults."""
    wrong = [*faults(), *(f"a circle: {ring}" for ring in circles())]
    print(drawing(), *(wrong or ["No arrow points upwards, and there is no circle."]), sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())

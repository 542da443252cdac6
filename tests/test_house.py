"""The coding rules, as docs/architecture.md states them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mimo_v2_flash.deprecated import MOVED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mimo_v2_flash"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
FOLDERS = ("mimo_v2_flash", "tests", "benchmarks", "examples", "tools")
FILES = sorted([*ROOT.glob("*.py"), *(path for f in FOLDERS for path in (ROOT / f).rglob("*.py"))])
KERNELS = [path for path in MODULES if path.parent.name == "kernels"]
LONGEST_FILE, LONGEST_FUNCTION = 350, 40
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "misc"}
VAGUE_WORDS = {
    *("said", "told", "given", "found", "here", "there", "asked", "own", "way", "ways"),
}
READS_ENVIRONMENT = {"cpu", "execution", "model_loader.py", "entry.py", "serve.py", "terminal.py"}
STORAGE_FORMAT = re.compile(r"BlockScaled|fp8|float8|e4m3|scale_inv", re.IGNORECASE)
KNOWS_A_FORMAT = {  # by file name, outside quantization/ and cpu/
    "config_features.py": "the formats that a config.json may name",
    "prepare.py": "the help of --target, and its report",
    "kernel_checks.py": "the format's self-check, beside its oracle",
    "format_checks.py": "the formats' self-checks",
    "foreign_storages.py": "what is not read, in words",
    "hlo.py": "HLO's element types",
    "hlo_lint.py": "HLO's element types",
    "io_spec.py": "HLO's element types",
    "safetensors_file.py": "the file format's dtypes",
}
ARRAY = re.compile(r"_[A-Z][A-Za-z1]*: Any|: (np\.)?(ndarray|NDArray)|: tuple\[KVCache")
DEPRECATED = {PACKAGE / f"{module.replace('.', '/')}.py" for module in MOVED}


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(path: Path) -> list[ast.FunctionDef]:
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]


def length_without_docstring(function: ast.FunctionDef) -> int:
    end = function.end_lineno or function.lineno
    docstring = ast.get_docstring(function, clean=False)
    return end - function.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)


def defined_names(path: Path) -> set[str]:
    """Return the identifiers that a file binds; imports and sentences of tests are not its own."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return {name for name in names if not name.startswith("test_")}


def words(path: Path) -> set[str]:
    """Return the identifiers and strings of a file, without bare strings: documentation."""
    tree = ast.parse(path.read_text())
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    collected: set[str] = set()
    for node in ast.walk(tree):
        if id(node) not in bare:
            collected |= {value for _, value in ast.iter_fields(node) if isinstance(value, str)}
    return collected


every_file = pytest.mark.parametrize("path", FILES, ids=named)
every_module = pytest.mark.parametrize("path", MODULES, ids=named)
every_kernel = pytest.mark.parametrize("path", KERNELS, ids=named)


@every_module
def test_a_module_has_its_mirrored_test(path):
    if path.parent.name == "reference" or path in DEPRECATED:
        return  # the kernel's test holds an oracle, test_deprecated.py the old paths
    mirrored = ROOT / "tests" / path.relative_to(PACKAGE).with_name(f"test_{path.name}")
    assert mirrored.is_file(), f"{named(path)} has no {named(mirrored)}"


@every_file
def test_a_file_is_short(path):
    assert len(path.read_text().splitlines()) <= LONGEST_FILE


@every_file
def test_a_function_is_short(path):
    lengths = {f.name: length_without_docstring(f) for f in functions(path)}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FUNCTION} == {}


@every_file
def test_a_file_name_says_what_is_inside(path):
    assert path.stem not in FORBIDDEN_NAMES


@every_file
def test_a_name_is_a_noun_of_the_domain(path):
    """`said`, `found` or `own_tokens` say nothing that `config`, `match` or `local_tokens` do."""
    assert {name for name in defined_names(path) if VAGUE_WORDS & set(name.split("_"))} == set()


def test_no_two_public_classes_have_one_name():
    """An oracle has its kernel's names, and no class of its own is public."""
    homes: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(named(path))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


@every_file
def test_a_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@every_module
def test_a_module_says_what_it_offers(path):
    assigned = [
        target.id
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    ]
    assert "__all__" in assigned


@every_kernel
def test_a_kernel_names_its_source(path):
    assert "Source:" in (ast.get_docstring(ast.parse(path.read_text())) or "")


@every_module
def test_nothing_is_a_flag(path):
    """Kernels and layers take numbers and tensors: a flag would be two functions in one."""
    if path.parent.name not in {"kernels", "layers"}:
        return
    for function in functions(path):
        arguments = [*function.args.args, *function.args.kwonlyargs]
        defaults = [*function.args.defaults, *filter(None, function.args.kw_defaults)]
        flags = [a.arg for a in arguments if ast.unparse(a.annotation or ast.Name("")) == "bool"]
        flags += [ast.unparse(d) for d in defaults if ast.unparse(d) in {"True", "False"}]
        assert flags == [], f"{function.name} takes {flags}"


@every_module
def test_tensors_are_passed_by_name(path):
    """`*tensors` hides an order that every caller must know; a wrapper passes on what it gets."""
    if path.parent.name not in {"kernels", "layers"}:
        return
    packing = [f.name for f in functions(path) if f.args.vararg and not f.args.kwarg]
    assert packing == []


def test_a_storage_format_is_known_to_its_files_alone():
    """Whatever else reads, converts, multiplies, shards or counts a weight asks its format."""
    others = [p for p in MODULES if p.parent.name not in {"quantization", "cpu"}]
    knowing = {p.name for p in others if any(map(STORAGE_FORMAT.search, words(p)))}
    assert knowing == set(KNOWS_A_FORMAT)


@every_module
def test_records_of_arrays_are_not_compared(path):
    """A comparison of arrays is an array: `==` and `hash` of such a dataclass raise."""
    for node in ast.walk(ast.parse(path.read_text())):
        decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
        options = " ".join(d for d in decorators if d.startswith("dataclass"))
        if not (isinstance(node, ast.ClassDef) and options) or "eq=False" in options:
            continue
        fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
        arrays = [ast.unparse(f.target) for f in fields if ARRAY.search(ast.unparse(f))]
        assert arrays == [], f"{node.name} holds {arrays}: eq=False"
        assert "QuantizedTensor" not in [ast.unparse(base) for base in node.bases], node.name


@every_module
def test_nothing_is_global_state(path):
    tree = ast.parse(path.read_text())
    assert not any(isinstance(node, ast.Global) for node in ast.walk(tree))


@every_module
def test_the_environment_is_read_at_the_edges_alone(path):
    if not READS_ENVIRONMENT & {path.parent.name, path.name}:
        assert "environ" not in path.read_text()
        assert "getenv" not in path.read_text()


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torch", "transformers", "jax", "nkipy", "rich", "huggingface_hub", "safetensors"}
    program = "import sys, mimo_v2_flash; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert heavy & set(done.stdout.split()) == set()

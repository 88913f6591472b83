"""The house as the contract draws it: who imports whom, and what an import may cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_imports_run_one_way() -> None:
    """The import contracts of pyproject.toml hold."""
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_client_loads_no_database_library() -> None:
    """`import rosey_storage` works without the extra that holds SQLAlchemy, alembic and psycopg."""
    heavy = run_python(
        "import sys, rosey_storage;"
        "loaded = {name.partition('.')[0] for name in sys.modules};"
        "print(sorted(loaded & {'sqlalchemy', 'alembic', 'psycopg'}))"
    )
    assert heavy == "[]"


@pytest.mark.parametrize("package", ["rosey_kvstore", "rosey_rowstore", "rosey_storage", "rosey_deploy"])
def test_packages_are_typed(package: str) -> None:
    """Each package says that its types may be used."""
    where = run_python(f"import {package}, pathlib; print(pathlib.Path({package}.__file__).parent)")
    assert (Path(where) / "py.typed").is_file()


def test_stores_do_not_know_each_other() -> None:
    """Importing one store loads nothing of the other."""
    assert run_python("import sys, rosey_kvstore; print('rosey_rowstore' in sys.modules)") == "False"
    assert run_python("import sys, rosey_rowstore.protocol; print('rosey_kvstore' in sys.modules)") == "False"

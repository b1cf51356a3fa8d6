"""The notebook tells its story to the end, with a tiny model in place of the real one."""

from pathlib import Path

import pytest

import hone

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "scripts" / "notebooks" / "quickstart.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_stored_without_outputs(notebook):
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs for cell in code if cell.outputs] == []
    assert [cell.execution_count for cell in code if cell.execution_count is not None] == []


def test_its_configuration_is_there(notebook):
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    given = {}
    exec(parameters.source, given)
    assert (NOTEBOOK.parent / given["CONFIG"]).is_file()


def test_it_runs_from_top_to_bottom(notebook, tmp_path, tiny_model_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            config = ROOT / "configs" / "quickstart.yaml"
            cell.source = f"MODEL, STEPS, CONFIG = {tiny_model_path!r}, 2, {str(config)!r}"
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()

    run, brief = hone.Run(tmp_path / "runs" / "quickstart-1"), hone.Run(tmp_path / "runs" / "run-1")
    assert [row["step"] for row in run.metrics] == [0, 1, 2]
    assert len(run.evaluations["heldout"]["last"].rollouts) == 100
    assert all(row["error"] is None for row in brief.rollouts)  # the cell's function has reached the workers
    assert set(brief.rollouts[0]["parts"]) == {"right", "brief"}
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1  # the curves
    told = "".join(output.get("text", "") for output in outputs)
    assert "steps: 2 in" in told
    assert "accuracy " in told
    assert str(run.checkpoints[-1].relative_to(tmp_path)) in told

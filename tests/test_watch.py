"""Watching from a notebook: in place, beside other cells, through a kill and into the next run."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from chromium import Page, browser
from distributed import LocalCluster
from made_study import MadeStudy
from nbclient import NotebookClient
from real_cluster import kill_group, until
from small_study import N_VOLUMES, make_study

import popclust
from popclust.dataflow.progress import snapshot
from popclust.dataflow.watch import Seen, Watch, as_html, as_text
from popclust.errors import InputError
from popclust.study import Study

_RUN_S = 600.0
"""A whole run of twelve small volumes takes a quarter of it where nothing else is at work."""
NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "watch_and_explore.ipynb"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study.create(str(tmp_path / "s"))


@contextmanager
def run_of(study: Study, run_id: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that runs the study, killed at the end."""
    script = Path(__file__).with_name("run_process.py")
    process = subprocess.Popen(
        [sys.executable, str(script), study.url, run_id], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == "at work\n"
        yield process
    finally:
        process.kill()
        process.wait(30)
        process.stdin.close()
        process.stdout.close()


def counts(watcher: Watch) -> tuple[int, ...]:
    row = next(s for s in watcher.state["stages"] if s["stage"] == "normalize")
    return row["done"], row["quarantined"], row["left"]


@pytest.mark.slow
def test_watchers_follow_a_run_through_its_death_and_the_next(study: Study):
    started = time.monotonic()
    watchers = [popclust.watch(study, every_s=0.1), popclust.watch(study.url, every_s=0.1)]
    assert time.monotonic() - started < 3
    assert [w.state["state"] for w in watchers] == ["new", "new"]
    with run_of(study, "first") as process:
        for watcher in watchers:
            until(lambda w=watcher: counts(w) == (1, 1, 8) and w.seen.failures)
            assert watcher.state["state"] == "running"
            assert watcher.seen.failures == {("normalize", "flat", "no lung in <b>this</b> volume"): 1}
        process.send_signal(signal.SIGKILL)
        until(lambda: all(w.state["state"] == "killed" for w in watchers))
        assert "no longer alive: its lease stands still" in repr(watchers[0])
        assert [s["seconds_left"] for s in watchers[0].state["stages"] if s["left"]] == [None]
    with run_of(study, "second") as process:
        until(lambda: all(w.state["run_id"] == "second" and w.state["state"] == "running" for w in watchers))
        process.stdin.write("\n")
        process.stdin.flush()
        until(lambda: all(w.state["state"] == "ended" for w in watchers))
    for watcher in watchers:
        watcher.stop()
        assert not watcher.is_watching
    assert repr(watchers[0]).endswith("(stopped)>")


def test_what_is_drawn_is_never_taken_for_markup():
    reason = ("normalize", "flat", "<script>alert(1)</script>")
    stage = {"stage": "<i>", "total": 4, "done": 2, "reused": 1, "quarantined": 0, "left": 2, "steps": None}
    stage |= {"percent": 50.0, "seconds": 30.0, "seconds_left": 30.0}
    state = {"state": "running", "run_id": "<b>", "dashboard": "", "seconds": 61.0, "seconds_left": 30.0, "total": 4}
    state |= {"done": 2, "left": 2, "percent": 50.0, "quarantined": 1, "stages": [stage]}
    worker = {"address": "tcp://127.0.0.1:1", "threads": 2, "tasks": 3, "memory": 2**30, "limit": 2**31}
    seen = Seen(state, {reason: 7}, [worker])
    html, text = as_html(seen), as_text(seen)
    for tag in ("<script>", "<i>", "<b>"):
        assert tag not in html
    assert 'value="50.0"' in html and ">2</td>" in html  # two parts a minute: one of its own in 30 s
    fast = {**stage, "done": 1001, "seconds": 30.0}
    assert ">2,000</td>" in as_html(Seen({**state, "stages": [fast]}, {}, None))
    for said in ("7 kept out of normalize", "2 threads, 3 tasks, 1.0 of 2.0 GiB", "0:30 left of the stage at work"):
        assert said in html and said in text


def test_more_reasons_than_one_reads_are_counted(study: Study):
    seen = Seen(snapshot(study), {("normalize", f"c{i}", "m"): 1 for i in range(20)}, [])
    assert "and 8 more reasons" in as_text(seen)
    assert "the scheduler does not answer" in as_text(seen)


def test_workers_are_shown_where_a_scheduler_is_given(study: Study):
    with LocalCluster(n_workers=1, threads_per_worker=2, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        watcher = popclust.watch(study, cluster.scheduler_address, every_s=0.1)
        until(lambda: bool(watcher.seen and watcher.seen.workers))
        (worker,) = watcher.seen.workers
        assert (worker["threads"], worker["tasks"]) == (2, 0)
        assert worker["limit"] > 0
        watcher.stop()
    with pytest.raises(InputError, match="plain TCP beyond this machine"):
        popclust.watch(study, "tcp://192.0.2.1:8786")


def test_a_store_that_cannot_be_read_is_said_and_looked_at_again(study: Study, monkeypatch: pytest.MonkeyPatch):
    watcher = popclust.watch(study, every_s=0.05)
    watcher.state  # noqa: B018
    with monkeypatch.context() as broken:
        broken.setattr("popclust.dataflow.watch.snapshot", lambda study: 1 / 0)
        until(lambda: "ZeroDivisionError" in watcher.seen.trouble)
        assert "cannot be read now" in as_text(watcher.seen)
    until(lambda: not watcher.seen.trouble)
    watcher.stop()


@pytest.mark.slow
def test_in_a_notebook_cells_below_run_meanwhile_and_the_picture_moves(study: Study):
    cells = [
        f"import popclust, time\nwatched = popclust.watch({study.url!r}, every_s=0.1)",
        "print('meanwhile', watched.state['state'])",
        "while watched.state['state'] != 'running': time.sleep(0.1)\ntime.sleep(1)",
        "while watched.state['state'] != 'killed': time.sleep(0.1)\ntime.sleep(1)",
        "watched.stop()\nwatched",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])

    async def execute() -> None:
        client = NotebookClient(notebook, timeout=120, kernel_name="python3")
        async with client.async_setup_kernel():
            await client.async_execute_cell(notebook.cells[0], 0)
            await client.async_execute_cell(notebook.cells[1], 1)
            with run_of(study, "first") as process:
                await client.async_execute_cell(notebook.cells[2], 2)
                drawn.append(picture())
                process.kill()
                await client.async_execute_cell(notebook.cells[3], 3)
                drawn.append(picture())
            await client.async_execute_cell(notebook.cells[4], 4)

    def picture() -> str:
        (output,) = notebook.cells[0].outputs
        return str(output["data"]["text/html"])

    drawn: list[str] = []
    asyncio.run(execute())
    assert notebook.cells[1].outputs[0]["text"] == "meanwhile new\n"
    assert 'data-state="running"' in drawn[0] and "run first: running" in drawn[0]
    assert "&lt;b&gt;this&lt;/b&gt;" in drawn[0]
    assert 'data-state="killed"' in drawn[1] and "no longer alive" in drawn[1]
    assert 'data-state="killed"' in notebook.cells[4].outputs[0]["data"]["text/html"]


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """A server on loopback, without a token, that knows nothing of its user's settings; its address."""
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", "--expose-app-in-browser"]
    options += ["--IdentityProvider.token=", f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None"]
    places = {name: str(folder / ".jupyter" / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    surroundings = {**os.environ, **{f"JUPYTER_{name}_DIR": place for name, place in places.items()}}
    with subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", *options],
        env={**surroundings, "IPYTHONDIR": str(folder / ".ipython")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            runtime = Path(places["RUNTIME"])
            until(lambda: any(f.read_text().strip() for f in runtime.glob("jpserver-*.json")))
            yield json.loads(next(runtime.glob("jpserver-*.json")).read_text())["url"]
        finally:
            server.terminate()
            server.wait(30)


def folder_of_notebook(place: Path, cells: Sequence[str]) -> Path:
    """A new folder that holds watching.ipynb."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder = place / "lab"
    folder.mkdir()
    nbformat.write(notebook, folder / "watching.ipynb")
    return folder


def run_notebook(page: Page, address: str, name: str) -> None:
    """Open a notebook in JupyterLab and run all its cells."""
    panel = f"[...(window.jupyterapp?.shell?.widgets('main') ?? [])].find(w => w.title.label === '{name}')"
    page.call("Emulation.setFocusEmulationEnabled", enabled=True)  # no window has the focus here
    page.goto(f"{address}lab/tree/{name}")
    page.wait_for(f"!!({panel})?.sessionContext?.session?.kernel", 120)
    page.evaluate(f"jupyterapp.shell.activateById(({panel}).id)")
    page.wait_for(f"jupyterapp.shell.currentWidget === ({panel})", 60)
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")


def keep_picture(page: Page, name: str) -> None:
    """For who wants to look: in the folder POPCLUST_TEST_PICTURES, if it is set."""
    if place := os.environ.get("POPCLUST_TEST_PICTURES"):
        page.screenshot(Path(place) / name)


DRAWN = "(document.querySelector('.popclust-watch')?.innerText ?? '')"
PICTURE = "!!document.querySelector('.jp-OutputArea-output img')?.naturalWidth"
N_WATCHERS = "document.querySelectorAll('.popclust-watch').length"


@pytest.mark.full
def test_in_jupyterlab_the_picture_moves_while_a_cell_below_draws(study: Study, tmp_path: Path):
    cells = [f"import popclust\nwatched = popclust.watch({study.url!r}, every_s=0.2)", "print('six times', 'seven')"]
    folder = folder_of_notebook(tmp_path, cells)
    with jupyterlab(folder) as address, browser(1400, 1000) as page:
        run_notebook(page, address, "watching.ipynb")
        page.wait_for(f"{DRAWN}.includes('run -: new')", 120)
        page.wait_for("document.body.innerText.includes('six times seven')", 60)
        with run_of(study, "first") as process:
            page.wait_for(f"{DRAWN}.includes('run first: running') && {DRAWN}.includes('1 kept out of normalize')")
            page.wait_for("document.querySelectorAll('.popclust-watch progress').length === 1")
            process.kill()
            page.wait_for(f"{DRAWN}.includes('no longer alive')")
        with run_of(study, "second"):
            page.wait_for(f"{DRAWN}.includes('run second: running')")
        assert page.evaluate(N_WATCHERS) == 1
        keep_picture(page, "watch.png")


@pytest.mark.full
def test_in_jupyterlab_the_shipped_notebook_draws_while_another_process_runs(
    made: MadeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    study = Study.open(str(shutil.copytree(made.study.url, tmp_path / "s")))
    folder = tmp_path / "lab"
    folder.mkdir()
    shutil.copy(NOTEBOOK, folder)
    monkeypatch.setenv("POPCLUST_STUDY", study.url)
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    pictures = "[...document.querySelectorAll('.jp-OutputArea-output img')].filter((i) => i.naturalWidth > 100).length"
    with run_of(study, "first") as process, jupyterlab(folder) as address, browser(1400, 7000) as page:
        run_notebook(page, address, NOTEBOOK.name)
        page.wait_for(f"{DRAWN}.includes('run first: running') && {DRAWN}.includes('1 kept out of normalize')", 120)
        page.wait_for(f"{pictures} >= 6", 240)
        assert "run first: running" in page.evaluate(DRAWN)
        keep_picture(page, "notebook_running.png")
        process.send_signal(signal.SIGKILL)
        page.wait_for(f"{DRAWN}.includes('no longer alive')", 60)
        assert page.evaluate(N_WATCHERS) == 1 and page.evaluate(pictures) >= 6
        keep_picture(page, "notebook_killed.png")


@contextmanager
def real_run(study: Study, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`popclust run` with its cluster, in a group of processes of its own, none of which outlives the context."""
    surroundings = {name: value for name, value in os.environ.items() if name != "DASK_SCHEDULER_ADDRESS"}
    with log.open("wb") as out:
        command = [sys.executable, "-m", "popclust", "run", study.url]
        process = subprocess.Popen(command, env=surroundings, start_new_session=True, stdout=out, stderr=out)
    try:
        yield process
    finally:
        kill_group(process)


def stage_drawn(stage: str) -> str:
    """What the picture says of a stage, as an expression: parts done, of, %, kept out, left."""
    row = f"[...document.querySelectorAll('.popclust-watch tr')].find((r) => r.cells[0].innerText === '{stage}')"
    return f"[...({row}?.cells ?? [])].slice(2, 7).map((c) => Number(c.innerText))"


DRAWS = """import matplotlib.pyplot as plt, time
study = popclust.Study.open({url!r})
while not study.names_done("normalize"): time.sleep(0.2)
name = study.names_done("normalize")[0]
volume = popclust.read_ome_zarr(study.path("volumes", f"{{name}}.ome.zarr"))
plt.imshow(volume.voxels[volume.shape[0] // 2], cmap="gray", vmin=-1000, vmax=200)
plt.title(f"drawn while the run is {{watched.state['state']}}")
plt.show()
print("drawn while the run is", watched.state["state"])
"""


@pytest.mark.full
def test_in_jupyterlab_a_real_run_is_followed_through_its_death_to_the_end_of_the_next(
    population: Path, tmp_path: Path
):
    study = make_study(tmp_path / "s", population, compute={"n_workers": 2})
    cells = [f"import popclust\nwatched = popclust.watch({study.url!r})", DRAWS.format(url=study.url)]
    folder = folder_of_notebook(tmp_path, cells)
    with jupyterlab(folder) as address, browser(1400, 1500) as page:
        run_notebook(page, address, "watching.ipynb")
        page.wait_for(f"{DRAWN}.includes('run -: new')", 120)
        with real_run(study, tmp_path / "first.log") as first:
            page.wait_for(f"{DRAWN}.includes(': running') && {stage_drawn('ingest')}[1] > 0", _RUN_S)  # the cell waits
            assert not page.evaluate(PICTURE)
            page.wait_for(f"{PICTURE} && document.body.innerText.includes('drawn while the run is running')", _RUN_S)
            page.wait_for(f"{stage_drawn('ingest')}[4] === 0 && {stage_drawn('normalize')}[0] >= 3", _RUN_S)
            keep_picture(page, "run_running.png")
            assert first.poll() is None
            kill_group(first)
        page.wait_for(f"{DRAWN}.includes('no longer alive')", 60)
        done, total, *_, left = page.evaluate(stage_drawn("normalize"))
        assert 3 <= done < total == N_VOLUMES and left == total - done
        keep_picture(page, "run_killed.png")
        run_id = snapshot(study)["run_id"]
        with real_run(study, tmp_path / "second.log") as second:
            page.wait_for(f"{DRAWN}.includes(': running') && !{DRAWN}.includes('run {run_id}')", 120)
            page.wait_for(f"{DRAWN}.includes(': ended, 100 %')", _RUN_S)
            assert second.wait(60) == 0, (tmp_path / "second.log").read_text()
        reused = {s["stage"]: s["reused"] for s in snapshot(study)["stages"]}
        assert reused["ingest"] >= N_VOLUMES and 3 <= reused["normalize"] < N_VOLUMES
        assert page.evaluate(N_WATCHERS) == 1 and page.evaluate(stage_drawn("summarize"))[:2] == [1, 1]
        keep_picture(page, "run_ended.png")

"""The report page: made from tiny runs, and looked at in a real headless Chromium."""

import html.parser
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances
from sklearn.preprocessing import StandardScaler

from centralized_baseline.__main__ import train_centralized
from centralized_baseline.probe import main as probe
from shared.config import DEFAULTS, load_config
from shared.data import load
from shared.errors import UserError, run_command
from shared.evaluate import ProbeReport, paired_difference
from shared.privacy import Ledger
from shared.report.__main__ import main
from shared.report.maps import draw_maps
from shared.report.reading import read_runs
from simulation.__main__ import simulate

pytestmark = pytest.mark.slow

YAML = """
name: tiny
data: {name: synthetic}
encoder: {width: 4}
federation: {rounds: 2, min_clients: 4}
centralized: {epochs: 2}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A federated and a centralized run, two baselines, all probed, and a run that nobody has probed."""
    root = tmp_path_factory.mktemp("report") / "runs"
    config_file = root.parent / "tiny.yaml"
    config_file.write_text(YAML)
    config = load_config(config_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDHAR_RUNS", str(root))
        simulate(config, root / "fed", "inprocess")
        train_centralized(config, root / "pooled")
        few = ["--seeds", "2", "--regimes", "1", "2", "10%", "all"]
        probe(
            [
                "--encoder",
                str(root / "fed"),
                str(root / "pooled"),
                "raw",
                "features",
                "--config",
                str(config_file),
                *few,
            ]
        )
    shutil.copytree(root / "fed", root / "unprobed")
    (root / "unprobed" / "probe.json").unlink()
    return root


@pytest.fixture(scope="module")
def page(runs: Path) -> Path:
    out = runs.parent / "report.html"
    folders = [str(runs / name) for name in ("fed", "pooled", "tiny-raw", "tiny-features")]
    main([*folders, "--out", str(out), "--sample", "60"])
    return out


class Page(html.parser.HTMLParser):
    """The parts of a page that tests ask about."""

    VOID = ("meta", "link", "br")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.loaded += [values[name] or "" for name in ("src", "href", "xlink:href") if name in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


class Chromium:
    """A headless Chromium on the two pipes of its DevTools protocol: file descriptors 3 (in) and 4 (out)."""

    def __init__(self, profile: Path) -> None:
        in_read, in_write = os.pipe()
        out_read, out_write = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{in_read} 4>&{out_write}', "bash", "chromium", *flags, "about:blank"],
            pass_fds=(in_read, out_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(in_read)
        os.close(out_write)
        self._in, self._out = os.fdopen(in_write, "wb", buffering=0), os.fdopen(out_read, "rb")
        self._unread, self._asked, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result; what happens meanwhile goes to ``events``."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._in.write(json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._asked:
            self.events.append(answer)
        assert "error" not in answer, (method, answer)
        return dict(answer["result"])

    def open(self, url: str, width: int, dark: bool = False) -> None:
        """Load a page at a width and wait until it is loaded."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            chunk = os.read(self._out.fileno(), 1 << 16)
            assert chunk, f"chromium ended with {self._process.poll()}"
            self._unread += chunk
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = ""
        self.ask("Browser.close")
        self._process.wait(timeout=20)
        self._in.close()
        self._out.close()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if shutil.which("chromium") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI looks at the report in a chromium: run scripts/install-test-tools.sh first")
        pytest.skip("chromium is not installed: run scripts/install-test-tools.sh")
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


def copy_of(run: Path, target: Path) -> Path:
    shutil.copytree(run, target)
    return target


def change(run: Path, **values: Any) -> None:
    """Write other values into a copied probe report."""
    path = run / "probe.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def made(tmp_path: Path, *folders: Path, sample: int = 0) -> Page:
    out = tmp_path / "page.html"
    main([*map(str, folders), "--out", str(out), "--sample", str(sample)])
    return Page(out)


FIGURES = (
    {"accuracy-0", "people-0", "people-1"}
    | {f"confusion-{n}" for n in range(4)}
    | {f"loss-{n}" for n in range(4)}
    | {f"weight-{run}-{n}" for run in range(2) for n in range(4)}
    | {f"map-{n}-{kind}" for n in range(4) for kind in ("activity", "person")}
)


def test_the_page_shows_every_score_and_every_figure_and_loads_nothing(runs: Path, page: Path) -> None:
    shown = Page(page)
    assert page.stat().st_size < 5_000_000
    assert set(shown.ids) >= FIGURES
    assert len(shown.ids) == len(set(shown.ids))
    assert "script" not in shown.tags
    assert shown.open == []
    assert all(url.startswith(("data:", "#")) for url in shown.loaded)
    assert {url[1:] for url in shown.loaded if url.startswith("#")} <= set(shown.ids)
    for name in ("fed", "pooled", "tiny-raw", "tiny-features"):
        report = ProbeReport.model_validate_json((runs / name / "probe.json").read_bytes())
        cells = [report.summary()["linear"][regime]["accuracy"] for regime in ("1", "2", "10%", "all")]
        assert all(f"{100 * cell['mean']:.1f} ±{100 * cell['std']:.1f}" in shown.text for cell in cells)
        assert f"person {report.worst_person('all')[0]}" in shown.text
    assert all(f"weight of the task {task} in fed" in shown.text.lower() for task in ("contrastive", "features"))


def test_the_answer_names_the_best_and_the_table_marks_it(tmp_path: Path, runs: Path) -> None:
    good, bad = copy_of(runs / "fed", tmp_path / "good"), copy_of(runs / "pooled", tmp_path / "bad")
    for run, accuracy in ((good, 0.9), (bad, 0.8)):
        results = json.loads((run / "probe.json").read_text())["results"]
        change(run, results=[result | {"accuracy": accuracy} for result in results])
    text = made(tmp_path, good, bad).text
    assert "With all labels, good is right in 90.0 %" in text
    assert "With 1 label per person and activity, it is best at 90.0 %" in text
    assert "good, trained without windows leaving their devices, is 10.0 points above bad" in text
    html = (tmp_path / "page.html").read_text()
    assert html.count('<strong class="best" title="best">90.0</strong>') == 4
    assert 'title="best">80.0' not in html


def test_encoders_judged_on_different_people_are_shown_with_a_caution(tmp_path: Path, runs: Path) -> None:
    caution = "judged on different people"
    assert caution not in made(tmp_path, runs / "fed", runs / "tiny-raw").text
    other = copy_of(runs / "tiny-raw", tmp_path / "other")
    change(other, test_people=["5"])
    assert caution in made(tmp_path, runs / "fed", other).text


def test_the_differences_are_person_by_person_to_the_strongest(runs: Path, page: Path) -> None:
    names = ("fed", "pooled", "tiny-raw", "tiny-features")
    told = {name: ProbeReport.model_validate_json((runs / name / "probe.json").read_bytes()) for name in names}
    mean = {name: report.summary()["linear"]["all"]["accuracy"]["mean"] for name, report in told.items()}
    best = max(names, key=mean.__getitem__)
    text = Page(page).text
    assert f"Differences to {best}, person by person" in text
    for name in set(names) - {best}:
        points = [100 * value for value in paired_difference(told[name], told[best], "all")]
        assert f"{points[0]:+.1f} {points[1]:+.1f} to {points[2]:+.1f}" in text


def test_the_spread_of_the_embeddings_and_the_memory_are_told(runs: Path, page: Path) -> None:
    text = Page(page).text
    for name in ("fed", "pooled"):
        report = ProbeReport.model_validate_json((runs / name / "probe.json").read_bytes())
        assert report.embeddings is not None
        assert f"{name} {report.dim} {report.embeddings.effective_rank:.1f} {report.embeddings.constant}" in text
    assert "not recorded" not in text


def test_a_task_has_collapsed_if_it_has_on_most_clients_though_one_shows_no_sign(tmp_path: Path, runs: Path) -> None:
    run = copy_of(runs / "fed", tmp_path / "run")
    logs = sorted(run.glob("clients/*/metrics.jsonl"))
    assert len(logs) == 4
    for spread, log in zip((None, 0.9, 0.01, 0.01), logs, strict=True):
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        for row in rows:
            del row["spread.contrastive"]
            if spread is not None:
                row["spread.contrastive"] = spread
        log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = "its projections hardly differ from window to window"
    assert words not in made(tmp_path, run).text, "two of four are not most"
    rows = [json.loads(line) | {"spread.contrastive": 0.01} for line in logs[1].read_text().splitlines()]
    logs[1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "page.html").unlink()
    assert words in made(tmp_path, run).text


def test_the_wire_is_told_as_the_manifest_counts_it(runs: Path, page: Path) -> None:
    manifest = json.loads((runs / "fed" / "exchange.json").read_text())
    text = Page(page).text
    for row in manifest["crossed_the_wire"]:
        if row["direction"] == "up":
            assert row["name"] in text
    assert all(name in text for name in manifest["stays_on_the_device"])
    windows = len(load(load_config(runs / "fed" / "config.yaml").data)[0])
    assert f"{windows * 6 * 64 * 4 / 1e3:.1f} kB" in text or f"{windows * 6 * 64 * 4 / 1e6:.2f} MB" in text
    assert "everybody's windows were pooled" in text


def test_differential_privacy_is_told_where_there_is_some(tmp_path: Path, runs: Path) -> None:
    assert "not private in a formal sense" in made(tmp_path, runs / "fed").text
    ledger = Ledger(
        load_config(DEFAULTS, ["privacy.name=local", "privacy.noise_multiplier=2", "encoder.norm=group"]).privacy
    )
    ledger.count([1, 2])
    run = copy_of(runs / "fed", tmp_path / "private")
    (run / "privacy.json").write_text(json.dumps(ledger.report()))
    text = made(tmp_path, run).text
    assert f"ε = {ledger.report()['epsilon']:.3g} at δ = 1e-05, with noise multiplier 2.0" in text
    assert "a server that keeps to the configured rounds" in text
    assert "not private in a formal sense" not in text


def test_the_settings_that_differ_are_told_and_no_others(tmp_path: Path, runs: Path) -> None:
    other = copy_of(runs / "pooled", tmp_path / "other")
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("learning_rate: 0.001", "learning_rate: 0.002"))
    text = made(tmp_path, runs / "fed", other).text
    table = text[text.index("The settings in which the runs differ") : text.index("The complete configuration of fed")]
    assert "setting fed other train.learning_rate 0.001 0.002" in table
    assert "batch_size" not in table


def test_the_maps_tell_the_shares_of_true_neighbours(runs: Path) -> None:
    maps = draw_maps(read_runs([runs / "fed"]), 10_000)
    _, test = load(load_config(runs / "fed" / "config.yaml").data)
    assert maps.windows == len(test)
    assert [item.name for item in maps.maps] == ["raw windows", "expert features", "fed"]
    distances = pairwise_distances(StandardScaler().fit_transform(test.x.reshape(len(test), -1)).astype(float))
    np.fill_diagonal(distances, np.inf)
    nearest = distances.argsort(axis=1)[:, :10]
    assert maps.maps[0].same_activity == pytest.approx(100 * (test.y[nearest] == test.y[:, None]).mean(), abs=0.5)
    assert maps.maps[0].same_person == pytest.approx(
        100 * (test.person[nearest] == test.person[:, None]).mean(), abs=0.5
    )


def test_the_same_runs_give_the_same_page(runs: Path, page: Path, tmp_path: Path) -> None:
    folders = [runs / name for name in ("fed", "pooled", "tiny-raw", "tiny-features")]
    made(tmp_path, *folders, sample=60)
    assert (tmp_path / "page.html").read_bytes() == page.read_bytes()


def test_a_run_that_nobody_judged_is_drawn_and_the_command_that_judges_it_is_told(tmp_path: Path, runs: Path) -> None:
    shown = made(tmp_path, runs / "unprobed")
    assert {"loss-0", "weight-0-0"} <= set(shown.ids)
    assert "accuracy-0" not in shown.ids
    assert "None of these encoders has been judged yet" in shown.text
    assert f"python -m centralized_baseline.probe --encoder {runs / 'unprobed'}" in shown.text


def test_baselines_alone_and_a_run_that_has_not_ended_make_a_page_too(tmp_path: Path, runs: Path) -> None:
    baseline = made(tmp_path, runs / "tiny-raw")
    assert {"accuracy-0", "people-0", "confusion-0"} <= set(baseline.ids)
    assert "None of these folders holds a training log" in baseline.text
    stopped = copy_of(runs / "unprobed", tmp_path / "stopped")
    (stopped / "encoder.json").unlink()
    text = made(tmp_path, stopped, sample=30).text
    assert f"--config {stopped / 'config.yaml'} --name stopped --resume" in text
    assert "stopped holds no encoder yet" in text


def test_several_protocols_are_tables_of_their_own_but_a_lone_one_is_compared(tmp_path: Path, runs: Path) -> None:
    both, lone = copy_of(runs / "fed", tmp_path / "both"), copy_of(runs / "tiny-raw", tmp_path / "lone")
    results = json.loads((both / "probe.json").read_text())["results"]
    change(both, results=results + [result | {"protocol": "knn"} for result in results])
    change(
        lone, results=[r | {"protocol": "supervised"} for r in json.loads((lone / "probe.json").read_text())["results"]]
    )
    shown = made(tmp_path, both, lone)
    assert {"accuracy-0", "accuracy-1"} <= set(shown.ids)
    assert "accuracy-2" not in shown.ids
    assert "lone (supervised from scratch)" in shown.text
    assert "both (nearest neighbours)" in shown.text


def test_a_series_is_a_trained_row_with_the_pictures_of_its_first_training(tmp_path: Path, runs: Path) -> None:
    config_file = runs.parent / "tiny.yaml"
    for seed in (0, 1):
        train_centralized(load_config(config_file, [f"seed={seed}"]), tmp_path / f"pooled-{seed}")
    few = ["--seeds", "2", "--regimes", "1", "all", "--protocols", "linear", "knn"]
    probe(["--encoder", str(tmp_path / "pooled-{seed}"), *few])
    out = tmp_path / "report.html"
    main([str(tmp_path / "pooled-seeds"), str(runs / "tiny-raw"), "--out", str(out), "--sample", "60"])
    text = Page(out).text
    assert "pooled-seeds centralized, 2 trainings" in text
    assert text.count("Of pooled-seeds, everything but these scores is told of its first training, pooled-0.") == 1
    assert "Task weights of pooled-seeds" in text
    assert "Map of 60 test windows as pooled-seeds" in out.read_text()

    shutil.copy(tmp_path / "pooled-seeds" / "probe.json", tmp_path / "pooled-1" / "probe.json")
    assert read_runs([tmp_path / "pooled-1"])[0].folder == tmp_path / "pooled-1"
    shutil.rmtree(tmp_path / "pooled-0")
    with pytest.raises(UserError, match=r"pooled-seeds/probe.json judges .* first in \S+pooled-0, found none"):
        read_runs([tmp_path / "pooled-seeds"])


def test_names_are_text_whatever_they_hold(tmp_path: Path, runs: Path) -> None:
    name = "a<b>&\"c' $x$"
    odd = copy_of(runs / "fed", tmp_path / name)
    classes = json.loads((odd / "probe.json").read_text())["classes"]
    change(odd, classes=["<blink>walk $y$ &amp;", *classes[1:]])
    shown = made(tmp_path, odd, sample=30)
    assert shown.open == []
    assert "blink" not in shown.tags
    assert name in shown.text
    assert "<blink>walk $y$ &amp;" in shown.text


def test_only_a_report_is_replaced_unless_it_is_forced(tmp_path: Path, runs: Path) -> None:
    out = tmp_path / "page.html"
    made(tmp_path, runs / "tiny-raw")
    made(tmp_path, runs / "tiny-raw")
    out.write_text("my thesis")
    with pytest.raises(UserError, match="is not a report of fedhar"):
        made(tmp_path, runs / "tiny-raw")
    assert out.read_text() == "my thesis"
    main([str(runs / "tiny-raw"), "--out", str(out), "--force"])
    assert out.read_text() != "my thesis"


def test_the_path_is_told_last_and_is_in_the_run_by_default(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(runs / "tiny-raw", tmp_path / "mine")
    main([str(run)])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"report: {run / 'report.html'} (")
    assert (run / "report.html").is_file()


def test_bad_input_is_one_readable_error(tmp_path: Path, runs: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken, other, torn = (copy_of(runs / "fed", tmp_path / name) for name in ("broken", "other", "torn"))
    (broken / "probe.json").write_text('{"data": "synthetic"}')
    (torn / "metrics.jsonl").write_text("{oops}\n")
    (other / "config.yaml").write_text((other / "config.yaml").read_text().replace("synthetic", "watch"))
    for folders, message in [
        ([tmp_path / "nowhere"], "there is no folder .*nowhere"),
        ([tmp_path / "empty"], "is no run: expected config.yaml"),
        ([broken], "broken/probe.json is no probe report: classes"),
        ([torn], "torn/metrics.jsonl is damaged"),
        ([runs / "fed", other], "one data set, found 'synthetic' in .*fed, 'watch' in .*other"),
    ]:
        with pytest.raises(UserError, match=message):
            made(tmp_path, *folders)
    with pytest.raises(UserError, match="from 0 to 1000 windows, found 5000"):
        made(tmp_path, runs / "fed", sample=5000)
    assert not (tmp_path / "page.html").exists()


def test_the_command_line_exits_with_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path), "--out", str(tmp_path / "page.html")])
    with pytest.raises(SystemExit) as exit_:
        run_command(main)
    assert exit_.value.code == 2
    assert f"error: {tmp_path} is no run" in capsys.readouterr().err


OUTSIDE = """[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll, pre, nav, svg'))
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.outerHTML)"""
SIZES = """Object.fromEntries([...document.querySelectorAll('svg.plot')]
    .map(e => [e.id, [e.getBoundingClientRect().width, e.getBBox().width, e.querySelectorAll('path').length]]))"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_in_chromium_nothing_is_missing_nothing_overflows_and_nothing_is_loaded(
    chromium: Chromium, page: Path, width: int, dark: bool
) -> None:
    chromium.open(page.as_uri(), width, dark)
    sizes = chromium.value(SIZES)
    assert set(sizes) == FIGURES
    assert all(100 < shown <= width and drawn > 50 and paths > 1 for shown, drawn, paths in sizes.values())
    assert chromium.value("document.documentElement.scrollWidth") <= width
    assert chromium.value(OUTSIDE) == []
    ink = chromium.value("getComputedStyle(document.querySelector('svg.plot text')).fill")
    assert (min(int(part) for part in ink[4:-1].split(",")) > 120) == dark
    requested = [e["params"]["request"]["url"] for e in chromium.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in requested if not url.startswith("data:")] == [page.as_uri()]
    complaints = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    assert [event for event in chromium.events if event["method"] in complaints] == []


def test_chromium_reports_what_these_tests_look_for(chromium: Chromium, tmp_path: Path) -> None:
    """The page could be silent because nobody listens: a page with all these faults is heard."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        '<meta name="viewport" content="width=device-width"><div style="width:900px">x</div><img src="missing.png">'
        '<script>console.error("oh"); nobody()</script>'
    )
    chromium.open(bad.as_uri(), 390)
    methods = [event["method"] for event in chromium.events]
    assert {"Runtime.consoleAPICalled", "Runtime.exceptionThrown"} <= set(methods)
    assert methods.count("Network.requestWillBeSent") == 2
    assert len(chromium.value(OUTSIDE)) == 1


def test_in_print_everything_is_on_paper(chromium: Chromium, page: Path) -> None:
    chromium.open(page.as_uri(), 1280, dark=True)
    chromium.ask(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert chromium.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert chromium.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert chromium.value("document.querySelector('details pre').getBoundingClientRect().height") > 100

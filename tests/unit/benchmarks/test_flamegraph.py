"""Flame graphs of py-spy without paths of the machine and without rare stacks."""

import sys
from pathlib import Path

import pytest

from benchmarks.flamegraph import check_portable, find, portable, portable_name
from tykpy.bench.errors import BenchError

ROOT = Path("/srv/checkout")
SHAPE = '<rect x="0.0000%" y="68" width="11.4428%" height="15" fill="rgb(227,0,7)" fg:x="0" fg:w="23"/>'


def frame(name: str, samples: str = "1,023 samples, 11.44%", label: str = "") -> str:
    return f'<g><title>{name} ({samples})</title>{SHAPE}<text x="0.2500%" y="78.50">{label}</text></g>'


def svg(*frames: str) -> str:
    title = '<text id="title" fill="rgb(0,0,0)" x="50.0000%" y="24.00">py-spy record --output /srv/x.svg</text>'
    return f'<svg>{title}<svg id="frames">{"".join(frames)}</svg></svg>'


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("Worker.run (workers/serve.py)", "Worker.run (workers/serve.py)"),
        ("Worker.run (/srv/checkout/workers/serve.py)", "Worker.run (workers/serve.py)"),
        ("f (/srv/checkout/.venv/lib/python3.12/site-packages/click/core.py)", "f (click/core.py)"),
        ("f (/usr/lib/python3/dist-packages/click/core.py)", "f (click/core.py)"),
        ("f (/usr/lib/python3.13/asyncio/runners.py)", "f (asyncio/runners.py)"),
        ("f (/run/user/bundles/middleware.py)", "f (middleware.py)"),
        ("_run_code (<frozen runpy>)", "_run_code (<frozen runpy>)"),
        ("all", "all"),
    ],
)
def test_a_frame_has_a_path_in_repository_or_package(name: str, short: str) -> None:
    assert portable_name(name, ROOT) == short


def test_nothing_of_the_machine_is_left() -> None:
    made = portable(svg(frame("<b> (/srv/checkout/a.py)".replace("<", "&lt;").replace(">", "&gt;"))), "a & b", ROOT)
    assert made == svg(frame("&lt;b&gt; (a.py)")).replace("py-spy record --output /srv/x.svg", "a &amp; b")
    check_portable(made, (ROOT, Path("/srv")))


def test_a_label_is_cut_to_its_former_length() -> None:
    name = "Worker._listen (/srv/checkout/workers/serve.py)"
    assert ">Worker._listen (w..</text>" in portable(svg(frame(name, label="Worker._listen (/..")), "", ROOT)
    assert ">f (a.py)</text>" in portable(svg(frame("f (/srv/checkout/a.py)", label="f (/srv/chec..")), "", ROOT)
    assert "></text>" in portable(svg(frame(name)), "", ROOT)
    kept = frame("f (a.py)", label="f (a...")
    assert portable(svg(kept), "py-spy record --output /srv/x.svg", ROOT) == svg(kept)


def test_rare_stacks_are_left_out() -> None:
    made = portable(svg(frame("rare (a.py)", "1 samples, 0.19%"), frame("seen (a.py)", "2 samples, 0.20%")), "", ROOT)
    assert "rare" not in made
    assert "seen (a.py) (2 samples, 0.20%)" in made


def test_a_remaining_folder_is_an_error() -> None:
    with pytest.raises(BenchError, match="still names /srv/checkout"):
        check_portable("<svg>/srv/checkout/a.py</svg>", (Path("/home/x"), ROOT))
    check_portable("<svg>a/b</svg>", (Path("/"),))


def test_a_missing_py_spy_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="pip install"):
        find()

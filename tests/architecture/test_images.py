"""The Dockerfile, the ignore file and docker-compose.yml agree with each other and with the code.

No container engine is needed; docs/deploy.md says what was seen with one.
"""

import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from core.config import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
WORKERS = {name: service for name, service in OURS.items() if service["build"]["target"] == "worker"}
GRACE = "MIXKD_SHUTDOWN_GRACE_SECONDS"
TRAINER_ONLY = {"MIXKD_DEVICE"}  # docs/reference/settings.md names it beside the settings
SECRETS = {"POSTGRES_PASSWORD", "VALKEY_PASSWORD", "MIXKD_SESSION_SECRET"}

services = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
our_services = pytest.mark.parametrize("service", OURS.values(), ids=OURS)


class Stage(NamedTuple):
    base: str
    instructions: list[tuple[str, str]]

    def all(self, word: str) -> list[str]:
        return [rest for name, rest in self.instructions if name == word]


def stages() -> dict[str, Stage]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE)
    found: dict[str, Stage] = {}
    stage = Stage("", [])  # what stands before the first FROM
    for line in re.sub(r"\\\n", " ", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            assert name, f"a stage without a name: {line}"
            assert name not in found, f"two stages named {name}"
            stage = found[name] = Stage(base, [])
        elif word:
            stage.instructions.append((word, rest.strip()))
    return found


STAGES = stages()


def line_of_stages(name: str) -> list[Stage]:
    """A stage and those that it is built on."""
    stage = STAGES[name]
    return [stage, *(line_of_stages(stage.base) if stage.base in STAGES else [])]


def copied() -> list[tuple[str, str | None, str]]:
    """Every source of every COPY: the stage, the stage that it is taken from, the path."""
    found = []
    for name, stage in STAGES.items():
        for rest in stage.all("COPY"):
            words = shlex.split(rest)
            origin = next(
                (word.removeprefix("--from=") for word in words if word.startswith("--from=")), None
            )
            paths = [word for word in words if not word.startswith("--")]
            found += [(name, origin, path) for path in paths[:-1]]
    return found


def sent_to_the_builder(path: str) -> bool:
    """By .dockerignore: the last line that matches a path, or a folder it lies in, decides."""
    parents = [path, *map(str, Path(path).parents)]
    sent = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            tails = [pattern, pattern.removeprefix("**/")] if pattern.startswith("**/") else [pattern]
            if any(fnmatch(one, tail) for one in parents for tail in tails):
                sent = line.startswith("!")
    return sent


@pytest.mark.parametrize(("stage", "origin", "path"), copied())
def test_what_is_copied_is_there(stage: str, origin: str | None, path: str) -> None:
    if origin is not None:
        assert list(STAGES).index(origin) < list(STAGES).index(stage)
        return
    assert (ROOT / path).exists()
    inside = [str(file.relative_to(ROOT)) for file in tracked(ROOT / path)]
    assert inside
    assert [one for one in inside if not sent_to_the_builder(one)] == []


def tracked(path: Path) -> list[Path]:
    """The files that git has, or would have: nothing else belongs into an image."""
    run = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return [file for name in run.stdout.split("\0") if name and (file := ROOT / name).exists()]


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".venv/bin/python",
        "mixkd-data/key",
        "api/.env",
        "api/__pycache__/main.pyc",
        "api/dashboard/static/vendor/htmx.js",
        "sdk/pyproject.toml",
        "tests/conftest.py",
    ],
)
def test_nothing_else_is_sent(path: str) -> None:
    assert not sent_to_the_builder(path)


def test_every_package_of_the_distribution_is_in_the_wheel() -> None:
    wanted = re.findall(r"packages\.find\.include = \[(.*)\]", (ROOT / "pyproject.toml").read_text())[0]
    packages = {word.strip(' "*') for word in wanted.split(",")}
    assert packages <= {path for stage, origin, path in copied() if stage == "wheel" and origin is None}


def test_the_requirements_of_an_image_are_those_of_the_project() -> None:
    def asked(*extras: str) -> list[str]:
        run = subprocess.run(
            [sys.executable, "docker/requirements.py", *extras],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        return [re.split(r"[^\w-]", line)[0] for line in run.stdout.splitlines()]

    assert {"fastapi", "psycopg", "celery"} <= set(asked())
    assert not {"torch", "transformers", "numpy"} & set(asked())
    assert {"fastapi", "torch", "transformers", "onnx"} <= set(asked("train", "onnx"))
    service = " ".join(STAGES["service-packages"].all("RUN"))
    assert "requirements.py >" in service
    assert "requirements.py train onnx >" in " ".join(STAGES["worker-packages"].all("RUN"))


def test_the_cpu_build_of_torch_comes_from_where_the_setup_takes_it() -> None:
    from_setup = re.findall(r'CPU_INDEX = "(.*)"', (ROOT / "scripts" / "environment.py").read_text())
    assert re.findall(r"--index-url (\S+)", DOCKERFILE) == from_setup


@pytest.mark.parametrize("target", ["api", "control", "worker"])
def test_an_image_is_not_root_and_starts_a_command_that_exists(target: str) -> None:
    from typer.main import get_command

    from core.cli import app

    line = line_of_stages(target)
    (user,) = [user for stage in line for user in stage.all("USER")]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, which Kubernetes can tell from root"
    (entry,) = [entry for stage in line for entry in stage.all("ENTRYPOINT")]
    assert entry == '["mixkd-server"]'
    assert yaml.safe_load(STAGES[target].all("CMD")[0])[0] in get_command(app).commands  # type: ignore[attr-defined]
    assert any("health.py" in check for check in STAGES[target].all("HEALTHCHECK"))


def test_the_health_checks_know_their_images() -> None:
    asked = {
        re.findall(r'health\.py", "(\w+)"', stage.all("HEALTHCHECK")[0])[0]
        for stage in STAGES.values()
        if stage.all("HEALTHCHECK")
    }
    run = subprocess.run(
        [sys.executable, "docker/health.py", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert run.stdout.startswith("cannot tell")
    known = (ROOT / "docker" / "health.py").read_text(encoding="utf-8")
    assert all(f'"{kind}": {kind}' in known for kind in asked)
    assert asked == {"api", "worker", "control"}


def test_the_api_s_health_check_sees_that_nobody_answers() -> None:
    code = "import sys, health; health.PORT = 1; sys.argv = ['health.py', 'api']; sys.exit(health.main())"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT / "docker"
    )
    assert run.returncode == 1, run.stdout
    assert "does not answer" in run.stdout


@our_services
def test_a_target_exists(service: dict[str, Any]) -> None:
    build = service["build"]
    assert build["target"] in STAGES
    declared = {arg.partition("=")[0] for stage in STAGES.values() for arg in stage.all("ARG")}
    assert set(build.get("args", {})) <= declared


@services
def test_a_variable_that_is_set_is_a_setting(service: dict[str, Any]) -> None:
    known = {f"MIXKD_{name.upper()}" for name in Settings.model_fields} | TRAINER_ONLY
    ours = {name for name in service.get("environment", {}) if name.startswith("MIXKD_")}
    assert ours <= known


@our_services
def test_the_values_are_accepted(service: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in service["environment"].items():
        if value is not None:
            monkeypatch.setenv(name, re.sub(r"\$\{(\w+):[?-][^}]*\}", "s" * 32, value))
    settings = Settings()
    assert settings.database_url.get_secret_value().endswith("@postgres:5432/mixkd")
    paths = {volume.partition(":")[2] for volume in service["volumes"]}
    assert settings.storage_url.removeprefix("file://") in paths
    if service.get("command") != ["migrate"]:
        assert str(settings.work_dir) in paths


def test_a_secret_has_no_default() -> None:
    text = re.sub(r"#.*", "", (ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    used = re.findall(r"(?<!\$)\$\{(\w+)([^}]*)\}", text)
    assert {name for name, _ in used} >= SECRETS
    for name, rest in used:
        assert rest.startswith(":?" if name in SECRETS else ":-"), name
    for name, value in secrets_in(SERVICES):
        assert value is None or "${" in value, f"{name} is written down"


def secrets_in(every: dict[str, dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [
        (name, value)
        for service in every.values()
        for name, value in service.get("environment", {}).items()
        if re.search("SECRET|PASSWORD|TOKEN|KEY|_URL", name) and name != "MIXKD_STORAGE_URL"
    ]


def test_only_the_api_has_what_signs_sessions() -> None:
    assert [
        name for name, one in SERVICES.items() if "MIXKD_SESSION_SECRET" in one.get("environment", {})
    ] == ["api"]


@services
def test_a_service_is_confined(service: dict[str, Any]) -> None:
    assert not service.get("privileged")
    assert not {"cap_add", "devices", "pid", "ipc", "network_mode", "userns_mode"} & set(service)
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert not any("docker.sock" in volume for volume in service.get("volumes", []))
    assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"])
    assert service.get("user") != "root"


@services
def test_a_service_is_watched_or_runs_once(service: dict[str, Any]) -> None:
    if service["restart"] == "no":
        assert service["healthcheck"] == {"disable": True}
        return
    assert service["restart"] == "unless-stopped"
    if "build" not in service:
        assert "test" in service["healthcheck"]
    else:  # the image's own
        assert "healthcheck" not in service
        assert STAGES[service["build"]["target"]].all("HEALTHCHECK")


def test_what_a_service_waits_for_can_come() -> None:
    for service in SERVICES.values():
        for name, when in service.get("depends_on", {}).items():
            assert "profiles" not in SERVICES[name]
            once = SERVICES[name]["restart"] == "no"
            assert when["condition"] == ("service_completed_successfully" if once else "service_healthy")


def test_a_foreign_image_is_pinned_to_a_major_version() -> None:
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    base = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.MULTILINE)
    for image in [*images, *base]:
        assert re.search(r":\d+", image), image
    assert {stage.base for stage in STAGES.values()} - set(STAGES) == {"${PYTHON}"}
    assert "3.11" in base[0], "what constraints.txt is tested with"


@pytest.mark.parametrize("service", WORKERS.values(), ids=WORKERS)
def test_a_worker_is_given_the_time_that_it_was_promised(service: dict[str, Any]) -> None:
    default = Settings.model_fields["shutdown_grace_seconds"].default
    seconds = float(service["environment"].get(GRACE, default))
    allowed = re.fullmatch(r"(\d+)s", service["stop_grace_period"])
    assert allowed is not None
    assert float(allowed[1]) >= seconds + 10, "the worker ends by itself at the end of its grace, not before"


@our_services
def test_process_one_reaps_and_hands_on_signals(service: dict[str, Any]) -> None:
    assert service["init"] is True
    assert any(mount.startswith("/tmp") for mount in service["tmpfs"])


def test_nothing_is_open_to_the_world() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api": ["${LISTEN:-127.0.0.1:8000}:8000"]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "valkey"):
        assert SERVICES[name]["networks"] == ["inside"]


def test_what_is_mounted_is_declared_and_storage_is_shared() -> None:
    mounts = {
        name: dict(v.split(":", 1) for v in service.get("volumes", [])) for name, service in SERVICES.items()
    }
    assert {volume for mount in mounts.values() for volume in mount} == set(COMPOSE["volumes"])
    assert {name for name, mount in mounts.items() if "storage" in mount} == set(OURS)
    work = [volume for mount in mounts.values() for volume, path in mount.items() if path.endswith("/work")]
    assert len(work) == len(set(work)), "each service sweeps its own work folder"


def test_a_worker_with_a_gpu_has_one() -> None:
    (device,) = WORKERS["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert len(device["device_ids"]) == 1
    assert WORKERS["worker-gpu"]["environment"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert WORKERS["worker-gpu"]["build"]["args"] == {"TORCH": "cuda"}
    assert WORKERS["worker-cpu"]["environment"]["MIXKD_DEVICE"] == "cpu"


def test_valkey_keeps_what_it_was_told_and_its_password_to_itself() -> None:
    command = " ".join(SERVICES["valkey"]["command"])
    assert "--appendonly yes" in command
    assert "--requirepass" not in command
    assert "requirepass $$VALKEY_PASSWORD" in command

"""Files to run the program with Docker, Kubernetes and systemd: they agree with what is tested."""

import re
from typing import Any

import pytest
import yaml

from svd_core.benchmarks.cluster.nodes import OPTIONS, head_command, node_command
from svd_core.cluster.config import HEALTH_CHECKS, ClusterConfig
from svd_core.settings import Settings
from tests.readme import ROOT

DEPLOY = ROOT / "deploy"


def text(name: str) -> str:
    return (DEPLOY / name).read_text(encoding="utf-8")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(text(name)))


def parameters(command: list[str]) -> dict[str, str]:
    """Options of a command with their values, as KubeRay takes them."""
    pairs = (option.removeprefix("--").partition("=") for option in command if "=" in option)
    return {name: value for name, _, value in pairs}


def test_compose_runs_head_server_and_worker_by_the_commands_of_the_readme() -> None:
    (compose,) = documents("compose.yaml")
    assert set(compose["services"]) == {"head", "server", "worker"}
    head, server, worker = (compose["services"][name] for name in ("head", "server", "worker"))
    ip = r"\$\{HEAD_IP(:\?[^}]*)?\}"
    assert re.sub(ip, "10.0.0.1", head["command"]).split() == head_command("10.0.0.1", 6379)
    assert re.sub(ip, "10.0.0.1", worker["command"]).split() == node_command("10.0.0.1:6379")
    assert head["environment"].items() >= HEALTH_CHECKS.items()
    assert re.sub(ip, "10.0.0.1", server["environment"]["SVD_CLUSTER"]) == "10.0.0.1:6379"
    for service in (head, server, worker):
        assert service["restart"] == "always"
        assert service["shm_size"] == "2gb"
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        settings(service["environment"])


def settings(environ: dict[str, str]) -> Settings:
    """The settings in an environment, of which the program knows each."""
    known = {name: value for name, value in environ.items() if "$" not in value}
    unknown = {name for name in environ if name.startswith("SVD_")} - {
        f"SVD_{name.upper()}" for name in Settings.model_fields
    }
    assert unknown == set()
    return Settings.from_env(known)


def test_kubernetes_runs_the_same_commands() -> None:
    cluster, server, _ = documents("raycluster.yaml")
    spec = cluster["spec"]
    pinned = (ROOT / "requirements-cluster.txt").read_text()
    assert f"ray=={spec['rayVersion']}\n" in pinned
    assert spec["authOptions"]["mode"] == "token"
    head = spec["headGroupSpec"]
    (container,) = head["template"]["spec"]["containers"]
    own = {"node-ip-address", "port"}  # which KubeRay knows
    wanted = parameters(head_command("10.0.0.1", 6379))
    assert head["rayStartParams"] == {name: wanted[name] for name in wanted if name not in own}
    environ = {each["name"]: each.get("value") for each in container["env"]}
    assert environ.items() >= HEALTH_CHECKS.items()
    (workers,) = spec["workerGroupSpecs"]
    assert workers["rayStartParams"] == parameters(list(OPTIONS))
    assert (workers["minReplicas"], workers["maxReplicas"]) == (0, 8)
    assert server["spec"]["replicas"] == 1, "one server owns the job table"
    (container,) = server["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["deploy/server.sh"]
    found = settings({each["name"]: each.get("value", "$") for each in container["env"]})
    assert found.worker_range == (0, workers["maxReplicas"])
    name = cluster["metadata"]["name"]
    assert ClusterConfig.from_settings(found).head == (f"{name}-head-svc", 6379)


@pytest.mark.parametrize("name", ["server.sh", "svd-ray.service"])
def test_each_node_has_the_options_of_every_node(name: str) -> None:
    content = text(name).replace("\\\n", " ")
    assert "ray start" in content
    assert all(option in content for option in OPTIONS)


def test_the_unit_of_a_node_may_be_the_head() -> None:
    content = text("svd-ray.service")
    assert all(f"{key}={value}" in content for key, value in HEALTH_CHECKS.items())
    options = set(head_command("10.0.0.1", 6379)) - {"ray", "start", "--block", *OPTIONS}
    assert all(option in content for option in options)


def test_the_server_and_its_node_share_user_and_files() -> None:
    """Ray's sockets are in /tmp, and only the user of the node may call them."""
    server, node = (unit(name) for name in ("svd.service", "svd-ray.service"))
    assert server["JoinsNamespaceOf"] == ["svd-ray.service"]
    for name in ("DynamicUser", "User", "StateDirectory", "PrivateTmp", "WorkingDirectory"):
        assert server[name] == node[name]
    for found in (server, node):
        assert found["Restart"] == ["always"]
        environ = dict(pair.split("=", 1) for line in found["Environment"] for pair in line.split())
        assert environ["RAY_AUTH_MODE"] == "token"
        assert environ["HF_HOME"] == "%S/svd-studio/huggingface"
        settings(environ)
    assert [name.removeprefix("-") for name in server["EnvironmentFile"]] == node["EnvironmentFile"]


def unit(name: str) -> dict[str, list[str]]:
    """Values of a unit file by their names."""
    found: dict[str, list[str]] = {}
    for line in text(name).splitlines():
        if not line.startswith(("#", "[")) and "=" in line:
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found

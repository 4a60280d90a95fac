"""docker-compose.yml on a real engine: built from a clean copy, asked, killed, drained, restarted."""

import json
import subprocess
import time

import pytest

from tests.compose.project import DIGITS, MODEL_SERVERS, MODELS, Stack, inspect, run
from tests.support import http
from tests.support.waiting import eventually
from tests.web.rpc.client import RpcClient, encoded, read

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1500)]


def test_every_model_is_ready(stack: Stack) -> None:
    for model in MODELS:
        response = stack.get(f"/readyz?model={model}")
        assert response.status_code == 200, response.text


def test_every_container_becomes_healthy(stack: Stack) -> None:
    def states() -> list[str]:
        return [inspect(container)["State"]["Health"]["Status"] for container in stack.containers()]

    eventually(lambda: states() == ["healthy"] * (MODEL_SERVERS + 3), within_s=60)


def test_all_answers_are_right_and_both_model_servers_give_them(stack: Stack) -> None:
    load = stack.load()

    def both_took_batches() -> bool:
        time.sleep(0.5)
        return all(
            [worker["rate"] > 0 for worker in stack.workers(model)] == [True] * MODEL_SERVERS
            for model in MODELS
        )

    with load.running(clients=16):
        eventually(both_took_batches, within_s=60)
    assert set(load.answers) == {"right"}


def test_nothing_runs_as_root_or_with_rights_that_it_does_not_need(stack: Stack) -> None:
    for container in stack.containers():
        assert run("docker", "exec", container, "stat", "-c", "%u", "/proc/1").strip() in ("10001", "999")
        host = inspect(container)["HostConfig"]
        assert host["ReadonlyRootfs"]
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert host["RestartPolicy"]["Name"] == "unless-stopped"


def test_each_has_bounds_and_an_init_and_leaves_no_core_dump(stack: Stack) -> None:
    for container in stack.containers():
        host = inspect(container)["HostConfig"]
        assert host["Memory"] > 0
        assert 0 < host["PidsLimit"] <= 4096
        assert host["CpuShares"] > 0
        assert host["Init"]
        assert host["Ulimits"] == [{"Name": "core", "Hard": 0, "Soft": 0}]


ASK = """
import redis, sys
host, url, *command = sys.argv[1:]
try:
    print(redis.Redis.from_url(url.format(host), socket_connect_timeout=2).execute_command(*command))
except redis.RedisError as error:
    print(type(error).__name__)
"""


def test_redis_is_reached_from_its_own_network_alone_and_by_its_users(stack: Stack) -> None:
    web, redis = stack.containers("web")[0], stack.containers("redis")[0]
    networks = inspect(redis)["NetworkSettings"]["Networks"]
    (network,) = networks
    assert json.loads(run("docker", "network", "inspect", network))[0]["Internal"]
    address, image = networks[network]["IPAddress"], inspect(web)["Image"]
    ask = ("python", "-c", ASK, address)
    # From another container of this host: there is no way.
    stranger = run("docker", "run", "--rm", image, *ask, "redis://{}:6379/0", "PING").strip()
    assert stranger in ("TimeoutError", "ConnectionError")
    # From the web tier: not without a password, nor with its own to what is not its work.
    within = ("docker", "exec", web, *ask)
    assert run(*within, "redis://{}:6379/0", "PING").strip() == "AuthenticationError"
    password = run("docker", "exec", web, "cat", "/run/batchwire/password").strip()
    own = f"redis://web:{password}@{{}}:6379/0"
    assert run(*within, own, "PING").strip() == "True"
    for command in ("FLUSHALL", "KEYS *", "CONFIG GET *", "LRANGE bw:{digits}:dead 0 -1"):
        assert run(*within, own, *command.split()).strip() == "NoPermissionError"
    for other in ("operator", "model_server"):
        assert run(*within, own.replace("web:", f"{other}:"), "PING").strip() == "AuthenticationError"


def test_what_is_on_redis_disk_is_its_user_s_alone(stack: Stack) -> None:
    found = run("docker", "exec", stack.containers("redis")[0], "find", "/data", "-printf", "%m %y\\n")
    assert {*found.splitlines()} == {"700 d", "600 f"}


def test_people_s_commands_have_a_user_of_their_own(stack: Stack) -> None:
    # Compose 1 prints how it builds them before the first run.
    assert "No dead letters of " in stack.compose("run", "--rm", "dead-letters", "list")
    assert "No API keys." in stack.compose("run", "--rm", "keys", "list")


def test_only_the_doors_are_reachable_and_only_from_this_machine(stack: Stack) -> None:
    def published(service: str) -> list[dict[str, str]]:
        ports = [inspect(container)["NetworkSettings"]["Ports"] for container in stack.containers(service)]
        return [place for each in ports for places in each.values() for place in places or []]

    assert published("redis") == published("model_server") == []
    assert published("web") == [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]
    assert published("grpc") == [{"HostIp": "127.0.0.1", "HostPort": str(stack.grpc_port)}]


def test_grpc_answers_is_healthy_and_ends_in_order(stack: Stack) -> None:
    container = stack.containers("grpc")[0]
    with RpcClient(stack.grpc_port) as client:
        answer = client.ask("ModelInfer", **encoded(*DIGITS.values(), model_name="digits"))
        best = [str(label) for label in read(answer)["probabilities"].argmax(axis=1)]
        assert best == [*DIGITS]
    eventually(lambda: inspect(container)["State"]["Health"]["Status"] == "healthy", within_s=60)
    run("docker", "stop", container)
    assert inspect(container)["State"]["ExitCode"] == 0
    run("docker", "start", container)


def test_grpc_that_is_turned_off_waits_and_is_healthy(stack: Stack) -> None:
    image = inspect(stack.containers("grpc")[0])["Image"]
    off = ("-e", "GRPC_PORT=0", "-e", "REDIS_URL=redis://127.0.0.1:9/0")
    name = f"bwtest-grpc-{stack.grpc_port}"
    command = ("python", "-m", "web.rpc", "--port", "8001")
    run("docker", "run", "-d", "--restart", "unless-stopped", "--name", name, *off, image, *command)
    try:
        check = inspect(stack.containers("grpc")[0])["Config"]["Healthcheck"]["Test"][1:]
        run("docker", "exec", name, *check)
        run("docker", "stop", name)
        state = inspect(name)
        assert (state["RestartCount"], state["State"]["ExitCode"]) == (0, 0)
    finally:
        run("docker", "rm", "-f", name)


@pytest.mark.parametrize(
    ("service", "module"), [("web", "tensorflow"), ("model_server", "flask"), ("model_server", "PIL")]
)
def test_an_image_has_only_its_own_tier(stack: Stack, service: str, module: str) -> None:
    image = inspect(stack.containers(service)[0])["Image"]
    command = ["docker", "run", "--rm", image, "python", "-c", f"import {module}"]
    assert b"ModuleNotFoundError" in subprocess.run(command, check=False, capture_output=True).stderr


def test_a_crashed_program_is_started_again(stack: Stack) -> None:
    web = stack.containers("web")[0]
    # SIGQUIT ends Gunicorn at once; to the engine, which was not asked to stop it, that is a crash.
    run("docker", "exec", web, "python", "-c", "import os, signal; os.kill(1, signal.SIGQUIT)")
    eventually(lambda: inspect(web)["RestartCount"] == 1, within_s=30)
    eventually(lambda: bool(stack.workers("digits")), within_s=30)


@pytest.mark.parametrize("end", [("kill", "-s", "KILL"), ("stop",)], ids=["killed", "stopped"])
def test_a_model_server_that_goes_under_load_costs_no_request(stack: Stack, end: tuple[str, ...]) -> None:
    load = stack.load()
    try:
        with load.running(clients=8):
            eventually(lambda: load.answers["right"] > 20)
            run("docker", *end, stack.containers("model_server")[0])
            before = load.answers["right"]
            # Past the lease (3 s), so that what it held has been run by the other one.
            gone = time.monotonic()
            eventually(lambda: time.monotonic() > gone + 6 and load.answers["right"] > before + 50)
    finally:
        stack.up("--no-build")
    assert set(load.answers) == {"right"}


def test_a_queued_job_outlives_the_container_of_redis(stack: Stack) -> None:
    servers = stack.containers("model_server")
    try:
        run("docker", "pause", *servers)
        accepted = http.post(
            f"{stack.url}/predict?model=digits",
            files={"image": DIGITS["7"]},
            headers={"Prefer": "respond-async"},
        )
        assert accepted.status_code == 202, accepted.text
        # At most a second of writes is not on the disk yet; a killed process loses none of them.
        run("docker", "kill", "-s", "KILL", stack.containers("redis")[0])
        stack.compose("rm", "-f", "redis")
        stack.compose("up", "-d", "--no-deps", "--no-build", "redis")
        eventually(lambda: stack.get("/readyz").json().get("models") is not None, within_s=30)
        assert stack.queue_length("digits") == 1
    finally:
        run("docker", "unpause", *servers)
    location = accepted.headers["Location"]
    eventually(lambda: stack.get(location).status_code == 200, within_s=30)
    assert stack.get(location).json()["predictions"][0]["label"] == "7"
    eventually(lambda: stack.queue_length("digits") == 0)

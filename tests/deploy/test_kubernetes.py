"""deploy/kubernetes: the chart renders with Helm to valid manifests whose parts fit together."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from tests.support.broker import RunningBroker
from tests.support.root import ROOT
from tykpy.broker.config import options

HERE: Final = ROOT / "deploy" / "kubernetes"
CHART: Final = HERE / "chart"
MODES: Final = ("sidecar", "service")
VERSIONS: Final = ("1.33", "1.37")
"""Oldest Kubernetes that the chart supports, and the newest whose schemas the package has."""
EVERYTHING: Final = {
    "image": {"repository": "registry.example/tykpy", "tag": "2.0"},
    "imagePullSecrets": [{"name": "registry"}],
    "env": {"TYKPY_TIMEOUT": "5s"},
    "envFromSecret": "secrets",
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gateways", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "gateway": {"env": {"TYK_GW_LOGLEVEL": "info"}, "envFromSecret": "secrets", "apisConfigMap": "apis"},
    "service": {"gatewayNamespaceLabels": {"kubernetes.io/metadata.name": "tyk"}, "bundles": {"emptyDir": {}}},
}
Manifest = dict[str, Any]


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(helm: str, mode: str, *flags: str | Path) -> list[Manifest]:
    """Return the chart's manifests, by Helm."""
    text = run(helm, "template", "tykpy", CHART, "--kube-version", "1.33.0", "--set", f"mode={mode}", *flags)
    return list(yaml.safe_load_all(text))


def plain(mode: str) -> dict[str, Manifest]:
    """Return the plain manifests of a mode by their kind."""
    return {item["kind"]: item for item in yaml.safe_load_all((HERE / mode / "tykpy.yaml").read_text())}


def validate(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        for version in VERSIONS:
            kubernetes_validate.validate(manifest, version, strict=True)


def broker_of(mode: str) -> Manifest:
    spec = pod_of(mode)
    (container,) = (item for item in containers(spec) if item["name"] == "tykpy")
    return container


def pod_of(mode: str) -> Manifest:
    spec: Manifest = plain(mode)["Deployment"]["spec"]["template"]["spec"]
    return spec


def containers(spec: Manifest) -> Iterator[Manifest]:
    yield from (*spec["initContainers"], *spec["containers"])


@pytest.mark.parametrize("mode", MODES)
def test_plain_manifests_are_what_the_chart_renders(helm: str, mode: str, tmp_path: Path) -> None:
    copy = tmp_path / "kubernetes"
    shutil.copytree(HERE, copy)
    run(copy / "render", helm)
    rendered = (copy / mode / "tykpy.yaml").read_text()
    assert rendered == (HERE / mode / "tykpy.yaml").read_text(), "run deploy/kubernetes/render"


@pytest.mark.parametrize("mode", MODES)
def test_every_manifest_is_valid(mode: str) -> None:
    validate(list(plain(mode).values()))


@pytest.mark.parametrize("mode", MODES)
def test_every_value_of_the_chart_renders_validly(helm: str, mode: str, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(EVERYTHING))
    run(helm, "lint", "--strict", CHART, "--set", f"mode={mode}", "--values", values)
    rendered = render(helm, mode, "--values", values)
    validate(rendered)
    text = json.dumps(rendered)
    assert all(word in text for word in ("registry.example/tykpy:2.0", "TYKPY_TIMEOUT", '"disk"', '"gateways"'))


@pytest.mark.parametrize("wrong", ["mode=elsewhere", "workers=0", "wrokers=3", "env.PATH=x", "service.port=70000"])
def test_values_that_cannot_work_are_refused(helm: str, wrong: str) -> None:
    done = subprocess.run(
        [helm, "template", CHART, "--kube-version", "1.33.0", "--set", wrong],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    assert "values don't meet the specifications" in done.stderr


@pytest.mark.parametrize("mode", MODES)
def test_kustomize_takes_the_plain_manifests(mode: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    built = list(yaml.safe_load_all(run("kubectl", "kustomize", HERE / mode)))
    validate(built)
    (config,) = (item["metadata"]["name"] for item in built if item["kind"] == "ConfigMap")
    (deployment,) = (item for item in built if item["kind"] == "Deployment")
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    assert config in [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]


@pytest.mark.parametrize("mode", MODES)
def test_pods_are_restricted_and_have_limits(mode: str) -> None:
    """The profile "restricted" of the Pod Security Standards, and a read-only root."""
    spec = pod_of(mode)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"USER {spec['securityContext']['runAsUser']}:" in (ROOT / "deploy/docker/Dockerfile").read_text()
    for container in containers(spec):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context.get("readOnlyRootFilesystem") is True or container["name"] == "gateway"
        assert {"memory"} <= set(container["resources"]["limits"])


@pytest.mark.parametrize("mode", MODES)
def test_the_broker_gets_known_options_probes_and_mounts(mode: str) -> None:
    broker = broker_of(mode)
    known = {f"TYKPY_{option.name.upper()}" for option in options()}
    assert {setting["name"] for setting in broker["env"]} <= known
    ports = {port["name"]: port["containerPort"] for port in broker["ports"]}
    settings = {setting["name"]: setting["value"] for setting in broker["env"]}
    assert settings["TYKPY_METRICS"].endswith(f":{ports['metrics']}")
    paths = {probe: broker[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {get["port"] for get in paths.values()} == {"metrics"}
    assert [get["path"] for get in paths.values()] == ["/livez", "/livez", "/readyz"]

    image = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    mounts = {mount["mountPath"]: mount for mount in broker["volumeMounts"]}
    assert {"/run/tykpy", "/tmp", "/opt/tyk-gateway/middleware/bundles"} == set(mounts)
    assert all(f"={mount}" in image for mount in mounts if mount != "/tmp")
    assert {mount["name"] for mount in mounts.values()} <= {volume["name"] for volume in pod_of(mode)["volumes"]}


@pytest.mark.parametrize("mode", MODES)
def test_a_pod_has_time_to_finish_its_dispatches(mode: str) -> None:
    settings = {setting["name"]: setting["value"] for setting in broker_of(mode)["env"]}
    time = int(settings["TYKPY_GRACE"]) + int(settings["TYKPY_EVENT_GRACE"])
    if mode == "service":
        time += broker_of(mode)["lifecycle"]["preStop"]["sleep"]["seconds"]
    else:
        (gateway,) = pod_of(mode)["containers"]
        (grace,) = (item for item in gateway["env"] if item["name"] == "TYK_GW_GRACEFULSHUTDOWNTIMEOUTDURATION")
        time += int(grace["value"])
    assert pod_of(mode)["terminationGracePeriodSeconds"] > time


def test_the_sidecar_shares_socket_and_bundles_with_the_gateway() -> None:
    (gateway,) = pod_of("sidecar")["containers"]
    broker = broker_of("sidecar")
    assert broker["restartPolicy"] == "Always"
    for place in ("/run/tykpy", "/opt/tyk-gateway/middleware/bundles"):
        theirs, ours = (
            next({**mount, "readOnly": None} for mount in item["volumeMounts"] if mount["mountPath"] == place)
            for item in (gateway, broker)
        )
        assert theirs == ours
    settings = {setting["name"]: setting["value"] for setting in gateway["env"]}
    assert settings["TYK_GW_COPROCESSOPTIONS_COPROCESSGRPCSERVER"] == "unix:///run/tykpy/tyk.sock"


def test_the_values_for_tyks_chart_make_a_valid_pod() -> None:
    """Put together as the chart tyk-gateway 5.3 does; its volume `tyk-scratch` holds the gateway's files."""
    values = yaml.safe_load((HERE / "tyk-gateway-values.yaml").read_text())["tyk-gateway"]["gateway"]
    scratch = {"name": "tyk-scratch", "mountPath": "/mnt/tyk-gateway"}
    gateway = {
        "name": "gateway",
        "image": "tyk-gateway",
        "env": values["extraEnvs"],
        "volumeMounts": [scratch, *values["extraVolumeMounts"]],
    }
    spec = {
        "terminationGracePeriodSeconds": values["terminationGracePeriodSeconds"],
        "containers": [gateway, *values["extraContainers"]],
        "volumes": [{"name": "tyk-scratch", "emptyDir": {}}, *values["extraVolumes"]],
    }
    validate([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}])

    (broker,) = values["extraContainers"]
    ours, theirs = ({one["name"]: one["value"] for one in item["env"]} for item in (broker, gateway))
    assert set(ours) <= {f"TYKPY_{option.name.upper()}" for option in options()}
    assert theirs["TYK_GW_COPROCESSOPTIONS_COPROCESSGRPCSERVER"] == ours["TYKPY_LISTEN"]
    mounts = {mount["mountPath"]: mount for mount in broker["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in spec["volumes"]}
    socket_folder = str(Path(ours["TYKPY_LISTEN"].removeprefix("unix://")).parent)
    assert mounts[socket_folder] in values["extraVolumeMounts"]
    assert mounts[scratch["mountPath"]] == {**scratch, "readOnly": True}
    assert ours["TYKPY_BUNDLES"] == f"{scratch['mountPath']}/middleware/bundles"
    time = broker["lifecycle"]["preStop"]["sleep"]["seconds"] + int(ours["TYKPY_GRACE"])
    assert spec["terminationGracePeriodSeconds"] > time + int(ours["TYKPY_EVENT_GRACE"])
    assert broker["lifecycle"]["preStop"]["sleep"]["seconds"] >= int(theirs["TYK_GW_GRACEFULSHUTDOWNTIMEOUTDURATION"])

    usual = broker_of("sidecar")
    for same in ("image", "ports", "resources", "startupProbe", "livenessProbe", "readinessProbe"):
        assert broker[same] == usual[same]
    assert f"USER {broker['securityContext']['runAsUser']}:" in (ROOT / "deploy/docker/Dockerfile").read_text()


def test_every_selector_of_the_service_finds_the_pods() -> None:
    found = plain("service")
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [found[kind]["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")]
    selectors += [found["Service"]["spec"]["selector"], found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]]
    assert all(selector == labels for selector in selectors)
    assert found["Service"]["spec"]["clusterIP"] == "None"
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == found["Deployment"]["metadata"]["name"]


def test_the_autoscaler_scales_on_busy_time() -> None:
    (metric,) = plain("service")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    rules = yaml.safe_load((HERE / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    (rule,) = (rule for rule in rules if rule["name"]["as"] == metric["pods"]["metric"]["name"])
    assert rule["seriesQuery"].startswith("tykpy_worker_busy_seconds_total{")
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    wanted = values["workers"] * values["service"]["autoscaling"]["busyPercent"] / 100
    assert float(metric["pods"]["target"]["averageValue"].rstrip("m")) / 1000 == wanted


def test_a_broker_serves_bundles_from_a_config_map(tmp_path: Path) -> None:
    """The kubelet mounts one as links to a hidden folder, and replaces that at an update."""
    broker = RunningBroker(tmp_path)
    version = broker.bundles / "..2026_11_30"
    shutil.copytree(HERE / "service" / "bundles", version)
    (broker.bundles / "..data").symlink_to(version.name)
    for path in version.iterdir():
        (broker.bundles / path.name).symlink_to(f"..data/{path.name}")
    with broker:
        assert [bundle["name"] for bundle in broker.status()["bundles"]] == ["hello.py"]
        for name in ("hello", "hello.zip"):
            answer = broker.call("add_hello", bundle=name).request
            assert answer.set_headers["X-Hello"] == "from Python"


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert f"version = {chart['appVersion']}\n" in (ROOT / "setup.cfg").read_text()

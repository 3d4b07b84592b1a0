"""Scenario, topology and policy files in, a plan or every problem out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from enforcer.filemodel import validate
from enforcer.policy import Policy, check_policy, doubts, renamed
from enforcer.policy_file import PolicyFile
from enforcer.yamlfile import Document, FileError, Problem, read
from testbed.plan.network import Network, build_network
from testbed.plan.plan import Plan
from testbed.plan.resolve import bare_plan, resolve
from testbed.plan.scenario_file import ScenarioFile
from testbed.plan.topology_check import check_topology
from testbed.plan.topology_file import TopologyFile

Kind = Literal["scenario", "topology", "policy"]
KINDS: tuple[Kind, ...] = ("scenario", "topology", "policy")

_ROOT = Path(__file__).resolve().parents[2]
_SHIPPED = {
    "scenario": _ROOT / "scenarios",
    "topology": _ROOT / "topologies",
    "policy": _ROOT / "enforcer" / "policies",
}
_MODELS = {"scenario": ScenarioFile, "topology": TopologyFile, "policy": PolicyFile}


class PlanError(FileError):
    """The files have problems; `problems` holds all of them, in order of position."""


def load_plan(
    scenario: str | Path,
    seed: int | None = None,
    policy: str | Path | None = None,
    topology: str | Path | None = None,
) -> Plan:
    """The plan of a scenario; seed, policy and topology stand in for those in the file. Raises PlanError."""
    files = _Files()
    plan = files.plan(Path(scenario), seed, _path(policy), _path(topology))
    files.raise_problems()
    assert plan is not None
    return plan


def load_topology_plan(topology: str | Path, policy: str | Path | None = None) -> Plan:
    """A plan in which nothing happens, of a topology alone. Raises PlanError."""
    files, path = _Files(), Path(topology)
    network = files.network(path)
    rules = files.policy(Path(policy)) if policy is not None else None
    files.raise_problems()
    assert network is not None
    names = (_name(path, path.parent), _name(Path(policy), path.parent) if policy is not None else None)
    return bare_plan(_stem(path), files.title(path), network, rules, names)


def check_paths(paths: Iterable[str | Path]) -> list[Problem]:
    """Every problem of the files, and of those below the folders, in order of file and position; [] when all is well."""
    return check_files(paths).problems


@dataclass(frozen=True, slots=True)
class Checked:
    """problems make a file unusable; doubts (of policies) are allowed and probably not meant. counts: files read, with those scenarios name."""

    problems: list[Problem]
    doubts: list[Problem]
    counts: dict[Kind, int]


def check_files(paths: Iterable[str | Path], today: str | None = None) -> Checked:
    """Like check_paths, and more. today: ISO 8601, for what is due; left out: the clock's, in UTC."""
    files = _Files()
    for path in map(Path, paths):
        found = _below(path) if path.is_dir() else [path]
        if not found:
            fix = "name a folder with *.scenario.yaml, *.topology.yaml or *.policy.yaml files"
            files.problems.append(Problem(str(path), 1, 1, "", "there is no file to check in it", fix))
        for file in found:
            files.check(file)
    kinds = [kind_of(path) for path in files.documents]
    doubtful = files.doubts(today or datetime.now(UTC).date().isoformat())
    return Checked(files.all_problems(), doubtful, {kind: kinds.count(kind) for kind in KINDS})


def json_schema(kind: Kind) -> dict[str, Any]:
    """The JSON Schema of a kind of file, for editors."""
    schema = _MODELS[kind].model_json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": f"allowlab.{kind}/1", **schema}


def kind_of(path: Path) -> Kind | None:
    """What a file is, by its name."""
    return next((kind for kind in KINDS if path.name.endswith((f".{kind}.yaml", f".{kind}.yml"))), None)


@dataclass(slots=True)
class _Files:
    """Files read once each, whoever refers to them."""

    problems: list[Problem] = field(default_factory=list)
    documents: dict[Path, Document] = field(default_factory=dict)
    networks: dict[Path, Network | None] = field(default_factory=dict)
    policies: dict[Path, Policy | None] = field(default_factory=dict)

    def check(self, path: Path) -> None:
        match kind_of(path):
            case "scenario":
                self.plan(path, None, None, None)
            case "topology":
                self.network(path)
            case "policy":
                self.policy(path)
            case None:
                fix = "name it *.scenario.yaml, *.topology.yaml or *.policy.yaml"
                self.problems.append(Problem(str(path), 1, 1, "", "its name does not say what it is", fix))

    def plan(self, path: Path, seed: int | None, policy: Path | None, topology: Path | None) -> Plan | None:
        if not self._is_kind(path, "scenario"):
            return None
        document = self._document(path)
        scenario = validate(document, ScenarioFile)
        if scenario is None:
            return None
        topology = topology or self._referred(document, scenario.topology, ("topology",), "topology")
        policy = policy or self._referred(document, scenario.policy, ("policy",), "policy")
        network = self.network(topology) if topology else None
        rules = self.policy(policy) if policy else None
        if network is None:
            return None
        names = (
            _stem(path),
            _name(path, path.parent),
            _name(topology or path, path.parent),
            _name(policy, path.parent) if policy else None,
        )
        return resolve(document, scenario, network, rules, names, seed)

    def network(self, path: Path) -> Network | None:
        key = path.resolve()
        if key not in self.networks and not self._is_kind(path, "topology"):
            self.networks[key] = None
        if key not in self.networks:
            document = self._document(path)
            topology = validate(document, TopologyFile)
            if topology is not None:
                check_topology(document, topology)
            self.networks[key] = None
            if topology is not None and not document.problems:
                try:
                    self.networks[key] = build_network(topology)
                except IndexError as error:
                    document.add((), str(error), "make the topology smaller")
        return self.networks[key]

    def policy(self, path: Path) -> Policy | None:
        key = path.resolve()
        if key not in self.policies and not self._is_kind(path, "policy"):
            self.policies[key] = None
        if key not in self.policies:
            self.policies[key] = check_policy(self._document(path))
        return self.policies[key]

    def doubts(self, today: str) -> list[Problem]:
        """What the good policies among the files say and probably do not mean."""
        files = [
            document.file for path, document in self.documents.items() if self.policies.get(path) is not None
        ]
        return [doubt for file in sorted(files) for doubt in doubts(Path(file), today)]

    def title(self, path: Path) -> str:
        return str(self._document(path).data["title"])

    def all_problems(self) -> list[Problem]:
        found = [
            *self.problems,
            *(problem for document in self.documents.values() for problem in document.problems),
        ]
        return sorted(found, key=lambda problem: (problem.file, problem.line, problem.column))

    def raise_problems(self) -> None:
        problems = self.all_problems()
        if problems:
            raise PlanError(problems)

    def _is_kind(self, path: Path, kind: Kind) -> bool:
        """Whether the file may be of that kind; notes a problem when its name says that it is of another."""
        other = kind_of(path)
        if other in (None, kind):
            return True
        self.problems.append(Problem(str(path), 1, 1, "", f"this is a {other} file", f"give a *.{kind}.yaml"))
        return False

    def _document(self, path: Path) -> Document:
        key = path.resolve()
        if key not in self.documents:
            self.documents[key] = read(path, _shown(path))
        return self.documents[key]

    def _referred(
        self, document: Document, text: str | None, where: tuple[str, ...], kind: Kind
    ) -> Path | None:
        if text is None:
            return None
        path = Path(os.path.normpath(Path(document.file).parent / text))
        if path.is_file():
            return path
        new_name = renamed(Path(text), Path(document.file).parent) if kind == "policy" else None
        if new_name:
            document.add(where, f"there is no file {text!r} any more", new_name)
            return None
        near = (
            sorted(item.name for item in path.parent.glob(f"*.{kind}.yaml")) if path.parent.is_dir() else []
        )
        fix = f"there are {', '.join(near)}"
        if not near:
            shipped = _SHIPPED[kind]
            there = os.path.relpath(shipped, Path(document.file).parent)
            names = ", ".join(sorted(item.name for item in shipped.glob(f"*.{kind}.yaml")))
            fix = f"write the path of a *.{kind}.yaml file, from this file; those that ship are in {there}: {names}"
        document.add(where, f"there is no file {text!r}", fix)
        return None


def _below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.y*ml") if kind_of(path) is not None)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _stem(path: Path) -> str:
    kind = kind_of(path)
    return path.name.partition(f".{kind}.")[0] if kind else path.stem


def _shown(path: Path) -> str:
    return str(path)


def _name(path: Path, folder: Path) -> str:
    """How the plan names a file: from the project's root, else from the scenario's folder, so that every checkout agrees."""
    whole = path.resolve()
    if whole.is_relative_to(_ROOT):
        return whole.relative_to(_ROOT).as_posix()
    return Path(os.path.relpath(whole, folder.resolve())).as_posix()

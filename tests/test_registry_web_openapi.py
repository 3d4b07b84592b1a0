"""Requests made from the portal's own OpenAPI description, right and wrong ones, as each role: every answer is one it describes.

schemathesis makes them against a running registry. The normal tests make a few for each call and role; `-m nightly` many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from enforcer.registry.web.accounts import Accounts
from enforcer.registry.web.models import ListQuery
from enforcer.registry.web.openapi import document
from tests.test_registry_portal import ISP, OFFICER, Registry

# Not those that nobody can have at the border (enforcer.registry.addresses): JSON Schema cannot say so.
_ADDRESS = st.one_of(st.ip_addresses(network="32.0.0.0/3").map(lambda each: f"{each}/32"), st.ip_addresses(network="2000::/3").map(lambda each: f"{each}/128"))  # fmt: skip
schemathesis.openapi.format("ip-prefix", _ADDRESS)
CALLS = [(method.upper(), path) for path, methods in document()["paths"].items() for method in methods]


@dataclass(frozen=True)
class Running:
    """A registry, and what each kind of people sends with a call."""

    registry: Registry
    headers: dict[str, dict[str, str]]

    @property
    def api(self):
        return schemathesis.openapi.from_url(f"http://127.0.0.1:{self.registry.port}/openapi.json")


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("registry")
    accounts = Accounts(str(folder / "accounts.sqlite"))
    tokens = {}
    for name, role in (("ada", "registrant"), ("rao", "auditor")):
        accounts.add(name, "-", role)  # type: ignore[arg-type]
        tokens[name] = {"Authorization": f"Bearer {accounts.new_token(name)}"}
    accounts.close()
    limits = {"call-address": {"burst": 10**6, "per_minute": 10**6}}
    registry = Registry(folder, portal={"accounts": "accounts.sqlite", "limits": limits})
    applicant: dict[str, str] = {}
    for _ in range(3):  # registrations in several states for the calls to meet
        registry.approved()
        _, applicant = registry.apply()
    headers = {"nobody": {}, "stranger": {"Authorization": "Bearer x"}, "applicant": applicant, "account": tokens["ada"], "isp": ISP, "officer": OFFICER, "auditor": tokens["rao"]}  # fmt: skip
    yield Running(registry, headers)
    registry.stop()


@pytest.fixture(scope="module")
def api(running):
    return running.api


def play(api, running: Running, call: tuple[str, str], examples: int) -> Counter[str]:
    """Right requests and wrong ones, each as everybody; how many of each answer there were."""
    operation = next(each.ok() for each in api.get_all_operations() if (each.ok().method.upper(), each.ok().path) == call)  # fmt: skip
    seen: Counter[str] = Counter()
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        _play_one(operation.as_strategy(generation_mode=mode), running.headers, examples, seen, mode.value)
    return seen


def _play_one(
    strategy, headers: dict[str, dict[str, str]], examples: int, seen: Counter[str], mode: str
) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=[*HealthCheck], derandomize=True, database=None)  # fmt: skip
    @given(case=strategy)
    def run(case) -> None:
        for sent in headers.values():
            response = case.call(headers=sent)
            seen[f"{mode} {response.status_code}"] += 1
            case.validate_response(
                response, excluded_checks=[negative_data_rejection] if _is_right(response) else []
            )

    run()


def _is_right(response) -> bool:
    """What was to be wrong is lost on the way: a parameter that nobody knows, with an empty list for its value, is not in the URL."""
    asked = urlsplit(response.request.url)
    if response.request.method != "GET" or asked.path != "/applications":
        return False
    try:
        ListQuery.model_validate(dict(parse_qsl(asked.query, keep_blank_values=True)), strict=False)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_answer_is_one_that_is_described(api, running, call) -> None:
    seen = play(api, running, call, examples=3)
    assert sum(seen.values()) >= 21


def test_a_status_that_is_not_described_would_be_found(api) -> None:
    operation = next(each.ok() for each in api.get_all_operations() if each.ok().path == "/queue")
    case = operation.Case(method="GET")
    response = case.call(headers=OFFICER)
    case.validate_response(response)  # control
    response.status_code = 418
    with pytest.raises(BaseException, match="Undocumented status code"):
        case.validate_response(response)


@pytest.mark.nightly
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_answer_is_one_that_is_described_many_times(api, running, call, record_property) -> None:
    record_property("answers", str(dict(play(api, running, call, examples=40))))

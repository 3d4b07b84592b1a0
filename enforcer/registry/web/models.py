"""What goes in and out of the HTTP API: the models that check requests, write answers, and describe both in /openapi.json."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from enforcer.registry.form import Category, DocumentKind, not_a_prefix
from enforcer.registry.states import State
from enforcer.registry.web.operations import LARGEST_NUMBER, Model

Protocol = Literal[
    "wireguard", "openvpn-udp", "openvpn-tcp", "ikev2", "esp", "ah", "l2tp", "pptp", "openconnect"
]


def _whole(value: Any) -> Any:
    # JSON has one kind of number: 500.0 is 500 (JSON Schema 2020-12, 4.2.3).
    return int(value) if isinstance(value, float) and value.is_integer() else value


Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(_whole)]
MOST_TEXT = 2000


def _is_prefix(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError as error:
        raise ValueError(not_a_prefix(value, error)) from None


# JSON Schema has no format for prefixes; "ip-prefix" is ours (both families, no host bits).
Prefix = Annotated[
    str,
    AfterValidator(_is_prefix),
    WithJsonSchema(
        {
            "type": "string",
            "format": "ip-prefix",
            "description": "as the border sees it: private addresses, those behind a provider's NAT (100.64.0.0/10) and those kept for other purposes are refused",
            "examples": ["203.0.113.7/32", "2001:db8::/48"],
        }
    ),
]
Prefixes = Annotated[list[Prefix], Field(min_length=1, max_length=1024)]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
Text = Annotated[str, Field(max_length=MOST_TEXT)]
Sentence = Annotated[str, Field(min_length=1, max_length=MOST_TEXT, pattern=r"\S")]
Refusal = Literal["wrong-subscriber", "wrong-address", "unknown"]
ShortText = Annotated[str, Field(max_length=200)]


class NamedDocument(Model):
    """A paper, and the number or date it is known by. The paper itself stays with the registrant."""

    kind: DocumentKind
    reference: ShortText = ""


class ApplicationForm(Model):
    """The form. No ports means any port, no protocols any VPN protocol."""

    registrant: Name
    subscriber_prefixes: Prefixes
    endpoint_prefixes: Prefixes
    endpoint_ports: list[Port] = []
    protocols: list[Protocol] = []
    category: Category = "company"
    purpose: Text = ""
    documents: list[DocumentKind | NamedDocument] = Field(
        default=[], description="the papers that the category needs, named; their kind alone will do"
    )
    provider: ShortText = Field(default="", description="whose line it is, as on the bill")
    subscriber_id: ShortText = Field(default="", description="customer or line number with the provider")
    contact: ShortText = Field(default="", description="how to reach the registrant")

    def form(self) -> dict[str, Any]:
        return self.model_dump()


def _no_default(schema: dict[str, Any]) -> None:
    schema.pop("default", None)


def _may_be_left_out(**more: Any) -> Any:
    """A field that is absent or a value, never null."""
    return Field(default=None, json_schema_extra=_no_default, **more)


class Correction(Model):
    """Those fields of the form that are to be changed, each whole; the others stay."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})
    registrant: Name = _may_be_left_out()
    subscriber_prefixes: Prefixes = _may_be_left_out()
    endpoint_prefixes: Prefixes = _may_be_left_out()
    endpoint_ports: list[Port] = _may_be_left_out()
    protocols: list[Protocol] = _may_be_left_out()
    category: Category = _may_be_left_out()
    purpose: Text = _may_be_left_out()
    documents: list[DocumentKind | NamedDocument] = _may_be_left_out()
    provider: ShortText = _may_be_left_out()
    subscriber_id: ShortText = _may_be_left_out()
    contact: ShortText = _may_be_left_out()

    @model_validator(mode="after")
    def _changes_something(self) -> Correction:
        if not self.model_fields_set:
            raise ValueError("nothing is to be changed; write at least one field of the form")
        return self

    def changes(self) -> dict[str, Any]:
        return self.model_dump(exclude_unset=True)


Version = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
_LOOKED_AT = (
    "the version that was looked at: 409 when the application was corrected, or its address changed, since"
)


class Reason(Model):
    reason: Text = Field(default="", description="the registrant reads it, and it is kept for ever")


class Decision(Model):
    reason: Text = Field(default="", description="the registrant reads it, and it is kept for ever")
    version: Version | None = Field(default=None, description=_LOOKED_AT)


class Verification(Model):
    verified: bool = Field(
        description="name, subscriber and address belong together in the provider's records"
    )
    why: Refusal | None = Field(default=None, description="for an answer of false: what does not fit")
    reason: Text = ""
    version: Version | None = Field(default=None, description=_LOOKED_AT)


class NewAppeal(Model):
    """Against a rejection, once; or registered and blocked all the same."""

    about: Literal["rejection", "false-block"]
    text: Sentence


class AppealAnswer(Model):
    granted: bool
    reason: Sentence = Field(description="the registrant reads it")


class NewAddress(Model):
    subscriber_prefixes: Prefixes


class Received(BaseModel):
    """The answer to an application."""

    registration: int
    token: str = Field(description="shown this once; whoever has it may act as the applicant")
    state: State
    serial: int = Field(description="the allowlist's serial")


class HistoryLine(BaseModel):
    at_ns: int = Field(description="Unix time")
    action: str
    actor: str = Field(description="applicant, isp, officer or system")
    reason: str
    verified: bool | None = Field(default=None, description="of a verification: the answer")
    changed: list[str] | None = Field(
        default=None, description="of a correction or change of address: the fields that say something else"
    )


class AppealStatus(BaseModel):
    about: str
    text: str
    at_ns: int
    due_ns: int | None = Field(description="until when an answer is promised")
    granted: bool | None = Field(description="null while there is no answer")
    answer: str


class Status(BaseModel):
    """A registration as it stands, and all that was done, oldest first."""

    registration: int = Field(ge=1, le=LARGEST_NUMBER)
    state: State
    serial: int
    version: int = Field(
        description="of what is asked for: another after each correction and change of address"
    )
    is_verified: bool | None = Field(description="null until the provider has answered")
    registrant: str
    category: str
    purpose: str
    documents: list[NamedDocument]
    provider: str
    subscriber_id: str
    contact: str
    subscriber_prefixes: list[str]
    new_prefixes: list[str] = Field(description='under the rule "keep": wait for the provider')
    endpoint_prefixes: list[str]
    endpoint_ports: list[int]
    protocols: list[str]
    valid_from_ns: int | None
    valid_until_ns: int | None
    refusal: str = Field(description="the provider's word for no, or empty")
    verification_due_ns: int | None = Field(description="until when the provider's answer is promised")
    decision_due_ns: int | None = Field(description="until when the officer's decision is promised")
    renewal_asked_ns: int | None
    appeal: AppealStatus | None
    history: list[HistoryLine]


class Queue(BaseModel):
    pending: list[Status]
    serial: int


class BulkRows(Model):
    """Each row is a form as for one application; a wrong row is told in the answer, not refused with 422."""

    rows: list[dict[str, Any]] = Field(min_length=1, max_length=10_000)


class BulkQuery(Model):
    trial: bool = Field(default=False, description="only say what is wrong")


class BulkLine(BaseModel):
    row: int
    registration: int | None = Field(description="its number; null when nothing was applied for")
    problems: list[str]


class BulkAnswer(BaseModel):
    applied: bool = Field(description="true: every row; false: none")
    rows: list[BulkLine]


class ListQuery(Model):
    """Nothing chosen: everything, from the lowest number."""

    state: State | None = None
    after: int = Field(default=0, ge=0, le=LARGEST_NUMBER, description="numbers above this")
    limit: int = Field(default=100, ge=1, le=1000)


class Listed(BaseModel):
    registrations: list[Status]
    after: int | None = Field(description="ask again with this for the rest; null: there is none")
